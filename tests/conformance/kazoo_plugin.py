"""A pytest plugin that lets kazoo's own test suite run against one server of ours.

    PYTHONPATH=tests python -m pytest -p conformance.kazoo_plugin --pyargs kazoo.tests.test_client

kazoo's harness starts a cluster of three Java servers; here its cluster has one node, a process of
``support.servers``. ``FASTZK_TEST_SERVER=zookeeper`` makes it Debian's ZooKeeper, which tells what the
suite expects of three servers from what ours does wrong.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kazoo.testing.harness
from kazoo.testing.common import ZookeeperCluster
from support.servers import Server, free_port, make_server

KIND = os.environ.get("FASTZK_TEST_SERVER", "fastzk")
STORE_PASSWORD = "apassword"  # noqa: S105

# The harness takes these from the environment; the version only decides which tests it skips.
os.environ["ZOOKEEPER_VERSION"] = "3.8.0"
os.environ["ZOOKEEPER_CLUSTER_SIZE"] = "1"


class Node:
    """What the suite uses of kazoo's ``ManagedZooKeeper``: run, stop, reset, destroy, addresses and logs."""

    def __init__(self, settings: list[str], jaas: str | None, stores: dict[str, Any]) -> None:
        self.host = "127.0.0.1"
        self.client_port = free_port()
        self.secure_client_port = free_port()
        self._settings = dict(line.split("=", 1) for line in settings)
        self._jaas = jaas
        self._stores = stores
        self._server: Server | None = None
        self._folder: Path | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.client_port}"

    @property
    def secure_address(self) -> str:
        return f"{self.host}:{self.secure_client_port}"

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.running

    def run(self) -> None:
        """Start, on the data of the last run if there is any."""
        if self.running:
            return
        if self._server is None:
            self._folder = Path(tempfile.mkdtemp(prefix="fastzk-kazoo-"))
            settings = {**self._settings, **self._security(self._folder)}
            self._server = make_server(KIND, self._folder, settings, port=self.client_port)
        self._server.start()

    def _security(self, folder: Path) -> dict[str, str]:
        """Write the stores and the JAAS file as kazoo's own harness does; the settings that name them."""
        if KIND != "fastzk":
            # ZooKeeper would also need options of Java and Netty; its TLS and SASL are not what is tested here
            return {}
        settings = {
            "secureClientPort": str(self.secure_client_port),
            "secureClientPortAddress": self.host,
            "authProvider.1": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        }
        for setting, store in (("keyStore", "keystore"), ("trustStore", "truststore")):
            path = folder / f"{store}.jks"
            self._stores[store].save(str(path), STORE_PASSWORD)
            settings[f"ssl.{setting}.location"] = str(path)
            settings[f"ssl.{setting}.password"] = STORE_PASSWORD
        if self._jaas is not None:
            path = folder / "jaas.conf"
            path.write_text(self._jaas)
            settings["java.security.auth.login.config"] = str(path)
        return settings

    def stop(self) -> None:
        """Stop, keeping the data."""
        if self._server is not None and self._server.running:
            code, _ = self._server.terminate()
            assert code == (0 if KIND == "fastzk" else 143), self._server.explain(f"exit code {code}")

    def reset(self) -> None:
        """Stop and forget the data."""
        self.stop()
        if self._server is not None:
            shutil.rmtree(self._server.data_dir, ignore_errors=True)

    def destroy(self) -> None:
        self.stop()
        self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def get_logs(self, num_lines: int = 100) -> list[str]:
        return [] if self._server is None else self._server.log_text().splitlines(keepends=True)[-num_lines:]


class Cluster(ZookeeperCluster):  # type: ignore[misc]
    """A cluster of one. The base class's constructor, which makes Java nodes, is given none of those."""

    def __init__(
        self,
        configuration_entries: list[str],
        java_system_properties: list[str],
        jaas_config: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__(size=0)  # makes the certificates
        settings = [entry for entry in configuration_entries if not entry.startswith("localSessions")]
        prefix = "-Dzookeeper."
        settings += [p.removeprefix(prefix) for p in java_system_properties if p.startswith(prefix)]
        settings.append("extendedTypesEnabled=true")
        self._servers = [Node(settings, jaas_config, self._ssl_configuration)]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._servers)

    def start(self) -> None:
        for node in self:
            node.run()


kazoo.testing.harness.ZookeeperCluster = Cluster
