"""The future of the threaded client."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from fastzk.client._call import Call
from fastzk.errors import NoNodeError, OperationTimeoutError


class Owner:
    def __init__(self) -> None:
        self.steps: deque[Callable[[], None]] = deque()
        self.dispatched: list[tuple[Any, ...]] = []

    def wait(self, call: Call[Any], timeout: float) -> None:
        call.wait_settled(timeout)

    def dispatch(self, function: Callable[..., object], *arguments: object) -> None:
        self.dispatched.append((function, *arguments))


def test_a_value() -> None:
    call: Call[int] = Call(Owner())
    assert not call.done()
    assert not call.ready()
    assert call.value is None
    with pytest.raises(OperationTimeoutError):
        call.get_nowait()
    with pytest.raises(OperationTimeoutError):
        call.result(0.01)
    assert call.set_result(5)
    assert not call.set_result(6)
    assert not call.set_exception(ValueError())
    assert not call.cancel()
    assert (call.result(), call.get(), call.get(block=False), call.value, call.exception()) == (5, 5, 5, 5, None)
    assert (call.done(), call.ready(), call.successful(), call.cancelled(), call.running()) == (
        True,
        True,
        True,
        False,
        False,
    )


def test_an_exception() -> None:
    call: Call[int] = Call(Owner())
    call.set_exception(NoNodeError("/x"))
    with pytest.raises(NoNodeError):
        call.get()
    assert isinstance(call.exception(), NoNodeError)
    assert not call.successful()
    assert call.value is None


def test_cancelled() -> None:
    call: Call[int] = Call(Owner())
    assert call.cancel()
    assert call.cancelled()
    with pytest.raises(CancelledError):
        call.result()
    with pytest.raises(CancelledError):
        call.exception()


def test_many_threads_wait_for_one_call() -> None:
    call: Call[int] = Call(Owner())
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(call.result(20))) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert not call.wait(0.02)
    call.set_result(7)
    for thread in threads:
        thread.join(20)
    assert got == [7] * 20


def test_callbacks_are_dispatched_and_the_next_step_is_not() -> None:
    owner = Owner()
    call: Call[int] = Call(owner)
    order: list[str] = []
    call.rawlink(lambda _: order.append("unlinked"))
    callback = lambda settled: order.append(f"callback {settled.value}")  # noqa: E731
    call.add_done_callback(callback)
    forgotten = lambda _: order.append("forgotten")  # noqa: E731
    call.add_done_callback(forgotten)
    call.unlink(forgotten)
    call.then(lambda: order.append("step"))
    call.set_result(1)
    assert order == []
    owner.steps.popleft()()
    ((function, *arguments),) = owner.dispatched
    function(*arguments)
    assert order == ["step", "unlinked", "callback 1"]
    call.add_done_callback(callback)
    call.then(lambda: order.append("at once"))
    assert order[3:] == ["callback 1", "at once"]


def test_a_callback_that_raises_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    call: Call[int] = Call()
    call.set_result(1)
    call.add_done_callback(lambda _: 1 / 0)
    assert "a callback of a request raised an exception" in caplog.text


def test_it_can_be_awaited() -> None:
    call: Call[int] = Call(Owner())

    async def waiter() -> int:
        return await call + 1

    coroutine = waiter()
    assert coroutine.send(None) is call
    call.set_result(1)
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert stop.value.value == 2
