"""The command line clients that come with ZooKeeper: ``zkCli.sh`` (Java) and ``cli_mt`` (C), of Debian's packages.

Both print what the server answered, so the same commands are given to Apache ZooKeeper too and the outputs
compared, except for what no two servers have in common: times, and the values of zxids.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.servers import Server, ZooKeeperServer, make_server, require
from support.wire import poll

ZKCLI = Path("/usr/share/zookeeper/bin/zkCli.sh")
CLI_MT = Path("/usr/lib/zookeeper/bin/cli_mt")

SCRIPT = """
create /a one
create -e /ephemeral x
create -s /a/s- two
create -s -e /sequential- x
create -c /container c
create -t 60000 /ttl t
create /a again
create /none/a x
create /ephemeral/child x
get -s /a
get /none
set -s -v 0 /a two
set -v 0 /a three
get /a
ls -R /
ls -s /a
stat /a
stat /none
getAcl /a
addauth digest bob:pw
setAcl -s /a auth::cdrwa
getAcl -s /a
setAcl -v 7 /a world:anyone:r
getEphemerals
getEphemerals /seq
getAllChildrenNumber /a
getAllChildrenNumber /
whoami
sync /a
listquota /a
setquota -n 10 /a
setquota -b 1000 /a
setquota -N 20 /a
setquota -B 2000 /a
listquota /a
setquota -n 5 /a/s-0000000000
ls -R /zookeeper
delquota -n /a
listquota /a
delquota /a
delquota /a
listquota /a
addWatch -m PERSISTENT_RECURSIVE /a
addWatch -m PERSISTENT /b
stat -w /ttl
get -w /ttl
ls -w /ttl
set /ttl changed
create /ttl/child x
create /a/watched 1
create /b 1
removewatches /a
create /a/unwatched 1
removewatches /none
create /d 1
create /d/e 1
create /d/e/f 1
delete /d
delete -v 3 /d/e/f
delete -v 0 /d/e/f
deleteall /d
delete /d
stat /d
config
reconfig -add server.2=localhost:2:3
nonsense
quit
"""


class Output(NamedTuple):
    """What zkCli.sh wrote, made comparable."""

    code: int
    replies: list[str]
    events: list[str]
    errors: list[str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = make_server("fastzk", tmp_path / "fastzk", {"extendedTypesEnabled": "true"}).start()
    yield made
    made.discard()


def zkcli(server: Server, *command: str, script: str = "") -> Output:
    """Run one command, or a script of them on one session."""
    require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    require(ZKCLI.exists(), f"no {ZKCLI} (Debian package zookeeper)")
    environment = {**os.environ, "CLIENT_JVMFLAGS": "-XX:TieredStopAtLevel=1 -Dfile.encoding=UTF-8"}
    done = subprocess.run(
        [str(ZKCLI), "-server", server.hosts, *command],
        input=script,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=server.directory,
        env=environment,
    )
    text = done.stdout.replace(server.hosts, "HOST")
    text = re.sub(r"(?m)^([cm]time) = .*", r"\1 = TIME", text)
    text = re.sub(r"0x[0-9a-f]{10,}", "SESSION", text)
    # the two sets that a server may give in any order
    text = re.sub(r"(?m)^\[(/.*)\]$", lambda found: f"[{', '.join(sorted(found[1].split(', ')))}]", text)
    text = re.sub(r"(?m)^(ip: .*)\n(digest: .*)", r"\2\n\1", text)
    lines = [line for line in text.splitlines() if line and line != "WATCHER::"]
    # events are printed by a thread of their own, the one of the end perhaps not before the process ends
    events = [line for line in lines if line.startswith("WatchedEvent") and "state:Closed" not in line]
    replies = [line for line in lines if not line.startswith("WatchedEvent")]
    errors = [line for line in done.stderr.splitlines() if line and not line.startswith("SLF4J")]
    return Output(done.returncode, ranked(replies), events, errors)


def ranked(lines: list[str]) -> list[str]:
    """Write each zxid as its rank among those shown: ZooKeeper also counts the requests that failed."""
    pattern = re.compile(r"([cmp]Zxid) = 0x([0-9a-f]+)")
    order = sorted({int(found[2], 16) for line in lines if (found := pattern.fullmatch(line))})
    return [pattern.sub(lambda found: f"{found[1]} = {order.index(int(found[2], 16))}", line) for line in lines]


def test_a_session_of_zkcli(server: Server, tmp_path: Path) -> None:
    """All its commands; the output is that of ZooKeeper, and what counts in it is there."""
    ours = zkcli(server, script=SCRIPT)
    real = make_server("zookeeper", tmp_path / "zookeeper", {"extendedTypesEnabled": "true"}).start()
    try:
        theirs = zkcli(real, script=SCRIPT)
    finally:
        real.discard()
    assert ours.replies == theirs.replies
    assert ours.errors == theirs.errors
    assert ours.events == theirs.events
    assert ours.code == theirs.code

    for line in ("Created /a", "Created /a/s-0000000000", "Created /container", "Created /ttl"):
        assert line in ours.errors
    for line in ("Node already exists: /a", "Node does not exist: /none", "Node not empty: /d"):
        assert line in ours.errors
    for line in ("'digest,'bob:ikIaKsbtGweaHnb/jKn7OHqbunM=", "digest: bob", "ip: 127.0.0.1", "Sync is OK"):
        assert line in ours.replies
    assert "[/ephemeral, /sequential-0000000002]" in ours.replies
    changes = [event.split("type:")[1] for event in ours.events if "type:None" not in event]
    assert "NodeCreated path:/a/watched" in changes
    assert "NodeCreated path:/b" in changes
    assert "NodeCreated path:/a/unwatched" not in changes


@pytest.mark.parametrize("kind", ["fastzk", "zookeeper"])
def test_single_commands_of_zkcli(kind: str, tmp_path: Path) -> None:
    """One command an invocation, as scripts use it."""
    server = make_server(kind, tmp_path / kind).start()
    try:
        assert "Created /einzeln" in zkcli(server, "create", "/einzeln", "größer").errors
        read = zkcli(server, "get", "/einzeln")
        assert read.code == 0
        assert "größer" in read.replies
        assert "[einzeln, zookeeper]" in zkcli(server, "ls", "/").replies
        failed = zkcli(server, "get", "/none")
        assert failed.code == 1
        assert "Node does not exist: /none" in failed.errors
        assert zkcli(server, "deleteall", "/einzeln").code == 0
        with server.session() as session:
            assert session.children("/") == ["zookeeper"]
    finally:
        server.discard()


class CliMt:
    """``cli_mt``, which answers each line of its input some time later."""

    def __init__(self, server: Server) -> None:
        require(CLI_MT.exists(), f"no {CLI_MT} (Debian package zookeeper-bin)")
        self._output = server.directory / "cli_mt.out"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [str(CLI_MT), "-h", server.hosts],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=server.directory,
            )
        self._seen = 0

    def say(self, line: str, expected: str) -> str:
        """Give a command and wait for that text (a pattern) in what comes; returns all that came since."""
        assert self._process.stdin is not None
        if line:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

        def fresh() -> str:
            return self._output.read_text(errors="replace")[self._seen :]

        try:
            poll(lambda: re.search(expected, fresh()) is not None, expected)
        except AssertionError as error:
            raise AssertionError(f"{line!r} gave no {expected!r} but:\n{fresh()}") from error
        text = fresh()
        self._seen += len(text)
        return text

    def quit(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(b"quit\n")
        self._process.stdin.close()
        return self._process.wait(20)

    def discard(self) -> None:
        self._process.kill()
        self._process.wait(20)


@pytest.mark.parametrize("kind", ["fastzk", "zookeeper"])
def test_cli_mt(kind: str, tmp_path: Path) -> None:
    server = make_server(kind, tmp_path / kind, {"extendedTypesEnabled": "true"}).start()
    try:
        cli = CliMt(server)
    except BaseException:
        server.discard()
        raise
    try:
        cli.say("", r"Got a new session id: .*\n")
        cli.say("create /c", r"\[/c\]: rc = 0\n\tname = /c\n")
        cli.say("create +e /c/e", r"rc = 0\n\tname = /c/e\n")
        cli.say("create +s /c/s-", r"rc = 0\n\tname = /c/s-0000000001\n")
        cli.say("create /c", r"\[/c\]: rc = -110\n")
        cli.say("set /c some-text", r"(?s)/c: rc = 0.*version=1\taversion=0\n\tephemeralOwner = 0\n")
        cli.say("get /c", r"(?s)/c: rc = 0\n value_len = 9\nsome-text\n.*ephemeralOwner = 0\n")
        cli.say("exists /none", r"Error -101 for /none\n")
        listed = cli.say("ls /c", r"(?s)/c: rc = 0\n.*time = \d+ msec\n")
        assert sorted(re.findall(r"(?m)^\t(.+)$", listed)) == ["e", "s-0000000001"]
        cli.say("sync /c", r"\[/c\]: rc = 0\n\tname = /c\n")
        cli.say("addauth digest bob:pw", "")  # it prints nothing
        cli.say("delete /c", r"/c: rc = -111\n")
        # cli_mt sets a watch with each read
        cli.say("delete /c/e", r"(?s)CHILD_EVENT state = CONNECTED_STATE for path /c\n.*/c/e: rc = 0\n")
        with server.session() as session:
            assert session.get("/c")[0] == b"some-text"
            assert session.children("/c") == ["s-0000000001"]
        assert cli.quit() == 0
    finally:
        cli.discard()
        server.discard()
