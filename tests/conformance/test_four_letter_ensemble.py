"""The four-letter words of three participants and an observer, beside those of as many Apache ZooKeepers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.ensembles import Ensemble, eventually

pytestmark = pytest.mark.xdist_group("four_letter")

#: Where the numbers may differ: addresses, ids, zxids, times, sizes, latencies.
_VOLATILE = re.compile(r"0x[0-9a-f]+|-?\d+(\.\d+)?(E-?\d+)?")
ROLES = ("leader", "follower", "observer")
#: Of the gauges, those of a member's place in its ensemble: which of them a role has, and what they say.
_PLACE = re.compile(
    r"^zk_(\w*(?:state|synced|proposal_size|learners|pending_syncs|leader_uptime|quorum|master)\w*)\t(.*)$"
)


class Pair:
    """An ensemble of each kind, and a server of each role in it."""

    def __init__(self, directory: Path, life: ExitStack) -> None:
        self.ensembles = {
            kind: life.enter_context(Ensemble(kind, directory / kind, 3, observers=1))
            for kind in ("fastzk", "zookeeper")
        }
        for ensemble in self.ensembles.values():
            ensemble.start(60)
            leader = ensemble.leader()
            life.enter_context(ensemble.session(leader)).create("/one", b"x")
            eventually(lambda e=ensemble: len(e.followers()) == 2, "all follow", ensemble)  # type: ignore[misc]
        self.members = {
            kind: {"leader": e.leader(), "follower": e.followers()[0], "observer": 4}
            for kind, e in self.ensembles.items()
        }

    def ask(self, kind: str, role: str, word: str) -> str:
        return self.ensembles[kind].word(self.members[kind][role], word)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as life:
        yield Pair(tmp_path_factory.mktemp("words"), life)


def shape(text: str) -> str:
    """The answer without what may differ: numbers, the version, directories, one's own addresses."""
    text = re.sub(r"(?m)^(Zookeeper version|dataDir|dataLogDir)(: |=).*", r"\1", text)
    # What ZooKeeper counts as a bucket of connections depends on the moment.
    text = re.sub(r"(?m)^0 expire at .*\n", "", text)
    text = re.sub(r"at \w+ \w+ [\d: ]+ \w+ \d+", "at TIME", text)
    return _VOLATILE.sub("#", text)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("word", ["srvr", "stat", "conf", "isro", "ruok"])
def test_same_text(pair: Pair, role: str, word: str) -> None:
    assert shape(pair.ask("fastzk", role, word)) == shape(pair.ask("zookeeper", role, word))


@pytest.mark.parametrize("role", ROLES)
def test_dump_tells_of_the_same_sessions(pair: Pair, role: str) -> None:
    heads = {
        kind: _VOLATILE.sub("#", pair.ask(kind, role, "dump").partition("ephemeral nodes")[0]).splitlines()[:2]
        for kind in pair.ensembles
    }
    assert heads["fastzk"] == heads["zookeeper"]


@pytest.mark.parametrize("role", ROLES)
def test_mntr_tells_of_the_same_place(pair: Pair, role: str) -> None:
    found = {
        kind: [match.groups() for line in pair.ask(kind, role, "mntr").splitlines() if (match := _PLACE.match(line))]
        for kind in pair.ensembles
    }
    known = [key for key, _ in found["fastzk"]]
    assert known == [key for key, _ in found["zookeeper"] if key in known]
    ours, theirs = (
        {key: value for key, value in found[kind] if not re.search("uptime|proposal_size|master_id", key)}
        for kind in ("fastzk", "zookeeper")
    )
    assert ours == {key: value for key, value in theirs.items() if key in ours}
    wanted = {"leader": {"learners", "synced_followers", "synced_observers", "pending_syncs", "quorum_size"}}
    assert wanted.get(role, {"quorum_size"}) <= ours.keys()
