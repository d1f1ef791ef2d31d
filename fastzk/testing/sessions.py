"""Ending a client's session behind its back."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from fastzk._codec import encode, encode_frame
from fastzk.protocol import OpCode
from fastzk.records import ConnectRequest, RequestHeader

if TYPE_CHECKING:
    from fastzk.client.operations import Operations


def expire_session(client: Operations, host: str | None = None, port: int | None = None) -> None:
    """Have the server end the session of a client, as if it had expired.

    Works with both clients, and with any server. The client finds out as it would otherwise: its connection breaks,
    and when it connects again, the server does not know the session any more.

    :param client: it must be connected.
    :param host: the server to tell; the client's first one where it is None.
    :param port: of that server.
    :raises ValueError: when the client is not connected.
    """
    identity = client.client_id
    if identity is None:
        raise ValueError("the client has no session")
    server = (host or client.hosts[0][0], port or client.hosts[0][1])
    session_id, password = identity
    take_over = encode(ConnectRequest, (0, 0, round(client.session_timeout * 1000), session_id, password, False))
    close = encode(RequestHeader, (1, OpCode.CLOSE_SESSION))
    with socket.create_connection(server, timeout=10.0) as sock:
        # In one go, so that the client cannot take its session back in between.
        sock.sendall(encode_frame(take_over) + encode_frame(close))
        while sock.recv(65536):
            pass
