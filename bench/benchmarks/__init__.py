"""The benchmarks of ``asv run``; bench/README.md says how to use them.

The modules of ``bench/`` are shared with the other programs there. fastzk comes from asv's environment, so from the
commit that is measured, and never from the checkout: hence it is imported before anything that looks for it.

Every file says what it measures and how it should grow. Each benchmark does a fixed amount of work at every size, so a
curve that should be flat is flat in the plot. What takes a real server measures once and keeps the numbers
(``setup_cache``): all figures of one run come from the same load.
"""

import sys
from pathlib import Path

import fastzk

assert fastzk.__file__ is not None
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
