"""The checks of the fault tests notice what they are there for, and the proxy does what it is told."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from support import wire
from support.ensemble_load import CREATED, EPHEMERALS, KEYS, EnsembleLoad, Write, check_key
from support.ensembles import Ensemble, Tree, Znode, agree, differences
from support.links import Links
from support.servers import free_port

KEY = f"{KEYS}/0"


def stat(mzxid: int, version: int) -> wire.Stat:
    return wire.Stat(1, mzxid, 0, 0, version, 0, 0, 0, 1, 0, 1)


def tree(value: bytes, mzxid: int, version: int) -> Tree:
    return {KEY: Znode(value, stat(mzxid, version), wire.OPEN)}


def write(value: bytes, zxid: int, version: int, *, at: float) -> Write:
    """Acknowledged half a second after it was sent."""
    return Write(KEY, value, at, at + 0.5, zxid, version)


A = write(b"a", 11, 1, at=1.0)
B = write(b"b", 12, 2, at=2.0)
C = write(b"c", 15, 3, at=3.0)
UNANSWERED = Write(KEY, b"u", 1.2)


class TestCheckKey:
    def test_all_is_well(self) -> None:
        assert check_key(KEY, tree(b"c", 15, 3), [A, B, C]) == []
        # one without an answer may have happened, anywhere, or not
        assert check_key(KEY, tree(b"c", 15, 3), [A, UNANSWERED, B, C]) == []
        assert check_key(KEY, tree(b"u", 16, 4), [A, UNANSWERED, B, C]) == []
        assert check_key(KEY, tree(b"", 9, 0), [UNANSWERED]) == []

    def test_the_last_write_is_lost(self) -> None:
        (first, *_) = check_key(KEY, tree(b"b", 12, 2), [A, B, C])
        assert "version 2, but 3 writes were acknowledged" in first
        assert any("lost:" in each for each in check_key(KEY, tree(b"u", 14, 3), [A, B, C, UNANSWERED]))

    def test_one_in_between_is_lost(self) -> None:
        """As if ``b`` had never been: the next write got its version."""
        twice = write(b"c", 15, 2, at=3.0)
        assert any("one was lost" in each for each in check_key(KEY, tree(b"c", 15, 2), [A, B, twice]))

    def test_a_value_nobody_wrote(self) -> None:
        assert check_key(KEY, tree(b"x", 16, 4), [A, B, C, UNANSWERED]) == [f"{KEY}: nobody wrote b'x'"]

    def test_more_writes_than_were_sent(self) -> None:
        (only,) = check_key(KEY, tree(b"c", 15, 5), [A, B, C, UNANSWERED])
        assert "version 5" in only

    def test_a_refused_write_that_happened(self) -> None:
        refused = Write(KEY, b"r", 4.0, failed=True)
        assert f"{KEY}: nobody wrote b'r'" in check_key(KEY, tree(b"r", 16, 4), [A, B, C, refused])

    def test_zxids_that_do_not_grow_with_time(self) -> None:
        late = write(b"late", 13, 3, at=9.0)
        early = write(b"c", 15, 4, at=3.0)
        wrong = check_key(KEY, tree(b"c", 15, 4), [A, B, early, late])
        assert any("came later than zxid 0xf was acknowledged" in each for each in wrong)

    def test_a_key_that_is_gone(self) -> None:
        assert check_key(KEY, {}, [A]) == [f"{KEY} is gone: None"]


def test_differences_of_trees() -> None:
    one, two = tree(b"a", 11, 1), tree(b"a", 11, 2)
    assert list(differences(one, tree(b"a", 11, 1))) == []
    assert len(list(differences(one, two))) == 1
    assert len(list(differences(one, {}))) == 1
    assert len(list(differences({}, one))) == 1
    assert agree(["1: 5\n2: 6\n", "2: 6\n3: 7\n", ""])
    assert not agree(["1: 5\n2: 6\n", "2: 7\n"])


@pytest.mark.slow
def test_a_load_notices_what_somebody_else_changes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A znode gone, a key set behind the load's back, an ephemeral deleted: each is found."""
    with Ensemble("fastzk", tmp_path_factory.mktemp("ensemble"), 3) as ensemble:
        ensemble.start()
        load = EnsembleLoad(ensemble, seed=3)
        load.start()
        load.wait_for_writes(300)
        load.stop()
        load.verify()
        client = load.clients[0]
        created = next(w for w in client.writes if w.path.startswith(CREATED) and w.acknowledged is not None)
        with ensemble.session(ensemble.leader()) as session:
            session.delete(created.path)
            with pytest.raises(AssertionError, match=f"lost: .*{created.path}'"):
                load.verify()
            session.create(created.path, b"other")
            with pytest.raises(AssertionError, match="but found is"):
                load.verify()
            session.set(f"{KEYS}/3-0", b"mine")
            with pytest.raises(AssertionError, match="nobody wrote b'mine'"):
                load.verify()
            session.delete(f"{EPHEMERALS}/{client.name}")
            with pytest.raises(AssertionError, match="has lost its ephemeral"):
                load.verify()


class Echo:
    """A server that sends back what it gets, one connection after the other."""

    def __init__(self) -> None:
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


class TestLinks:
    @pytest.fixture
    def links(self) -> Iterator[Links]:
        links = Links()
        yield links
        links.close()

    @pytest.fixture
    def port(self, links: Links) -> Iterator[int]:
        """Server 1 dials here to reach server 2, which echoes."""
        echo, port = Echo(), free_port()
        links.add(1, 2, port, echo.port)
        yield port
        echo.close()

    @staticmethod
    def dial(port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=10)

    @staticmethod
    def says_nothing(sock: socket.socket) -> bool:
        sock.settimeout(0.3)
        try:
            sock.recv(10)
        except TimeoutError:
            return True
        finally:
            sock.settimeout(10)
        return False

    def test_forwards(self, port: int) -> None:
        with self.dial(port) as sock:
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(10) == b""

    @pytest.mark.parametrize("way", [(1, 2), (2, 1)])
    def test_silences_one_direction_and_delivers_late(self, links: Links, port: int, way: tuple[int, int]) -> None:
        with self.dial(port) as sock:
            sock.sendall(b"a")
            assert sock.recv(10) == b"a"
            links.silence([way])
            sock.sendall(b"b")
            assert self.says_nothing(sock)
            links.heal()
            assert sock.recv(10) == b"b"

    def test_new_connections_are_silent_too(self, links: Links, port: int) -> None:
        links.cut(1, 2)
        with self.dial(port) as sock:
            sock.sendall(b"a")
            assert self.says_nothing(sock)
            links.heal()
            assert sock.recv(10) == b"a"

    def test_other_links_are_not_touched(self, links: Links, port: int) -> None:
        links.cut(1, 3)
        with self.dial(port) as sock:
            sock.sendall(b"a")
            assert sock.recv(10) == b"a"

    def test_refuses(self, links: Links, port: int) -> None:
        with self.dial(port) as sock:
            sock.sendall(b"a")
            assert sock.recv(10) == b"a"
            links.refuse(1, 2)
            with pytest.raises(ConnectionError):
                self.broken(sock)
        with self.dial(port) as sock, pytest.raises(ConnectionError):
            self.broken(sock)
        links.heal()
        with self.dial(port) as sock:
            sock.sendall(b"a")
            assert sock.recv(10) == b"a"

    @staticmethod
    def broken(sock: socket.socket) -> None:
        """Raises ConnectionError if the connection is, or ends in whatever way."""
        if sock.recv(10) == b"":
            raise ConnectionError("closed")

    def test_a_server_that_listens_a_little_later(self, links: Links) -> None:
        port, target = free_port(), free_port()
        links.add(1, 2, port, target)
        with self.dial(port) as sock:
            time.sleep(0.2)
            with socket.create_server(("127.0.0.1", target)) as listener:
                listener.settimeout(10)
                accepted, _ = listener.accept()
                with accepted:
                    sock.sendall(struct.pack(">i", 7))
                    assert accepted.recv(4) == struct.pack(">i", 7)
