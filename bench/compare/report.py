"""What a comparison found, as Markdown: a table for the terminal, and the report with its plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from compare.plan import GROUPS
from compare.progress import clock
from compare.results import Results
from compare.rows import BEFORE, ETCD, ETCD_SERIALIZABLE, FASTZK, REDIS, ZOOKEEPER, Bound, Row, number

#: Percentiles of the table, as the load generators name them.
PERCENTILES: Final = (("p50", "p50_us"), ("p95", "p95_us"), ("p99", "p99_us"), ("p99.9", "p999_us"), ("max", "max_us"))
SERVERS: Final = (ZOOKEEPER, FASTZK, REDIS, ETCD, ETCD_SERIALIZABLE)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows))


def figure(row: Row, column: str) -> str:
    value = row.value(column)
    return "-" if value is None else f"{number(value)} {row.unit}"


def named(column: str) -> str:
    return "itself, before" if column == BEFORE else column


# ---- the budgets


def budget(row: Row, bound: Bound) -> str:
    if bound.against is None:
        return f"< {number(bound.limit)} {row.unit}, every round"
    return f"{'≥' if row.higher else '≤'} {bound.limit:.3g}"


def verdict(row: Row, bound: Bound) -> str:
    met, distance = row.met(bound), row.distance(bound)
    if met is None or distance is None:
        return "not measured"
    return "yes" if met else f"**no**, {distance:.2f}x away"


def budget_line(row: Row, bound: Bound) -> list[str]:
    """work, what it is compared with, that one's figure, fastzk's, their ratio, the budget, whether it is met."""
    against = bound.against or ZOOKEEPER
    ours = figure(row, FASTZK)
    if bound.against is None and (worst := row.reached(bound)) is not None and len(row.values[FASTZK]) > 1:
        ours += f", worst {number(worst)}"
    ratio, spread = row.ratio(against), row.spread(against)
    shown = "-" if ratio is None or spread is None else f"{ratio:.2f} ({spread[0]:.2f} to {spread[1]:.2f})"
    return [row.title, named(against), figure(row, against), ours, shown, budget(row, bound), verdict(row, bound)]


def budget_table(results: Results) -> str:
    head = ("work", "compared with", "its figure", FASTZK, "ratio (spread)", "budget", "met")
    return table(head, [budget_line(row, bound) for row in results.rows for bound in row.bounds])


def count_of_budgets(results: Results) -> str:
    judged = [row.met(bound) for row in results.rows for bound in row.bounds]
    missing = f", {judged.count(None)} not measured" if None in judged else ""
    return f"{judged.count(True)} of {len(judged)} budgets are met, {judged.count(False)} missed{missing}."


def how(results: Results) -> str:
    quick = " **Quick: too short for a verdict.**" if results.quick else ""
    rounds = "1 round" if results.rounds == 1 else f"{results.rounds} rounds"
    return (
        f"{rounds} of {results.seconds:g} s for each server, by turns, {clock(results.took)} minutes in all."
        f" Medians; a ratio is that of the medians, its spread that of the single rounds.{quick}"
    )


def facts(results: Results) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in {"date": results.date, **results.facts}.items())


def remarks(results: Results) -> Iterator[str]:
    for row in results.rows:
        if row.note:
            yield f"- {row.title}: {row.note}"
        if row.failure:
            first, *_ = row.failure.splitlines()
            yield f"- {row.title}: **not measured to the end**: {first}"


def summary(results: Results) -> str:
    """For the terminal: where, how, the table of budgets, remarks."""
    head = [facts(results), how(results), budget_table(results)]
    parts = [*head, "\n".join(remarks(results)), count_of_budgets(results)]
    return "\n\n".join(part for part in parts if part)


# ---- the other tables


def servers_table(results: Results) -> str:
    """Every server's figure, for the rows that more than one server has."""
    present = [column for column in SERVERS if column in results.columns()]
    rows = [row for row in results.rows if len(set(row.values) & set(SERVERS)) > 1]
    return table(("work", *present), [[row.title, *(figure(row, column) for column in present)] for row in rows])


def latencies(results: Results, row: Row, column: str) -> dict[str, float]:
    """Percentiles of a row in microseconds, each the median of its rounds; those that are known."""
    runs = [run for run in results.runs if run["row"] == row.name and run["column"] == column]
    return {
        name: median(run[key] for run in runs) for name, key in PERCENTILES if runs and all(key in run for run in runs)
    }


def with_latencies(results: Results) -> Iterator[tuple[Row, dict[str, dict[str, float]]]]:
    """Rows for which percentiles are known, and those of each column."""
    for row in results.rows:
        found = {column: known for column in row.values if (known := latencies(results, row, column))}
        if found:
            yield row, found


def work(row: Row) -> str:
    """The title without the percentile that is the row's figure."""
    return row.title.replace(": median latency", "").replace(": p99.9", "")


def latency_table(results: Results) -> str:
    lines = []
    for row, columns in with_latencies(results):
        for column, known in columns.items():
            cells = (number(known[name]) if name in known else "-" for name, _ in PERCENTILES)
            lines.append([work(row), column, *cells])
    return table(("work", "server", *(f"{name}, µs" for name, _ in PERCENTILES)), lines)


# ---- the report

PEERS_TEXT: Final = """\
Redis runs with `appendonly yes` and `appendfsync always`, and without snapshots; its load is `redis-benchmark`, with
as many connections, keys and bytes. That program sends a pipeline's 16 commands together and waits for all their
answers, where the other generators replace every answered request at once: a latency at 32 x 16 is that of a batch.

etcd is one member with its defaults. Its load is `bench/etcdload.c`, over its own protocol (gRPC), not the slower JSON
gateway. Its reads are measured before its writes, of keys that were put one at a time, so that no burst of writes which
it still buffers weighs on the reads. A ZooKeeper read is answered by the server at hand from its memory, which is what
etcd calls serializable; the linearizable reads are etcd's default and promise more.

Neither takes part in the rows for three servers, sessions, watches, memory and restarts: they have no sessions, or keep
something so different that one number would mislead."""


def write_report(results: Results, folder: Path) -> list[Path]:
    """report.md and its plots; returns the files. Without matplotlib there are no plots, and the report says so."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from compare.plots import PLOTS
    except ImportError:
        plots: dict[str, Callable[[Results, Path], list[Path]]] = {}
    else:
        plots = PLOTS
    written: dict[str, list[Path]] = {name: plot(results, folder / name) for name, plot in plots.items()}

    def plot(name: str, text: str) -> list[str]:
        return [f"![{text}]({name}.svg)"] if written.get(name) else []

    parts = [
        "# fastzk beside Apache ZooKeeper, Redis and etcd",
        "Written by `python bench/compare.py --report docs/performance`;"
        " [bench/README.md](../../bench/README.md) says what each row is and what makes the comparison fair.",
        *([] if plots else ["Without plots: matplotlib was not there."]),
        *plot("overview", "How many times as good as Apache ZooKeeper, by row, with the budgets"),
        f"**{count_of_budgets(results)}** {how(results)}",
        "## Machine and versions",
        facts(results),
        "## Budgets",
        f"A ratio is {FASTZK}'s figure to the other's. For `/s` more is better; for times and memory less is.",
        *(part for group in GROUPS for part in group_part(results, group)),
        *(["### Remarks", found] if (found := "\n".join(remarks(results))) else []),
        "## Throughput",
        *plot("throughput", "Requests a second of each server, by row"),
        servers_table(results),
        PEERS_TEXT,
        "## Latency by percentile",
        *plot("latency", "Latency by percentile of each server, by row"),
        latency_table(results),
    ]
    if written.get("memory"):
        parts += ["## Memory", *plot("memory", "Resident memory of each server")]
    if written.get("recovery"):
        parts += ["## Recovery, failover, watches", *plot("recovery", "Times until a server is back, and the like")]
    report = folder / "report.md"
    report.write_text("\n\n".join(part for part in parts if part) + "\n")
    return [report, *(path for paths in written.values() for path in paths)]


def group_part(results: Results, group: str) -> Iterator[str]:
    rows = [row for row in results.rows if row.group == group]
    if rows:
        head = ("work", "compared with", "its figure", FASTZK, "ratio (spread)", "budget", "met")
        yield f"### {group}"
        yield table(head, [budget_line(row, bound) for row in rows for bound in row.bounds])
