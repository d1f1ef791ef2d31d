"""fastzk beside Apache ZooKeeper, Redis and etcd: the same work on the same machine and disk, by turns.

    python bench/compare.py [--rounds 3] [--quick] [--rows get,set,...] [--json FILE] [--report FOLDER] [--dir FOLDER]
    python bench/compare.py --report docs/performance            # report.md, plots, results.json
    python bench/compare.py --from results.json --report FOLDER  # render again, measure nothing

All servers write to fresh directories on a real disk with nothing tuned, and are up at the same time, but only one
of them is loaded at a time: A B C A B C, so that whatever else the machine does meets all. README.md in this folder
says what the rows mean. The work is done by the package ``compare`` beside this file, which an import finds first.
"""

from __future__ import annotations

import sys

from compare.command import main

if __name__ == "__main__":
    sys.exit(main())
