"""The process under callgrind: sets up one workload, does it once uncounted, then N and 2 N times counted.

    python -m bench.instructions.inside NAME MARKS.so DIRECTORY

Without valgrind it does the same and counts nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import random
import sys
from pathlib import Path

from bench.instructions.workloads import WORKLOADS


def main() -> None:
    name, marks_path, directory = sys.argv[1:]
    workload = WORKLOADS[name]
    marks = ctypes.CDLL(marks_path)
    # The tree's hash is seeded by this: which paths collide must not be chance.
    chance = random.Random(1)
    os.urandom = chance.randbytes
    with contextlib.ExitStack() as stack:
        prepare = workload.setup(Path(directory), stack)
        prepare(2 * workload.rounds)()  # memory grows, tables and caches fill
        for times in (1, 2):
            # By way of C: a function of Python called by another would go on in the C function that runs that one,
            # which callgrind did not see begin.
            work = functools.partial(prepare(times * workload.rounds))
            # A collection costs as much as there are objects in the process, and comes when a counter says so.
            gc.collect()
            gc.disable()
            marks.begin()
            work()
            marks.end()
            gc.enable()
        prepare(0)  # clean up; checks what the last one did
    print("operations", workload.rounds * workload.operations)


if __name__ == "__main__":
    main()
