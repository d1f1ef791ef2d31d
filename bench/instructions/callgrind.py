"""Runs one workload under callgrind and reads what was counted, in total and by function."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADER = Path("/usr/include/valgrind/callgrind.h")
#: Seconds that one workload may take; it takes a few.
TIMEOUT = 300
_COST = re.compile(r"(?:0x)?[0-9a-f]+ (\d+)$")


class CallgrindError(Exception):
    """A workload could not be counted; the text ends with what the process said."""


@dataclass(frozen=True)
class Counted:
    """Instructions of the process's first thread for one operation."""

    per_operation: float
    #: Function -> instructions in itself, without what it calls.
    functions: dict[str, float]


def missing() -> str:
    """What is needed and not installed; empty when all is there."""
    if shutil.which("valgrind") is None or not HEADER.exists():
        return "valgrind (Debian: apt-get install valgrind)"
    return "" if shutil.which("gcc") else "gcc"


def build_marks(directory: Path) -> Path:
    """Compile ``marks.c`` into a library in ``directory``."""
    library = directory / "marks.so"
    source = Path(__file__).with_name("marks.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def count(name: str, marks: Path, directory: Path) -> Counted:
    """Count the workload ``name`` in a process of its own, with its files in the empty ``directory``.

    It is done N times and then 2 N times; what the second takes more than the first, by N, is what one operation
    takes: what belongs to beginning and ending is in both.

    Raises CallgrindError.
    """
    scratch = directory / "work"
    scratch.mkdir()
    command = [
        "valgrind", "--tool=callgrind", "--instr-atstart=no",
        # Each thread apart, because how often others are switched to is chance.
        "--separate-threads=yes", "--combine-dumps=no", f"--callgrind-out-file={directory / 'counts'}",
        "--dump-line=no", "--compress-strings=no", "--compress-pos=no",
        sys.executable, "-m", "bench.instructions.inside", name, str(marks), str(scratch),
    ]  # fmt: skip
    # The order of sets and dicts of strings, and thereby the work for them, is the same in each run.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CallgrindError(f"{name}: not done after {TIMEOUT} s") from error
    found = re.search(r"^operations (\d+)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise CallgrindError(f"{name}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    operations = int(found[1])
    once, twice = (read_counts(directory / f"counts.{number}-01") for number in (1, 2))
    functions = {
        function: (cost - once[function]) / operations for function, cost in twice.items() if cost != once[function]
    }
    return Counted((twice.total() - once.total()) / operations, functions)


def read_counts(path: Path) -> Counter[str]:
    """Function -> instructions in itself, from what callgrind wrote.

    Raises CallgrindError when their sum is not the total that callgrind noted.
    """
    costs: Counter[str] = Counter()
    function = ""
    noted = -1
    inclusive = False
    with path.open() as lines:
        for line in lines:
            if line.startswith("fn="):
                function = line[3:].rstrip()
            elif line.startswith("calls="):
                inclusive = True  # the next line's cost is that of what was called
            elif line.startswith("totals:"):
                noted = int(line.split()[1])
            elif cost := _COST.match(line):
                if not inclusive:
                    costs[function] += int(cost[1])
                inclusive = False
    if costs.total() != noted:
        raise CallgrindError(f"{path.name}: the functions' {costs.total()} instructions are not the total of {noted}")
    return costs


def readable(function: str) -> str:
    """The name of a function as it stands in the source, where Cython has encoded it."""
    function = function.split("'", 1)[0]
    encoded = re.match(r"__pyx_(?:f|pw|pf|fuse_\d+__pyx_f)_(\d.*)", function)
    if not encoded:
        return function
    rest = encoded[1]
    parts = []
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        if end > len(rest) or rest[end : end + 1] not in ("", "_"):
            break  # the last name of a Python function has a number before it that is not its length
        parts.append(rest[length.end() : end])
        rest = rest[end:].removeprefix("_")
    return ".".join([*(part for part in parts if part != "fastzk"), *([re.sub(r"^\d+", "", rest)] if rest else [])])
