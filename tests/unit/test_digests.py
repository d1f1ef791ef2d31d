"""Digests of two trees at the same zxid are compared, whichever server gets there first."""

from __future__ import annotations

from fastzk.server.digests import DIGESTS_KEPT, Difference, Digests


def test_what_the_leader_had_before() -> None:
    digests = Digests()
    for zxid in (1, 4, 9):
        assert digests.note(zxid, 100 + zxid) is None
    assert digests.leader_has(4, 104, applied=9) is None
    assert digests.leader_has(4, 1, applied=9) == Difference(4, 104, 1)
    assert digests.leader_has(5, 1, applied=9) is None  # within a batch: not known here
    assert digests.leader_has(0, 1, applied=9) is None


def test_what_the_leader_has_already() -> None:
    digests = Digests()
    assert digests.leader_has(4, 1, applied=0) is None
    assert digests.leader_has(9, 109, applied=0) is None  # one is enough to wait for
    assert digests.note(1, 101) is None
    assert digests.note(4, 104) == Difference(4, 104, 1)
    assert digests.note(9, 109) is None


def test_a_zxid_that_is_no_end_of_a_batch_here_is_let_go() -> None:
    digests = Digests()
    digests.leader_has(3, 1, applied=0)
    assert digests.note(4, 104) is None
    digests.leader_has(5, 1, applied=4)
    assert digests.note(5, 105) == Difference(5, 105, 1)


def test_old_ones_are_forgotten() -> None:
    digests = Digests()
    for zxid in range(DIGESTS_KEPT + 1):
        digests.note(zxid, zxid)
    assert digests.leader_has(0, 1, applied=DIGESTS_KEPT) is None
    assert digests.leader_has(1, 0, applied=DIGESTS_KEPT) == Difference(1, 1, 0)


def test_an_operator_reads_it() -> None:
    assert Difference(0x500000002, 0xAB, 0xCD).told(3) == (
        "at zxid 0x500000002 the tree's digest is ab, that of leader 3 is cd"
    )
