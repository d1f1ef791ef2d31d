"""The future of the threaded client: made for one per request, so it costs one small allocation.

It has no lock and no condition of its own. All its fields change under the GIL, in stretches of C that do not let
go of it; a thread that must sleep for the result makes a lock, which whoever settles the call releases. Threads
that wait for the same call pass the lock on to each other.
"""

import logging
from concurrent.futures import CancelledError
from threading import Lock

cimport cython
from cpython.list cimport PyList_SetSlice

from fastzk.errors import OperationTimeoutError

logger = logging.getLogger("fastzk.client")


@cython.freelist(256)
cdef class Call:
    """A result that comes later. ``owner`` knows how to wait for it and where callbacks run."""

    def __cinit__(self, owner=None) -> None:
        self.owner = owner
        self.state = CALL_PENDING

    cdef bint settle(self, int state, object outcome) except -1:
        # Whether this was what settled it. Runs no Python code of others.
        if self.state != CALL_PENDING:
            return False
        self.outcome = outcome
        self.state = state
        if self.lock is not None:
            self.lock.release()
        if self.step is not None:
            self.owner.steps.append(self.step)
            self.step = None
        if self.callbacks is not None:
            self.owner.dispatch(run_callbacks, self, self.callbacks)
            self.callbacks = None
        return True

    # ---- for who settles it

    def set_result(self, value=None) -> bool:
        """Settle the call; False when it was already."""
        return self.settle(CALL_DONE, value)

    def set_exception(self, error) -> bool:
        """Settle the call by an exception; False when it was settled already."""
        return self.settle(CALL_FAILED, error)

    def then(self, step) -> None:
        """Have ``step()`` called by the thread that settles the call: at once, if that has happened.

        For one step at most, which neither blocks nor raises.
        """
        if self.state != CALL_PENDING:
            step()
        else:
            self.step = step

    # ---- for who waits

    def done(self) -> bool:
        """Whether it is settled: by a value, by an exception or by cancellation."""
        return self.state != CALL_PENDING

    def running(self) -> bool:
        """Always False: a request cannot be said to run before its reply is there."""
        return False

    def cancelled(self) -> bool:
        """Whether ``cancel`` came first."""
        return self.state == CALL_CANCELLED

    def cancel(self) -> bool:
        """Give it up. The server may carry the request out all the same, if it was sent."""
        return self.settle(CALL_CANCELLED, None)

    def wait_settled(self, double timeout) -> bool:
        """Sleep until it is settled, at most ``timeout`` seconds (negative: for ever); whether it is."""
        cdef bint got
        if self.state == CALL_PENDING:
            if self.lock is None:
                lock = Lock()
                lock.acquire()
                # another thread may have been here meanwhile
                if self.lock is None:
                    self.lock = lock
            # and it may have been settled before the lock was there to be released
            if self.state != CALL_PENDING:
                return True
            lock = self.lock
            got = lock.acquire(True, timeout if timeout >= 0 else -1)
            if got:
                lock.release()
        return self.state != CALL_PENDING

    def wait(self, timeout=None) -> bool:
        """Wait until it is settled, at most ``timeout`` seconds; whether it is."""
        if self.state == CALL_PENDING:
            limit = -1.0 if timeout is None else max(0.0, float(timeout))
            if self.owner is None:
                return self.wait_settled(limit)
            self.owner.wait(self, limit)
        return self.state != CALL_PENDING

    def result(self, timeout=None):
        """The value, once it is there.

        :param timeout: seconds to wait at most; the call itself goes on after that.
        :raises OperationTimeoutError: when they are over.
        :raises concurrent.futures.CancelledError: when the call was cancelled.
        """
        if self.state == CALL_PENDING and not self.wait(timeout):
            raise OperationTimeoutError()
        if self.state == CALL_DONE:
            return self.outcome
        if self.state == CALL_FAILED:
            raise self.outcome
        raise CancelledError()

    def exception(self, timeout=None):
        """The exception, or None for a value; waits like ``result``."""
        if self.state == CALL_PENDING and not self.wait(timeout):
            raise OperationTimeoutError()
        if self.state == CALL_CANCELLED:
            raise CancelledError()
        return self.outcome if self.state == CALL_FAILED else None

    def add_done_callback(self, callback) -> None:
        """Have ``callback(call)`` called by the client's callback thread once it is settled, or now."""
        if self.state != CALL_PENDING:
            run_callbacks(self, [callback])
        elif self.callbacks is None:
            self.callbacks = [callback]
        else:
            self.callbacks.append(callback)

    def __await__(self):
        if self.state == CALL_PENDING:
            yield self
        return self.result()

    # ---- kazoo's names

    def get(self, block=True, timeout=None):
        """The value, like ``result``; without ``block`` only if it is there."""
        return self.result(timeout if block else 0)

    def get_nowait(self):
        """The value if it is there; OperationTimeoutError otherwise."""
        return self.result(0)

    def ready(self) -> bool:
        """The same as ``done``."""
        return self.state != CALL_PENDING

    def successful(self) -> bool:
        """Whether there is a value."""
        return self.state == CALL_DONE

    @property
    def value(self):
        """The value; None while there is none."""
        return self.outcome if self.state == CALL_DONE else None

    def rawlink(self, callback) -> None:
        """The same as ``add_done_callback``."""
        self.add_done_callback(callback)

    def unlink(self, callback) -> None:
        """Forget a callback that was not called yet."""
        if self.callbacks is not None and callback in self.callbacks:
            self.callbacks.remove(callback)


def forget_settled(list deadlines) -> int:
    """Drop those of a heap of deadlines, ``(..., sink)``, whose sink is settled; how many are left."""
    # In C, without running Python: other threads add deadlines at any time, and none may be lost.
    cdef list kept = []
    cdef tuple deadline
    for deadline in deadlines:
        sink = deadline[3]
        if sink is None or not ((<Call>sink).state != CALL_PENDING if isinstance(sink, Call) else sink.done()):
            kept.append(deadline)
    kept.sort()                                      # a list in order is a heap
    PyList_SetSlice(deadlines, 0, len(deadlines), kept)
    return len(kept)


def run_callbacks(call, callbacks) -> None:
    """Call each; what one raises is logged and kept from the others."""
    for callback in callbacks:
        try:
            callback(call)
        except Exception:
            getattr(call.owner, "logger", logger).exception("a callback of a request raised an exception")
