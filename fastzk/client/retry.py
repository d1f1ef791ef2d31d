"""What may be tried again after an error, and when.

An operation is repeated only where that cannot do harm: when it was not sent; when it only reads; when doing it twice
is the same as doing it once. A create is none of these, and one with a sequence number or of an ephemeral znode least
of all: the first may have been carried out, and the second would leave a znode nobody knows of.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from fastzk.errors import (
    ConnectionClosedError,
    ConnectionLossError,
    MaybeApplied,
    NotSent,
    OperationTimeoutError,
    SessionExpiredError,
    SessionMovedError,
    ThrottledOpError,
    ZooKeeperError,
)

#: The methods of a client that may be repeated whatever became of the first try. `set` and `set_acls` count only
#: without a version: with one, the second try would fail because of the first.
REPEATABLE: Final = frozenset(
    {
        "check_watches",
        "exists",
        "get",
        "get_children",
        "get_acls",
        "get_all_children_number",
        "get_config",
        "get_ephemerals",
        "ensure_path",
        "multi_read",
        "sync",
        "who_am_i",
    }
)
_LAST_WINS: Final = frozenset({"set", "set_acls"})


class RetryFailedError(ZooKeeperError):
    """The last try failed too; its error is the ``__cause__``."""

    def __str__(self) -> str:
        return "given up after the last try" if self.__cause__ is None else f"given up: {self.__cause__}"


class ForceRetryError(ZooKeeperError):
    """Raised by a function that wants to be called again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try again.

    :param max_tries: calls in all; None for no limit.
    :param delay: seconds before the second call.
    :param backoff: by what the delay grows each time.
    :param max_jitter: how far the delay may differ by chance, as a part of it, 0 to 1.
    :param max_delay: the longest delay in seconds.
    :param deadline: seconds after which no further try begins; None for no limit.
    :param ignore_expire: whether a session that expired is a reason to try again (in the next session).
    """

    max_tries: int | None = None
    delay: float = 0.1
    backoff: float = 2.0
    max_jitter: float = 0.4
    max_delay: float = 60.0
    deadline: float | None = None
    ignore_expire: bool = True
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def begin(self, repeatable: bool) -> Retries:
        """For one operation. ``repeatable``: doing it twice is the same as doing it once."""
        return Retries(self, repeatable)


def policy(name: str, value: RetryPolicy | Mapping[str, Any] | None) -> RetryPolicy | None:
    """What an argument called ``name`` says: a policy, or the parameters of one.

    :raises TypeError: when it is neither.
    """
    if value is None or isinstance(value, RetryPolicy):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a RetryPolicy or a dict of its parameters, not {type(value).__name__}")
    unknown = value.keys() - {each.name for each in fields(RetryPolicy)}
    if unknown:
        raise TypeError(f"{name}: a RetryPolicy has no {', '.join(sorted(map(str, unknown)))}")
    return RetryPolicy(**value)


def connection_policy(value: RetryPolicy | Mapping[str, Any] | None) -> RetryPolicy | None:
    """The same for ``connection_retry``, which has no end.

    :raises ValueError: when it is to end.
    """
    found = policy("connection_retry", value)
    if found is not None and ((found.max_tries is not None and found.max_tries >= 0) or found.deadline is not None):
        raise ValueError(
            "connection_retry has neither max_tries nor deadline: a client connects again until it is stopped; "
            "start(timeout=...) limits the first connection, timeout= of a call how long that waits for one"
        )
    return found


class Retries:
    """The tries of one operation."""

    def __init__(self, policy: RetryPolicy, repeatable: bool) -> None:
        self._policy = policy
        self._repeatable = repeatable
        self._tries = 0
        self._until = None if policy.deadline is None else time.monotonic() + policy.deadline

    def again(self, error: Exception) -> bool:
        """Whether an operation that failed like this may be repeated at all."""
        if isinstance(error, ConnectionClosedError):
            return False
        if isinstance(error, NotSent | ThrottledOpError | ForceRetryError | SessionMovedError):
            return True
        if isinstance(error, SessionExpiredError):
            # What was under way when the session ended may have been carried out as well.
            return self._policy.ignore_expire and self._repeatable
        if isinstance(error, MaybeApplied | OperationTimeoutError):
            return self._repeatable
        return isinstance(error, ConnectionLossError)

    def delay(self, error: Exception) -> float:
        """Seconds to wait before the next try.

        :raises RetryFailedError: when there is none, because of tries or time; ``error`` is its cause.
        """
        policy = self._policy
        self._tries += 1
        if policy.max_tries is not None and 0 <= policy.max_tries <= self._tries:
            raise RetryFailedError() from error
        jitter = policy.rng.uniform(1.0 - policy.max_jitter, 1.0 + policy.max_jitter)
        pause = min(policy.max_delay, policy.delay * policy.backoff ** min(self._tries - 1, 64)) * jitter
        if self._until is not None and time.monotonic() + pause >= self._until:
            raise RetryFailedError() from error
        return pause


def is_repeatable(client: object, function: object, arguments: tuple[object, ...], options: dict[str, object]) -> bool:
    """Whether ``function(*arguments, **options)`` may be done twice.

    A method of the client: see above. A function of the program's own: yes, since who has it retried must have
    written it so.
    """
    function = getattr(function, "__wrapped__", function)
    if getattr(function, "__self__", None) is not client:
        return True
    name = getattr(function, "__name__", "")
    if name in _LAST_WINS:
        return (arguments[2] if len(arguments) > 2 else options.get("version", -1)) == -1
    return name in REPEATABLE
