"""Who belongs to the ensemble, as one of its servers sees it, and how that changes.

There are up to three memberships at a time:

- the *committed* one, the text of /zookeeper/config; before the first leader has written it, that of the files;
- the *pending* one, of a reconfiguration in the log that may still be lost. Then a quorum of both is needed;
- the one of the *files*, this server's own server lines. They say where a first start finds the others. With
  ``reconfigEnabled=false`` they are, besides, what the ensemble is meant to become: as in ZooKeeper an operator changes
  them and restarts the servers one by one. Votes are counted by the committed membership nevertheless (two servers
  with different files must not each find a quorum of their own), and a leader whose files say something else proposes
  that as a reconfiguration, as soon as a quorum of it is in sync.

This server has a link with everybody in any of them: a server that joins has to catch up before it counts, and one that
leaves has to hear that it has left.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from fastzk.protocol import Error
from fastzk.server._pipeline import Pipeline
from fastzk.server.ensemble_config import EnsembleConfig
from fastzk.server.errors import StartupError
from fastzk.server.peers import Peers
from fastzk.server.reconfig import CONFIG_PATH, Change, ReconfigError, reconfigure
from fastzk.server.recovery import Recovered
from fastzk.server.zab.core import Core
from fastzk.server.zab.quorum import Membership

logger = logging.getLogger(__name__)

#: Seconds for which the link with a server that has left is kept, so that it can learn of that.
LEAVE_SECONDS: Final = 2.0
#: A leader looks so often whether the servers of its files can take over from those that are committed.
FILES_SECONDS: Final = 0.5

Places = dict[int, tuple[str, int]]


def recovered_memberships(
    config: EnsembleConfig, recovered: Recovered
) -> tuple[Membership, tuple[int, Membership] | None]:
    """What a server begins with: the committed membership as far as it knows, and a pending one with its zxid.

    Raises StartupError: /zookeeper/config holds something else.
    """
    try:
        return _recovered_memberships(config, recovered)
    except ValueError as error:
        raise StartupError(
            f"the znode {CONFIG_PATH} does not hold the servers of an ensemble ({error}): start the server alone, "
            "without server lines, set the znode to nothing as the super user, and try again"
        ) from None


def _recovered_memberships(
    config: EnsembleConfig, recovered: Recovered
) -> tuple[Membership, tuple[int, Membership] | None]:
    assert recovered.epochs is not None
    found = [(zxid, Membership.parse(text.decode())) for zxid, text in recovered.memberships]
    pending = found[-1] if found else None
    if pending is not None and pending[0] <= recovered.epochs.membership:
        return pending[1], None
    if len(found) > 1:
        return found[-2][1], pending  # it was committed, or there would not be another one behind it
    stored = recovered.tree.data(CONFIG_PATH.encode())
    return Membership.parse(stored.decode()) if stored else config.membership, pending


class Roster:
    """Keeps ``peers`` at who belongs to the ensemble, and decides what becomes of requests to change that.

    ``core`` knows the committed and the pending membership; ``stored`` is whether the committed one comes from
    /zookeeper/config.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: EnsembleConfig,
        *,
        core: Core,
        peers: Peers,
        pipeline: Pipeline,
        stored: bool,
        highest_id: int,
    ) -> None:
        self._loop = loop
        self._config = config
        self._core = core
        self._peers = peers
        self._pipeline = pipeline
        self._stored = stored
        self._highest_id = highest_id
        self._committed: Membership | None = None
        self._pending: tuple[int, Membership] | None = None
        self._places: Places = {}
        #: Servers that have left, where they are, and until when (the loop's time) their link is kept.
        self._leaving: dict[int, tuple[tuple[str, int], float]] = {}
        self._next_look = 0.0
        #: Whether this server belongs to the ensemble no more: then it serves nobody.
        self.removed = False
        pipeline.preparer.keeps_membership = True
        pipeline.reconfigure = self._reconfigure if config.reconfig_enabled else None

    # -- what a server asks --------------------------------------------------------------------------------------

    def opening(self, epoch: int) -> bytes | None:
        """The first content of /zookeeper/config, for the opening of ``epoch``; None if there is one already.

        As in ZooKeeper its version is the zxid at which the epoch begins.
        """
        if self._stored or self._core.pending is not None:
            return None
        return self._core.membership.with_version(epoch << 32).text().encode()

    # -- what happens ------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Look whether there is another membership: at the start, and whenever the core was told something."""
        core = self._core
        if core.membership is self._committed and core.pending is self._pending:
            return
        if self._committed is not None and core.membership is not self._committed:
            self._stored = True
            self._adopted(self._committed, core.membership)
        self._committed, self._pending = core.membership, core.pending
        known, self.removed = self.removed, core.id not in core.membership.members and (
            core.pending is None or core.id not in core.pending[1].members
        )
        if self.removed and not known:
            logger.warning(
                "server %d does not belong to the ensemble any more servers=%s; it serves nobody: stop it, or add it "
                "again by a reconfiguration",
                core.id,
                sorted(core.membership.members),
            )
        self._connect()

    def tick(self) -> None:
        """Time has passed."""
        now = self._loop.time()
        if any(until <= now for _, until in self._leaving.values()):
            self._leaving = {peer: entry for peer, entry in self._leaving.items() if entry[1] > now}
            self._connect()
        if now >= self._next_look:
            self._next_look = now + FILES_SECONDS
            self._follow_files()

    def _adopted(self, before: Membership, after: Membership) -> None:
        logger.info(
            "membership version=%x participants=%s observers=%s",
            after.version,
            sorted(after.voters),
            sorted(after.observers),
        )
        own, now = before.members.get(self._core.id), after.members.get(self._core.id)
        if own is None or now is None:
            return
        if own.addresses != now.addresses or (own.client and own.client != now.client):
            logger.warning(
                "this server is to listen elsewhere server.%d=%s; change its configuration and restart it",
                now.id,
                now.text(),
            )

    # -- links -------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Have links with whom there should be one."""
        core, files = self._core, self._config.membership
        members = dict(core.membership.members)
        if core.pending is not None:
            members |= core.pending[1].members
        if not self._config.reconfig_enabled or not self._stored:
            members |= files.members
        members.pop(core.id, None)
        places = {member.id: (member.host, member.quorum_port) for member in members.values()}
        until = self._loop.time() + LEAVE_SECONDS
        for peer, place in self._places.items():
            if peer not in places and peer in core.peers:
                self._leaving.setdefault(peer, (place, until))
        self._places = places
        self._leaving = {peer: entry for peer, entry in self._leaving.items() if peer not in places}
        self._peers.set_members(places | {peer: place for peer, (place, _) in self._leaving.items()})

    # -- changes -----------------------------------------------------------------------------------------------------

    def _synced(self, server: int) -> bool:
        leading = self._core.leading
        return leading is not None and server in leading.synced

    def _reconfigure(
        self,
        asked: tuple[str | None, str | None, str | None, int],
        zxid: int,
        permitted: bool,
    ) -> bytes | int:
        """What becomes of a client's request: the text of the next membership, or the code of an error."""
        if self._core.pending is not None:
            return Error.RECONFIG_IN_PROGRESS
        try:
            changed = reconfigure(
                self._core.membership,
                Change(*asked),
                zxid=zxid,
                synced=self._synced,
                permitted=lambda: permitted,
                standalone_enabled=self._config.standalone_enabled,
                highest_id=self._highest_id,
            )
        except ReconfigError as error:
            logger.info("reconfiguration refused code=%d reason=%s", error.code, error)
            return error.code
        logger.info("reconfiguration proposed version=%x servers=%s", zxid, sorted(changed.members))
        return changed.text().encode()

    def _follow_files(self) -> None:
        """Propose the membership of the files, if that is what counts and it is another one."""
        core, files = self._core, self._config.membership
        if self._config.reconfig_enabled or core.leading is None or core.pending is not None:
            return
        if not self._pipeline.leading or files.with_version(0).text() == core.membership.with_version(0).text():
            return
        if not files.quorum.reached({server for server in files.voters if self._synced(server)}):
            return
        logger.warning(
            "the servers of the configuration differ from those of %s servers=%s before=%s; they take over now",
            CONFIG_PATH,
            sorted(files.members),
            sorted(core.membership.members),
        )
        self._pipeline.change_membership(lambda zxid: files.with_version(zxid).text().encode())
