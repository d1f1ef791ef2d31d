"""The counter of the zxids comes to its end: the leader goes on in a later epoch, and nobody notices."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from support import wire
from support.ensemble_load import EnsembleLoad
from support.ensembles import MEMBERS, Ensemble, FastzkMember

#: Instead of 0xf0000000: with the load below that is several times in the test.
ROLL_AT = 2_000


class ShortEpochs(FastzkMember):
    """A member whose epochs have few zxids."""

    program: ClassVar[str] = (
        "import sys; from fastzk.server import cli, ensemble; "
        f"ensemble.ROLL_AT = {ROLL_AT}; sys.exit(cli.main(sys.argv[1:]))"
    )

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program, str(self.config_path)]


def rolled(ensemble: Ensemble) -> int:
    """How often a leader went on in a later epoch."""
    return sum(len(re.findall("leading on in a later epoch", ensemble[i].log_text())) for i in ensemble.ids)


def test_epochs_roll_over_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEMBERS, "fastzk", ShortEpochs)
    with Ensemble("fastzk", tmp_path, 3, observers=1) as ensemble:
        ensemble.start()
        leader = ensemble.leader()
        with ensemble.session(leader) as session:
            before = session.create("/before") and session.stat("/before").czxid
        load = EnsembleLoad(ensemble, 1)
        load.start()
        for _ in range(20):
            load.wait_for_writes(ROLL_AT // 2)
            if rolled(ensemble) >= 3:
                break
        load.stop()
        assert rolled(ensemble) >= 3, ensemble.explain("the epoch does not roll over")
        assert ensemble.leader() == leader, "without an election"
        assert load.longest_gap() < 1.0
        load.verify()
        with ensemble.session(4) as session:
            session.create("/after")
            after = session.stat("/after").czxid
        assert after >> 32 >= (before >> 32) + 3
        # All of it can be read again, by the same servers and by one that has nothing.
        ensemble.kill9(*ensemble.ids)
        follower = next(i for i in ensemble.voters if i != leader)
        ensemble.wipe(follower)
        ensemble.start()
        load.verify(fresh_syncs=False)
        with ensemble.session(follower) as session:
            assert session.stat("/after").czxid == after
            assert session.error(wire.set_data("/after", b"again")) == wire.OK
            assert session.stat("/after").mzxid >> 32 > after >> 32
