"""Recipes of Apache Curator (Debian's packages libcurator-*-java), by the Java program beside this file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import Server, ZooKeeperServer, make_server, require

PROGRAM = Path(__file__).with_name("CuratorRecipes.java")
JARS = Path("/usr/share/java")
CURATOR = [JARS / f"curator-{part}.jar" for part in ("recipes", "framework", "client")]
RECIPES = ("lock", "readwritelock", "latch", "counter", "barrier", "cache", "queue")


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program compiled, in front of all it needs."""
    require(shutil.which("javac"), "no javac (Debian package openjdk-17-jdk-headless)")
    require(ZooKeeperServer.missing() is None, f"Apache ZooKeeper: {ZooKeeperServer.missing()}")
    require(all(jar.exists() for jar in CURATOR), "no Curator (Debian package libcurator-recipes-java)")
    folder = tmp_path_factory.mktemp("curator")
    path = ":".join(map(str, [folder, *CURATOR, JARS / "zookeeper.jar", JARS / "slf4j-nop.jar", f"{JARS}/*"]))
    command = ["javac", "-encoding", "UTF-8", "-nowarn", "-proc:none", "-d", str(folder), "-cp", path, str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = make_server("fastzk", tmp_path / "fastzk", {"extendedTypesEnabled": "true"}).start()
    yield made
    made.discard()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe(recipe: str, classpath: str, server: Server) -> None:
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", classpath, "CuratorRecipes", server.hosts, recipe]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, cwd=server.directory)
    assert done.returncode == 0, server.explain(done.stdout[-6000:] + done.stderr[-3000:])
    assert done.stdout.splitlines()[-1] == f"ok {recipe}"
    assert server.running
