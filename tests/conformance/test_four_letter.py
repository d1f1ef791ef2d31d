"""The four-letter words of a running server, side by side with Apache ZooKeeper's after the same history."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import wire
from support.servers import Server, make_server

pytestmark = pytest.mark.xdist_group("four_letter")

#: Where the numbers of two servers may differ: addresses, ids, zxids, times, sizes, latencies.
_VOLATILE = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?(E-?\d+)?")

#: What monitoring agents take from `mntr`; a server may tell more.
_GAUGES = {
    *("zk_version", "zk_server_state", "zk_avg_latency", "zk_min_latency", "zk_max_latency"),
    *("zk_packets_received", "zk_packets_sent", "zk_num_alive_connections", "zk_outstanding_requests"),
    *("zk_znode_count", "zk_watch_count", "zk_ephemerals_count", "zk_approximate_data_size"),
    *("zk_open_file_descriptor_count", "zk_max_file_descriptor_count", "zk_uptime", "zk_global_sessions"),
}


@dataclass
class Subject:
    """A server after the history, and what is needed to recognise its answers."""

    server: Server
    names: dict[str, str]
    nodes_before: int

    def ask(self, word: str) -> str:
        """The answer, with the ids of the history's sessions replaced by names."""
        text = self.server.four_letter_word(word)
        for session_id, name in self.names.items():
            text = text.replace(session_id, name)
        return text

    def mask(self, word: str) -> str:
        """The answer with every volatile number replaced by a hash sign."""
        return _VOLATILE.sub("#", self.ask(word))

    def monitor(self) -> dict[str, str]:
        pairs = [line.split("\t") for line in self.ask("mntr").splitlines()]
        assert all(len(pair) == 2 for pair in pairs), pairs
        return dict(pairs)


def subject(kind: str, directory: Path, life: ExitStack) -> Subject:
    server = make_server(kind, directory).start()
    life.callback(server.discard)
    nodes = int(dict(re.findall(r"(zk_\w+)\t(\d+)\n", server.four_letter_word("mntr")))["zk_znode_count"])
    one, two = life.enter_context(server.session()), life.enter_context(server.session())
    life.callback(server.connection().drop)
    for session, request in (
        (one, wire.create("/a", b"xx")),
        (one, wire.create("/e1", flags=wire.EPHEMERAL)),
        (one, wire.create("/e2", flags=wire.EPHEMERAL)),
        (two, wire.create("/e3", flags=wire.EPHEMERAL)),
        (one, wire.get_data("/a", watch=True)),
        (one, wire.get_data("/e1", watch=True)),
        (one, wire.get_children("/", watch=True)),
        (two, wire.get_data("/a", watch=True)),
    ):
        assert session.call(request).err == wire.OK
    assert two.call(wire.exists("/missing", watch=True)).err == wire.NO_NODE
    names = {f"0x{session.session_id:x}": name for session, name in ((one, "ONE"), (two, "TWO"))}
    return Subject(server, names, nodes)


@dataclass
class Pair:
    zookeeper: Subject
    fastzk: Subject


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as life:
        folder = tmp_path_factory.mktemp("four_letter")
        yield Pair(
            subject("zookeeper", folder / "zookeeper", life), subject("fastzk", folder / "fastzk", life)
        )


@pytest.mark.parametrize("word", ["ruok", "isro", "wchs"])
def test_the_same_answer(pair: Pair, word: str) -> None:
    assert pair.fastzk.ask(word) == pair.zookeeper.ask(word)


def test_srvr(pair: Pair) -> None:
    ours, theirs = (
        subject.mask("srvr").splitlines(keepends=True) for subject in (pair.fastzk, pair.zookeeper)
    )
    assert ours[1:] == theirs[1:]
    version = re.compile(r"Zookeeper version: \d+\.\d+\.\d+-\S+, built on \d{4}-\d\d-\d\d \d\d:\d\d UTC\n")
    for side in (pair.fastzk, pair.zookeeper):
        assert version.match(side.ask("srvr"))
    assert "Mode: standalone\n" in ours


def test_stat(pair: Pair) -> None:
    ours, theirs = (subject.mask("stat").split("\n", 2) for subject in (pair.fastzk, pair.zookeeper))
    assert ours[1] == theirs[1] == "Clients:"
    clients, statistics = ours[2].split("\n\n")
    their_clients, their_statistics = theirs[2].split("\n\n")
    assert statistics == their_statistics
    assert sorted(clients.splitlines()) == sorted(their_clients.splitlines())
    assert len(clients.splitlines()) == 4


def connections(subject: Subject) -> dict[str, dict[str, str]]:
    """The lines of `cons` that belong to a session, by its name."""
    text = subject.ask("cons")
    lines = text.splitlines()
    assert text.endswith("\n\n")
    assert len(lines) == 5
    form = re.compile(r" /127\.0\.0\.1:\d+\[([0-9a-f])\]\((.*)\)")
    found = {}
    for line in lines[:-1]:
        match = form.fullmatch(line)
        assert match, line
        fields = {"interest": match[1], **dict(item.split("=") for item in match[2].split(","))}
        found[fields.get("sid", f"none, {fields['recved']} received")] = fields
    return found


def test_cons(pair: Pair) -> None:
    ours, theirs = connections(pair.fastzk), connections(pair.zookeeper)
    assert set(ours) == {"ONE", "TWO", "none, 0 received", "none, 1 received"}
    for name, fields in theirs.items():
        assert list(ours[name]) == list(fields)
        exact = {"interest", "queued", "recved", "sent", "sid", "lop", "to", "lcxid"} & fields.keys()
        assert {key: ours[name][key] for key in exact} == {key: fields[key] for key in exact}
    assert ours["ONE"]["lop"] == "GETC"
    assert ours["TWO"]["lop"] == "EXIS"


def blocks(text: str) -> dict[str, list[str]]:
    """Unindented lines, each with the sorted indented lines below it: hash tables have no order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("\t"):
            found[next(reversed(found))].append(line)
        else:
            found[line] = []
    return {key: sorted(lines) for key, lines in found.items()}


@pytest.mark.parametrize("word", ["wchc", "wchp"])
def test_watches(pair: Pair, word: str) -> None:
    ours, theirs = pair.fastzk.ask(word), pair.zookeeper.ask(word)
    assert blocks(ours) == blocks(theirs)
    assert len(ours) == len(theirs)
    assert len(ours.splitlines()) == {"wchc": 7, "wchp": 8}[word]


def test_dump(pair: Pair) -> None:
    date = re.compile(
        r" expire at (Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d \S+ \d{4}:\n"
    )
    parts = re.compile(
        r"SessionTracker dump:\nSession Sets \(\d+\)/\(2\):\n(.*)"
        r"ephemeral nodes dump:\n(.*)Connections dump:\nConnections Sets \(\d+\)/\(4\):\n(.*)",
        re.DOTALL,
    )
    shown = []
    for side in (pair.fastzk, pair.zookeeper):
        found = parts.fullmatch(date.sub(" expire\n", side.ask("dump")))
        assert found, side.ask("dump")
        sessions, owners, clients = found.groups()
        # How the members fall into sets depends on the second; who they are, and how they look, does not.
        members = sorted(line for line in sessions.splitlines() if line.startswith("\t"))
        peers = sorted(re.sub(r":\d+ ", ": ", line) for line in clients.splitlines() if line.startswith("\t"))
        heads = {re.sub(r"\d+", "#", line) for line in (sessions + clients).splitlines() if line[0] != "\t"}
        shown.append((members, blocks(owners), peers, heads))
    assert shown[0] == shown[1]
    assert shown[0][0] == ["\tONE", "\tTWO"]
    assert shown[0][1] == {
        "Sessions with Ephemerals (2):": [],
        "ONE:": ["\t/e1", "\t/e2"],
        "TWO:": ["\t/e3"],
    }


def test_conf(pair: Pair) -> None:
    ours, theirs = (
        dict(line.split("=", 1) for line in subject.ask("conf").splitlines())
        for subject in (pair.fastzk, pair.zookeeper)
    )
    assert list(ours) == list(theirs)
    same = ours.keys() - {"clientPort", "dataDir", "dataDirSize", "dataLogDir", "dataLogSize"}
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert int(ours["clientPort"]) == pair.fastzk.server.port
    for key in ("dataDir", "dataLogDir"):
        assert Path(ours[key]).is_dir()
    for key in ("dataDirSize", "dataLogSize"):
        assert int(ours[key]) > 0


def test_dirs(pair: Pair) -> None:
    assert pair.fastzk.mask("dirs") == pair.zookeeper.mask("dirs")


def test_mntr(pair: Pair) -> None:
    ours, theirs = pair.fastzk.monitor(), pair.zookeeper.monitor()
    assert ours.keys() >= _GAUGES
    for key, value in ours.items():
        # A count stays a whole number, a mean has a decimal point: some agents care.
        if key in theirs and key != "zk_version":
            assert _VOLATILE.sub(lambda m: "float" if "." in m[0] else "int", value) == _VOLATILE.sub(
                lambda m: "float" if "." in m[0] else "int", theirs[key]
            ), key
    order = [key for key in theirs if key in _GAUGES]
    assert [key for key in ours if key in _GAUGES] == order
    same = {
        *(
            "zk_server_state",
            "zk_ephemerals_count",
            "zk_watch_count",
            "zk_global_sessions",
            "zk_local_sessions",
        ),
        *("zk_num_alive_connections", "zk_outstanding_requests"),
    }
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    for side, values in ((pair.fastzk, ours), (pair.zookeeper, theirs)):
        assert int(values["zk_znode_count"]) - side.nodes_before == 4
        assert int(values["zk_uptime"]) < 600_000
        assert 10 < int(values["zk_open_file_descriptor_count"]) < int(values["zk_max_file_descriptor_count"])


def test_envi(pair: Pair) -> None:
    ours, theirs = (subject.ask("envi").splitlines() for subject in (pair.fastzk, pair.zookeeper))
    assert ours[0] == theirs[0] == "Environment:"
    assert ours[1].startswith("zookeeper.version=3.")
    keys, their_keys = (
        [line.split("=", 1)[0] for line in lines[1:] if not line.startswith(("java.", "python."))]
        for lines in (ours, theirs)
    )
    assert keys == their_keys
    values = dict(line.split("=", 1) for line in ours[1:])
    known = dict(line.split("=", 1) for line in theirs[1:])
    for key in ("os.name", "os.version", "user.name"):
        assert values[key] == known[key]


def test_resets(pair: Pair) -> None:
    """Last in the file: what it resets, the tests above compare."""
    for side in (pair.fastzk, pair.zookeeper):
        assert side.ask("crst") == "Connection stats reset.\n"
        assert side.ask("srst") == "Server stats reset.\n"
    ours, theirs = (
        {name: fields for name, fields in connections(subject).items() if "sid" in fields}
        for subject in (pair.fastzk, pair.zookeeper)
    )
    for name in ("ONE", "TWO"):
        assert list(ours[name]) == list(theirs[name])
        volatile = {"est"}
        assert {k: v for k, v in ours[name].items() if k not in volatile} == {
            k: v for k, v in theirs[name].items() if k not in volatile
        }
    for side in (pair.fastzk, pair.zookeeper):
        assert "Latency min/avg/max: 0/0.0/0\n" in side.ask("srvr")


def test_off_the_whitelist(tmp_path: Path) -> None:
    answers = []
    for kind in ("zookeeper", "fastzk"):
        server = make_server(kind, tmp_path / kind, {"4lw.commands.whitelist": "ruok"}).start()
        answers.append([server.four_letter_word(word) for word in ("ruok", "mntr", "crst", "hash")])
        assert server.four_letter_word("srvr").startswith("Zookeeper version: ")
        server.discard()
    assert answers[0] == answers[1]
    assert answers[1][1] == "mntr is not executed because it is not in the whitelist.\n"
