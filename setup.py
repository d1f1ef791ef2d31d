"""Builds the Cython extensions. Metadata lives in pyproject.toml.

Every ``fastzk/**/*.pyx`` is one extension. Before they are translated, the protocol's tables in
``fastzk/protocol.py`` are written out as C enumerations (``fastzk/_constants.pxd``), so each number of the
protocol is typed by hand in one place only.

``FASTZK_CHECKED=1`` builds for fuzzing: Cython's bounds checks, and AddressSanitizer and UndefinedBehaviorSanitizer of
the C compiler, which are what sees a wrong raw pointer. Python has to be started with ``LD_PRELOAD=libasan.so`` then;
``tests/fuzz/fuzz_frames.py`` does that. Several times slower: only for a copy of the tree (``make fuzz``).
``FASTZK_LINETRACE=1`` keeps line tables for ``perf`` and ``cython -a``.
``FASTZK_NO_EXTENSIONS=1`` leaves the extensions out: the Makefile installs without, then builds in place.
"""

import enum
import os
import runpy
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
CHECKED = os.environ.get("FASTZK_CHECKED") == "1"
LINETRACE = os.environ.get("FASTZK_LINETRACE") == "1"
#: Processors this process may use; in a container that is less than the machine has.
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_constants() -> None:
    """Render each IntEnum of protocol.py as an anonymous C enum: ``OpCode.CREATE`` becomes ``OP_CREATE``."""
    names = runpy.run_path(str(ROOT / "fastzk" / "protocol.py"))
    prefixes: dict[str, str] = names["C_PREFIXES"]
    lines = ["# Written by setup.py from protocol.py; do not edit.", ""]
    for enum_name, prefix in prefixes.items():
        table = names[enum_name]
        assert issubclass(table, enum.IntEnum | enum.IntFlag), enum_name
        lines.append("cdef enum:")
        lines += [f"    {prefix}{name} = {int(member)}" for name, member in table.__members__.items()]
        lines.append("")
    text = "\n".join(lines)
    target = ROOT / "fastzk" / "_constants.pxd"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def extensions() -> list[Extension]:
    if os.environ.get("FASTZK_NO_EXTENSIONS") == "1":
        return []
    flags = ["-O2", "-g1", "-Wall", "-Wno-unused-function", "-Wno-unused-variable"]
    # What Cython writes compares its own counters with C's, and takes const buffers into its temporaries.
    flags += ["-Wno-sign-compare", "-Wno-discarded-qualifiers"]
    sanitizers: list[str] = []
    if CHECKED:
        # The first finding ends the process, with its stack.
        sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        flags += [*sanitizers, "-O1"]
    found = []
    for path in sorted((ROOT / "fastzk").rglob("*.pyx")):
        relative = path.relative_to(ROOT)
        module = ".".join(relative.with_suffix("").parts)
        found.append(
            Extension(
                module,
                [str(relative)],
                extra_compile_args=flags,
                extra_link_args=sanitizers,
                libraries=["pthread"],
            )
        )
    return found


write_constants()
setup(
    ext_modules=cythonize(
        extensions(),
        nthreads=JOBS if JOBS > 1 else 0,  # 0: in this process
        compiler_directives={
            "language_level": 3,
            "boundscheck": CHECKED,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": CHECKED,
            "embedsignature": True,
            "emit_code_comments": LINETRACE,
        },
        emit_linenums=LINETRACE,
    ),
    # The C compiler takes most of the time: one for each processor.
    options={"build_ext": {"parallel": JOBS}},
)
