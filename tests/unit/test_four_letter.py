"""The four-letter words against text that Apache ZooKeeper 3.8 printed in the same situation."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import pytest

from fastzk.protocol import OpCode
from fastzk.server import four_letter
from fastzk.server.four_letter import (
    COMMANDS,
    OPERATION_NAMES,
    ConnectionView,
    EnsembleView,
    LeaderView,
    ServerConf,
    ServerView,
    answer,
)

ALL = frozenset({"*"})


@dataclass
class Connection:
    peer_ip: str = "127.0.0.1"
    peer_port: int = 45138
    interest_ops: int = 1
    queued: int = 0
    received: int = 4
    sent: int = 4
    session_id: int = 0x10000150C100001
    last_operation: str | None = "EXIS"
    established_ms: int = 1795362175533
    expires_ms: int = 1795362192000
    timeout_ms: int = 10000
    last_cxid: int = 3
    last_zxid: int = 6
    last_response_time: int = 1382851
    last_latency: int = 0
    min_latency: int = 0
    avg_latency: int = 0
    max_latency: int = 1


@dataclass
class View:
    version: str = "0.1.0"
    built_on: str = "2024-12-29 17:54 UTC"
    serving: bool = True
    read_only: bool = False
    mode: str = "standalone"
    trace_mask: int = 306
    connection_drop_chance: float = 0.0
    uptime_ms: int = 3368
    latency_ms: tuple[int, float, int] = (0, 4.9091, 21)
    packets_received: int = 13
    packets_sent: int = 12
    outstanding: int = 0
    zxid: int = 6
    znode_count: int = 9
    watch_count: int = 5
    ephemerals_count: int = 3
    session_count: int = 2
    local_session_count: int = 0
    local_sessions: tuple[int, ...] | None = None
    approximate_data_size: int = 57
    open_file_descriptors: int = 269
    max_file_descriptors: int = 20000
    clients: list[Connection] = field(default_factory=list)
    resets: list[str] = field(default_factory=list)
    place: EnsembleView | None = None

    def ensemble(self) -> EnsembleView | None:
        return self.place

    def session_timeouts(self) -> Iterable[tuple[int, int]]:
        return [(0x10000150C100001, 30000), (0x10000150C100000, 4000)]

    @property
    def connection_count(self) -> int:
        return len(self.clients)

    def connections(self) -> Iterable[ConnectionView]:
        return self.clients

    def ephemerals(self) -> Iterable[tuple[int, Collection[str]]]:
        return [(0x10000150C100001, ["/e3"]), (0x10000150C100000, ["/e1", "/e2"])]

    def session_expiries(self) -> Iterable[tuple[int, Collection[int]]]:
        return [(1795362188000, [3]), (1795362186000, [0x10000150C100000, -0x10000150C100001])]

    def local_session_expiries(self) -> Iterable[tuple[int, Collection[int]]] | None:
        return None if self.local_sessions is None else [(1795362186000, self.local_sessions)]

    def watches_by_path(self) -> Iterable[tuple[str, Collection[int]]]:
        return [("/a", [0x10000150C100000, 0x10000150C100001]), ("/nöpe", [0x10000150C100001])]

    def watches_by_session(self) -> Iterable[tuple[int, Collection[str]]]:
        return [(0x10000150C100001, ["/a", "/nöpe"]), (0x10000150C100000, ["/a"])]

    def watch_summary(self) -> tuple[int, int, int]:
        return 2, 3, 4

    def conf(self) -> ServerConf:
        return ServerConf(24181, "/var/lib/zk/version-2", "/var/log/zk/version-2", 2000, 60, 4000, 40000)

    def data_dir_size(self) -> int:
        return 67109337

    def log_dir_size(self) -> int:
        return 67108880

    def digests(self) -> Iterable[tuple[int, int]]:
        return [(128, 123456789), (0x100000000, 7)]

    def environment(self) -> Iterable[tuple[str, str]]:
        return [("host.name", "localhost"), ("os.name", "Linux")]

    def metrics(self) -> Iterable[tuple[str, int | float]]:
        return [("auth_failed_count", 2), ("avg_fsynctime", 0.5)]

    def reset_connection_stats(self) -> None:
        self.resets.append("connections")

    def reset_server_stats(self) -> None:
        self.resets.append("server")


def say(word: str, view: ServerView | None = None, whitelist: frozenset[str] = ALL) -> str:
    reply = answer(word, view or View(), whitelist)
    assert reply is not None
    return reply.decode()


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterable[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_words() -> None:
    words = "conf cons crst dirs dump envi gtmk hash isro mntr ruok srst srvr stat stmk wchc wchp wchs"
    assert " ".join(sorted(COMMANDS)) == words
    assert all(len(word) == 4 and word.isascii() for word in COMMANDS)


@pytest.mark.parametrize("word", ["xxxx", "", "RUOK", "ruo", "ruokk", "*", "stmkx"])
def test_anything_else_is_no_four_letter_word(word: str) -> None:
    assert answer(word, View(), ALL) is None


@pytest.mark.parametrize("word", sorted(COMMANDS - {"srvr"}))
def test_a_word_off_the_whitelist_is_refused_and_does_nothing(word: str) -> None:
    view = View()
    refusal = f"{word} is not executed because it is not in the whitelist.\n"
    assert say(word, view, frozenset()) == refusal
    assert say(word, view, COMMANDS - {word}) == refusal
    assert view.resets == []
    assert say(word, view, frozenset({word})) != refusal


def test_srvr_is_always_allowed() -> None:
    assert say("srvr", whitelist=frozenset()).startswith("Zookeeper version: ")


def test_ruok() -> None:
    assert say("ruok") == "imok"


def test_isro() -> None:
    assert say("isro") == "rw"
    assert say("isro", View(read_only=True)) == "ro"
    assert say("isro", View(serving=False)) == "null"


def test_srvr() -> None:
    view = View(clients=[Connection()] * 4)
    assert say("srvr", view) == (
        "Zookeeper version: 3.9.3-fastzk-0.1.0, built on 2024-12-29 17:54 UTC\n"
        "Latency min/avg/max: 0/4.9091/21\n"
        "Received: 13\n"
        "Sent: 12\n"
        "Connections: 4\n"
        "Outstanding: 0\n"
        "Zxid: 0x6\n"
        "Mode: standalone\n"
        "Node count: 9\n"
    )


def test_srvr_of_a_read_only_server_says_so() -> None:
    lines = say("srvr", View(read_only=True, mode="read-only")).splitlines()
    assert lines[1] == "READ-ONLY mode; serving only read-only clients"
    assert "Mode: read-only" in lines


def test_stat_is_srvr_with_the_clients_before_the_statistics() -> None:
    probe = Connection(peer_port=46232, interest_ops=0, received=1, sent=0, session_id=0)
    view = View(clients=[Connection(peer_port=46204), probe])
    version, statistics = say("srvr", view).split("\n", 1)
    assert say("stat", view) == (
        f"{version}\n"
        "Clients:\n"
        " /127.0.0.1:46204[1](queued=0,recved=4,sent=4)\n"
        " /127.0.0.1:46232[0](queued=0,recved=1,sent=0)\n"
        "\n"
        f"{statistics}"
    )


def test_cons() -> None:
    fresh = Connection(last_operation=None, last_cxid=-1, last_zxid=-1, session_id=-2, last_response_time=0)
    probe = Connection(peer_port=46232, interest_ops=0, received=1, sent=0, session_id=0)
    assert say("cons", View(clients=[Connection(), probe, fresh])) == (
        " /127.0.0.1:45138[1](queued=0,recved=4,sent=4,sid=0x10000150c100001,lop=EXIS,est=1795362175533,"
        "to=10000,lcxid=0x3,lzxid=0x6,lresp=1382851,llat=0,minlat=0,avglat=0,maxlat=1)\n"
        " /127.0.0.1:46232[0](queued=0,recved=1,sent=0)\n"
        " /127.0.0.1:45138[1](queued=0,recved=4,sent=4,sid=0xfffffffffffffffe,lop=NA,est=1795362175533,"
        "to=10000,lzxid=0xffffffffffffffff,lresp=0,llat=0,minlat=0,avglat=0,maxlat=1)\n"
        "\n"
    )
    assert say("cons") == "\n"


@pytest.mark.parametrize(
    ("ip", "shown"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "[0:0:0:0:0:0:0:1]"),
        ("::", "[0:0:0:0:0:0:0:0]"),
        ("2001:db8::00ff:1", "[2001:db8:0:0:0:0:ff:1]"),
        ("1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]"),
        ("fe80::1%eth0", "[fe80:0:0:0:0:0:0:1%eth0]"),
        ("::ffff:10.0.1.2", "[0:0:0:0:0:ffff:a00:102]"),
    ],
)
def test_addresses_are_written_as_java_writes_them(ip: str, shown: str) -> None:
    first = say("stat", View(clients=[replace(Connection(), peer_ip=ip)])).splitlines()[2]
    assert first.startswith(f" /{shown}:45138[1](")


@pytest.mark.usefixtures("utc")
def test_dump() -> None:
    probe = Connection(peer_port=46232, session_id=0, expires_ms=1795362180000)
    assert say("dump", View(clients=[Connection(), probe, Connection(peer_port=45134, session_id=-1)])) == (
        "SessionTracker dump:\n"
        "Session Sets (2)/(3):\n"
        "2 expire at Sun Nov 22 15:43:06 UTC 2026:\n"
        "\t0x10000150c100000\n"
        "\t0xfeffffeaf3efffff\n"
        "1 expire at Sun Nov 22 15:43:08 UTC 2026:\n"
        "\t0x3\n"
        "ephemeral nodes dump:\n"
        "Sessions with Ephemerals (2):\n"
        "0x10000150c100001:\n"
        "\t/e3\n"
        "0x10000150c100000:\n"
        "\t/e1\n"
        "\t/e2\n"
        "Connections dump:\n"
        "Connections Sets (2)/(3):\n"
        "1 expire at Sun Nov 22 15:43:00 UTC 2026:\n"
        "\tip: /127.0.0.1:46232 sessionId: 0x0\n"
        "2 expire at Sun Nov 22 15:43:12 UTC 2026:\n"
        "\tip: /127.0.0.1:45138 sessionId: 0x10000150c100001\n"
        "\tip: /127.0.0.1:45134 sessionId: 0xffffffffffffffff\n"
    )


def test_watches() -> None:
    assert say("wchs") == "2 connections watching 3 paths\nTotal watches:4\n"
    assert say("wchc") == "0x10000150c100001\n\t/a\n\t/nöpe\n0x10000150c100000\n\t/a\n\n"
    assert say("wchp") == "/a\n\t0x10000150c100000\n\t0x10000150c100001\n/nöpe\n\t0x10000150c100001\n\n"


def test_conf_and_dirs() -> None:
    assert say("conf") == (
        "clientPort=24181\n"
        "secureClientPort=-1\n"
        "dataDir=/var/lib/zk/version-2\n"
        "dataDirSize=67109337\n"
        "dataLogDir=/var/log/zk/version-2\n"
        "dataLogSize=67108880\n"
        "tickTime=2000\n"
        "maxClientCnxns=60\n"
        "minSessionTimeout=4000\n"
        "maxSessionTimeout=40000\n"
        "clientPortListenBacklog=-1\n"
        "serverId=0\n"
    )
    assert say("dirs") == "datadir_size: 67109337\nlogdir_size: 67108880\n"


def test_mntr() -> None:
    assert say("mntr") == (
        "zk_version\t3.9.3-fastzk-0.1.0, built on 2024-12-29 17:54 UTC\n"
        "zk_server_state\tstandalone\n"
        "zk_ephemerals_count\t3\n"
        "zk_num_alive_connections\t0\n"
        "zk_avg_latency\t4.9091\n"
        "zk_outstanding_requests\t0\n"
        "zk_znode_count\t9\n"
        "zk_global_sessions\t2\n"
        "zk_packets_sent\t12\n"
        "zk_packets_received\t13\n"
        "zk_connection_drop_probability\t0.0\n"
        "zk_watch_count\t5\n"
        "zk_min_latency\t0\n"
        "zk_max_file_descriptor_count\t20000\n"
        "zk_approximate_data_size\t57\n"
        "zk_open_file_descriptor_count\t269\n"
        "zk_local_sessions\t0\n"
        "zk_uptime\t3368\n"
        "zk_max_latency\t21\n"
        "zk_auth_failed_count\t2\n"
        "zk_avg_fsynctime\t0.5\n"
    )


# ---- members of an ensemble

MEMBERSHIP = """\
server.1=127.0.0.1:24811:24911:participant
server.2=127.0.0.1:24812:24912:participant
server.3=127.0.0.1:24813:24913:participant
version=100000000"""
FOLLOWER = EnsembleView("following - broadcast", 3, MEMBERSHIP, False, (10, 5), (24811,), (24911,))
LEADER = replace(
    FOLLOWER, peer_state="leading - broadcast", leader=LeaderView(3, 3, 1, 0, 0, 8071, (-1, -1, -1))
)


def test_srvr_and_stat_of_members() -> None:
    assert say("srvr", View(mode="follower", place=FOLLOWER)).endswith("\nMode: follower\nNode count: 9\n")
    leader = View(mode="leader", place=LEADER)
    for word in ("srvr", "stat"):
        assert say(word, leader).endswith("\nMode: leader\nNode count: 9\nProposal sizes last/min/max: -1/-1/-1\n")


def test_conf_of_members() -> None:
    assert say("conf", View(place=FOLLOWER)).endswith(
        "serverId=0\n"
        "initLimit=10\n"
        "syncLimit=5\n"
        "electionAlg=3\n"
        "electionPort=24911\n"
        "quorumPort=24811\n"
        "peerType=0\n"
        "membership: \n" + MEMBERSHIP
    )
    observer = replace(FOLLOWER, observer=True, quorum_ports=(1, 2), election_ports=(3, 4))
    assert "\nelectionPort=3|4\nquorumPort=1|2\npeerType=1\n" in say("conf", View(place=observer))


def test_mntr_of_a_leader() -> None:
    keys = [line.split("\t") for line in say("mntr", View(mode="leader", place=LEADER)).splitlines()]
    shown = (
        "server_state peer_state ephemerals_count num_alive_connections avg_latency min_proposal_size "
        "outstanding_requests znode_count global_sessions packets_sent packets_received max_proposal_size "
        "synced_followers connection_drop_probability watch_count synced_non_voting_followers synced_observers "
        "min_latency max_file_descriptor_count approximate_data_size open_file_descriptor_count last_proposal_size "
        "pending_syncs leader_uptime local_sessions uptime max_latency learners quorum_size"
    )
    assert " ".join(key.removeprefix("zk_") for key, _ in keys[1:-2]) == shown
    found = dict(keys)
    assert found["zk_peer_state"] == "leading - broadcast"
    assert [found[f"zk_{key}"] for key in ("learners", "synced_followers", "leader_uptime", "quorum_size")] == [
        "3",
        "3",
        "8071",
        "3",
    ]


def test_mntr_of_those_that_follow() -> None:
    follower = say("mntr", View(mode="follower", place=FOLLOWER))
    assert "\nzk_server_state\tfollower\nzk_peer_state\tfollowing - broadcast\nzk_ephemerals_count\t3\n" in follower
    assert "\nzk_quorum_size\t3\n" in follower
    assert not re.search("synced|proposal|leader|learners|observer", follower)
    observer = say("mntr", View(mode="observer", place=replace(FOLLOWER, master_id=3)))
    assert "\nzk_observer_master_id\t3\n" in observer


def test_dump_of_one_that_follows_has_no_times() -> None:
    assert say("dump", View(place=FOLLOWER)).startswith(
        "SessionTracker dump:\n"
        "Global Sessions(2):\n"
        "0x10000150c100000\t4000ms\n"
        "0x10000150c100001\t30000ms\n"
        "ephemeral nodes dump:\n"
    )
    assert "Session Sets (" in say("dump", View(place=LEADER))


@pytest.mark.parametrize("word", ["srvr", "stat", "mntr", "conf", "dump"])
def test_a_member_without_a_leader_says_so(word: str) -> None:
    view = View(serving=False, mode="looking", place=replace(FOLLOWER, peer_state="looking"))
    assert say(word, view) == "This ZooKeeper instance is not currently serving requests\n"
    assert say("isro", view) == "null"


@pytest.mark.parametrize(
    ("mean", "shown"),
    [
        (0, "0.0"),
        (0.0, "0.0"),
        (3.0, "3.0"),
        (0.25, "0.25"),
        (1 / 3, "0.3333"),
        (0.001, "0.001"),
        (0.0005, "5.0E-4"),
        (0.00001, "0.0"),
        (9999999.5, "9999999.5"),
        (1e7, "1.0E7"),
        (12345678.25, "1.234567825E7"),
    ],
)
def test_means_are_written_as_java_writes_them(mean: float, shown: str) -> None:
    view = View(latency_ms=(0, mean, 9))
    assert f"\nLatency min/avg/max: 0/{shown}/9\n" in say("srvr", view)
    assert f"\nzk_avg_latency\t{shown}\n" in say("mntr", view)


def test_envi() -> None:
    assert say("envi") == (
        "Environment:\n"
        "zookeeper.version=3.9.3-fastzk-0.1.0, built on 2024-12-29 17:54 UTC\n"
        "host.name=localhost\n"
        "os.name=Linux\n"
    )


def test_the_environment_of_this_process() -> None:
    found = dict(four_letter.process_environment())
    assert " ".join(found) == (
        "host.name python.version python.vendor python.home os.name os.arch os.version"
        " user.name user.home user.dir os.memory.free os.memory.max os.memory.total"
    )
    assert all(found.values())
    free, most, total = (int(found[f"os.memory.{k}"].removesuffix("MB")) for k in ("free", "max", "total"))
    assert 0 <= free <= most
    assert 0 < total <= most


def test_the_version_is_read_by_clients() -> None:
    envi = say("envi")
    kazoo = re.match(r"([\d\.]*).*", envi.split("zookeeper.version=")[1], re.DOTALL)
    assert kazoo is not None
    assert kazoo.group(1) == "3.9.3"
    agents = re.match(r"Zookeeper version: (\d+)\.(\d+)\.(\d+)-", say("stat"))
    assert agents is not None
    assert agents.groups() == ("3", "9", "3")


def test_hash() -> None:
    assert say("hash") == "80: 123456789\n100000000: 7\n"


def test_resets() -> None:
    view = View()
    assert say("crst", view) == "Connection stats reset.\n"
    assert view.resets == ["connections"]
    assert say("srst", view) == "Server stats reset.\n"
    assert view.resets == ["connections", "server"]


@pytest.mark.parametrize("word", sorted(COMMANDS - {"ruok", "isro", "envi", "gtmk", "stmk"}))
def test_a_server_that_does_not_serve_says_so(word: str) -> None:
    view = View(serving=False)
    assert say(word, view) == "This ZooKeeper instance is not currently serving requests\n"
    assert view.resets == []


def test_ruok_and_envi_are_answered_by_a_server_that_does_not_serve() -> None:
    assert say("ruok", View(serving=False)) == "imok"
    assert say("envi", View(serving=False)) == say("envi")


def test_trace_mask() -> None:
    view = View(serving=False)
    assert answer("gtmk", view, ALL) == b"306"
    assert answer("stmk", view, frozenset(), bytes(8)) != b"0"
    assert answer("stmk", view, ALL, bytes(7)) == b""
    assert answer("gtmk", view, ALL) == b"306"
    assert answer("stmk", view, ALL, b"\0\0\0\0\0\0\x01\x02rest") == b"258"
    assert answer("gtmk", view, ALL) == b"258"
    assert answer("stmk", view, ALL, b"\xff" * 8) == b"-1"


def test_operation_names_cover_every_request_of_a_session() -> None:
    without = {OpCode.NOTIFICATION, OpCode.AUTH, OpCode.SASL, OpCode.ERROR}
    assert set(OPERATION_NAMES) == set(OpCode) - without


def test_ten_thousand_connections_are_told_quickly() -> None:
    view = View(clients=[Connection(peer_port=port, session_id=port) for port in range(10_000, 20_000)])
    began = time.process_time()
    lines = say("cons", view).splitlines()
    spent = time.process_time() - began
    assert len(lines) == 10_001
    assert all(
        f":{port}[" in line and f"sid=0x{port:x}," in line for port, line in enumerate(lines[:-1], 10_000)
    )
    # The loop serves nobody meanwhile. It takes some 20 ms; quadratic work would take seconds.
    assert spent < 1.0
