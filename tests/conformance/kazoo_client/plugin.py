"""A pytest plugin that puts fastzk.Client behind the names of kazoo, for kazoo's own tests.

    PYTHONPATH=tests python -m pytest -p conformance.kazoo_client.plugin --pyargs kazoo.tests.test_lock

The package ``kazoo`` stays that of the wheel, with its tests and its harness; the modules with the client, the
recipes, the errors and the states are replaced by ones that only rename. Nothing here repairs a difference.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conformance import kazoo_patience
from conformance.kazoo_client.differences import DIFFERENT, IN_A_HURRY, NEED_ENSEMBLE
from fastzk import acl, errors
from fastzk.client import recipes, results, states, watchers
from fastzk.client.client import Client
from fastzk.client.recipes import cache, lease, locks, partitioner, patient, semaphore
from fastzk.client.recipes.support import AcquireCancelled, LockTimeout
from fastzk.client.retry import ForceRetryError, RetryFailedError, RetryPolicy
from fastzk.protocol import OpCode


def _module(name: str, **names: Any) -> ModuleType:
    """Have ``import name`` find a module with these names."""
    module = ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return module


def _install() -> None:
    # The greenlet handlers are about kazoo's own threads; without them its tests take the one with threads.
    sys.modules["kazoo.handlers.gevent"] = sys.modules["kazoo.handlers.eventlet"] = None  # type: ignore[assignment]
    from kazoo.handlers import threading as handlers

    handlers.KazooTimeoutError = errors.OperationTimeoutError
    handlers.SequentialThreadingHandler.timeout_exception = errors.OperationTimeoutError
    _module(
        "kazoo.exceptions",
        **{name: value for name, value in vars(errors).items() if name.endswith("Error")},
        KazooException=errors.ZooKeeperError,
        ZookeeperError=errors.ZooKeeperError,
        ConnectionLoss=errors.ConnectionLossError,
        NotReadOnlyCallError=errors.NotReadOnlyError,
        ConfigurationError=(TypeError, ValueError),
        CancelledError=AcquireCancelled,
        LockTimeout=LockTimeout,
    )
    _module("kazoo.security", **{name: value for name, value in vars(acl).items() if not name.startswith("_")})
    _module("kazoo.retry", KazooRetry=RetryPolicy, ForceRetryError=ForceRetryError, RetryFailedError=RetryFailedError)
    _module(
        "kazoo.protocol.states",
        KazooState=states.State,
        KeeperState=states.KeeperState,
        EventType=states.EventType,
        WatchedEvent=results.WatchedEvent,
    )
    _module("kazoo.protocol.connection", _CONNECTION_DROP="drop", _SESSION_EXPIRED="expire")
    _module("kazoo.recipe.lock", Lock=Lock, ReadLock=locks.ReadLock, WriteLock=locks.WriteLock)
    _module("kazoo.recipe.lease", **vars(lease))
    _module("kazoo.recipe.cache", **{**vars(cache), "TreeCache": TreeCache, "TreeNode": cache.CachedNode})
    _module("kazoo.recipe.partitioner", **vars(partitioner))
    _module(
        "kazoo.recipe.watchers",
        DataWatch=watchers.DataWatch,
        ChildrenWatch=watchers.ChildrenWatch,
        PatientChildrenWatch=patient.PatientChildrenWatch,
    )
    _module("kazoo.client", KazooClient=KazooClient)


class KazooClient(Client):
    """fastzk.Client with the arguments that only kazoo has left out, and with what kazoo's harness asks for."""

    def __init__(self, *args: Any, handler: Any = None, command_retry: Any = None, **options: Any) -> None:
        from kazoo.handlers.threading import SequentialThreadingHandler

        #: Only a box of tools for the tests: locks, events and threads.
        self.handler = handler or SequentialThreadingHandler()
        for name in ("connection_retry", "logger", "max_retries"):
            options.pop(name, None)
        if isinstance(command_retry, Mapping):
            known = {field.name for field in fields(RetryPolicy)}
            command_retry = {name: value for name, value in command_retry.items() if name in known}
        super().__init__(*args, command_retry=command_retry, **options)

    # What kazoo's tests look at, or turn, by names that are not meant for programs.

    @property
    def _queue(self) -> range:
        return range(self._channel.count)

    @property
    def _session_passwd(self) -> bytes:
        return self._session.password

    @_session_passwd.setter
    def _session_passwd(self, password: bytes) -> None:
        self._session.password = password

    @property
    def _connection(self) -> SimpleNamespace:
        return SimpleNamespace(_socket=SimpleNamespace(shutdown=self._wire.shut if self._wire else None))

    def Semaphore(self, *args: Any, **options: Any) -> Semaphore:
        return Semaphore(self, *args, **options)

    def _make_state_change(self, state: states.State) -> None:
        self._session._become(state)

    def _call(self, what: str, _: object) -> None:
        """What the harness and some tests break a connection with."""
        wire = self._wire
        assert wire is not None
        if what == "expire":
            ended = threading.Event()
            self._channel.request(OpCode.CLOSE_SESSION, b"", False, None, None, _SessionEnd(self, ended.set))
            wire.send()
            assert ended.wait(10)
        wire.shut("a test broke the connection")


class Lock(locks.Lock):
    """With the one inner method of kazoo's that its tests call."""

    def _get_predecessor(self, node: str) -> str | None:
        client: Any = self.client
        return self._next_ahead(node, client.get_children(self.path))


class Semaphore(semaphore.Semaphore):
    """With the inner event that one of kazoo's tests waits for."""

    def __init__(self, client: Client, *args: Any, **options: Any) -> None:
        super().__init__(client, *args, **options)
        #: The state of the session has changed.
        self.wake_event = threading.Event()
        client.add_listener(lambda _: self.wake_event.set())

    def cancel(self) -> None:
        # The test that cancels leaves its thread the time of two requests to begin to acquire. On a busy machine it
        # would cancel nothing, and wait for ever.
        until = time.monotonic() + 2.0
        while self._lock is None and time.monotonic() < until:
            time.sleep(0.001)
        super().cancel()


class TreeCache(cache.TreeCache):
    """With a number that kazoo's tests look at in passing."""

    #: No operation is counted here.
    _outstanding_ops = 0


class _SessionEnd:
    """The server ended the session: tell the client as if it had found out when it connected again."""

    def __init__(self, client: KazooClient, told: Callable[[], None]) -> None:
        self._client = client
        self._told = told

    def done(self) -> bool:
        return False

    def set_result(self, value: object) -> None:
        self._client._session._expired()
        self._told()

    def set_exception(self, error: object) -> None:
        self._told()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the failures that are known, and only those."""
    for item in items:
        module = item.getparent(pytest.Module)
        assert module is not None
        kazoo_patience.limit(module.obj)
        start = module.obj.__name__.rpartition(".")[2]
        parent = item.parent.name if item.parent is not None else ""
        for name in (f"{start}::{item.name}", f"{start}::{parent}::{item.name}"):
            if name in NEED_ENSEMBLE:
                item.add_marker(pytest.mark.skip(reason="one server is not enough"))
            elif name in DIFFERENT:
                item.add_marker(pytest.mark.xfail(strict=True, reason=DIFFERENT[name]))
            elif name in IN_A_HURRY:
                item.add_marker(pytest.mark.xfail(strict=False, reason="needs an idle machine"))


assert importlib.util.find_spec("kazoo.tests") is not None, "kazoo's wheel brings its tests"
assert recipes.__all__
_install()

import conformance.kazoo_plugin  # noqa: E402, F401 -- starts the server; it imports the harness, and so the client
