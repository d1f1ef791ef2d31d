"""The promise of an epoch: kept through crashes, never taken back, and never guessed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from xxhash import xxh3_64_hexdigest

from fastzk.server.epochs import NOBODY, EpochFile, Promise
from fastzk.server.errors import StartupError
from fastzk.server.secret import load_secret, save_secret


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "promise"


def opened(path: Path) -> EpochFile:
    epochs = EpochFile(path)
    epochs.load()
    return epochs


def test_a_new_server_has_promised_nothing(path: Path) -> None:
    epochs = EpochFile(path)
    with pytest.raises(RuntimeError):
        epochs.save(1, 1)
    assert epochs.load() == Promise(0, NOBODY) == (0, -1)
    assert epochs.missing
    epochs.save(0, NOBODY)
    assert not epochs.missing
    assert opened(path).promise == (0, NOBODY)
    assert not opened(path).missing


def test_round_trip(path: Path) -> None:
    epochs = opened(path)
    for promise in [(1, 3), (2, 3), (7, 1), ((1 << 31) - 1, 255)]:
        epochs.save(*promise)
        assert epochs.promise == promise
        assert opened(path).promise == promise
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["promise"]


@pytest.mark.parametrize("promise", [(4, 2), (4, 0), (5, 1), (5, NOBODY), (-1, 1), (1 << 31, 1), (6, -2)])
def test_a_promise_is_not_taken_back(path: Path, promise: tuple[int, int]) -> None:
    epochs = opened(path)
    epochs.save(5, 2)
    with pytest.raises(ValueError, match="promise"):
        epochs.save(*promise)
    assert epochs.promise == opened(path).promise == (5, 2)
    epochs.save(5, 2)
    epochs.save(6, 1)
    assert opened(path).promise == (6, 1)


def test_an_epoch_of_nobody_may_be_promised(path: Path) -> None:
    epochs = opened(path)
    epochs.save(4, NOBODY)
    epochs.save(4, 2)
    assert opened(path).promise == (4, 2)


def test_the_committed_membership_is_kept_beside_the_promise(path: Path) -> None:
    epochs = opened(path)
    epochs.save(7, 2)
    epochs.adopt(0x7_0000_0009)
    epochs.adopt(0x7_0000_0004)  # older news
    assert opened(path).membership == 0x7_0000_0009
    epochs.save(8, 1)
    again = opened(path)
    assert (again.promise, again.membership) == ((8, 1), 0x7_0000_0009)


def test_the_first_format_has_no_membership(path: Path) -> None:
    line = b"fastzk-promise 1 epoch=7 promised_to=2"
    path.write_bytes(line + f" xxh3={xxh3_64_hexdigest(line)}\n".encode())
    epochs = opened(path)
    assert (epochs.promise, epochs.membership) == ((7, 2), 0)


def test_any_damage_is_noticed(path: Path) -> None:
    opened(path).save(12, 3)
    good = path.read_bytes()
    damaged = [b"", good + b"\n", b"0" * len(good)]
    damaged += [good[:n] for n in range(len(good))]
    damaged += [good[:i] + bytes([good[i] ^ bit]) + good[i + 1 :] for i in range(len(good)) for bit in (1, 64)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(StartupError, match=r"damaged.*Restore"):
            EpochFile(path).load()
    path.write_bytes(good)
    assert opened(path).promise == (12, 3)


def test_what_cannot_be_read_is_no_new_server(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartupError, match="cannot read"):
        EpochFile(path).load()


@pytest.mark.parametrize("call", ["fsync", "write", "open"])
def test_a_failed_write_leaves_the_old_promise(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    epochs = opened(path)
    epochs.save(1, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(OSError, match="no"):
            epochs.save(2, 2)
    with pytest.raises(RuntimeError):
        epochs.save(3, 3)  # who knows what is on the disk
    assert opened(path).promise == (1, 1)
    again = opened(path)
    again.save(2, 3)
    assert opened(path).promise == (2, 3)


def test_each_write_is_synced_before_its_name_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that a power cut needs: content, then the name, then the directory."""
    calls: list[str] = []

    def noting(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            calls.append(name)
            return function(*arguments, **keywords)

        return call

    epochs = opened(path)
    monkeypatch.setattr(os, "write", noting("write", os.write))
    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", noting("rename", Path.rename))
    epochs.save(1, 1)
    assert calls == ["write", "fsync", "rename", "fsync"]


def test_the_key_of_the_passwords(tmp_path: Path) -> None:
    path = tmp_path / "session.key"
    assert load_secret(path) is None
    save_secret(path, bytes(range(32)))
    assert load_secret(path) == bytes(range(32))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        with pytest.raises(StartupError, match="damaged"):
            load_secret(path)
