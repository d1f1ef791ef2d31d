"""What may be repeated after which error, and the pauses between."""

from __future__ import annotations

import pytest

from fastzk.client.client import Client
from fastzk.client.retry import ForceRetryError, RetryFailedError, RetryPolicy, is_repeatable
from fastzk.errors import (
    ConnectionClosedError,
    ConnectionLossError,
    MaybeApplied,
    NodeExistsError,
    NotSent,
    OperationTimeoutError,
    SessionExpiredError,
    ThrottledOpError,
    ZooKeeperError,
)


@pytest.mark.parametrize(
    ("error", "any_operation", "repeatable_operation"),
    [
        (NotSent(), True, True),
        (ThrottledOpError(), True, True),
        (ForceRetryError(), True, True),
        (ConnectionLossError(), True, True),
        (MaybeApplied(), False, True),
        (OperationTimeoutError(), False, True),
        (SessionExpiredError(), False, True),
        (ConnectionClosedError(), False, False),
        (NodeExistsError(), False, False),
    ],
)
def test_what_is_repeated(error: ZooKeeperError, any_operation: bool, repeatable_operation: bool) -> None:
    assert RetryPolicy().begin(False).again(error) is any_operation
    assert RetryPolicy().begin(True).again(error) is repeatable_operation


def test_methods_that_may_be_done_twice() -> None:
    client = Client()
    assert is_repeatable(client, client.get, ("/a",), {})
    assert is_repeatable(client, client.ensure_path, ("/a",), {})
    assert is_repeatable(client, client.set, ("/a", b""), {})
    assert not is_repeatable(client, client.set, ("/a", b"", 3), {})
    assert not is_repeatable(client, client.set, ("/a", b""), {"version": 3})
    assert not is_repeatable(client, client.create, ("/a",), {})
    assert not is_repeatable(client, client.delete, ("/a",), {})
    assert is_repeatable(client, lambda: None, (), {})


def test_pauses_grow_and_end() -> None:
    retries = RetryPolicy(max_tries=5, delay=1.0, backoff=2.0, max_jitter=0.0, max_delay=3.0).begin(True)
    assert [retries.delay(NotSent()) for _ in range(4)] == [1.0, 2.0, 3.0, 3.0]
    last = NotSent("/x")
    with pytest.raises(RetryFailedError) as caught:
        retries.delay(last)
    assert caught.value.__cause__ is last


def test_jitter_stays_in_its_bounds() -> None:
    policy = RetryPolicy(delay=1.0, max_jitter=0.25)
    pauses = {policy.begin(True).delay(NotSent()) for _ in range(50)}
    assert len(pauses) > 10
    assert all(0.75 <= pause <= 1.25 for pause in pauses)


def test_no_try_begins_after_the_deadline() -> None:
    with pytest.raises(RetryFailedError):
        RetryPolicy(delay=1.0, deadline=0.5).begin(True).delay(NotSent())
