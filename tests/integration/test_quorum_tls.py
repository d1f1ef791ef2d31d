"""TLS between servers: with certificates of one authority they form an ensemble, and a stranger stays outside."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wire
from support.certificates import Files, make, write_files
from support.ensembles import Ensemble, eventually


def settings(files: Files) -> dict[str, str]:
    quorum = {name.replace("ssl.", "ssl.quorum."): value for name, value in files.settings().items()}
    return {"sslQuorum": "true", "sslQuorumReloadCertFiles": "true", **quorum}


def first_word(context: ssl.SSLContext, port: int) -> bytes:
    """What a server says to whom connects by TLS. Raises SSLError, ConnectionError."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secured,
    ):
        said = secured.recv(100)
        if not said:
            raise ConnectionError("closed")
        return said


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "certificates")


@pytest.fixture
def foreign(tmp_path: Path) -> Files:
    return write_files(tmp_path / "foreign")


@pytest.fixture
def pair(tmp_path: Path, files: Files, foreign: Files) -> Iterator[Ensemble]:
    """Three servers, of which the third has certificates of another authority, and is not started."""
    own = {3: settings(foreign)}
    with Ensemble("fastzk", tmp_path, 3, config=settings(files), own_config=own) as ensemble:
        ensemble.launch(1, 2)
        ensemble.wait_serving(1, 2)
        yield ensemble


def test_three_servers_form_an_ensemble(tmp_path: Path, files: Files) -> None:
    with Ensemble("fastzk", tmp_path, 3, config=settings(files)) as ensemble:
        ensemble.start()
        with ensemble.session(1) as session:
            session.create("/one")
        ensemble.assert_same_trees()
        quorum_port = ensemble.peer_ports[1][0]
        # Nobody gets through without TLS, nor without a certificate.
        with socket.create_connection(("127.0.0.1", quorum_port), timeout=10) as plain:
            plain.sendall(bytes(100))
            assert plain.recv(100)[:1] != b"C", "that is a server's challenge in the open"
        anonymous = ssl.create_default_context(cafile=str(files.authority_file))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            first_word(anonymous, quorum_port)
        leader = ensemble.leader()
        ensemble.kill9(leader)
        other = ensemble.leader(other_than=leader)
        with ensemble.session(other) as session:
            session.create("/two")


def test_a_foreign_certificate_is_kept_out(pair: Ensemble) -> None:
    leader = pair.leader()
    zxid = pair.word(leader, "srvr").partition("Zxid: ")[2].split()[0]
    pair.launch(3)
    eventually(
        lambda: "reason=TLS handshake failed" in pair[3].log_text()
        and any("connection of a server refused" in pair[i].log_text() for i in (1, 2)),
        "both sides say why",
        pair,
    )
    assert pair.mode(3) is None
    assert pair.leader() == leader
    assert pair.word(leader, "srvr").partition("Zxid: ")[2].split()[0] == zxid
    with pair.session(leader) as session:
        session.create("/still-here")
        assert session.error(wire.get_data("/still-here")) == wire.OK


def test_certificates_are_read_again(pair: Ensemble, files: Files, foreign: Files) -> None:
    pair.launch(3)
    eventually(lambda: "reason=TLS handshake failed" in pair[3].log_text(), "it is kept out", pair)
    # Now it gets a certificate of the others' authority, while it runs.
    for name in ("ca.pem", "server.pem"):
        fresh = foreign.directory / f"{name}.new"
        shutil.copy(files.directory / name, fresh)
        os.replace(fresh, foreign.directory / name)
    eventually(lambda: "certificates read again" in pair[3].log_text(), "it reads them", pair)
    pair.wait_serving(3)
    pair.assert_same_trees()


def test_a_certificate_for_another_host_is_kept_out(tmp_path: Path, files: Files) -> None:
    elsewhere = make("elsewhere", files.authority, address="192.0.2.7")
    chain = elsewhere.key_pem() + elsewhere.certificate_pem
    store = files.directory / "elsewhere.pem"
    store.write_bytes(chain)
    own = {
        3: {**settings(files), "ssl.quorum.keyStore.location": str(store), "ssl.quorum.keyStore.password": None},
    }
    with Ensemble("fastzk", tmp_path, 3, config=settings(files), own_config=own) as ensemble:
        ensemble.launch(1, 2)
        ensemble.wait_serving(1, 2)
        ensemble.launch(3)
        eventually(
            lambda: any("its certificate is not for 127.0.0.1" in ensemble[i].log_text() for i in (1, 2)),
            "it is refused",
            ensemble,
        )
        assert ensemble.mode(3) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ssl.quorum.trustStore.location": None}, "ssl.quorum.trustStore.location is not set"),
        ({"ssl.quorum.keyStore.password": "wrong"}, "ssl.quorum.keyStore.location: "),
        ({"ssl.quorum.clientAuth": "none"}, "ssl.quorum.clientAuth: "),
        ({"ssl.quorum.protocol": "TLSv9"}, "ssl.quorum.protocol: "),
    ],
)
def test_what_is_wrong_stops_the_start(
    tmp_path: Path, files: Files, changed: dict[str, str | None], message: str
) -> None:
    with Ensemble("fastzk", tmp_path, 3, config={**settings(files), **changed}) as ensemble:
        ensemble.launch(1)
        process = ensemble[1].process
        assert process is not None
        assert process.wait(20) in {1, 2}
        assert message in ensemble[1].log_text()
