"""The links to the other servers: one connection for each pair, whoever of the two needs it.

The server with the higher id dials, the one with the lower id accepts, observers like others. So there is nothing to
agree on when both start at once, and a dialer's newest connection is the one that counts: it replaces the one before.
Everything above sees only ids: a server is connected, is not, has sent a frame.

One link is _peer_link.pyx, who may have one peer_auth.py; dialling is peer_dialer.py, names are peer_address.py.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastzk.server._peer_link import Bytes, PeerLink, tune
from fastzk.server.peer_address import Resolver, address_text, ip_address
from fastzk.server.peer_auth import VERSIONS, Credentials, Proven, Refused, accept, certificate_names, dial
from fastzk.server.peer_dialer import Dialer

logger = logging.getLogger(__name__)

#: From the connection to the end of the handshake, TLS's own included.
HANDSHAKE_SECONDS: Final = 5.0
#: How long ``close`` waits for the kernel to take what was sent.
CLOSE_SECONDS: Final = 1.0
#: Connections accepted in one turn of the loop.
ACCEPTS_A_TURN: Final = 16
#: Without file descriptors or memory, the pause until the next attempt to accept.
PAUSE_SECONDS: Final = 1.0
#: Of refused connections, at most so many lines in so many seconds.
REFUSALS_LOGGED: Final = 20
REFUSALS_SECONDS: Final = 10.0

_CLOSING = "this server is closing"


@dataclass(frozen=True, slots=True)
class PeerTls:
    """TLS between servers; both sides show a certificate that the other one's authorities have signed.

    ``server`` and ``client``: the contexts of the side that accepts and of the side that dials, both with
    ``verify_mode`` CERT_REQUIRED. ``verify_host``: a certificate must be for the configured host of the server
    that shows it; ``verify_dialers``: so must that of a server that dials this one.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    verify_host: bool = True
    verify_dialers: bool = True

    def __post_init__(self) -> None:
        if {self.server.verify_mode, self.client.verify_mode} != {ssl.CERT_REQUIRED}:
            raise ValueError("TLS between servers needs certificates of both sides")


class Peers:
    """All links of server ``my_id``, from ``start`` to ``close``.

    ``listener``: a bound socket that does not listen yet, owned by this object; None if nobody dials this server.
    ``on_frame`` (id, body): a frame; the body is valid during the call only.
    ``on_connected`` (id) and ``on_disconnected`` (id, reason) come in pairs, in this order, and all frames of a
    link between them. None of the callbacks is called from within ``send``, ``flush`` or ``drop``.
    ``on_failure``: gets what a callback raised, or anything else that must not be lived with.

    ``secret``, ``versions``: see ``Credentials``. ``tls``: None for connections in the open. If neither a secret nor
    TLS proves who a server is, it must come from an address of its configured host.

    ``keep_alive_ms``: a link that carried nothing for so long carries a keep-alive. ``silence_ms``: one that
    heard nothing for so long is given up; at least twice ``keep_alive_ms`` of the other side.
    ``connect_timeout_ms``: for one address. ``max_pending``: bytes unsent on a link before it is given up.
    ``max_strangers``: connections at once that have not proven yet whose they are; one more ends the oldest.

    Raises ValueError for settings that make no sense.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        my_id: int,
        listener: socket.socket | None,
        *,
        on_frame: Callable[[int, memoryview], object],
        on_connected: Callable[[int], object],
        on_disconnected: Callable[[int, str], object],
        on_failure: Callable[[BaseException], object],
        secret: bytes | None = None,
        versions: tuple[int, int] = VERSIONS,
        tls: PeerTls | None = None,
        keep_alive_ms: int = 500,
        silence_ms: int = 4000,
        connect_timeout_ms: int = 2000,
        max_pending: int = 256 << 20,
        max_strangers: int = 32,
        resolver: Resolver | None = None,
    ) -> None:
        if not 0 < 2 * keep_alive_ms <= silence_ms:
            raise ValueError(f"keep-alives every {keep_alive_ms} ms are too few for {silence_ms} ms of silence")
        self._loop = loop
        self._my_id = my_id
        self._listener = listener
        self._on_frame = on_frame
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_failure = on_failure
        self._credentials = Credentials(my_id, secret, versions=versions)
        self._tls = tls
        self._check_address = secret is None and tls is None
        self._keep_alive = keep_alive_ms / 1000
        self._silence = silence_ms / 1000
        self._connect_seconds = connect_timeout_ms / 1000
        self._max_pending = max_pending
        self._max_strangers = max_strangers
        self._resolver = resolver or Resolver(loop)
        self._members: dict[int, tuple[str, int]] = {}
        self._dialers: dict[int, Dialer] = {}
        self._links: dict[int, PeerLink] = {}
        self._gone: dict[int, str] = {}  # links that are over, and nobody was told yet
        self._unsent: list[PeerLink] = []  # links with frames of this turn
        self._hurried = False  # whether something was sent that does not wait for company
        #: Whether the owner is in the middle of a turn of its own, which ends with ``hurry``.
        self.turning = False
        self._tasks: set[asyncio.Task[Any]] = set()  # of dialers, and of connections accepted, while they live
        self._strangers: dict[asyncio.Task[None], PeerLink] = {}  # of these, the unproven ones, oldest first
        self._accepted = 0
        self._newest: dict[int, int] = {}  # of an accepted link: the number of its connection
        self._refused = 0  # in this period, logged or not
        self._refused_until = 0.0
        self._running = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0

    # -- what is around --------------------------------------------------------------------------------------------

    def pending(self, peer_id: int) -> int:
        """Bytes sent to a server that the kernel has not taken; 0 if there is no link."""
        link = self._links.get(peer_id)
        return link.pending if link is not None else 0

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Accept and dial."""
        self._running = True
        self._listen()
        self._checked_at = self._loop.time()
        self._check()
        self.set_members(self._members)

    def set_members(self, members: Mapping[int, tuple[str, int]]) -> None:
        """The servers to have links with, by id: host and quorum port. This server's own entry may be there.

        Links of others are ended; servers that moved are dialled anew.
        """
        before, self._members = self._members, dict(members)
        self._resolver.forget({host for host, _ in members.values()})
        for peer_id, address in before.items():
            now = self._members.get(peer_id)
            if now is not None and (now == address or (peer_id > self._my_id and now[0] == address[0])):
                continue  # the port of one that dials this server says nothing about its link
            dialer = self._dialers.pop(peer_id, None)
            if dialer is not None:
                dialer.stop()
            self.drop(peer_id, "it is no member any more" if now is None else "its address changed")
        if not self._running:
            return
        own_host = self._members[self._my_id][0] if self._my_id in self._members else None
        for peer_id, (host, port) in self._members.items():
            if peer_id < self._my_id and peer_id not in self._dialers:
                self._dialers[peer_id] = dialer = Dialer(
                    self._loop,
                    self._resolver,
                    peer_id=peer_id,
                    host=host,
                    port=port,
                    shake_hands=partial(self._dialled, peer_id),
                    own_host=own_host if self._check_address else None,
                    connect_seconds=self._connect_seconds,
                )
                self._keep(dialer.task)

    def _listen(self) -> None:
        if self._listener is not None:
            self._listener.setblocking(False)
            self._listener.listen(128)
            self._loop.add_reader(self._listener, self._accept)

    def set_tls(self, tls: PeerTls) -> None:
        """New contexts, for connections from now on. Raises ValueError if this object has no TLS."""
        if self._tls is None:
            raise ValueError("connections between servers are without TLS")
        self._tls = tls

    def close(self) -> None:
        """End all links when what was sent is with the kernel; on_disconnected is called before this returns."""
        if self._closed:
            return
        self._closed, self._running = True, False
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for task in self._strangers:
            task.cancel()
        for link in list(self._links.values()):
            link.close(_CLOSING)
        for dialer in self._dialers.values():
            dialer.stop()
        self._dialers.clear()
        self._tasks.update(self._resolver.close())
        for peer_id in list(self._gone):
            self._tell(peer_id)

    async def wait_closed(self) -> None:
        """Wait until nothing is left of what ``close`` ended: at most a second, then it is cut off."""
        assert self._closed
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        late = {task for task in self._tasks if not task.done()}
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, peer_id: int, *buffers: Bytes) -> None:
        """Send one frame, made of all ``buffers``; nothing happens if there is no link.

        It leaves with all others of this turn of the event loop (if ``turning``, by ``hurry``), or by ``flush``. Until
        then the memory of buffers of more than 16 KiB must not change; small ones are copied at once. A link with more
        than ``max_pending`` unsent bytes is ended. Raises ValueError if the frame is larger than 64 MiB.
        """
        self.post(peer_id, buffers)

    def send_along(self, peer_id: int, *buffers: Bytes) -> None:
        """As ``send``, but in no hurry: the frame waits until something else is sent, to whomever, or for ``flush``."""
        self.post(peer_id, buffers, True)

    def post(self, peer_id: int, buffers: tuple[Bytes, ...], along: bool = False) -> None:
        """``send``, or ``send_along``, for compiled code: that calls it without Python's ado."""
        link = self._links.get(peer_id)
        if link is not None:
            if not link.queued:
                self._unsent.append(link)
            link.send(buffers)
            if (link.backlog or link.queued > self._max_pending) and link.pending > self._max_pending:
                link.drop(f"{link.pending} bytes unsent")
        if self._unsent and not self._hurried and not along:
            self._hurried = True
            if not self.turning:
                self._loop.call_soon(self.hurry)

    def hurry(self) -> None:
        """``flush``, unless all that there is may wait."""
        if self._hurried:
            self.flush()

    def flush(self) -> None:
        """Hand what was sent in this turn to the kernel; memory handed to ``send`` is free afterwards."""
        self._hurried = False
        unsent, self._unsent = self._unsent, []
        for link in unsent:
            link.flush()

    def drop(self, peer_id: int, reason: str) -> None:
        """End a link, for what its frames said, for instance; it is made anew if the server is a member."""
        link = self._links.get(peer_id)
        if link is not None:
            link.drop(reason)

    # -- one connection -----------------------------------------------------------------------------------------

    def _link(self, sock: socket.socket) -> PeerLink:
        return PeerLink(self._loop, sock, on_closed=self._ended, on_failure=self._on_failure)

    async def _dialled(self, peer_id: int, sock: socket.socket) -> PeerLink:
        """The handshake on a connection that was dialled; the link, which is in use then."""
        link, tls = self._link(sock), self._tls
        host = self._members[peer_id][0] if peer_id in self._members else ""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                if tls is None:
                    await self._loop.create_connection(lambda: link.protocol, sock=sock)
                else:
                    await self._loop.create_connection(
                        lambda: link.protocol,
                        sock=sock,
                        ssl=tls.client,
                        server_hostname=host,
                        ssl_handshake_timeout=HANDSHAKE_SECONDS,
                        ssl_shutdown_timeout=CLOSE_SECONDS,
                    )
                    self._check_certificate(link, tls, peer_id)
                proven = await dial(link, self._credentials, peer_id)
            self._establish(link, proven, address_text(sock.getpeername()))
        except BaseException as error:
            # To its owner a link that failed is as one that never was.
            link.drop(_reason(error))
            sock.close()
            if isinstance(error, ssl.SSLError):
                raise ConnectionError(_reason(error)) from None
            raise
        return link

    async def _serve(self, sock: socket.socket, link: PeerLink, number: int, address: str) -> None:
        """One connection that was accepted, from its first to its last byte."""
        task = asyncio.current_task()
        assert task is not None
        tls = self._tls
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                if tls is None:
                    await self._loop.connect_accepted_socket(lambda: link.protocol, sock)
                else:
                    await self._loop.connect_accepted_socket(
                        lambda: link.protocol,
                        sock,
                        ssl=tls.server,
                        ssl_handshake_timeout=HANDSHAKE_SECONDS,
                        ssl_shutdown_timeout=CLOSE_SECONDS,
                    )

                async def check(peer_id: int) -> None:
                    await self._may_come(peer_id, link, tls, address)

                proven = await accept(link, self._credentials, check)
            # Membership may have changed meanwhile, and a newer connection of the same server may have been quicker.
            self._check_member(proven.peer_id)
            if proven.peer_id in self._links and self._newest.get(proven.peer_id, 0) > number:
                raise Refused(f"server {proven.peer_id} has made a newer connection")
            self._strangers.pop(task, None)
            self._newest[proven.peer_id] = number
            self._establish(link, proven, address)
            await link.lost
        except asyncio.CancelledError:
            link.drop(_CLOSING)
            sock.close()
        except (OSError, TimeoutError, Refused) as error:
            self._log_refusal(address, _reason(error))
            link.drop(_reason(error))
            sock.close()
        except Exception as error:
            link.drop(_reason(error))
            sock.close()
            self._on_failure(error)
        finally:
            self._strangers.pop(task, None)

    def _establish(self, link: PeerLink, proven: Proven, address: str) -> None:
        """A link that was proven comes into use, and replaces the one before. Raises Refused if it must not."""
        peer_id = proven.peer_id
        self.drop(peer_id, "replaced by a new connection")
        self._tell(peer_id)
        if not self._running or peer_id not in self._members:
            raise Refused(f"server {peer_id} is no member any more" if self._running else _CLOSING)
        if link.reason:
            raise ConnectionResetError(link.reason)
        link.peer_id = peer_id
        self._links[peer_id] = link
        logger.info("server connected server=%d address=%s version=%d", peer_id, address, proven.version)
        try:
            self._on_connected(peer_id)
        except Exception as error:
            link.drop(f"the link could not be used: {error!r}")
            self._on_failure(error)
            return
        link.start(peer_id, self._on_frame)

    def _ended(self, link: PeerLink, reason: str) -> None:
        """A link is over, in whatever phase it was."""
        peer_id = link.peer_id
        if self._links.get(peer_id) is not link:
            return
        del self._links[peer_id]
        wanted = self._running and peer_id in self._members
        level = logging.WARNING if wanted else logging.INFO
        logger.log(level, "server disconnected server=%d reason=%s", peer_id, reason)
        # Not from here: this may be within send, and the caller in the middle of something.
        self._gone[peer_id] = reason
        self._loop.call_soon(self._tell, peer_id)

    def _tell(self, peer_id: int) -> None:
        reason = self._gone.pop(peer_id, None)
        if reason is None:
            return
        try:
            self._on_disconnected(peer_id, reason)
        except Exception as error:
            self._on_failure(error)

    # -- who may have a link ------------------------------------------------------------------------------------

    def _check_member(self, peer_id: int) -> None:
        if peer_id == self._my_id:
            raise Refused(f"it claims to be server {peer_id}, which is this one")
        if peer_id not in self._members:
            raise Refused(f"server {peer_id} is no member")
        if peer_id < self._my_id:
            raise Refused(f"server {peer_id} has the lower id and must not dial this one")

    async def _may_come(self, peer_id: int, link: PeerLink, tls: PeerTls | None, address: str) -> None:
        """Raise Refused unless a server with this id may come by this connection."""
        self._check_member(peer_id)
        if tls is not None and tls.verify_dialers:
            self._check_certificate(link, tls, peer_id)
        if not self._check_address:
            return
        host = self._members[peer_id][0]
        try:
            known = await self._resolver.addresses(host)
        except OSError as error:
            raise Refused(f"it claims to be server {peer_id}, whose address is not known: {error}") from None
        source = link.source
        if source is None or ip_address(source) not in known:
            raise Refused(f"it claims to be server {peer_id}, but {host} has another address")

    def _check_certificate(self, link: PeerLink, tls: PeerTls, peer_id: int) -> None:
        if not tls.verify_host:
            return
        member = self._members.get(peer_id)
        secured = link.transport.get_extra_info("ssl_object") if link.transport is not None else None
        certificate = secured.getpeercert() if secured is not None else None
        if member is None or not certificate or not certificate_names(certificate, member[0]):
            raise Refused(f"its certificate is not for {member[0] if member else 'a member'}, server {peer_id}")

    # -- accepting ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        try:
            for _ in range(ACCEPTS_A_TURN):
                try:
                    sock, peer = listener.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    return
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        raise
                    logger.error("cannot accept connections reason=%s", error.strerror)
                    self._loop.remove_reader(listener)
                    self._loop.call_later(PAUSE_SECONDS, self._accept_again)
                    return
                self._welcome(sock, peer)
        except Exception as error:
            self._on_failure(error)

    def _accept_again(self) -> None:
        if self._running and self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _welcome(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        address = address_text(peer)
        try:
            tune(sock)
        except OSError as error:  # it is gone already
            sock.close()
            self._log_refusal(address, _reason(error))
            return
        if len(self._strangers) >= self._max_strangers:
            # The oldest one: a server's handshake takes milliseconds, so it gets through where others only sit.
            oldest, its_link = next(iter(self._strangers.items()))
            del self._strangers[oldest]
            reason = f"{self._max_strangers} younger connections wait for their handshake"
            self._log_refusal(its_link.source or "", reason)
            its_link.drop(reason)
            oldest.cancel()
        self._accepted += 1
        link = self._link(sock)
        link.source = peer[0]
        task = self._loop.create_task(self._serve(sock, link, self._accepted, address))
        self._strangers[task] = link
        self._keep(task)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_failure(error)

    def _log_refusal(self, address: str, reason: str) -> None:
        now = self._loop.time()
        if now >= self._refused_until:
            if self._refused > REFUSALS_LOGGED:
                more = self._refused - REFUSALS_LOGGED
                logger.warning("connections of servers refused count=%d and not logged each", more)
            self._refused = 0
            self._refused_until = now + REFUSALS_SECONDS
        self._refused += 1
        if self._refused <= REFUSALS_LOGGED:
            logger.warning("connection of a server refused address=%s reason=%s", address, reason)

    # -- by the clock -------------------------------------------------------------------------------------------

    def _check(self) -> None:
        now = self._loop.time()
        interval = self._keep_alive / 4
        late = now - self._checked_at - interval
        self._checked_at = now
        try:
            for link in list(self._links.values()):
                if late > interval:
                    link.excuse(now, late)
                link.check(now, self._keep_alive, self._silence)
        except Exception as error:
            self._on_failure(error)
        self._timer = self._loop.call_later(interval, self._check)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        # Its text would add the line of OpenSSL's source.
        return f"TLS handshake failed: {error.reason or error.strerror or 'no reason given'}"
    if isinstance(error, TimeoutError):
        return "the handshake was not done in time"
    if isinstance(error, asyncio.CancelledError):
        return "given up"
    return str(error) or type(error).__name__
