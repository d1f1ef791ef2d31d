"""A row of the report: the figures of each server, round by round, and the bounds that fastzk's have to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

FASTZK: Final = "fastzk"
ZOOKEEPER: Final = "Apache ZooKeeper"
REDIS: Final = "Redis"
ETCD: Final = "etcd"
ETCD_SERIALIZABLE: Final = "etcd, serializable"
#: Two columns that hold something of fastzk itself, to compare it with.
BEFORE: Final = "fastzk, before"
C_CLIENT: Final = "C client"
KAZOO: Final = "kazoo"


@dataclass(frozen=True)
class Bound:
    """What fastzk's figure has to be: at least or at most ``limit`` times that of ``against``.

    Without ``against`` every single round of fastzk has to stay below ``limit``, in the row's unit.
    """

    limit: float
    against: str | None = ZOOKEEPER


@dataclass
class Row:
    """``values``: for each column (a server, mostly) one figure a round. ``higher``: more is better."""

    name: str
    group: str
    title: str
    unit: str
    higher: bool
    bounds: tuple[Bound, ...] = ()
    values: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""
    #: Why it could not be measured, or not to the end.
    failure: str = ""

    def add(self, column: str, value: float) -> None:
        self.values.setdefault(column, []).append(value)

    def value(self, column: str) -> float | None:
        """The median of a column's rounds."""
        found = self.values.get(column)
        return median(found) if found else None

    def ratio(self, against: str = ZOOKEEPER) -> float | None:
        """fastzk's median to that of another column."""
        ours, theirs = self.value(FASTZK), self.value(against)
        return ours / theirs if ours is not None and theirs else None

    def spread(self, against: str = ZOOKEEPER) -> tuple[float, float] | None:
        """The smallest and the largest ratio of one round."""
        pairs = zip(self.values.get(FASTZK, []), self.values.get(against, []), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return (min(ratios), max(ratios)) if ratios else None

    def reached(self, bound: Bound) -> float | None:
        """What is held against the bound: a ratio, or the worst of fastzk's own figures."""
        if bound.against is not None:
            return self.ratio(bound.against)
        own = self.values.get(FASTZK)
        return (min(own) if self.higher else max(own)) if own else None

    def met(self, bound: Bound) -> bool | None:
        """None where there is no figure to tell."""
        reached = self.reached(bound)
        if reached is None:
            return None
        if bound.against is None and not self.higher:
            return reached < bound.limit
        return reached >= bound.limit if self.higher else reached <= bound.limit

    def distance(self, bound: Bound) -> float | None:
        """By what factor fastzk's figure has to get better to meet the bound; 1 or less: it is met."""
        reached = self.reached(bound)
        if not reached:
            return None
        return bound.limit / reached if self.higher else reached / bound.limit

    def to_json(self) -> dict[str, Any]:
        judged = [{**asdict(bound), "reached": self.reached(bound), "met": self.met(bound)} for bound in self.bounds]
        return {**asdict(self), "bounds": judged, "ratio": self.ratio(), "spread": self.spread()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Row:
        names = ("name", "group", "title", "unit", "higher", "values", "note", "failure")
        bounds = tuple(Bound(bound["limit"], bound["against"]) for bound in found["bounds"])
        return cls(**{name: found[name] for name in names}, bounds=bounds)


def number(value: float) -> str:
    """Three digits that count, or all that are before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
