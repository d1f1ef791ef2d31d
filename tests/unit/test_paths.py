"""The rules for paths against ZooKeeper's, written down over UTF-16 units as Java sees them; and the hash."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastzk._paths import path_hash, validate

U64 = (1 << 64) - 1


def java_units(raw: bytes) -> list[int]:
    """What Java makes of UTF-8: UTF-16 code units, with U+FFFD in the place of what does not decode."""
    text = raw.decode("utf-8", "replace")
    encoded = text.encode("utf-16-be", "surrogatepass")
    return list(struct.unpack(f">{len(encoded) // 2}H", encoded))


def allowed(units: list[int]) -> bool:
    """The facts of PathUtils.validatePath."""
    slash = ord("/")
    if not units or units[0] != slash:
        return False
    if len(units) == 1:
        return True
    if units[-1] == slash:
        return False
    names: list[list[int]] = [[]]
    for unit in units[1:]:
        if unit == slash:
            names.append([])
        else:
            names[-1].append(unit)
    if any(bytes(name) in (b"", b".", b"..") for name in names if all(unit < 256 for unit in name)):
        return False
    return not any(
        unit <= 0x1F or 0x7F <= unit <= 0x9F or 0xD800 <= unit <= 0xF8FF or unit >= 0xFFF0 for unit in units
    )


EDGES = "/.a\x00\x1f\x20\x7e\x7f\x80\x9f\xa0\u07ff\u0800\ud7ff\ue000\uf8ff\uf900\uffef\ufff0\ufffd\uffff𐀀"
texts = st.text(st.one_of(st.sampled_from(EDGES), st.characters(exclude_categories=["Cs"])), max_size=24)


@settings(max_examples=250, deadline=None)
@given(st.booleans(), texts)
def test_text_against_the_rules(rooted: bool, text: str) -> None:
    path = "/" + text if rooted else text
    assert validate(path) == allowed(java_units(path.encode()))


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(["/", "//", ".", "..", "...", "a", ".a", "a.", "é", "\x7f"]), max_size=9))
def test_slashes_and_dots_against_the_rules(parts: list[str]) -> None:
    path = "/" + "".join(parts)
    assert validate(path) == allowed(java_units(path.encode()))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=5),
            st.sampled_from("/.é\u0fff\ud7ff\uffef").map(str.encode),
            st.binary(min_size=1, max_size=3).map(lambda raw: bytes([0xE0 | raw[0] & 0x1F]) + raw[1:]),
        ),
        max_size=8,
    )
)
@example([b"\xc0\xaf"])  # overlong slash
@example([b"\xe0\x80\xaf"])
@example([b"\xe0\x9f\xbf"])
@example([b"\xed\xa0\x80"])  # a surrogate
@example([b"\xf0\x9f\x98\x80"])  # a surrogate pair to Java
@example([b"\xc3"])
@example([b"\xe2\x82"])
@example([b"\xe2/", b"a"])
@example([b"\x80"])
@example([b"\xfe\xff"])
def test_bytes_against_the_rules(parts: list[bytes]) -> None:
    path = b"/" + b"".join(parts)
    assert validate(path) == allowed(java_units(path))


def test_every_code_point() -> None:
    for code in range(0x10000):
        expected = allowed([ord("/"), ord("x"), code, ord("y")])
        assert validate(f"/x{chr(code)}y") == expected, hex(code)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b", "/...", "/.a", "/a.", "/a/..b", "/a b", "/ü/\uffef"])
def test_accepted(path: str) -> None:
    assert validate(path)
    assert validate(path.encode())


@pytest.mark.parametrize(
    "path",
    ["", "a", "a/b", "//", "/a/", "/a//b", "/.", "/..", "/./b", "/a/..", "/\0", "/\ud800", "/😀", "/\ue000"],
)
def test_refused(path: str) -> None:
    assert not validate(path)


def reference_hash(data: bytes, seed: int) -> int:
    """The hash by its definition. Digests made with it are on disk: it must not change unnoticed."""
    k0, k1, k2 = 0x9AE16A3B2F90404F, 0xC3A5C85C97CB3127, 0xB492B66FBE98F273

    def fold(a: int, b: int) -> int:
        product = a * b
        return (product ^ product >> 64) & U64

    def number(raw: bytes) -> int:
        return int.from_bytes(raw, "little")

    h = fold(seed ^ k0, len(data) ^ k1)
    while len(data) > 16:
        h = fold(number(data[:8]) ^ seed ^ k1, number(data[8:16]) ^ h)
        data = data[16:]
    n = len(data)
    if n >= 8:
        a, b = number(data[:8]), number(data[-8:])
    elif n >= 4:
        a, b = number(data[:4]), number(data[-4:])
    elif n:
        a, b = data[0] << 16 | data[n >> 1] << 8 | data[-1], 0
    else:
        a = b = 0
    return fold(a ^ k2 ^ h, b ^ k1 ^ ((h << 32 | h >> 32) & U64))


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, U64))
def test_hash_is_what_it_was_defined_to_be(data: bytes, seed: int) -> None:
    assert path_hash(data, seed) == reference_hash(data, seed)


def test_hash_spreads_similar_paths() -> None:
    paths = [b"/service/%010d" % number for number in range(20_000)]
    hashes = {path_hash(path, 1) >> 32 for path in paths}
    # Of 20,000 random 32-bit numbers about 0.05 collide; the lookup table uses these bits only.
    assert len(hashes) >= len(paths) - 3
    buckets = [0] * 1024
    for value in hashes:
        buckets[value & 1023] += 1
    assert max(buckets) < 60  # 20 expected


@pytest.mark.parametrize("constant", [0x9AE16A3B2F90404F, 0xC3A5C85C97CB3127, 0xB492B66FBE98F273])
def test_paths_that_collide_under_every_key_cannot_be_prepared(constant: int) -> None:
    # Text equal to one of the hash's public constants must not cancel out what stands before it.
    text = constant.to_bytes(8, "little")
    for block in (text + b"\xa9-and-so", b"somebyte" + text):
        paths = [b"/%015d" % number + block + b"/tail" for number in range(1000)]
        assert len({path_hash(path, 0x1234567890ABCDEF) for path in paths}) == len(paths)
