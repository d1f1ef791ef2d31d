from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastzk.server import store as store_module
from fastzk.server.store import (
    META_CHECKPOINT_ZXID,
    META_FORMAT,
    META_MEMBER,
    META_STORE_ID,
    SnapshotInterrupted,
    Store,
    StoreCorruption,
    StoreError,
    StoreFull,
    StoreMapFull,
    StoreMissing,
    pack_int,
    unpack_int,
    verify,
)

MiB = 1 << 20


def key_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


def at(zxid: int) -> dict[bytes, bytes]:
    return {META_CHECKPOINT_ZXID: pack_int(zxid)}


def contents(store: Store) -> dict[bytes, bytes]:
    return {bytes(key): bytes(value) for key, value in store.pages()}


def write_with_retries(store: Store, pages: list[tuple[bytes, bytes | None]], zxid: int) -> int:
    """Write, again when the map was too small; returns how many times it was."""
    for attempt in range(20):
        try:
            store.write(pages, at(zxid))
        except StoreMapFull:
            continue
        return attempt
    raise AssertionError("the map never became large enough")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    with Store.open(path, create=True) as opened:
        opened.initialise({META_MEMBER: pack_int(0)})
        yield opened


def flip(path: str, what: bytes, offset: int = 0) -> None:
    """Flip one bit of the first occurrence of `what` in the data file."""
    data = bytearray(Path(path, "data.mdb").read_bytes())
    position = data.index(what) + offset
    data[position] ^= 0x10
    Path(path, "data.mdb").write_bytes(data)


# ---- opening


def test_a_new_store_is_private_and_empty(path: str) -> None:
    with Store.open(path, create=True) as store:
        assert not store.initialised
        assert store.meta() == {}
        with pytest.raises(StoreMissing):
            _ = store.checkpoint_zxid
        store.initialise({META_MEMBER: pack_int(7)})
        assert store.initialised
        assert store.checkpoint_zxid == 0
        assert store.get_int(META_MEMBER) == 7
        assert len(store.get_meta(META_STORE_ID) or b"") == 16
        assert contents(store) == {}
        assert len(store) == 0
        with pytest.raises(StoreError, match="initialised already"):
            store.initialise({})
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(os.path.join(path, "data.mdb")).st_mode & 0o777 == 0o600
    assert os.stat(os.path.join(path, "lock.mdb")).st_mode & 0o777 == 0o600


def test_two_stores_have_different_ids(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        with Store.open(str(tmp_path / name), create=True) as store:
            store.initialise({})
            ids.add(store.get_meta(META_STORE_ID))
    assert len(ids) == 2


def test_a_missing_store_is_not_made_without_create(path: str) -> None:
    with pytest.raises(StoreMissing, match=path):
        Store.open(path, create=False)
    assert not os.path.exists(path)


@pytest.mark.parametrize("initialised", [False, True])
def test_an_uninitialised_store_is_missing(path: str, initialised: bool) -> None:
    with Store.open(path, create=True) as store:
        if initialised:
            store.initialise({})
    if initialised:
        Store.open(path, create=False).close()
        os.truncate(os.path.join(path, "data.mdb"), 0)
    with pytest.raises(StoreMissing):
        Store.open(path, create=False)


def test_a_second_open_in_the_process_is_refused(store: Store, path: str) -> None:
    for other in (path, os.path.join(path, "..", "state")):
        with pytest.raises(StoreError, match="open already in this process") as caught:
            Store.open(other, create=True)
        assert other in str(caught.value)
    store.close()
    store.close()
    Store.open(path, create=False).close()


def test_a_failed_open_can_be_tried_again(path: str) -> None:
    os.makedirs(path)
    Path(path, "data.mdb").write_bytes(b"not LMDB" * 4096)
    for _ in range(2):
        with pytest.raises(StoreCorruption):
            Store.open(path, create=True)
    os.unlink(os.path.join(path, "data.mdb"))
    Store.open(path, create=True).close()


def test_an_unknown_format_is_refused(path: str) -> None:
    with Store.open(path, create=True) as store:
        store.initialise({META_FORMAT: pack_int(99)})
    for _ in range(2):
        with pytest.raises(StoreCorruption, match="format version 99"):
            Store.open(path, create=False)


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    for use in (
        store.meta,
        store.snapshot_reader,
        store.begin_write,
        lambda: next(store.pages()),
        store.__len__,
    ):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_a_forked_child_is_refused(path: str) -> None:
    """In a process of its own: forking the test runner would take its threads' locks along."""
    script = """
        import os, sys
        from fastzk.server.store import Store, StoreError, META_CHECKPOINT_ZXID, pack_int
        store = Store.open(sys.argv[1], create=True)
        store.initialise({})
        child = os.fork()
        if child == 0:
            refused = 0
            for use in (store.meta, store.begin_write, store.snapshot_reader, lambda: next(store.pages())):
                try:
                    use()
                except StoreError as error:
                    refused += "after a fork" in str(error)
            store.close()
            os._exit(0 if refused == 4 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.write([(b"key", b"value")], {META_CHECKPOINT_ZXID: pack_int(1)})
        store.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], check=True, timeout=30)
    with Store.open(path, create=False) as store:
        assert contents(store) == {b"key": b"value"}


# ---- writing and reading


def test_pages_and_meta_survive(store: Store, path: str) -> None:
    pages: dict[bytes, bytes] = {key_of(number): os.urandom(number % 9000) for number in range(300)}
    shuffled = list(pages.items())
    random.Random(1).shuffle(shuffled)
    store.write(shuffled, {**at(5), b"tree-digest": b"\x01" * 8, b"sessions": b""})
    store.close()
    with Store.open(path, create=False) as again:
        assert list(contents(again).items()) == sorted(pages.items())
        assert len(again) == 300
        assert again.checkpoint_zxid == 5
        assert again.get_meta(b"tree-digest") == b"\x01" * 8
        assert again.get_meta(b"sessions") == b""
        assert again.get_meta(b"nothing") is None
        assert again.meta()[META_MEMBER] == pack_int(0)
        # Replaced, removed, removed though absent, added.
        changes = [(key_of(0), b"new"), (key_of(1), None), (key_of(999), None), (key_of(300), b"last")]
        again.write(changes, at(6))
        expected = {**pages, key_of(0): b"new", key_of(300): b"last"}
        del expected[key_of(1)]
        assert contents(again) == expected
        assert again.checkpoint_zxid == 6
        assert again.get_meta(b"tree-digest") == b"\x01" * 8


def test_an_aborted_checkpoint_leaves_nothing(store: Store) -> None:
    store.write([(b"a", b"1")], at(1))
    with store.begin_write(10) as writer:
        writer.put([(b"a", b"2"), (b"b", b"2")])
    with pytest.raises(StoreError, match="has ended"):
        writer.put([])

    def half_of_them() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"3"
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store.write(half_of_them(), at(3))
    assert contents(store) == {b"a": b"1"}
    assert store.checkpoint_zxid == 1


def test_a_checkpoint_needs_a_zxid(store: Store) -> None:
    with pytest.raises(ValueError, match="zxid"):
        store.write([(b"a", b"1")], {b"sessions": b"x"})
    with pytest.raises(StoreCorruption, match="3 bytes"):
        store.write([(b"a", b"1")], {META_CHECKPOINT_ZXID: b"abc"})
    assert contents(store) == {}
    assert unpack_int(pack_int(2**64 - 1)) == 2**64 - 1


def test_writing_and_loading_exclude_each_other(store: Store) -> None:
    store.write([(b"a", b"1"), (b"b", b"2")], at(1))
    loading = store.pages()
    next(loading)
    for use in (store.begin_write, store.close):
        with pytest.raises(StoreError, match="loaded"):
            use()
    loading.close()  # type: ignore[attr-defined]
    with store.begin_write():
        for refused in (store.begin_write, store.close, lambda: next(store.pages())):
            with pytest.raises(StoreError, match="writ"):
                refused()
    assert len(contents(store)) == 2


def test_views_end_with_their_page(store: Store) -> None:
    store.write([(b"a", b"1"), (b"b", b"2")], at(1))
    loading = store.pages()
    key, value = next(loading)
    assert (bytes(key), bytes(value)) == (b"a", b"1")
    next(loading)
    with pytest.raises(ValueError, match="released"):
        bytes(value)
    with pytest.raises(ValueError, match="released"):
        bytes(key)
    loading.close()  # type: ignore[attr-defined]


# ---- corruption


def test_a_flipped_bit_in_a_page_is_found(store: Store, path: str) -> None:
    marker = b"the value of page seventeen, long enough to be found"
    store.write([(key_of(number), marker if number == 17 else b"x" * 100) for number in range(50)], at(1))
    store.close()
    assert verify(path).ok
    flip(path, marker, 5)
    with Store.open(path, create=False) as damaged, pytest.raises(StoreCorruption, match=key_of(17).hex()):
        contents(damaged)
    with Store.open(path, create=False) as damaged, damaged.snapshot_reader() as snapshot:
        broken = snapshot.pages()
        with pytest.raises(StoreCorruption, match=key_of(17).hex()):
            list(broken)
    report = verify(path)
    assert not report.ok
    assert any(key_of(17).hex() in problem for problem in report.problems)


def test_a_flipped_bit_in_a_key_is_found(store: Store, path: str) -> None:
    store.write([(b"first-key", b"1"), (b"key-to-be-damaged", b"2")], at(1))
    store.close()
    flip(path, b"key-to-be-damaged", 16)
    with Store.open(path, create=False) as damaged, pytest.raises(StoreCorruption, match="checksum"):
        contents(damaged)
    assert not verify(path).ok


def test_a_flipped_bit_in_the_meta_data_is_found(store: Store, path: str) -> None:
    store.write([], {**at(1), b"sessions": b"a blob of sessions"})
    store.close()
    flip(path, b"a blob of sessions")
    with pytest.raises(StoreCorruption, match=b"sessions".hex()):
        Store.open(path, create=False)
    # A failed open is not an open store.
    with pytest.raises(StoreCorruption):
        Store.open(path, create=False)
    assert not verify(path).ok


def test_verify_reports_a_sound_store_without_touching_it(store: Store, path: str, tmp_path: Path) -> None:
    store.write([(key_of(number), b"x" * 6000) for number in range(100)], at(77))
    store.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(os.path.join(path, "data.mdb"), copy)
    before = (copy / "data.mdb").read_bytes()
    report = verify(str(copy))
    assert report.ok, report.problems
    assert (report.format, report.zxid, report.pages) == (1, 77, 100)
    assert report.page_bytes == 100 * 6008
    assert report.file_bytes == len(before)
    assert "checkpoint-zxid" in report.meta_keys
    assert os.listdir(copy) == ["data.mdb"]
    assert (copy / "data.mdb").read_bytes() == before


def test_verify_reports_what_is_not_a_store(path: str, tmp_path: Path) -> None:
    assert "No such file" in verify(path).problems[0]
    os.makedirs(path)
    data = Path(path, "data.mdb")
    data.write_bytes(b"")
    assert "empty" in verify(path).problems[0]
    data.write_bytes(b"something else" * 1000)
    assert not verify(path).ok
    data.unlink()
    with Store.open(path, create=True) as store:
        store.write([(b"a", b"1")], at(3))
    assert [problem.split(": ")[1] for problem in verify(path).problems] == [
        "no format in its meta data",
        "no store-id in its meta data",
    ]
    with Store.open(path, create=True) as store:
        store.write([(key_of(number), b"x" * 3000) for number in range(500)], at(4))
    os.truncate(data, data.stat().st_size // 2)
    assert not verify(path).ok


# ---- growth of the map


def test_the_map_grows(path: str) -> None:
    pages: list[tuple[bytes, bytes | None]] = [(key_of(n), os.urandom(6000)) for n in range(3000)]
    with Store.open(path, create=True, map_size=MiB) as store:
        store.initialise({})
        assert write_with_retries(store, pages, 1) > 0
        assert store.map_size >= 18 * MiB
        assert contents(store) == dict(pages)
    with Store.open(path, create=False, map_size=MiB) as store:
        assert contents(store) == dict(pages)
        for zxid in range(2, 8):
            pages = [(key_of(n), os.urandom(6000)) for n in range(3000)]
            write_with_retries(store, pages, zxid)
            assert store.checkpoint_zxid == zxid
        assert contents(store) == dict(pages)


def test_room_is_made_ahead(path: str) -> None:
    with Store.open(path, create=True, map_size=MiB) as store:
        store.initialise({})
        with store.begin_write(3000) as writer:
            writer.put((key_of(n), os.urandom(6000)) for n in range(3000))
            writer.commit(at(1))
        assert len(store) == 3000
        before = store.map_size
        store.write([(b"small", b"change")], at(2))
        assert store.map_size == before


def test_the_map_has_a_largest_size(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_MAP_SIZE", 4 * MiB)
    with Store.open(path, create=True, map_size=MiB) as store:
        store.initialise({})
        store.write([(b"a", b"1")], at(1))
        with pytest.raises(StoreFull, match="largest size") as caught:
            write_with_retries(store, [(key_of(n), b"x" * 6000) for n in range(3000)], 2)
        assert not isinstance(caught.value, StoreMapFull)
        assert contents(store) == {b"a": b"1"}
        store.write([(b"a", b"2")], at(2))
        assert contents(store) == {b"a": b"2"}


def test_a_snapshot_stays_as_it_is(store: Store) -> None:
    first = {key_of(n): b"first" * 100 for n in range(200)}
    store.write(list(first.items()), at(1))
    with store.snapshot_reader() as snapshot:
        assert snapshot.zxid == 1
        assert snapshot.page_count == 200
        seen = snapshot.read(1000)
        assert 1 <= len(seen) < 200
        store.write([(key_of(n), None if n % 2 else b"second") for n in range(300)], at(2))
        seen += snapshot.pages()
        assert dict(seen) == first
        assert snapshot.read(1000) == []
        with store.snapshot_reader() as newer:
            assert newer.zxid == 2
            assert set(dict(newer.pages()).values()) == {b"second"}
    with pytest.raises(SnapshotInterrupted):
        snapshot.read(1)


def test_a_snapshot_survives_growth_of_the_map(path: str) -> None:
    with Store.open(path, create=True, map_size=MiB) as store:
        store.initialise({})
        first = {key_of(n): os.urandom(500) for n in range(200)}
        store.write(list(first.items()), at(1))
        with store.snapshot_reader() as snapshot, store.snapshot_reader() as untouched:
            seen = snapshot.read(10_000)
            before = store.map_size
            assert write_with_retries(store, [(key_of(n), b"x" * 6000) for n in range(1000)], 2) > 0
            assert store.map_size > before
            seen += snapshot.pages()
            assert dict(seen) == first
            assert dict(untouched.pages()) == first


def test_a_snapshot_older_than_the_newest_checkpoint_is_interrupted_by_growth(path: str) -> None:
    with Store.open(path, create=True, map_size=MiB) as store:
        store.initialise({})
        store.write([(key_of(n), b"1") for n in range(200)], at(1))
        with store.snapshot_reader() as snapshot:
            snapshot.read(10)
            store.write([(key_of(0), b"2")], at(2))
            snapshot.read(10)
            assert write_with_retries(store, [(key_of(n), b"x" * 6000) for n in range(1000)], 3) > 0
            with pytest.raises(SnapshotInterrupted):
                snapshot.read(10)
            # Also after another growth, which must not bring a different snapshot back under it.
            write_with_retries(store, [(key_of(n), b"y" * 9000) for n in range(5000)], 4)
            with pytest.raises(SnapshotInterrupted):
                snapshot.read(10)


def test_readers_in_threads_while_the_map_grows_again_and_again(path: str) -> None:
    """Every reader sees one whole checkpoint, or is told to start over; none crashes or mixes two."""
    finished = 0
    errors: list[BaseException] = []
    stop = threading.Event()

    def read_on(store: Store, seed: int) -> None:
        nonlocal finished
        dice = random.Random(seed)
        try:
            while not stop.is_set():
                try:
                    with store.snapshot_reader() as snapshot:
                        pages = []
                        while batch := snapshot.read(dice.choice((1, 20_000, 200_000))):
                            pages += batch
                        marks = {value[:8] for _key, value in pages}
                        assert marks == {pack_int(snapshot.zxid)}, (marks, snapshot.zxid)
                        assert len(pages) == snapshot.page_count
                        finished += 1
                except SnapshotInterrupted:
                    continue
        except BaseException as error:
            errors.append(error)

    with Store.open(path, create=True, map_size=MiB) as store:
        store.initialise({})
        store.write([(key_of(n), pack_int(1)) for n in range(100)], at(1))
        readers = [threading.Thread(target=read_on, args=(store, seed)) for seed in range(3)]
        for reader in readers:
            reader.start()
        try:
            sizes = {store.map_size}
            for zxid in range(2, 14):
                pages: list[tuple[bytes, bytes | None]] = [
                    (key_of(n), pack_int(zxid) + b"x" * 500 * zxid) for n in range(100 * zxid)
                ]
                write_with_retries(store, pages, zxid)
                sizes.add(store.map_size)
            deadline = time.monotonic() + 20
            wanted = finished + 3
            while finished < wanted and time.monotonic() < deadline and not errors:
                time.sleep(0.01)
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not errors, errors
        assert len(sizes) >= 3
        assert finished >= wanted


# ---- no room


def test_a_file_size_limit_is_a_full_store(store: Store, path: str) -> None:
    """Works for everybody, unlike mounting a small file system."""
    pages: list[tuple[bytes, bytes | None]] = [(key_of(n), os.urandom(6000)) for n in range(1000)]
    store.write(pages[:100], at(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MiB, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(StoreFull, match="previous one is intact"):
                store.write(pages, at(2))
        assert store.checkpoint_zxid == 1
        assert contents(store) == dict(pages[:100])
        # What fits goes on working.
        store.write([(b"a", b"1")], at(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.write(pages, at(3))
    assert contents(store) == {**dict(pages), b"a": b"1"}
    store.close()
    assert verify(path).ok


def test_a_full_file_system_is_a_full_store(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        pages: list[tuple[bytes, bytes | None]] = [(key_of(n), os.urandom(6000)) for n in range(300)]
        with Store.open(str(mounted / "state"), create=True) as store:
            store.initialise({})
            store.write(pages[:50], at(1))
            ballast = mounted / "ballast"
            ballast.write_bytes(bytes(2 * MiB))
            with pytest.raises(StoreFull):
                store.write(pages, at(2))
            assert contents(store) == dict(pages[:50])
            ballast.unlink()
            store.write(pages, at(3))
            assert contents(store) == dict(pages)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_an_io_error_with_room_left_is_not_a_full_store(store: Store) -> None:
    error = OSError(5, os.strerror(5))
    assert type(store._translate(error, "cannot write", 1)) is StoreError
    assert type(store._translate(OSError(28, os.strerror(28)), "cannot write", 0)) is StoreFull


# ---- crashes


def model(zxid: int) -> dict[bytes, bytes]:
    """The pages after checkpoint `zxid` of the child below."""
    pages: dict[bytes, bytes] = {}
    for number in range(200):
        last = zxid - (zxid - number) % 5
        if last >= 1 and (number + last) % 7:
            pages[key_of(number)] = pack_int(last) * (1 + (number * last) % 600)
    return pages


CHILD = """
    import sys
    from fastzk.server.store import Store, StoreMapFull, META_CHECKPOINT_ZXID, pack_int
    store = Store.open(sys.argv[1], create=False, map_size=1 << 20)
    zxid = store.checkpoint_zxid
    first = zxid + 1
    while True:
        zxid += 1
        try:
            with store.begin_write(0) as writer:
                for number in range(200):
                    if (zxid - number) % 5 == 0:
                        value = pack_int(zxid) * (1 + (number * zxid) % 600)
                        writer.put([(number.to_bytes(8, "big"), value if (number + zxid) % 7 else None)])
                writer.commit({META_CHECKPOINT_ZXID: pack_int(zxid)})
        except StoreMapFull:
            zxid -= 1
            continue
        if zxid == first:
            print("ready", flush=True)
"""


def test_a_killed_process_leaves_exactly_one_checkpoint(path: str) -> None:
    with Store.open(path, create=True) as store:
        store.initialise({})
    dice = random.Random(os.getpid())
    reached = []
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), path], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(dice.random() * 0.03)  # when to kill: any moment will do
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        with Store.open(path, create=False) as store:
            reached.append(store.checkpoint_zxid)
            assert contents(store) == model(store.checkpoint_zxid)
    assert reached == sorted(reached)
    assert reached[-1] >= 20
    assert verify(path).ok


# ---- memory


def resident_bytes(kind: str) -> int:
    """Resident memory of this process: RssFile (mapped files) or RssAnon (what is its own)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {kind}")


def test_loading_does_not_keep_the_mapped_file_in_memory(store: Store) -> None:
    pages: list[tuple[bytes, bytes | None]] = [(key_of(n), os.urandom(6000)) for n in range(10_000)]
    store.write(pages, at(1))
    before = resident_bytes("RssFile")
    size = sum(len(value) for _key, value in store.pages())
    assert size == 60_000_000
    assert resident_bytes("RssFile") - before < 8 * MiB
    loading = store.pages()
    largest = max(resident_bytes("RssFile") for index, _page in enumerate(loading) if index % 100 == 0)
    assert largest - before < 48 * MiB
    with store.snapshot_reader() as snapshot:
        for _page in snapshot.pages():
            pass
    assert resident_bytes("RssFile") - before < 8 * MiB


def test_writing_gives_its_memory_back(store: Store) -> None:
    value = os.urandom(6000)
    before = {kind: resident_bytes(kind) for kind in ("RssFile", "RssAnon")}
    for zxid in (1, 2):
        with store.begin_write(20_000) as writer:
            largest = 0
            for number in range(20_000):
                writer.put([(key_of(number), value)])
                if number % 100 == 0:
                    largest = max(largest, resident_bytes("RssFile"))
            writer.commit(at(zxid))
        assert largest - before["RssFile"] < 64 * MiB
        for kind, bytes_before in before.items():
            assert resident_bytes(kind) - bytes_before < 32 * MiB
