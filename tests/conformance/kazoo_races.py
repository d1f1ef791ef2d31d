"""A pytest plugin for kazoo's own tests with kazoo's own client, without two races that are in these themselves.

A client that is refused says so here, however quickly the refusal comes. ``KazooClient.start`` waits for CONNECTED,
which comes before SASL begins, and then looks whether it is connected. When the refusal is quicker than the thread that
waits, it finds itself unconnected and raises KazooTimeoutError, at once ("Connection time-out"), or
ConnectionClosedError. Seen with Apache ZooKeeper, too, but oftener with a quicker server.

For threads that wait for one another without a limit see ``kazoo_patience``.
"""

from __future__ import annotations

from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, ConnectionClosedError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KeeperState

from conformance import kazoo_patience

_session_callback = KazooClient._session_callback
_start = KazooClient.start


def _told(client: KazooClient, state: KeeperState) -> Any:
    client.refused = state == KeeperState.AUTH_FAILED or getattr(client, "refused", False)
    return _session_callback(client, state)


def _started(client: KazooClient, timeout: float = 15) -> None:
    client.refused = False
    try:
        _start(client, timeout)
    except (KazooTimeoutError, ConnectionClosedError):
        if client.refused:
            raise AuthFailedError from None
        raise


KazooClient._session_callback = _told
KazooClient.start = _started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests limits where they wait without."""
    for item in items:
        module = item.getparent(pytest.Module)
        assert module is not None
        kazoo_patience.limit(module.obj)
