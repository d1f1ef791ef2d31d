"""What a run found, for people (a table) and for programs (JSON)."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

from fastzk._version import __version__
from fastzk.bench._histogram import Histogram
from fastzk.bench.plan import Plan
from fastzk.bench.results import Operation, Results, error_name
from fastzk.bench.runner import Outcome, Tick

#: Of the JSON; changes when a program that reads it would have to.
FORMAT: Final = 1
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)

#: From this part of a processor on, a worker may be what is measured.
_BUSY: Final = 0.9
#: From these nanoseconds on, the 99th percentile of what is looked at too late is worth a warning.
_LATE_NS: Final = 1_000_000
#: Below this part of the requests that were due, an open loop did not keep up.
_KEPT: Final = 0.98


def duration_text(nanoseconds: float) -> str:
    """A time in the unit that suits it, in three digits or more: ``87.3 us``, ``1.25 ms``."""
    for unit, size in (("us", 1e3), ("ms", 1e6)):
        if nanoseconds < 999.5 * size:
            value = nanoseconds / size
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
    return f"{nanoseconds / 1e9:.2f} s"


def progress_text(tick: Tick) -> str:
    """The line that is shown while a run goes on."""
    parts = [
        f"{tick.phase}: {tick.rate:,.0f} ops/s",
        f"p50 {duration_text(tick.latency.percentile(50))}",
        f"p99 {duration_text(tick.latency.percentile(99))}",
        f"{tick.errors:,} errors",
    ]
    if tick.lost:
        parts.append(f"{tick.lost:,} connections lost")
    return ", ".join([*parts, f"{tick.left:.0f} s left"])


def warnings(plan: Plan, results: Results) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    total = results.total
    if results.cpu and max(results.cpu) > _BUSY:
        found.append(
            f"a worker used {max(results.cpu):.0%} of a processor: the generator may be what was measured;"
            " use more --processes"
        )
    if plan.rate is not None and results.seconds > 0:
        answered, due = total.finished / results.seconds, total.latency.count / results.seconds
        # what is on its way when the time is up does not matter, in short runs either
        if total.finished < total.latency.count * _KEPT - plan.connections:
            found.append(f"{answered:,.0f} requests a second were answered in time of {due:,.0f} that were due")
        if results.late.percentile(99) > _LATE_NS:
            late = duration_text(results.late.percentile(99))
            found.append(f"the generator itself was up to {late} late (p99), which is part of the latencies")
    if total.unanswered:
        found.append(f"{total.unanswered:,} requests were never answered; they count with the age they reached")
    if results.missed:
        found.append(f"{results.missed:,} events never came: their connections were lost")
    return found


def headline(plan: Plan, outcome: Outcome) -> str:
    """What was run, in a few words."""
    servers = ",".join(str(server) for server in plan.target.servers)
    version = f" (version {outcome.server_version})" if outcome.server_version else ""
    if plan.watches:
        what = f"{plan.watches:,} sessions watch one znode, {outcome.results.rounds:,} changes"
    else:
        what = f"{plan.mix}, {plan.connections:,} connections"
        if plan.rate is None:
            what += f" x {plan.window:,} in flight, closed loop"
        else:
            what += f", open loop of {plan.rate:,.0f} requests a second"
        what += f", {plan.keys:,} keys ({plan.key_distribution}) of {plan.value_size:,} bytes"
    ended = ", interrupted" if outcome.interrupted else ""
    return f"{servers}{version}: {what}; {outcome.results.seconds:.1f} s measured{ended}"


def table(plan: Plan, outcome: Outcome) -> str:
    """The report for people."""
    results = outcome.results
    total = results.total
    head = ["", "ops/s", "measured", "errors", "mean", *(f"p{percent:g}" for percent in PERCENTILES), "max"]
    rows = [head]

    def row(name: str, operation: Operation | None, latency: Histogram) -> list[str]:
        counts = ["", "", ""]
        if operation is not None:
            rate = operation.finished / results.seconds if results.seconds else 0.0
            counts = [f"{rate:,.0f}", f"{operation.latency.count:,}", f"{operation.errors.total():,}"]
        if not latency.count:
            return [name, *counts, *["-"] * (len(PERCENTILES) + 2)]
        values = [latency.mean, *(latency.percentile(percent) for percent in PERCENTILES), latency.most]
        return [name, *counts, *(duration_text(value) for value in values)]

    rows += [row(name, operation, operation.latency) for name, operation in results.operations.items()]
    if not plan.watches:
        if len(results.operations) > 1:
            rows.append(row("all", total, total.latency))
        if plan.rate is None:
            rows.append(row("corrected", None, results.total_corrected))
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    lines = [headline(plan, outcome), ""]
    for line in rows:
        figures = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *figures]).rstrip())
    lines.append("")
    for name, operation in results.operations.items():
        if operation.errors:
            named = ", ".join(f"{error_name(code)} {count:,}" for code, count in operation.errors.most_common())
            lines.append(f"errors of {name}: {named}")
    if results.lost:
        why = f" (last: {results.problems[-1]})" if results.problems else ""
        lines.append(f"connections lost: {results.lost:,}{why}; sessions expired: {results.expired:,}")
    if not plan.watches:
        lines.append(f"longest time without an answer: {duration_text(results.longest_gap * 1e9)}")
    lines += [f"warning: {warning}" for warning in warnings(plan, results)]
    return "\n".join(lines)


def _latency(histogram: Histogram) -> dict[str, float]:
    # In microseconds.
    values = {f"p{percent:g}": histogram.percentile(percent) / 1e3 for percent in PERCENTILES}
    return {
        "mean": round(histogram.mean / 1e3, 3),
        "min": histogram.least / 1e3,
        **values,
        "max": histogram.most / 1e3,
    }


def _operation(operation: Operation, corrected: Histogram | None, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ops_per_s": round(operation.finished / seconds, 3) if seconds else 0.0,
        "sent": operation.sent,
        "answered": operation.answered,
        "measured": operation.latency.count,
        "unanswered": operation.unanswered,
        "errors": {error_name(code): count for code, count in sorted(operation.errors.items(), reverse=True)},
        "latency_us": _latency(operation.latency),
        "histogram": operation.latency.encode(),
    }
    if corrected is not None:
        found["corrected_latency_us"] = _latency(corrected)
    return found


def host_facts() -> dict[str, Any]:
    """The machine the generator runs on."""
    model = memory = ""
    for path, key in (("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        value = next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
        if key == "MemTotal":
            memory = value
        else:
            model = value
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": model,
        "processors": os.cpu_count(),
        "processors_usable": len(os.sched_getaffinity(0)),
        "memory": memory,
        "python": platform.python_version(),
        "fastzk": __version__,
    }


def as_json(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """The report for programs; ``docs/benchmarking.md`` says what is in it."""
    results = outcome.results
    closed = plan.rate is None and not plan.watches
    settings = dataclasses.asdict(plan)
    settings["mix"] = str(plan.mix)
    settings["key_distribution"] = str(plan.key_distribution)
    found: dict[str, Any] = {
        "format": FORMAT,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(outcome.began)),
        "command": sys.argv[1:],
        "settings": settings,
        "host": host_facts(),
        "server_version": outcome.server_version,
        "interrupted": outcome.interrupted,
        "seconds": round(results.seconds, 6),
        "operations": {
            name: _operation(operation, operation.corrected if closed else None, results.seconds)
            for name, operation in results.operations.items()
        },
        "connections": {
            "opened": results.opened,
            "lost": results.lost,
            "expired": results.expired,
            "problems": results.problems,
        },
        "generator": {"cpu": [round(part, 3) for part in results.cpu]},
        "warnings": warnings(plan, results),
    }
    if plan.watches:
        found["changes"] = results.rounds
        found["missed_events"] = results.missed
    else:
        found["total"] = _operation(results.total, results.total_corrected if closed else None, results.seconds)
        found["longest_gap_ms"] = round(results.longest_gap * 1e3, 3)
    if plan.rate is not None:
        found["generator"]["late_us"] = _latency(results.late)
    return found
