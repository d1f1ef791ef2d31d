import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

#: Before authentication: what a link keeps of what it received. No frame may be larger.
HANDSHAKE_BYTES: Final[int]
#: The largest body of a frame.
MAX_FRAME_BYTES: Final[int]
#: A frame that only says that its sender lives.
KEEP_ALIVE: Final[bytes]

FrameCallback: TypeAlias = Callable[[int, memoryview], object]
#: What frames are made of. Views have items of one byte, and are contiguous.
Bytes: TypeAlias = bytes | bytearray | memoryview

def tune(sock: socket.socket) -> None:
    """Make a socket fit for a link: it never blocks, never waits for company, and asks after a silent peer."""

class Window:
    """Free memory of a link's buffer, for the event loop."""

    def __len__(self) -> int: ...

class PeerLink:
    """The protocol of one connection; ``sock`` is the socket below it, which the transport will own.

    It is an ``asyncio.BufferedProtocol`` in all but name (``protocol``): a compiled class cannot inherit from that.
    ``on_closed`` (link, reason) is called once, at once, when the link is over, whoever ended it.
    ``on_failure`` gets what a callback for frames raised; the link is over then.
    """

    peer_id: int
    #: The address the connection comes from; None if it was dialled.
    source: str | None
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        on_closed: Callable[[PeerLink, str], object],
        on_failure: Callable[[BaseException], object],
    ) -> None: ...
    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """The same, as the event loop wants it to be called."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """None before the connection is made and after it is lost."""

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the transport has let go of the socket."""

    @property
    def reason(self) -> str:
        """Why the link is over; empty as long as it is not."""

    @property
    def queued(self) -> int:
        """Bytes sent here that wait for ``flush``."""

    @property
    def pending(self) -> int:
        """Bytes sent here that the kernel has not taken."""

    @property
    def backlog(self) -> bool:
        """Whether the kernel did not take everything at once lately: then there may be more in the transport."""

    @property
    def size(self) -> int:
        """Of the buffer for what is received, in bytes."""

    @property
    def unread(self) -> int:
        """Bytes received that are in no delivered frame."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def eof_received(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def get_buffer(self, sizehint: int) -> Window | bytearray: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def drop(self, reason: str) -> None:
        """End the link now; what the kernel has not taken is lost. Later calls do nothing."""

    def close(self, reason: str) -> None:
        """End the link when what was sent is with the kernel; nothing is received any more."""

    async def receive(self) -> bytes:
        """The next frame of a link that has not been started. Raises ConnectionResetError when it is over."""

    def start(self, peer_id: int, on_frame: FrameCallback) -> None:
        """From now on every frame goes to ``on_frame`` (peer_id, body), those already received before this returns.

        The body is valid, and read-only, during that call.
        """

    def send(self, buffers: tuple[Bytes, ...]) -> None:
        """Take one frame, made of all ``buffers``, for the next ``flush``; until that they must not change.

        Nothing happens on a link that is over. Raises ValueError if the frame is larger than ``MAX_FRAME_BYTES``.
        """

    def flush(self) -> None:
        """Hand everything to the kernel, or a copy of it to the transport."""

    def check(self, now: float, keep_alive: float, silence: float) -> None:
        """Send a keep-alive, give up a peer that is silent, give back memory. All times in seconds."""

    def excuse(self, now: float, seconds: float) -> None:
        """This process itself did not run for so long: the peer is not to blame for that."""
