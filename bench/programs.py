"""The C programs of this folder: compiled where they are used, and run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from servers import Failed

HERE: Final = Path(__file__).resolve().parent


def compiler() -> list[str] | None:
    """The command of the C compiler ($CC, cc or gcc); None if there is none."""
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    return shlex.split(found) if found else None


def compile_program(name: str, folder: Path) -> Path:
    """``name``.c, compiled into ``folder``. Raises Failed: no compiler, or it refuses."""
    command = compiler()
    if command is None:
        raise Failed("no C compiler (cc, gcc or $CC): the load generator is written in C")
    target = folder / name
    command += ["-O2", "-o", str(target), str(HERE / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{shlex.join(command)}:\n{done.stderr}")
    return target


def run_zkload(program: Path, *arguments: str) -> dict[str, Any]:
    """What zkload found (see zkload.c). Raises Failed when it did not run, or a request was answered with an error."""
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise Failed(f"failed under `zkload {shlex.join(arguments)}`: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    if done.returncode or result["errors"]:
        raise Failed(f"answered {result['errors']} errors to `zkload {shlex.join(arguments)}`")
    return result
