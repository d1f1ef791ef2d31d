"""Limits on how fast sessions are opened and renewed: a token bucket, and chance where it runs dry.

A storm of reconnecting clients costs a session transaction each. The bucket lets bursts pass and bounds
the rate. Alone it would starve those who always come a moment after the others, so with a freeze time it is
preceded by a drop chance that rises while the bucket is empty and falls when it is not: the BLUE algorithm,
as ZooKeeper uses it. A refused client sees its connection closed without an answer, and tries again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from fastzk.server.config import Config

logger = logging.getLogger(__name__)

#: Refusals are logged at most once in that time, with their number.
LOG_SECONDS: Final = 1.0


class TokenBucket:
    """At most ``max_tokens`` at once, ``fill_count`` more every ``fill_ms`` milliseconds.

    ``freeze_ms``: the drop chance changes at most once in that time; -1: there is none. It grows by
    ``drop_increase`` when the bucket is empty, and shrinks by ``drop_decrease`` when at most the part
    ``decrease_ratio`` of the tokens is missing. ``clock`` gives seconds, ``chance`` numbers from 0 to 1.
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        fill_ms: int = 1,
        fill_count: int = 1,
        freeze_ms: int = -1,
        drop_increase: float = 0.02,
        drop_decrease: float = 0.002,
        decrease_ratio: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._max_tokens = self._tokens = max_tokens
        self._fill_ms = fill_ms
        self._fill_count = fill_count
        self._freeze_ms = freeze_ms
        self._drop_increase = drop_increase
        self._drop_decrease = drop_decrease
        self._decrease_point = round(max_tokens * decrease_ratio)
        self._clock = clock
        self._chance = chance
        self._drop = 0.0
        self._filled_ms = self._froze_ms = int(clock() * 1000)

    @property
    def drop_chance(self) -> float:
        """The part of requests that is refused whatever the bucket holds, from 0 to 1."""
        return self._drop

    @property
    def deficit(self) -> int:
        """How many tokens are missing."""
        return self._max_tokens - self._tokens

    def admit(self, need: int = 1) -> bool:
        """Take ``need`` tokens; False if the bucket has too few, or chance is against it."""
        now_ms = int(self._clock() * 1000)
        passed = now_ms - self._filled_ms
        if passed > self._fill_ms:
            self._tokens = min(self._tokens + passed * self._fill_count // self._fill_ms, self._max_tokens)
            self._filled_ms = now_ms
        if self._freeze_ms != -1 and self._dropped(now_ms):
            return False
        if self._tokens < need:
            return False
        self._tokens -= need
        return True

    def _dropped(self, now_ms: int) -> bool:
        if now_ms - self._froze_ms > self._freeze_ms:
            if self._tokens == 0:
                self._drop = min(self._drop + self._drop_increase, 1.0)
            elif self.deficit <= self._decrease_point:
                self._drop = max(self._drop - self._drop_decrease, 0.0)
            self._froze_ms = now_ms
        return self._chance() < self._drop


class ConnectionThrottle:
    """Decides on connect requests. ``new`` and ``renewed``: the tokens that a session of that kind costs."""

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        new: int = 1,
        renewed: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket = bucket
        self._new = new
        self._renewed = renewed
        self._clock = clock
        self._refused = 0
        self._told = float("-inf")

    @property
    def drop_chance(self) -> float:
        """The part of connect requests that is refused by chance, from 0 to 1."""
        return self._bucket.drop_chance

    def __call__(self, renewing: bool) -> bool:
        """Whether a client may open a session, or go on with one (``renewing``)."""
        if self._bucket.admit(self._renewed if renewing else self._new):
            return True
        self._refused += 1
        now = self._clock()
        if now - self._told >= LOG_SECONDS:
            logger.warning(
                "connections refused count=%d reason=connectionMaxTokens drop_chance=%.3f",
                self._refused,
                self._bucket.drop_chance,
            )
            self._told = now
            self._refused = 0
        return False


def connection_throttle(config: Config) -> ConnectionThrottle | None:
    """The throttle that ``config`` asks for, None if connections are not limited."""
    if config.connection_max_tokens == 0:
        return None
    weight = renewed = 1
    if config.connection_weight_enabled:
        # The settings count in new sessions. The weight of a local one is the least that the others have.
        weight = max(config.connection_global_weight, config.connection_local_weight)
        renewed = max(config.connection_renew_weight, config.connection_local_weight)
    bucket = TokenBucket(
        config.connection_max_tokens * weight,
        fill_ms=config.connection_fill_time_ms,
        fill_count=config.connection_fill_count * weight,
        freeze_ms=config.connection_freeze_time_ms,
        drop_increase=config.connection_drop_increase,
        drop_decrease=config.connection_drop_decrease,
        decrease_ratio=config.connection_decrease_ratio,
    )
    new = weight
    if config.connection_weight_enabled and config.ensemble is not None and config.ensemble.local_sessions_enabled:
        new = config.connection_local_weight
    return ConnectionThrottle(bucket, new=new, renewed=renewed)
