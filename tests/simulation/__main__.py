"""Run seeds: ``python -m tests.simulation --seeds 1-10000``, or look at one: ``--seed 17 --trace``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter

from .simulation import Failed, Simulation

CHUNK = 50
MAXIMA = ("longest peace",)


def merge(total: Counter[str], some: Counter[str]) -> None:
    """Add statistics up, and of each event count the seeds that had any."""
    for key, value in some.items():
        if key in MAXIMA:
            total[key] = max(total[key], value)
        else:
            total[key] += value
            total[f"~{key}"] += value > 0


def run_seeds(seeds: range) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Run some; the statistics, and what failed."""
    total: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        try:
            merge(total, Simulation(seed).run())
        except Failed as failed:
            failures.append((seed, str(failed)))
    return total, failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="1-1000", help="first-last (default %(default)s)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--stop", type=int, default=5, help="give up after so many failures (default %(default)s)")
    options = parser.parse_args()
    if options.seed is not None:
        simulation = Simulation(options.seed, trace=None if options.trace else 250)
        try:
            statistics = simulation.run()
        except Failed as failed:
            print(failed)
            return 1
        if options.trace:
            print(simulation.world.trace.text())
        print(dict(sorted(statistics.items())))
        return 0
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    total: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    began = time.monotonic()
    with multiprocessing.Pool(options.jobs) as pool:
        for statistics, found in pool.imap_unordered(run_seeds, chunks):
            for key, value in statistics.items():
                total[key] = max(total[key], value) if key in MAXIMA else total[key] + value
            failures += found
            for seed, story in found:
                print(f"FAILED {seed}: {story.splitlines()[0]}", flush=True)
            if len(failures) >= options.stop:
                pool.terminate()
                break
    took = time.monotonic() - began
    print(f"{total['seeds']} clean seeds, {len(failures)} failed, {took:.1f} s, {total['seeds'] / took:.1f} seeds/s")
    for key in sorted(key for key in total if not key.startswith("~")):
        print(f"  {key:32} {total[key]:>10}" + (f"   in {total['~' + key]} seeds" if key not in MAXIMA else ""))
    for _, story in sorted(failures, reverse=True):
        print("-" * 120)
        print(story)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
