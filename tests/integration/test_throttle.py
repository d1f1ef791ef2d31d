"""Connect requests above their rate, large requests above their sum, and the trace mask."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from support import wire
from support.servers import Server
from support.wire import Session

from .conftest import ServerFactory


def opened(server: Server, attempts: int) -> list[Session]:
    sessions = []
    for _ in range(attempts):
        with contextlib.suppress(wire.Closed):
            sessions.append(server.session())
    return sessions


def test_connection_tokens(new_server: ServerFactory) -> None:
    config = {"connectionMaxTokens": "6", "connectionTokenFillTime": "500", "connectionTokenFillCount": "1"}
    server = new_server(config)
    server.start()
    sessions = opened(server, 20)
    # one or two tokens went to the harness, and some may have come since
    assert 3 <= len(sessions) <= 9
    for session in sessions:
        session.ping()
    assert "reason=connectionMaxTokens" in server.log_text()
    # who goes on with a session needs a token, too
    first = sessions[0]
    first.drop()
    refused = renewed = 0
    deadline = time.monotonic() + 20
    while not renewed:
        assert time.monotonic() < deadline
        try:
            again = server.session(session_id=first.session_id, password=first.password)
            assert again.session_id == first.session_id
            again.drop()
            renewed += 1
        except wire.Closed:
            refused += 1
            time.sleep(0.02)
    assert refused
    for session in sessions[1:]:
        session.ping()
        session.drop()


def test_drop_chance_is_shown(new_server: ServerFactory) -> None:
    server = new_server(
        {
            "connection_throttle_tokens": "3",
            "connection_throttle_fill_time": "600000",
            "connection_throttle_freeze_time": "0",
            "connection_throttle_drop_increase": "0.5",
        }
    )
    server.start()
    assert "zk_connection_drop_probability\t0.0\n" in server.four_letter_word("mntr")

    def certain() -> bool:
        opened(server, 5)
        return "zk_connection_drop_probability\t1.0\n" in server.four_letter_word("mntr")

    wire.poll(certain, "every connection is dropped")


def test_large_requests(new_server: ServerFactory) -> None:
    server = new_server({"largeRequestThreshold": "1000", "largeRequestMaxBytes": "50000"})
    server.start()
    with server.session() as zk, server.session() as other:
        zk.create("/a")
        for _ in range(200):  # each is answered before the next: never more than one in progress
            zk.set("/a", bytes(40_000))
        zk.send(*[wire.set_data("/a", bytes(900))] * 500)  # not large
        assert {zk.reply().err for _ in range(500)} == {0}
        # one alone is above the sum: refused by its length, before its bytes have come
        greedy = server.session()
        greedy.send_bytes(struct.pack(">i", 60_000) + bytes(100))
        greedy.assert_closed()
        greedy.drop()
        # many at once: some are done, then the connection is closed
        greedy = server.session()
        with contextlib.suppress(wire.Closed):
            greedy.send(*[wire.set_data("/a", bytes(20_000))] * 50)
        replies = 0
        with contextlib.suppress(wire.Closed):
            while True:
                assert greedy.reply().err == 0
                replies += 1
        assert replies < 50
        greedy.drop()
        other.sync("/")  # behind what is in progress: then it is given back
        for _ in range(10):
            other.set("/a", bytes(40_000))
    assert "large requests in progress" in server.log_text()


def test_trace_mask(server: Server) -> None:
    assert server.four_letter_word("gtmk") == "306"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"stmk" + struct.pack(">q", 258))
        assert sock.recv(100) == b"258"
    assert server.four_letter_word("gtmk") == "258"
