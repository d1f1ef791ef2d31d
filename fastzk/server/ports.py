"""Ports, bound but not listening: whoever connects before the server is ready is refused."""

from __future__ import annotations

import socket

from fastzk.server.errors import StartupError


def bind(address: str, port: int) -> socket.socket:
    """A socket bound to a port of `address`; ``""`` is every interface, IPv6 and IPv4.

    Raises:
        StartupError: it cannot be bound.
    """
    try:
        if not address and socket.has_dualstack_ipv6():
            return _bound(socket.AF_INET6, ("::", port))
        family, _, _, _, where = socket.getaddrinfo(
            address or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _bound(family, where)
    except OSError as error:
        shown = address or "every interface"
        raise StartupError(
            f"cannot listen on {shown} port {port}: {error.strerror}; is another server running there?"
        ) from error


def _bound(family: int, where: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where[0] == "::" else 1)
        listener.setblocking(False)
        listener.bind(where)
    except BaseException:
        listener.close()
        raise
    return listener
