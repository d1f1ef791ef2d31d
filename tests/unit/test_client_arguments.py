"""What the clients' constructors take of kazoo's arguments, and what they refuse."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import kazoo.client
import pytest
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.retry import KazooRetry

from fastzk import AsyncClient, Client, RetryPolicy

DOCS = Path(__file__).parents[2] / "docs"


def test_every_argument_of_kazoo_is_taken() -> None:
    theirs = inspect.signature(kazoo.client.KazooClient).parameters
    ours = inspect.signature(Client).parameters
    assert [name for name, each in theirs.items() if each.kind is not each.VAR_KEYWORD and name not in ours] == []


def test_every_argument_of_kazoo_is_explained() -> None:
    text = (DOCS / "from-kazoo.md").read_text()
    for name, each in inspect.signature(kazoo.client.KazooClient).parameters.items():
        if each.kind is not each.VAR_KEYWORD:
            assert f"`{name}`" in text, name


def test_kazoos_handler_with_threads_says_what_holds_anyway() -> None:
    Client(handler=SequentialThreadingHandler())


class SequentialGeventHandler:
    """Called as kazoo's, which cannot be imported without gevent."""


class SequentialEventletHandler:
    """Likewise."""


class Mine:
    """A handler nobody knows."""


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"handler": SequentialThreadingHandler}, TypeError, "an object, not the class"),
        ({"handler": SequentialGeventHandler()}, ValueError, r"gevent\.monkey\.patch_all"),
        ({"handler": SequentialEventletHandler()}, ValueError, r"eventlet\.monkey_patch"),
        ({"handler": Mine()}, TypeError, "leave the argument out"),
        ({"connection_retry": {"max_tries": 3}}, ValueError, r"start\(timeout="),
        ({"connection_retry": {"max_tries": 0}}, ValueError, r"start\(timeout="),
        ({"connection_retry": RetryPolicy(deadline=5)}, ValueError, r"start\(timeout="),
        ({"connection_retry": KazooRetry()}, TypeError, "connection_retry is a RetryPolicy or a dict"),
        ({"command_retry": KazooRetry()}, TypeError, "command_retry is a RetryPolicy or a dict"),
        ({"command_retry": {"sleep_func": print}}, TypeError, "has no sleep_func"),
        ({"sasl_options": {"mechanism": "GSSAPI"}}, ValueError, "only DIGEST-MD5"),
        ({"sasl_options": {"username": "bob"}}, ValueError, "lack 'password'"),
        ({"auth_data": [("sasl", "bob:secret")]}, ValueError, "sasl_options"),
    ],
)
def test_what_is_refused_says_what_to_use_instead(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Client(**arguments)


def test_a_greenlet_handler_is_taken_where_the_library_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patched:
        """Stands where gevent puts its class."""

    Patched.__module__ = "gevent._socket3"
    monkeypatch.setattr("socket.socket", Patched)
    Client(handler=SequentialGeventHandler())
    with pytest.raises(ValueError, match="eventlet"):
        Client(handler=SequentialEventletHandler())


@pytest.mark.parametrize("cls", [Client, AsyncClient])
@pytest.mark.parametrize("none", [None, -1])
def test_the_pauses_between_attempts(cls: type[Client | AsyncClient], none: int | None) -> None:
    policy = RetryPolicy(max_tries=none, delay=0.5, backoff=3.0, max_jitter=0.0, max_delay=4.0)
    client = cls("127.0.0.1:1", connection_retry=policy)
    attempts = [client._session.next_attempt().delay for _ in range(5)]
    assert attempts == [0.0, 0.5, 1.5, 4.0, 4.0]


def test_attempts_without_a_pause_are_not_made_without_end() -> None:
    client = Client("127.0.0.1:1", connection_retry={"delay": 0})
    assert client._session.next_attempt().delay == 0
    assert client._session.next_attempt().delay > 0


def test_a_service_of_sasl() -> None:
    options = {"mechanism": "DIGEST-MD5", "username": "bob", "password": "secret", "service": "other"}
    credentials = Client(sasl_options=options)._session._sasl
    assert credentials is not None
    assert tuple(credentials) == ("bob", "secret", "other")


def test_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    own = logging.getLogger("test.own")
    with caplog.at_level(logging.INFO):
        for client in (Client("127.0.0.1:1", logger=own), AsyncClient("127.0.0.1:1", logger=own)):
            assert client.logger is own
            client._session.begin()
            client._session.connected()
            client._session.lost("a test")
            client._session.closed()
    assert [record.name for record in caplog.records] == ["test.own"] * 2
    assert Client().logger.name == "fastzk.client"
