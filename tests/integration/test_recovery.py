"""What a server does with the files it finds, and how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import wire
from support.load import Load
from support.servers import FastzkServer, Server, tree_of
from support.wire import EPHEMERAL, PERM_READ, Acl, Refused, Request

from .conftest import ServerFactory


def fill(server: Server, count: int = 40) -> None:
    """Writes one after the other, so that each is a batch of its own in the log."""
    with server.session() as zk:
        zk.create("/data")
        for i in range(count):
            zk.create(f"/data/n{i}", f"payload-{i}".encode() * 10)


def assert_filled(server: Server, count: int = 40) -> None:
    with server.session() as zk:
        names = set(zk.children("/data"))
        assert {f"n{i}" for i in range(count)} <= names
        for i in range(count):
            assert zk.get(f"/data/n{i}")[0] == f"payload-{i}".encode() * 10


def used_end(path: Path) -> int:
    """Where the written part of a fresh segment ends: the rest of it is zeros."""
    end = len(path.read_bytes().rstrip(b"\0"))
    assert end > 0, f"{path} is empty"
    return end


def payload_offset(path: Path, payload: bytes) -> int:
    offset = path.read_bytes().find(payload)
    assert offset > 0, f"{payload!r} is not in {path}"
    return offset


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    """Invert one byte."""
    byte = path.read_bytes()[offset]
    overwrite(path, offset, bytes([byte ^ 0xFF]))


def assert_refused(server: Server, *words: str, arguments: tuple[str, ...] = ()) -> str:
    """The server ends by itself with an exit code, names ``words`` in its output, and changes no file."""
    before = tree_of(server.data_dir)
    code, output = server.run_to_end(*arguments)
    assert code not in {0, None}, output
    assert code > 0, f"killed by a signal: {code}\n{output}"
    assert "Traceback" not in output
    for word in words:
        assert re.search(word, output, re.IGNORECASE), f"{word!r} not in:\n{output}"
    assert tree_of(server.data_dir) == before, "a refused start changed files"
    return output


@pytest.fixture
def crashed(new_server: ServerFactory) -> FastzkServer:
    """A server that was killed with 40 writes in its log."""
    server = new_server()
    assert isinstance(server, FastzkServer)
    server.start()
    fill(server)
    server.kill9()
    return server


class TestTornTail:
    """The newest segment ends in a batch that was never completed: cut off, said so, and on we go."""

    def assert_says_so(self, server: FastzkServer) -> None:
        pattern = r"(?i)(torn|incomplete|cut off|cutting|truncat|unfinished|partial)"
        assert re.search(pattern, server.log_text()), server.explain("nothing said about the torn tail")

    @pytest.mark.parametrize("missing", [1, 5, 40])
    def test_truncated_file(self, crashed: FastzkServer, missing: int) -> None:
        newest = crashed.log_files[-1]
        with newest.open("r+b") as file:
            file.truncate(used_end(newest) - missing)
        crashed.start()
        # the last batch of all was the closing of the session; the write before it may not be touched
        assert_filled(crashed)
        self.assert_says_so(crashed)

    @pytest.mark.parametrize("missing", [1, 5, 40])
    def test_end_never_written(self, crashed: FastzkServer, missing: int) -> None:
        newest = crashed.log_files[-1]
        end = used_end(newest)
        overwrite(newest, end - missing, bytes(missing))
        crashed.start()
        assert_filled(crashed)
        self.assert_says_so(crashed)

    def test_half_a_batch_behind_the_end(self, crashed: FastzkServer) -> None:
        """The first bytes of a real batch behind the last one: a crash in the middle of a write."""
        newest = crashed.log_files[-1]
        end = (used_end(newest) + 7) & ~7
        raw = newest.read_bytes()
        start = payload_offset(newest, b"payload-3payload-3")
        overwrite(newest, end, raw[start - 150 : start + 20])
        crashed.start()
        assert_filled(crashed)

    def test_garbage_behind_the_end(self, crashed: FastzkServer) -> None:
        newest = crashed.log_files[-1]
        end = (used_end(newest) + 7) & ~7
        overwrite(newest, end, bytes((i * 7 + 13) % 256 for i in range(3000)))
        crashed.start()
        assert_filled(crashed)
        self.assert_says_so(crashed)

    def test_writes_after_a_cut_survive_the_next_crash(self, crashed: FastzkServer) -> None:
        newest = crashed.log_files[-1]
        overwrite(newest, used_end(newest) - 5, bytes(5))
        crashed.start()
        with crashed.session() as zk:
            zk.create("/after", b"the cut")
            last = zk.stat("/after").czxid
            assert last > zk.stat("/data/n39").czxid
        crashed.kill9()
        crashed.start()
        assert_filled(crashed)
        with crashed.session() as zk:
            assert zk.get("/after")[0] == b"the cut"


class TestCorruption:
    @pytest.mark.parametrize("number", [0, 1, 20, 38])
    def test_in_the_middle_is_refused(self, crashed: FastzkServer, number: int) -> None:
        newest = crashed.log_files[-1]
        flip(newest, payload_offset(newest, f"payload-{number}".encode() * 10) + 3)
        output = assert_refused(crashed, re.escape(newest.name))
        assert re.search(r"(offset|byte)\W*(0x[0-9a-f]+|\d+)", output, re.IGNORECASE), output
        # and again: the refusal itself left no trace that would let the next start through
        assert_refused(crashed, re.escape(newest.name))

    def test_a_hole_of_zeros_is_refused(self, crashed: FastzkServer) -> None:
        newest = crashed.log_files[-1]
        overwrite(newest, payload_offset(newest, b"payload-10payload-10") - 200, bytes(512))
        assert_refused(crashed, re.escape(newest.name), r"(offset|byte)\W*(0x[0-9a-f]+|\d+)")

    def test_mended_data_serves_again(self, crashed: FastzkServer) -> None:
        newest = crashed.log_files[-1]
        offset = payload_offset(newest, b"payload-20payload-20")
        flip(newest, offset)
        assert_refused(crashed)
        flip(newest, offset)
        crashed.start()
        assert_filled(crashed)

    def test_a_missing_segment_in_between_is_refused(self, new_server: ServerFactory) -> None:
        server = new_server({"preAllocSize": "64"})
        assert isinstance(server, FastzkServer)
        server.start()
        with server.session() as zk:
            for i in range(40):
                zk.create(f"/big{i}", bytes(20_000))
        server.kill9()
        assert len(server.log_files) >= 3, server.log_files
        server.log_files[-2].unlink()
        assert_refused(server, r"log")

    def test_checkpoint(self, server: Server) -> None:
        fill(server)
        assert server.terminate()[0] == 0
        mdb = server.data_dir / "state" / "data.mdb"
        flip(mdb, payload_offset(mdb, b"payload-20") + 2)
        assert_refused(server, r"state|lmdb|checkpoint|checksum|corrupt")


class TestMissingParts:
    """Half a data directory is never taken for a new server."""

    @pytest.fixture(params=["killed", "terminated"])
    def stopped(self, request: pytest.FixtureRequest, server: Server) -> Server:
        fill(server)
        if request.param == "killed":
            server.kill9()
        else:
            assert server.terminate()[0] == 0
        return server

    def test_lost_state(self, stopped: Server) -> None:
        shutil.rmtree(stopped.data_dir / "state")
        assert_refused(stopped, r"state|lmdb")

    def test_emptied_state(self, stopped: Server) -> None:
        for path in (stopped.data_dir / "state").iterdir():
            path.unlink()
        assert_refused(stopped, r"state|lmdb")

    def test_state_of_zero_bytes(self, stopped: Server) -> None:
        (stopped.data_dir / "state" / "data.mdb").write_bytes(b"")
        assert_refused(stopped, r"state|lmdb")

    def test_lost_log(self, stopped: Server) -> None:
        shutil.rmtree(stopped.data_dir / "log")
        assert_refused(stopped, r"log")

    def test_emptied_log(self, stopped: Server) -> None:
        for path in (stopped.data_dir / "log").iterdir():
            path.unlink()
        assert_refused(stopped, r"log")

    def test_log_of_another_server(self, stopped: Server, new_server: ServerFactory) -> None:
        stranger = new_server(name="stranger")
        stranger.start()
        fill(stranger, 5)
        stranger.kill9()
        shutil.rmtree(stopped.data_dir / "log")
        shutil.copytree(stranger.data_dir / "log", stopped.data_dir / "log")
        assert_refused(stopped, r"log")

    def test_all_lost_is_a_new_server(self, stopped: Server) -> None:
        shutil.rmtree(stopped.data_dir)
        stopped.start()
        with stopped.session() as zk:
            assert zk.exists("/data") is None

    def test_log_in_a_directory_of_its_own(self, new_server: ServerFactory, tmp_path: Path) -> None:
        server = new_server({"dataLogDir": str(tmp_path / "txns")})
        server.start()
        fill(server)
        server.kill9()
        assert list((tmp_path / "txns" / "log").glob("log.*"))
        server.start()
        assert_filled(server)
        server.kill9()
        shutil.rmtree(tmp_path / "txns")
        assert_refused(server, r"log")


def _terminate(server: Server) -> None:
    assert server.terminate()[0] == (0 if server.kind == "fastzk" else 143)


class TestRestart:
    @pytest.fixture(params=[_terminate, Server.kill9], ids=["terminated", "killed"])
    def end(self, request: pytest.FixtureRequest) -> Callable[[Server], None]:
        found: Callable[[Server], None] = request.param
        return found

    def test_everything_is_there(self, server: Server, end: Callable[[Server], None]) -> None:
        with server.session() as zk:
            zk.create("/a", None)
            zk.create("/a/empty", b"")
            zk.create("/a/seq-", b"x", wire.SEQUENTIAL)
            zk.set("/a", b"new")
            zk.create("/a/acl", b"y", acl=[Acl(PERM_READ, "world", "anyone"), Acl(31, "digest", "u:hash")])
            zk.create("/a/häß", bytes(range(256)))
            zk.create("/a/gone")
            zk.delete("/a/gone")
            zk.create("/a/null", None)
            paths = ["/", "/zookeeper", "/a", *(f"/a/{name}" for name in zk.children("/a"))]
            before = {p: (zk.get(p), zk.get_acl(p), sorted(zk.children(p))) for p in paths}
            last = zk.last_zxid
        end(server)
        server.start()
        with server.session() as zk:
            assert {p: (zk.get(p), zk.get_acl(p), sorted(zk.children(p))) for p in before} == before
            assert zk.create("/a/seq-", b"", wire.SEQUENTIAL).endswith(f"{zk.stat('/a').num_children:010d}")
            assert zk.stat("/a").pzxid > last

    def test_sessions(self, new_server: ServerFactory, end: Callable[[Server], None]) -> None:
        server = new_server({"tickTime": "1000"})
        server.start()
        returns = server.session(timeout_ms=8000)
        returns.create("/returns", flags=EPHEMERAL)
        lost = server.session(timeout_ms=2000)
        lost.create("/lost", flags=EPHEMERAL)
        closed = server.session()
        closed.create("/closed", flags=EPHEMERAL)
        closed.close()
        end(server)
        server.start()
        with server.session() as zk:
            again = server.session(
                session_id=returns.session_id,
                password=returns.password,
                last_zxid=returns.last_zxid,
                timeout_ms=8000,
            )
            assert again.session_id == returns.session_id
            stat = again.exists("/returns")
            assert stat is not None
            assert stat.ephemeral_owner == returns.session_id
            with pytest.raises(Refused):
                server.session(session_id=closed.session_id, password=closed.password)
            assert zk.exists("/closed") is None
            assert zk.exists("/lost", watch=True) is not None, (
                "a restart gives a session its whole timeout again"
            )
            assert zk.event() == (wire.DELETED, 3, "/lost")
            assert again.exists("/returns") is not None
            with pytest.raises(Refused):
                server.session(session_id=lost.session_id, password=lost.password)
            zk.exists("/returns", watch=True)
            again.close()
            assert zk.event() == (wire.DELETED, 3, "/returns")
        for session in (returns, lost):
            session.drop()

    def test_a_close_session_larger_than_any_request(self, new_server: ServerFactory) -> None:
        """Limits of size are for clients: never for what the server itself writes and reads back."""
        server = new_server({"jute.maxbuffer": "20000", "snapCount": "1000000"})
        server.start()
        owner = server.session()
        for start in range(0, 3000, 500):
            names = [f"/{'long-name-' * 10}{i}" for i in range(start, start + 500)]
            owner.send(*[wire.create(name, flags=EPHEMERAL) for name in names])
            assert {owner.reply().err for _ in range(500)} == {0}
        assert owner.call(Request(wire.CLOSE_SESSION, b"")).err == 0
        owner.drop()
        server.kill9()
        server.start()
        with server.session() as zk:
            assert zk.stat("/").num_children == 1

    def test_many_restarts(self, server: Server, end: Callable[[Server], None]) -> None:
        for i in range(5):
            with server.session() as zk:
                zk.create(f"/n{i}")
            end(server)
            server.start()
        with server.session() as zk:
            assert {f"n{i}" for i in range(5)} <= set(zk.children("/"))
            czxids = [zk.stat(f"/n{i}").czxid for i in range(5)]
            assert czxids == sorted(set(czxids))

    def test_checkpoints_let_old_segments_go(self, new_server: ServerFactory) -> None:
        server = new_server({"snapCount": "200", "preAllocSize": "64", "commitLogCount": "10"})
        assert isinstance(server, FastzkServer)
        server.start()
        with server.session() as zk:
            zk.create("/a")
            oldest = server.log_files[0]
            deadline = time.monotonic() + 30
            while oldest.exists():
                assert time.monotonic() < deadline, server.explain(f"never purged: {server.log_files}")
                zk.send(*[wire.set_data("/a", bytes(2000))] * 50)
                assert {zk.reply().err for _ in range(50)} == {0}
            version = zk.stat("/a").version
        server.kill9()
        server.start()
        with server.session() as zk:
            assert zk.stat("/a").version == version


class TestVerifyData:
    def verify(self, server: Server) -> tuple[int, str]:
        before = tree_of(server.data_dir)
        code, output = server.run_to_end("--verify-data")
        assert tree_of(server.data_dir) == before, "--verify-data changed files"
        assert "Traceback" not in output
        return code, output

    @pytest.mark.parametrize("kill", [True, False])
    def test_good(self, server: Server, kill: bool) -> None:
        fill(server)
        if kill:
            server.kill9()
        else:
            server.terminate()
        code, output = self.verify(server)
        assert code == 0, output
        server.start()
        assert_filled(server)

    def test_bad_log(self, crashed: FastzkServer) -> None:
        newest = crashed.log_files[-1]
        flip(newest, payload_offset(newest, b"payload-20payload-20"))
        code, output = self.verify(crashed)
        assert code > 0, output
        assert newest.name in output

    def test_bad_state(self, server: Server) -> None:
        fill(server)
        server.terminate()
        mdb = server.data_dir / "state" / "data.mdb"
        flip(mdb, payload_offset(mdb, b"payload-20"))
        code, output = self.verify(server)
        assert code > 0, output

    def test_lost_state(self, crashed: FastzkServer) -> None:
        shutil.rmtree(crashed.data_dir / "state")
        code, output = self.verify(crashed)
        assert code > 0, output


class TestRefusals:
    def test_second_server_on_the_same_directory(self, server: Server, new_server: ServerFactory) -> None:
        with server.session() as zk:
            zk.create("/a")
            second = new_server({"dataDir": str(server.data_dir)}, "second")
            code, output = second.run_to_end()
            assert code > 0, output
            assert "Traceback" not in output
            assert str(server.data_dir) in output
            assert re.search(r"in use|lock|another|already|running", output, re.IGNORECASE), output
            zk.set("/a", b"still serving")
        server.kill9()
        server.start()
        with server.session() as zk:
            assert zk.get("/a")[0] == b"still serving"

    def test_port_in_use(self, new_server: ServerFactory) -> None:
        server = new_server()
        with socket.socket() as occupier:
            occupier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            occupier.bind(("127.0.0.1", server.port))
            occupier.listen()
            assert_refused(server, str(server.port), r"in use|cannot listen|bind")
        server.start()

    def test_port_in_use_leaves_existing_data_alone(self, server: Server) -> None:
        fill(server)
        server.kill9()
        with socket.socket() as occupier:
            occupier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            occupier.bind(("127.0.0.1", server.port))
            occupier.listen()
            assert_refused(server, str(server.port))
        server.start()
        assert_filled(server)

    def test_directory_that_cannot_be_made(self, new_server: ServerFactory, tmp_path: Path) -> None:
        blocker = tmp_path / "file"
        blocker.write_text("not a directory")
        server = new_server({"dataDir": str(blocker / "data")})
        code, output = server.run_to_end()
        assert code > 0, output
        assert str(blocker) in output
        assert "Traceback" not in output

    def test_unwritable_directory(self, new_server: ServerFactory) -> None:
        server = new_server({"dataDir": "/proc/self"})  # which not even root can write to
        code, output = server.run_to_end()
        assert code > 0, output
        assert "/proc/" in output
        assert "Traceback" not in output


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_idle(self, server: Server, number: signal.Signals) -> None:
        assert server.process is not None
        with server.session() as zk:
            began = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(10) == 0, server.log_tail()
            assert time.monotonic() - began < 5
            zk.assert_closed()

    def test_under_load(self, new_server: ServerFactory) -> None:
        server = new_server({"snapCount": "2000"})
        server.start()
        load = Load(seed=5)
        load.create_roots(server)
        load.start(server)
        load.wait_for_acks(3000)
        code, seconds = server.terminate()
        load.join()
        assert code == 0, server.log_tail()
        assert seconds < 5
        server.start()
        load.verify(server)

    def test_with_a_client_that_does_not_read(self, server: Server) -> None:
        with server.session() as zk:
            zk.create("/big", bytes(900_000))
            slow = server.session(rcvbuf=4096)
            slow.send(*[wire.get_data("/big")] * 100)
            zk.ping()
            code, seconds = server.terminate()
            slow.drop()
        assert code == 0
        assert seconds < 5

    def test_stop_right_after_start(self, new_server: ServerFactory) -> None:
        server = new_server()
        server.start()
        assert server.terminate()[0] == 0
        server.start()
        assert server.terminate()[0] == 0
        assert "Traceback" not in server.log_text()
