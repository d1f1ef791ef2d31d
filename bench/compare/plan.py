"""All rows there are, in the report's order: what each is called, its bounds, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ensemble import MISSED
from servers import Failed

from compare.rows import BEFORE, C_CLIENT, KAZOO, REDIS, Bound, Row

#: Changed znodes that set off a checkpoint in the row of that name.
SNAP_COUNT: Final = 100_000
#: Writes a second behind the reads of the row ``background``.
BACKGROUND: Final = 20_000

ONE: Final = "One server"
MANY: Final = "Many sessions, many znodes"
THREE: Final = "Three servers"
CLIENTS: Final = "Client library"
GROUPS: Final = (ONE, MANY, THREE, CLIENTS)

#: "Near Redis": the figures behind the budgets put 5 times ZooKeeper at 0.82 to 0.94 of Redis.
NEAR: Final = 0.8


@dataclass(frozen=True)
class Scale:
    """How large and how long. ``seconds`` of one load; numbers of znodes, of sessions, of writes a server missed."""

    rounds: int
    seconds: float
    znodes: int
    sessions: int
    missed: int
    quick: bool

    @classmethod
    def make(cls, quick: bool, rounds: int | None) -> Scale:
        if quick:
            return cls(rounds or 1, 1.0, 100_000, 2_000, MISSED // 10, True)
        return cls(rounds or 3, 4.0, 1_000_000, 10_000, MISSED, False)


@dataclass(frozen=True)
class Load:
    """A closed loop of requests: ``operation`` is zkload's, ``key`` the figure that counts."""

    operation: str
    connections: int
    window: int
    key: str = "ops_per_s"


LOADS: Final[dict[str, Load]] = {
    "get-1x1": Load("get", 1, 1, "p50_us"),
    "get-32x1": Load("get", 32, 1),
    "get-32x16": Load("get", 32, 16),
    "set-1x1": Load("set", 1, 1, "p50_us"),
    "set-32x1": Load("set", 32, 1),
    "set-32x16": Load("set", 32, 16),
    "delete-create": Load("delete-create", 32, 16),
    "mixed": Load("mixed:90", 32, 16),
    "children": Load("children", 8, 4),
}
ENSEMBLE_LOADS: Final[dict[str, Load]] = {
    "ensemble-set-30x16": Load("set", 30, 16),
    "ensemble-set-30x1": Load("set", 30, 1),
    "ensemble-get-30x16": Load("get", 30, 16),
    "ensemble-mixed": Load("mixed:90", 30, 16),
}


def make_rows(scale: Scale) -> dict[str, Row]:
    """Every row, empty. Bounds: the budgets of the project."""
    z, n, m = f"{scale.znodes:,}", f"{scale.sessions:,}", f"{scale.missed:,}"
    rows = [
        Row("get-1x1", ONE, "getData, 1 x 1: median latency", "µs", False, (Bound(0.5),)),
        Row("get-32x1", ONE, "getData, 32 x 1", "/s", True, (Bound(2.5),)),
        Row("get-32x16", ONE, "getData, 32 x 16", "/s", True, (Bound(10), Bound(1, REDIS))),
        Row("set-1x1", ONE, "setData durable, 1 x 1: median latency", "µs", False, (Bound(1 / 1.6),)),
        Row("set-32x1", ONE, "setData durable, 32 x 1", "/s", True, (Bound(2),)),
        Row("set-32x16", ONE, "setData durable, 32 x 16", "/s", True, (Bound(5), Bound(NEAR, REDIS))),
        Row("delete-create", ONE, "delete + create durable, 32 x 16", "/s", True, (Bound(4),)),
        Row("mixed", ONE, "90 % getData, 10 % setData, 32 x 16", "/s", True, (Bound(6),)),
        Row("children", ONE, "getChildren of 1000, 8 x 4", "/s", True, (Bound(5),)),
        Row(
            *("background", ONE, f"getData, 32 x 1: p99.9 beside {BACKGROUND:,} durable writes a second"),
            *("µs", False, (Bound(0.5),)),
        ),
        Row(
            *("checkpoint", ONE, f"getData, 32 x 1: p99 while a checkpoint of {SNAP_COUNT:,} changed znodes runs"),
            *("µs", False, (Bound(2, BEFORE),)),
        ),
        Row("fan-out", MANY, f"a change until the last of {n} watchers knows", "ms", False, (Bound(0.2),)),
        Row("sessions", MANY, f"{n} idle sessions: memory added", "MB", False, (Bound(0.3),)),
        Row("memory", MANY, f"{z} znodes of 128 bytes: resident memory", "MB", False, (Bound(0.35),)),
        Row("restart", MANY, f"{z} znodes of 128 bytes: restart until serving", "s", False, (Bound(0.35),)),
        Row("ensemble-set-30x16", THREE, "3 servers: setData, 30 x 16", "/s", True, (Bound(8),)),
        Row("ensemble-set-30x1", THREE, "3 servers: setData, 30 x 1", "/s", True, (Bound(4),)),
        Row("ensemble-get-30x16", THREE, "3 servers: getData, 30 x 16", "/s", True, (Bound(10),)),
        Row("ensemble-mixed", THREE, "3 servers: 90 % getData, 30 x 16", "/s", True, (Bound(6),)),
        Row("failover", THREE, "leader killed: longest gap between writes", "ms", False, (Bound(200, None),)),
        Row("catch-up", THREE, f"a follower back after {m} writes", "s", False, (Bound(3, None),)),
        Row("full-state", THREE, f"a follower without data, {z} znodes", "s", False, (Bound(15, None),)),
        Row(
            *("full-state-reads", THREE, "the leader's p99 of getData, 32 x 1, meanwhile"),
            *("µs", False, (Bound(2, BEFORE),)),
        ),
        Row("client-get", CLIENTS, "get, one at a time: median latency", "µs", False, (Bound(1, C_CLIENT),)),
        Row("client-pipelined", CLIENTS, "get, 1000 in flight", "/s", True, (Bound(15, KAZOO),)),
    ]
    return {row.name: row for row in rows}


ROWS: Final = tuple(make_rows(Scale.make(False, None)))


def chosen_rows(text: str | None) -> list[str]:
    """``get`` stands for ``get-32x16``, ``get-32x1`` and ``get-1x1``, and so on. Raises Failed for an unknown word."""
    if text is None:
        return list(ROWS)
    rows: list[str] = []
    for word in text.split(","):
        found = [row for row in ROWS if row == word or row.startswith(f"{word}-")]
        if not found:
            raise Failed(f"no row {word!r}; there are {', '.join(ROWS)}")
        rows += [row for row in found if row not in rows]
    return rows


def cost(step: str, scale: Scale, columns: int) -> float:
    """About how many seconds a step takes with that many servers by turns; only the progress lines need it."""
    r, s, q = scale.rounds, scale.seconds, 0.1 if scale.quick else 1.0
    if step in LOADS or step in ENSEMBLE_LOADS:
        return r * columns * (s * 1.25 + 0.7)
    each = {
        "warm-up": 4 + s * 3 * 2,
        "ensemble warm-up": 15 + 2 * s,
        "background": r * 2 * (s * 1.25 + 2),
        "checkpoint": 6 + r * (s + 4),
        "fan-out": 20 * q + r * 3,
        "sessions": 24 * q + 8,
        "memory": 60 * q + 8,
        "restart": r * (12 * q + 2),
        "failover": (1 if scale.quick else max(r, 5)) * 2 * 9,
        "catch-up": r * 2 * (7 * q + 2),
        "full-state": 2 * (10 + 50 * q + r * (14 * q + s + 2)),
        "clients": 3 + r * 3 * (4 * q + 1),
    }
    return each[step]


def steps(names: Sequence[str]) -> list[str]:
    """What is done one after the other for these rows, in order; each is a row, or fills or prepares several."""
    found: list[str] = []
    single = [name for name in names if name in LOADS or name == "background"]
    if single:
        found += ["warm-up", *single]
    found += [name for name in ("checkpoint", "sessions", "fan-out", "memory", "restart") if name in names]
    ensembles = [name for name in names if name in ENSEMBLE_LOADS or name in {"failover", "catch-up"}]
    if ensembles:
        found += ["ensemble warm-up", *ensembles]
    if any(name.startswith("full-state") for name in names):
        found.append("full-state")
    if any(name.startswith("client-") for name in names):
        found.append("clients")
    return found
