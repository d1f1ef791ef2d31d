"""What a run is to do: read from the words of a command line, checked, and the same in every process.

Everything here raises ValueError with a text that a person at a terminal understands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from fastzk.client.hosts import Target, parse

#: What a mix may have, in the order of the loop's numbers.
OPERATIONS: Final = ("get", "set", "create", "delete", "create-delete", "exists", "children", "multi", "sync")
#: Those that need a znode below which every connection makes its own.
MAKING: Final = frozenset({"create", "delete", "create-delete"})

#: Address family and socket address, as ``socket.connect`` takes it.
Address = tuple[int, tuple[object, ...]]

#: The largest value of a znode; the server has a smaller limit unless its jute.maxbuffer was raised.
MAX_VALUE_BYTES: Final = 64 << 20
MAX_WINDOW: Final = 1 << 20


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{what} is a number, not {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} is a number, not {text!r}")
    return number


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each operation is asked for.

    :param weights: operation and weight, each above 0; the weights need not add up to anything.
    """

    weights: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Mix:
        """Reads ``get=90,set=10``; a name alone has the weight 1.

        :raises ValueError: for an operation there is none of, one named twice, or a weight that is not above 0.
        """
        weights: dict[str, float] = {}
        for part in text.split(","):
            name, equals, weight = (word.strip() for word in part.partition("="))
            if name not in OPERATIONS:
                raise ValueError(f"no operation {name!r}: there are {', '.join(OPERATIONS)}")
            if name in weights:
                raise ValueError(f"{name} is in the mix twice")
            weights[name] = _number(weight, f"the weight of {name}") if equals else 1.0
            if weights[name] <= 0:
                raise ValueError(f"the weight of {name} must be above 0")
        return cls(tuple(weights.items()))

    @property
    def shares(self) -> dict[str, float]:
        """The part of all requests that each operation has; they add up to 1."""
        total = sum(weight for _, weight in self.weights)
        return {name: weight / total for name, weight in self.weights}

    @property
    def makes(self) -> bool:
        """Whether it creates or deletes znodes."""
        return any(name in MAKING for name, _ in self.weights)

    def __str__(self) -> str:
        return ",".join(f"{name}={weight:g}" for name, weight in self.weights)


@dataclass(frozen=True, slots=True)
class KeyDistribution:
    """Which keys requests are for.

    :param name: ``uniform``; ``sequential``, each in turn; ``zipf``, the key on rank r as often as 1/r**exponent;
        ``hot``, the first ``fraction`` of the keys has ``share`` of the requests.
    """

    name: Literal["uniform", "sequential", "zipf", "hot"] = "uniform"
    exponent: float = 0.0
    fraction: float = 0.0
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> KeyDistribution:
        """Reads ``uniform``, ``sequential``, ``zipf:0.99`` or ``hot:0.1:0.9``.

        :raises ValueError: for anything else.
        """
        name, *words = text.split(":")
        if name in ("uniform", "sequential") and not words:
            return cls("uniform" if name == "uniform" else "sequential")
        if name == "zipf" and len(words) <= 1:
            exponent = _number(words[0], "the exponent of zipf") if words else 0.99
            if not 0 <= exponent <= 10:
                raise ValueError(f"the exponent of zipf is from 0 to 10, not {exponent:g}")
            return cls("zipf", exponent=exponent)
        if name == "hot" and len(words) in (0, 2):
            fraction = _number(words[0], "the fraction of hot keys") if words else 0.1
            share = _number(words[1], "the share of hot keys") if words else 0.9
            if not (0 < fraction <= 1 and 0 <= share <= 1):
                raise ValueError(f"hot:FRACTION:SHARE are parts of 1, not {fraction:g} and {share:g}")
            return cls("hot", fraction=fraction, share=share)
        raise ValueError(f"no distribution {text!r}: there are uniform, sequential, zipf:EXPONENT, hot:FRACTION:SHARE")

    def __str__(self) -> str:
        if self.name == "zipf":
            return f"zipf:{self.exponent:g}"
        return f"hot:{self.fraction:g}:{self.share:g}" if self.name == "hot" else self.name


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Times are in seconds.

    :param hosts: a connection string or ``zk://`` URL.
    :param connections: sessions, over all processes.
    :param window: requests in flight on each at most.
    :param mix: what is asked.
    :param keys: znodes that get, set, exists and multi are about, and that children lists.
    :param key_distribution: which of them.
    :param value_size: bytes of data in each znode.
    :param multi_size: setData in one multi.
    :param duration: how long is measured.
    :param warmup: how long there is load before.
    :param processes: among which the connections are divided.
    :param rate: requests a second over all processes (open loop); None for as many as are answered (closed loop).
    :param poisson: whether the requests of an open loop come at random times instead of at even ones.
    :param watches: sessions that watch one znode, instead of the mix; 0 for the mix.
    :param prefix: the znode that is made below the chroot and, without ``keep``, removed in the end.
    :param session_timeout: what is asked of the server.
    :param connect_timeout: until all sessions must be there.
    :param drain: how long answers are waited for in the end.
    :param seed: of all that is random.
    :raises ValueError: for values that make no sense, alone or together.
    """

    hosts: str = "127.0.0.1:2181"
    connections: int = 32
    window: int = 1
    mix: Mix = Mix((("get", 1.0),))
    keys: int = 1000
    key_distribution: KeyDistribution = KeyDistribution()
    value_size: int = 128
    multi_size: int = 3
    duration: float = 10.0
    warmup: float = 2.0
    processes: int = 1
    rate: float | None = None
    poisson: bool = False
    watches: int = 0
    prefix: str = "/fastzk-bench"
    keep: bool = False
    session_timeout: float = 30.0
    connect_timeout: float = 15.0
    drain: float = 5.0
    seed: int = 1

    def __post_init__(self) -> None:
        whole = {
            "--connections": (self.connections, 1, 1_000_000),
            "--window": (self.window, 1, MAX_WINDOW),
            "--keys": (self.keys, 1, 100_000_000),
            "--value-size": (self.value_size, 0, MAX_VALUE_BYTES),
            "--multi-size": (self.multi_size, 1, 10_000),
            "--processes": (self.processes, 1, 256),
            "--watches": (self.watches, 0, 1_000_000),
        }
        for name, (value, least, most) in whole.items():
            if not least <= value <= most:
                raise ValueError(f"{name} is from {least} to {most}, not {value}")
        spans = {
            "--duration": (self.duration, 0.05),
            "--warmup": (self.warmup, 0.0),
            "--session-timeout": (self.session_timeout, 0.1),
            "--connect-timeout": (self.connect_timeout, 0.1),
            "--drain": (self.drain, 0.0),
        }
        for name, (seconds, shortest) in spans.items():
            if not shortest <= seconds <= 1e6:
                raise ValueError(f"{name} is at least {shortest:g} seconds, not {seconds:g}")
        if self.rate is not None and not 0.1 <= self.rate <= 1e8:
            raise ValueError(f"--rate is from 0.1 to 100000000 requests a second, not {self.rate:g}")
        if self.poisson and self.rate is None:
            raise ValueError("--arrivals poisson needs --rate")
        if self.watches and self.rate is not None:
            raise ValueError("--watches and --rate exclude each other: one change follows another")
        if self.processes > self.sessions:
            raise ValueError(f"{self.processes} processes need as many connections at least, not {self.sessions}")
        if not self.prefix.startswith("/") or self.prefix.endswith("/") or "//" in self.prefix:
            raise ValueError(f"--prefix is the path of a znode below the chroot, not {self.prefix!r}")
        if self.target.tls:
            raise ValueError("TLS is not supported here: what would be measured is the cipher of the generator")

    @property
    def target(self) -> Target:
        """The servers and the chroot.

        :raises ValueError: when ``hosts`` names none.
        """
        return parse(self.hosts)

    @property
    def root(self) -> str:
        """The path of the prefix as the server sees it."""
        return self.target.chroot + self.prefix

    @property
    def sessions(self) -> int:
        """Connections of all workers together."""
        return self.watches or self.connections

    def share(self, process: int) -> tuple[int, int]:
        """The number of the first session of a process, and how many it has."""
        few, more = divmod(self.sessions, self.processes)
        return process * few + min(process, more), few + (process < more)
