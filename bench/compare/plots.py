"""The report's plots, as SVG and PNG.

The background is transparent and every colour has about the same contrast to white and to a dark page, because nobody
knows on which a README is read.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from compare.plan import GROUPS
from compare.report import PERCENTILES, with_latencies, work
from compare.results import Results
from compare.rows import (
    BEFORE,
    C_CLIENT,
    ETCD,
    ETCD_SERIALIZABLE,
    FASTZK,
    KAZOO,
    REDIS,
    ZOOKEEPER,
    Bound,
    Row,
    number,
)

INK: Final = "#727a85"
MET: Final = "#12957c"
MISSED: Final = "#d0742a"
COLOURS: Final = {
    FASTZK: MET,
    ZOOKEEPER: "#7d7aa8",
    REDIS: "#d05050",
    ETCD: "#3d84c6",
    ETCD_SERIALIZABLE: "#5aa3b8",
    BEFORE: "#8aa84a",
    C_CLIENT: "#b0842c",
    KAZOO: "#a86aa4",
}
#: Where a budget is: white with a dark edge, so that it shows on a bar and on any page.
MARK: Final[dict[str, Any]] = {
    "marker": "D",
    "markersize": 6.5,
    "markerfacecolor": "white",
    "markeredgecolor": "#3d434c",
    "markeredgewidth": 1.6,
    "linestyle": "",
}
STYLE: Final[Any] = {  # matplotlib types its keys one by one
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    # Glyphs as outlines: an SVG in a README cannot count on a font. A fixed salt: the same results, the same file.
    "svg.fonttype": "path",
    "svg.hashsalt": "fastzk",
}


def save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    figure.savefig(paths[0], transparent=True, metadata={"Date": None})
    figure.savefig(paths[1], transparent=True, dpi=160)
    plt.close(figure)
    return paths


def plain(value: float, _: object = None) -> str:
    """A tick: 0.5, 10, 2k, 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


# ---- the overview


@dataclass
class Bar:
    """``times``: as good as the other, more being better whatever the row's unit. ``low``, ``high``: its spread."""

    label: str
    times: float
    low: float
    high: float
    budget: float | None
    met: bool


def bar(row: Row, bound: Bound) -> Bar | None:
    """None for what was not measured, and for what is compared with fastzk itself."""
    against = bound.against or ZOOKEEPER
    ratio, spread, other = row.ratio(against), row.spread(against), row.value(against)
    if against == BEFORE or not ratio or not spread or not min(spread) or other is None:
        return None
    # A bound in the row's own unit is that many times as good as the other at hand.
    limit = bound.limit if bound.against is not None else bound.limit / other
    label = row.title if against == ZOOKEEPER else f"… beside {against}"
    if against in (C_CLIENT, KAZOO):
        label = f"{row.title}, beside {against}"
    times = (ratio, *spread, limit) if row.higher else (1 / ratio, 1 / spread[1], 1 / spread[0], 1 / limit)
    return Bar(label, times[0], times[1], times[2], times[3], bool(row.met(bound)))


def overview(results: Results, stem: Path) -> list[Path]:
    """One bar a budget: how many times as good, on a log scale, and where the budget is."""
    groups: list[tuple[str, list[Bar]]] = []
    for group in GROUPS:
        bars = [found for row in results.rows if row.group == group for b in row.bounds if (found := bar(row, b))]
        if bars:
            groups.append((group, bars))
    if not groups:
        return []
    lines = sum(len(bars) + 1.3 for _, bars in groups)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 1.45 + 0.27 * lines), layout="constrained")
        every = [each for _, bars in groups for each in bars]
        left = min(0.5, *(min(each.low, each.times) / 1.4 for each in every))
        right = max(20.0, *(max(each.high, each.budget or 0) * 1.9 for each in every))
        y, ticks, labels = 0.0, [], []
        for group, bars in groups:
            y += 1.3
            where = axes.get_yaxis_transform()
            axes.text(-0.012, y - 0.1, group, transform=where, ha="right", va="center", weight="bold")
            for each in bars:
                y += 1
                ticks.append(y)
                labels.append(wrapped(each.label, 50))
                draw(axes, y, each)
        axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(y + 0.8, 0.5)
        axes.set_yticks(ticks, labels)
        axes.tick_params(axis="y", length=0)
        marks = [mark for mark in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if left <= mark <= right]
        axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", color=INK, alpha=0.22, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="x", length=0)
        figure.suptitle("fastzk: how many times as good as Apache ZooKeeper", weight="bold", size=13)
        legend = [
            Patch(color=MET, label="budget met"),
            Patch(color=MISSED, label="budget missed"),
            Line2D([], [], **MARK, label="budget"),
            Line2D([], [], color=INK, linewidth=1.2, label="spread of the rounds"),
        ]
        figure.legend(handles=legend, loc="outside lower center", ncols=4)
        return save(figure, stem)


def draw(axes: Axes, y: float, each: Bar) -> None:
    colour = MET if each.met else MISSED
    axes.barh(y, each.times - 1, left=1, height=0.62, color=colour, zorder=2)
    axes.plot([each.low, each.high], [y, y], color=INK, linewidth=1.2, zorder=3, solid_capstyle="butt")
    end = max(each.times, each.high, 1)
    if each.budget is not None:
        axes.plot([each.budget], [y], **MARK, zorder=4)
        if end / 1.1 < each.budget < end * 2.2:
            end = max(end, each.budget)  # the text goes behind a mark that would be in its place
    text = f"{each.times:.1f}x" if each.times < 100 else f"{each.times:.0f}x"
    place: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (end, y), **place, weight="bold", color=colour)


# ---- throughput


def throughput(results: Results, stem: Path) -> list[Path]:
    """Requests a second of each server, rows below each other."""
    rows = [row for row in results.rows if row.unit == "/s" and ZOOKEEPER in row.values and FASTZK in row.values]
    columns = [name for name in COLOURS if any(name in row.values for row in rows)]
    if not rows:
        return []
    with plt.rc_context(STYLE):
        lines = sum(len(row.values) for row in rows) + 0.9 * len(rows)
        figure, axes = plt.subplots(figsize=(10, 1.3 + 0.24 * lines), layout="constrained")
        y, ticks = 0.0, []
        for row in rows:
            present = [name for name in columns if name in row.values]
            ticks.append(y + (len(present) - 1) / 2)
            for name in present:
                value = row.value(name)
                assert value is not None
                axes.barh(y, value, height=0.8, color=COLOURS[name])
                axes.plot([min(row.values[name]), max(row.values[name])], [y, y], color=INK, linewidth=1)
                end = max(row.values[name])
                axes.annotate(number(value), (end, y), xytext=(5, 0), textcoords="offset points", va="center", size=8)
                y += 1
            y += 0.9
        axes.set_xscale("log")
        axes.set_xlim(left=min(min(row.values[name]) for row in rows for name in row.values) / 2)
        axes.set_xlim(right=axes.get_xlim()[1] * 1.6)
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        axes.set_ylim(y - 0.6, -0.8)
        axes.set_yticks(ticks, [row.title for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=INK, alpha=0.22, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel("a second (log scale)")
        figure.legend(
            handles=[Patch(color=COLOURS[name], label=name) for name in columns],
            loc="outside upper center",
            ncols=len(columns),
        )
        return save(figure, stem)


# ---- latency


def latency(results: Results, stem: Path) -> list[Path]:
    """A panel a row: percentiles to the right, microseconds upwards."""
    found = [(row, columns) for row, columns in with_latencies(results) if len(columns) > 1]
    if not found:
        return []
    columns = [name for name in COLOURS if any(name in each for _, each in found)]
    across = min(3, len(found))
    down = -(-len(found) // across)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(down, across, figsize=(10, 0.8 + 2.4 * down), layout="constrained", squeeze=False)
        for axes, (row, each) in zip(grid.flat, found, strict=False):
            for name, known in each.items():
                places = [i for i, (percentile, _) in enumerate(PERCENTILES) if percentile in known]
                values = [known[PERCENTILES[i][0]] for i in places]
                axes.plot(places, values, color=COLOURS[name], marker="o", markersize=4, linewidth=1.8)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(plain))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xticks(range(len(PERCENTILES)), [name for name, _ in PERCENTILES])
            axes.set_title(wrapped(work(row)))
            axes.grid(axis="y", color=INK, alpha=0.22, linewidth=0.7)
        for axes in list(grid.flat)[len(found) :]:
            axes.set_axis_off()
        figure.supylabel("µs (log scale)", size=10)
        handles = [Line2D([], [], color=COLOURS[name], marker="o", linewidth=1.8, label=name) for name in columns]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(columns))
        return save(figure, stem)


def wrapped(title: str, width: int = 30) -> str:
    """In as few lines of at most ``width`` characters as it takes, of about the same length."""
    whole = re.sub(r"(\d+) x (\d+)", "\\1\u00a0x\u00a0\\2", title)
    lines = textwrap.wrap(whole, width)
    while width > 1 and len(narrower := textwrap.wrap(whole, width - 1)) == len(lines):
        lines, width = narrower, width - 1
    return "\n".join(lines)


# ---- memory, and times


def panels(results: Results, stem: Path, names: Sequence[str]) -> list[Path]:
    """A panel a row: a bar for each server's median, a dot for each round, a line at a bound in the row's unit."""
    rows = [row for row in results.rows if row.name in names and row.values]
    if not rows:
        return []
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(down, across, figsize=(10, 0.5 + 2.5 * down), layout="constrained", squeeze=False)
        for axes, row in zip(grid.flat, rows, strict=False):
            present = [name for name in (ZOOKEEPER, FASTZK) if name in row.values]
            limits = [bound.limit for bound in row.bounds if bound.against is None]
            top = max(*limits, *(max(row.values[name]) for name in present), 0)
            for place, name in enumerate(present):
                value = row.value(name)
                assert value is not None
                axes.bar(place, value, width=0.55, color=COLOURS[name])
                rounds = row.values[name]
                if len(rounds) > 1:
                    axes.scatter([place] * len(rounds), rounds, color=INK, s=14, zorder=3)
                above = max(rounds)
                for limit in limits:
                    if above < limit < above + top / 6:
                        above = limit  # or the line would go through the text
                axes.annotate(
                    f"{number(value)} {row.unit}",
                    (place, above),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    weight="bold",
                )
            for limit in limits:
                axes.axhline(limit, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
            axes.set_xticks(range(len(present)), present)
            axes.set_xlim(-0.6, len(present) - 0.4)
            axes.set_ylim(0, top * 1.22)
            axes.set_ylabel(row.unit)
            axes.set_title(wrapped(row.title))
            axes.tick_params(axis="x", length=0)
        for axes in list(grid.flat)[len(rows) :]:
            axes.set_axis_off()
        return save(figure, stem)


def memory(results: Results, stem: Path) -> list[Path]:
    return panels(results, stem, ("sessions", "memory"))


def recovery(results: Results, stem: Path) -> list[Path]:
    return panels(results, stem, ("fan-out", "restart", "failover", "catch-up", "full-state"))


PLOTS: Final[dict[str, Callable[[Results, Path], list[Path]]]] = {
    "overview": overview,
    "throughput": throughput,
    "latency": latency,
    "memory": memory,
    "recovery": recovery,
}
