"""The protocol broken on purpose, in one place at a time: what the simulator must find to be of any use."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastzk.server.zab.core import Core
from fastzk.server.zab.election import Looking
from fastzk.server.zab.follower import Following
from fastzk.server.zab.leader import Leading

from .disk import Disk
from .server import Server


@dataclass(frozen=True)
class Mutation:
    """In each method of a class, some text is replaced; that must stand there exactly once."""

    name: str
    edits: list[tuple[type, str, str, str]]
    #: Where to look first: found in an earlier search; seeds from 1 on follow. Empty: it takes a scenario.
    seeds: list[int] = field(default_factory=list)
    #: A scenario that fails with it.
    scenario: str | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break it, and mend it again."""
        before: list[tuple[type, str, Any]] = []
        try:
            for owner, name, old, new in self.edits:
                before.append((owner, name, owner.__dict__[name]))
                setattr(owner, name, _changed(owner.__dict__[name], old, new))
            yield
        finally:
            for owner, name, original in reversed(before):
                setattr(owner, name, original)


def _changed(original: Any, old: str, new: str) -> Any:
    function: Any = getattr(original, "fget", original)
    source = getattr(function, "mutated", None) or textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} contains {old!r} {source.count(old)} times"
    source = source.replace(old, new)
    scope: dict[str, Any] = {}
    exec(source, sys.modules[function.__module__].__dict__, scope)  # noqa: S102
    made: Any = scope[function.__name__]
    changed: Any = getattr(made, "fget", made)
    changed.mutated = source
    return made


MUTATIONS = [
    Mutation(
        "a follower acknowledges before its disk has it",
        [(Following, "_acknowledge", "core.durable", "core.history.last_zxid")],
        scenario="ack_before_disk",
        seeds=[1],
    ),
    Mutation(
        "the leader counts itself before its disk has it",
        [(Leading, "_move", "core.durable", "core.history.last_zxid")],
        seeds=[1],
    ),
    Mutation(
        "an acknowledgment counts for what was sent since",
        [(Leading, "_acknowledged", "progress.acked = zxid", "progress.acked = progress.sent")],
        seeds=[1],
    ),
    # That the leader takes an acknowledgment of an earlier stream or epoch for one of this is harmless by itself: what
    # it speaks of lies before this epoch's first batch, or is still there. It is the follower that must forget.
    Mutation(
        "what was dropped is acknowledged",
        [(Core, "truncated", "min(self.durable, zxid)", "self.durable")],
        seeds=[1],
    ),
    Mutation(
        "TRUNC is skipped",
        [(Following, "_in_stream", "message.zxid < core.history.last_zxid", "False")],
        scenario="zookeeper_2845",
        seeds=[5],
    ),
    Mutation(
        "TRUNC is done in memory, not on the disk",
        [(Server, "_perform", "self.disk.truncate(action.zxid)", "pass")],
        scenario="zookeeper_5094",
        seeds=[7],
    ),
    Mutation(
        "a batch of an earlier epoch is committed by counting",
        [(Leading, "_move", "max(core.commit + 1, self.opening)", "core.commit + 1")],
        scenario="commit_of_an_earlier_epoch",
    ),
    Mutation(
        "a promise is not durable",
        [(Disk, "crash", "unsynced =", "self.promise = (0, -1); unsynced =")],
        seeds=[1],
    ),
    Mutation(
        "a promise is sent before it is durable",
        [
            (
                Server,
                "_turn",
                "todo = self.core.take()",
                "todo = sorted(self.core.take(), key=lambda each: isinstance(each, actions.Save))",
            )
        ],
        scenario="promise_before_it_is_sent",
    ),
    Mutation(
        "an epoch is promised twice",
        [
            (
                Core,
                "_canvassed",
                "message.epoch == self.promised and self.candidate == sender",
                "message.epoch == self.promised",
            )
        ],
        seeds=[12],
    ),
    Mutation(
        "a candidate asks for an epoch that it has promised before",
        [
            (Looking, "tick", "self._seen) + 1", "self._seen, 1)"),
            (Looking, "_count", "self._epoch <= core.promised", "self._epoch < core.promised"),
            (Core, "save", "epoch > self.promised", "epoch >= self.promised"),
            (Disk, "save", "epoch > self.promise[0]", "epoch >= self.promise[0]"),
        ],
        seeds=[1],
    ),
    Mutation(
        "a vote for a shorter history",
        [
            (Core, "_canvassed", "and message.last_zxid >= self.history.last_zxid", ""),
            (Core, "_probed", "and message.last_zxid >= last", ""),
        ],
        scenario="epoch_before_history",
        seeds=[14],
    ),
    Mutation(
        "a leader serves before its first batch is committed",
        [
            (Server, "leads", " and opening_zxid(self._first_epoch) <= self.machine.zxid", ""),
            (Leading, "_confirm", "or core.commit < opening_zxid(self._first_epoch)", ""),
        ],
        seeds=[2],
    ),
    Mutation(
        "a sync is answered without asking the quorum",
        [
            (
                Server,
                "_confirm",
                "self._confirming.append((self.core.confirm(), origin, request))",
                "self._confirming.append((0, origin, request)); self._confirmed(0)",
            )
        ],
        scenario="sync_at_a_deposed_leader",
    ),
    Mutation(
        "any answer to a heartbeat confirms all rounds",
        [(Leading, "_heartbeat_answered", "progress.round = message.round", "progress.round = self.round")],
        scenario="answer_of_an_earlier_round",
    ),
    Mutation(
        "what is not committed is applied",
        [(Server, "_commit", "target = core.commit if", "target = core.history.last_zxid if")],
        scenario="zookeeper_4394",
        seeds=[1],
    ),
    Mutation(
        "a checkpoint does not wait for the log",
        [(Server, "_checkpointed", "checkpoint.zxid > self.disk.durable", "False")],
        scenario="zookeeper_4882",
    ),
    Mutation(
        "after a restart the whole log counts as committed",
        [(Server, "boot", "commit=commit,", "commit=disk.last_zxid,")],
        seeds=[5],
    ),
    Mutation(
        "a follower takes the leader's commit point before its history is the leader's",
        [(Following, "_commit", "not self.synced or self.installing", "self.installing")],
        seeds=[13],
    ),
    Mutation(
        "the old quorum is ignored while a reconfiguration is pending",
        [
            (
                Core,
                "quorum",
                "return Joint(self.membership.quorum, self.pending[1].quorum)",
                "return self.pending[1].quorum",
            )
        ],
        scenario="single_server_change",
        seeds=[33],
    ),
    Mutation(
        "the new quorum is ignored while a reconfiguration is pending",
        [
            (
                Core,
                "quorum",
                "return Joint(self.membership.quorum, self.pending[1].quorum)",
                "return self.membership.quorum",
            )
        ],
        seeds=[1],
    ),
    Mutation(
        "a batch is appended behind a gap",
        [
            (
                Following,
                "_append",
                "message.previous == core.history.last_zxid",
                "message.previous >= core.history.last_zxid",
            )
        ],
        seeds=[1],
    ),
    Mutation(
        "the same leader in a later epoch is taken for one that rolled on",
        [
            (Following, "step", "and message.stream == self.stream:", ":"),
        ],
        scenario="later_epoch_of_the_same_leader",
    ),
    Mutation(
        "an fdatasync that began before TRUNC counts behind it",
        [
            (Disk, "_done", "generation != self._generation", "False"),
            (Disk, "_done", "self.durable)", "zxid)"),
            (Server, "_persisted", "min(zxid, self.disk.durable)", "zxid"),
        ],
        scenario="fdatasync_before_truncation",
    ),
    Mutation(
        "a full state is taken into memory only",
        [(Server, "_install", "self.disk.install(checkpoint)", "pass")],
        scenario="zookeeper_3642",
        seeds=[5],
    ),
    Mutation(
        "a leader that was removed goes on",
        [(Leading, "_count", "self.established and core.id not in core.voters", "False")],
        scenario="removed_leader",
    ),
    Mutation(
        "a follower that gave up is left alone",
        [
            (Core, "_probed", "self.leading is not None and leader == self.id", "False"),
            (Leading, "tick", "not progress.acked else progress.heard", "not progress.acked else core.now"),
        ],
        scenario="follower_that_gave_up",
        seeds=[23],
    ),
    Mutation(
        "what was said of another history than there is now is taken for true",
        [(Following, "_in_stream", "self.synced or message.last_zxid != core.history.last_zxid", "self.synced")],
        scenario="repeated_sync",
    ),
    Mutation(
        "a full state that was announced before is waited for",
        [
            (
                Following,
                "_in_stream",
                "elif self.synced or message.last_zxid != core.history.last_zxid:",
                "elif isinstance(message, Sync) and self.synced:",
            )
        ],
        scenario="repeated_install",
    ),
    Mutation(
        "nobody hears of a membership from those that it leaves behind",
        [(Core, "learn", "self.pending is None or", "True or")],
        scenario="membership_nobody_heard_of",
    ),
    Mutation(
        "a new quorum is counted at the next acknowledgment only",
        [(Leading, "_count", "while self._move():", "if self._move():")],
        scenario="commit_by_the_new_quorum",
    ),
]
