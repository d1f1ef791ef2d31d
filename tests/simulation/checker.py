"""What must hold, checked at every step against all servers at once; nothing here is known to any of them."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from fastzk.server.zab.messages import Proposal, follows
from fastzk.server.zab.quorum import Quorum

from .trace import zxid_text
from .transactions import CONFIG, Change, changes

if TYPE_CHECKING:
    from .server import Server


class Violation(AssertionError):
    """A promise to the users is broken."""


def demand(condition: bool, what: str, *args: object) -> None:
    """`what` is formatted only if it is needed. Raises Violation."""
    if not condition:
        raise Violation(
            what.format(*(zxid_text(each) if isinstance(each, int) and each > 1 << 31 else each for each in args))
        )


class Checker:
    """The one sequence of committed batches, and what clients were told about it."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.promises: dict[int, int] = {}
        self.committed: list[Proposal] = []
        #: In which epoch each of them was, which may be later than its own.
        self._committed_in: list[int] = []
        #: zxid of a batch end -> its place behind ``committed``'s first.
        self.places: dict[int, int] = {0: 0}
        self.digests: dict[int, int] = {}
        #: (session, cxid) -> zxid.
        self.zxids: dict[tuple[int, int], int] = {}
        self._latest_cxid: dict[int, int] = {}
        #: path -> every value it had, with the zxid that brought it.
        self._values: dict[bytes, list[tuple[int, bytes | None]]] = {}
        #: The greatest zxid that a client knows its write by.
        self.acknowledged = 0
        self.quorum_of: dict[int, Quorum] = {}

    @property
    def last_zxid(self) -> int:
        """The end of the committed sequence, as far as any server knows it."""
        return self.committed[-1].last_zxid if self.committed else 0

    # -- leaders and promises -------------------------------------------------------------------------------------

    def promised(self, server: int, epoch: int) -> None:
        """A promise is durable, or was read from the disk."""
        demand(epoch >= self.promises.get(server, 0), "server {} goes back to the promise of epoch {}", server, epoch)
        self.promises[server] = epoch

    def leads(self, server: Server, epoch: int) -> None:
        """A server leads: nobody else ever did in that epoch, and its history holds what was committed in earlier ones.

        It may learn of the promises late, when somebody else leads a later epoch already; it commits nothing then.
        """
        holder = self.leaders.setdefault(epoch, server.number)
        demand(holder == server.number, "epoch {} has two leaders: {} and {}", epoch, holder, server.number)
        history = server.core.history
        before = bisect_left(self._committed_in, epoch)
        last = self.committed[before - 1].last_zxid if before else 0
        demand(
            history.last_zxid >= last,
            "server {} leads epoch {} with a history to {} only, {} is committed",
            server.number, epoch, history.last_zxid, last,
        )  # fmt: skip
        base = history.base_zxid
        demand(base in self.places, "the log of leader {} begins behind {}, no committed batch", server.number, base)
        self._compare(server, base, last, extend=None)

    # -- the sequence ---------------------------------------------------------------------------------------------

    def commits(self, server: Server, behind: int, zxid: int, quorum: Quorum | None) -> None:
        """A server takes everything up to `zxid` for committed; before that was everything up to `behind`.

        `quorum`: it is the leader, and whose disks must have it.
        """
        self._compare(server, behind, zxid, extend=quorum)

    def _compare(self, server: Server, behind: int, zxid: int, extend: Quorum | None) -> None:
        place = self.places[behind]
        at = behind
        while at < zxid:
            batches = server.core.history.after(at, 1 << 20)
            demand(bool(batches), "server {} has committed {} but has no batch behind {}", server.number, zxid, at)
            for batch in batches:
                if batch.last_zxid > zxid:
                    demand(at == zxid, "server {} has committed half a batch, to {}", server.number, zxid)
                    return
                demand(
                    follows(at, batch.first_zxid), "server {}: {} stands behind {}", server.number, batch.first_zxid, at
                )
                if place < len(self.committed):
                    known = self.committed[place]
                    demand(
                        known == batch,
                        "server {} has {} as committed batch {}, which is {}",
                        server.number, batch.first_zxid, place, known.first_zxid,
                    )  # fmt: skip
                else:
                    if extend is not None:
                        holders = {each.number for each in server.world.servers.values() if each.holds(batch)}
                        demand(
                            extend.reached(holders),
                            "leader {} has committed {}, which only the disks of {} have",
                            server.number, batch.last_zxid, sorted(holders),
                        )  # fmt: skip
                    role = server.core.leading or server.core.following
                    # A leader that has just removed itself knows no other yet.
                    epoch = server.core.promised if role is None else role.epoch
                    self._committed_in.append(max(epoch, self._committed_in[-1] if self._committed_in else 0))
                    self._extend(batch)
                place += 1
                at = batch.last_zxid

    def _extend(self, batch: Proposal) -> None:
        demand(follows(self.last_zxid, batch.first_zxid), "{} is committed behind {}", batch.first_zxid, self.last_zxid)
        self.committed.append(batch)
        self.places[batch.last_zxid] = len(self.committed)
        expected = batch.first_zxid
        for change in changes(batch.payload):
            demand(change.zxid == expected, "transaction {} stands where {} belongs", change.zxid, expected)
            expected += 1
            if change.path:
                self._values.setdefault(change.path, []).append((change.zxid, change.value))
            if change.path and change.path != CONFIG:
                self._of_session(change)
        demand(expected == batch.last_zxid + 1, "batch {} does not hold what it says", batch.first_zxid)

    def _of_session(self, change: Change) -> None:
        before = self._latest_cxid.get(change.session, 0)
        demand(
            change.cxid == before + 1,
            "session {}: request {} is committed behind request {}", change.session, change.cxid, before,
        )  # fmt: skip
        self._latest_cxid[change.session] = change.cxid
        self.zxids[change.session, change.cxid] = change.zxid

    def applied(self, server: Server) -> None:
        """A server has applied a batch, or taken a state: every server has the same then."""
        zxid, digest = server.machine.zxid, server.machine.digest()
        demand(zxid in self.places, "server {} has applied {}, which is not committed", server.number, zxid)
        known = self.digests.setdefault(zxid, digest)
        demand(known == digest, "server {} has another tree at {}", server.number, zxid)

    # -- clients --------------------------------------------------------------------------------------------------

    def write_acknowledged(self, session: int, cxid: int, before: int) -> int:
        """A client has its answer; when it asked, `before` was acknowledged already. The zxid of the write."""
        zxid = self.zxids.get((session, cxid))
        demand(zxid is not None, "session {}: write {} is acknowledged, but not committed", session, cxid)
        assert zxid is not None
        demand(
            zxid > before,
            "session {}: write {} has {}, but {} was acknowledged before it was asked for", session, cxid, zxid, before,
        )  # fmt: skip
        self.acknowledged = max(self.acknowledged, zxid)
        return zxid

    def value(self, path: bytes, zxid: int) -> bytes | None:
        """What is at `path` when everything up to `zxid` is applied, and nothing else."""
        found = None
        for since, value in self._values.get(path, ()):
            if since > zxid:
                break
            found = value
        return found
