"""Where a comparison runs: a folder on a real disk, and what the report says of machine and versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from programs import compiler
from servers import ZOOKEEPER_JAR, Failed, Fastzk, Server, ZooKeeper

from compare.peers import Etcd, Redis

BENCH: Final = Path(__file__).resolve().parent.parent
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def file_system(folder: Path) -> tuple[str, str]:
    """The device and the type of the file system a folder is on."""
    best, found = "", ("unknown", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        mount = mount.encode().decode("unicode_escape")
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, found = mount, (device, kind)
    return found


def disk_folder(wanted: str | None) -> Path:
    """A folder on a real disk. Raises Failed when there is none: a disk in memory makes fdatasync free."""
    candidates = [wanted] if wanted else [tempfile.gettempdir(), "/var/tmp", os.getcwd()]
    for candidate in candidates:
        if os.access(candidate, os.W_OK) and file_system(Path(candidate))[1] not in MEMORY_FILE_SYSTEMS:
            return Path(candidate)
    raise Failed(f"not a writable folder on a real disk: {', '.join(candidates)}; name one with --dir")


def machine(folder: Path) -> dict[str, str]:
    """Processor, memory, disk, kernel."""
    device, kind = file_system(folder)
    found = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{os.cpu_count()} x {found[0] if found else platform.machine()}, {memory:.0f} GiB of memory",
        "disk": f"{device}, {kind}",
        "kernel": f"Linux {platform.release()}",
    }


def first_line(command: Sequence[str]) -> str:
    """What a program prints first; empty if it cannot be run."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[0]


def commit() -> str:
    """Of this checkout; empty where it is none."""
    git = ["git", "-C", str(BENCH)]
    found = first_line([*git, "log", "-1", "--format=%h of %cs"])
    if not found or found.startswith("fatal"):
        return ""
    changed = first_line([*git, "status", "--porcelain", "--untracked-files=no"])
    return f"{found}, with changes that are not committed" if changed else found


def package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def versions(kinds: Sequence[type[Server]]) -> dict[str, str]:
    """Of every server and of what they and the load generators are built with."""
    found = {}
    if Fastzk in kinds:
        found["fastzk"] = Fastzk.version().stdout.strip().removeprefix("fastzk-server").strip()
        if here := commit():
            found["commit"] = here
    packages = ", ".join(f"{name} {package(name)}" for name in ("uvloop", "lmdb", "xxhash", "kazoo"))
    found["Python"] = f"{platform.python_version()} ({packages})"
    if ZooKeeper in kinds:
        version = first_line(["dpkg-query", "-W", "-f", "${Version}", "zookeeper"])
        found["Apache ZooKeeper"] = version or ZOOKEEPER_JAR.resolve().name
        found["Java"] = first_line(["java", "-version"])
    if Redis in kinds:
        found["Redis"] = first_line(["redis-server", "--version"])
    if Etcd in kinds:
        found["etcd"] = first_line(["etcd", "--version"]).removeprefix("etcd Version:").strip()
    found["C compiler"] = first_line([*(compiler() or ["cc"]), "--version"])
    return found
