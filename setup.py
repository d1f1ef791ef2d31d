"""Builds the Cython extensions. Metadata lives in pyproject.toml.

Every ``fastzk/**/*.pyx`` is one extension, and so is every ``.py`` that has a ``.pxd`` of the same name beside it:
plain Python, which the ``.pxd`` tells the C types of. Before they are translated, the protocol's tables in
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
from collections.abc import Iterable
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


def extensions(paths: Iterable[Path]) -> list[Extension]:
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
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            extra_compile_args=flags,
            extra_link_args=sanitizers,
            libraries=["pthread"],
        )
        for path in sorted(each.relative_to(ROOT) for each in paths)
    ]


def translated(extensions: list[Extension], **directives: bool) -> list[Extension]:
    modules: list[Extension] = cythonize(
        extensions,
        nthreads=JOBS if JOBS > 1 else 0,  # 0: in this process
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "emit_code_comments": LINETRACE,
            **directives,
        },
        emit_linenums=LINETRACE,
    )
    return modules


write_constants()
FASTZK = ROOT / "fastzk"
setup(
    ext_modules=[
        *translated(
            extensions(FASTZK.rglob("*.pyx")),
            boundscheck=CHECKED,
            wraparound=False,
            cdivision=True,
            initializedcheck=CHECKED,
        ),
        # These mean the same compiled and interpreted. Their annotations are for mypy: C's types stand in the .pxd.
        *translated(
            extensions(each for each in FASTZK.rglob("*.py") if each.with_suffix(".pxd").exists()),
            annotation_typing=False,
        ),
    ],
    # The C compiler takes most of the time: one for each processor.
    options={"build_ext": {"parallel": JOBS}},
)
