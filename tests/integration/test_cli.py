"""The command line as a process: exit codes, one line on stderr, and nothing left on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fastzk import __version__
from fastzk.server import cli
from fastzk.server.config import Config
from fastzk.server.errors import StartupError

ROOT = Path(__file__).parents[2]


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in ``directory`` to its end."""
    environ = {name: value for name, value in os.environ.items() if name != "FASTZK_LOG_LEVEL"}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "fastzk.server.cli", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def everything_in(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Path, mode, time of change and content of all there is."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def write_config(directory: Path, *lines: str) -> None:
    (directory / "zoo.cfg").write_text("".join(f"{line}\n" for line in lines))


def test_version(tmp_path: Path) -> None:
    before = everything_in(tmp_path)
    result = run(tmp_path, "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"fastzk-server {__version__}\n", "")
    assert everything_in(tmp_path) == before


def test_help(tmp_path: Path) -> None:
    result = run(tmp_path, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    for flag in (
        "--data-dir",
        "--client-port",
        "--client-address",
        "--set",
        "--check-config",
        "--verify-data",
    ):
        assert flag in result.stdout


def test_check_config_without_a_file(tmp_path: Path) -> None:
    before = everything_in(tmp_path)
    result = run(tmp_path, "--check-config")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert f"dataDir={tmp_path}/data" in lines
    assert {"clientPort=2181", "clientPortAddress=127.0.0.1", "tickTime=3000"} <= set(lines)
    assert everything_in(tmp_path) == before


def test_check_config_prints_what_is_in_effect_and_warns(tmp_path: Path) -> None:
    write_config(
        tmp_path,
        "tickTime=2000",
        "dataDir=data",
        "clientPort=2181",
        "tickTme=5",
        "admin.enableServer=false",
        "forceSync=no",
        "DigestAuthenticationProvider.superDigest=super:hush",
    )
    before = everything_in(tmp_path)
    flags = ["--client-port", "0", "--set", "snapCount=5", "--set", "zookeeper.skipACL=yes"]
    result = run(tmp_path, "zoo.cfg", *flags, "--check-config")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "fastzk-server: warning: zoo.cfg:4: unknown key 'tickTme' (did you mean 'tickTime'?)",
        "fastzk-server: warning: accepted, without effect yet: admin.enableServer",
        "fastzk-server: warning: accepted, without meaning here: forceSync",
    ]
    assert {
        "tickTime=2000",
        "maxSessionTimeout=40000",
        "clientPort=0",
        "clientPortAddress=0.0.0.0",
        "snapCount=5",
        "skipACL=yes",
        "DigestAuthenticationProvider.superDigest=***",
    } <= set(result.stdout.splitlines())
    assert "hush" not in result.stdout + result.stderr
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    "mode", [["--check-config"], [], ["--verify-data"]], ids=["check", "serve", "verify"]
)
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["clientPort=2181", "tickTime=abc"],
            "zoo.cfg:3: tickTime: 'abc' is not a whole number of milliseconds",
        ),
        (
            ["clientPort=2181", "dataLogDir=none/log"],
            "zoo.cfg:3: dataLogDir: 'DIR/none/log' cannot be created: create 'DIR/none' first",
        ),
        (
            ["clientPort=2181", "secureClientPort=2181"],
            "zoo.cfg:3: secureClientPort: port 2181 is also that of clientPort (zoo.cfg:2)",
        ),
        (
            ["clientPort=2181", "server.1=a:1:2", "server.2=b:1:2"],
            "zoo.cfg: initLimit is not set: add a line initLimit=10",
        ),
    ],
    ids=["number", "directory", "port", "ensemble"],
)
def test_a_wrong_file(tmp_path: Path, lines: list[str], message: str, mode: list[str]) -> None:
    # The unknown key is only a warning: it must not come before, or instead of, the error.
    write_config(tmp_path, "dataDir=data", *lines, "unknownKey=1")
    before = everything_in(tmp_path)
    result = run(tmp_path, "zoo.cfg", *mode)
    expected = f"fastzk-server: {message}\n".replace("DIR", str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (2, "", expected)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.cfg"], "none.cfg: cannot read the file: No such file or directory"),
        (["two\nlines.cfg"], "two\\nlines.cfg: cannot read the file: No such file or directory"),
        (
            ["--client-port", "99999"],
            "--client-port: '99999' is not a port number from 0 to 65535 (0 takes any free one)",
        ),
        (["--data-dir", "a/b"], "--data-dir: 'DIR/a/b' cannot be created: create 'DIR/a' first"),
        (["--set", "tickTime=abc"], "--set tickTime: 'abc' is not a whole number of milliseconds"),
        (["--set", "tickTime"], "--set: write key=value"),
        (["--log-level", "x"], "--log-level: 'x' is not one of: debug, info, warning, error, critical"),
        (["--client-port"], "argument --client-port: expected one argument (see fastzk-server --help)"),
        (["--data", "x"], "unrecognized arguments: --data (see fastzk-server --help)"),
        (
            ["--verify-data", "--check-config"],
            "argument --check-config: not allowed with argument --verify-data (see fastzk-server --help)",
        ),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    before = everything_in(tmp_path)
    result = run(tmp_path, *arguments)
    expected = f"fastzk-server: {message}\n".replace("DIR", str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (2, "", expected)
    assert everything_in(tmp_path) == before


class TestHandingOver:
    """What ``main`` gives to the rest of the server, and what it makes of the answer."""

    @pytest.fixture(autouse=True)
    def _own_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("FASTZK_LOG_LEVEL", raising=False)
        # Handlers on the root logger would outlive the test.
        monkeypatch.setattr(cli, "setup_logging", lambda level: None)

    def stand_in(
        self, monkeypatch: pytest.MonkeyPatch, module: str, function: str, answer: object
    ) -> list[Config]:
        """Replaces a module by one whose ``function`` notes its argument and returns or raises ``answer``."""
        seen: list[Config] = []

        def called(config: Config) -> object:
            seen.append(config)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        replacement = types.ModuleType(module)
        setattr(replacement, function, called)
        monkeypatch.setitem(sys.modules, module, replacement)
        return seen

    def test_serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.stand_in(monkeypatch, "fastzk.server.app", "serve", 7)
        assert cli.main(["--client-port", "0", "--set", "tickTime=5"]) == 7
        assert [(config.client_port, config.tick_time_ms) for config in seen] == [(0, 5)]

    def test_verify_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.stand_in(monkeypatch, "fastzk.server.verify", "verify_data", 3)
        assert cli.main(["--verify-data", "--data-dir", "elsewhere"]) == 3
        assert [config.data_dir for config in seen] == [Path("elsewhere").absolute()]

    def test_a_failed_start_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stand_in(monkeypatch, "fastzk.server.app", "serve", StartupError("port 2181\nis in use"))
        assert cli.main([]) == 1
        assert capsys.readouterr().err == "fastzk-server: port 2181\\nis in use\n"

    def test_an_unexpected_error_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stand_in(monkeypatch, "fastzk.server.app", "serve", ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            cli.main([])
