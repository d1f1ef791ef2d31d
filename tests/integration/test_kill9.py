"""kill -9 in a loop under load: the server starts again every time and no acknowledged write is lost."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess

import pytest
from support.load import Load, Step
from support.servers import Server

from .conftest import ServerFactory

#: All rounds together; they are spread over the tests below.
ROUNDS = int(os.environ.get("FASTZK_KILL_ROUNDS", "50"))
CONFIGS = [
    pytest.param({}, id="default"),
    pytest.param({"snapCount": "300"}, id="checkpoints"),
    pytest.param({"snapCount": "50", "preAllocSize": "64"}, id="tiny-segments"),
    pytest.param({"snapCount": "1000", "preAllocSize": "256"}, id="small-segments"),
    pytest.param({"snapCount": "300", "commitLogCount": "10"}, id="short-tail"),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_no_acknowledged_write_is_lost(
    config: dict[str, str], request: pytest.FixtureRequest, new_server: ServerFactory
) -> None:
    number = [param.id for param in CONFIGS].index(request.node.callspec.id)
    rounds = ROUNDS // len(CONFIGS) + (number < ROUNDS % len(CONFIGS))
    seed = int(os.environ.get("FASTZK_KILL_SEED", "1")) * 100 + number
    rnd = random.Random(seed)
    server = new_server(config)
    load = Load(seed)
    server.start()
    load.create_roots(server)
    for _ in range(rounds):
        # Sometimes at once, sometimes after thousands of writes: a crash must be harmless anywhere.
        load.start(server)
        load.wait_for_acks(int(10 ** rnd.uniform(0, 3.3)))
        server.kill9()
        load.join()
        if rnd.random() < 0.2:
            # and once more while it recovers
            process = server.launch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(rnd.uniform(0, 0.5))
                pytest.fail(server.explain(f"refused to start: exit code {code}"))
            server.kill9()
        server.start()
        load.verify(server)
    code, _ = server.terminate()
    assert code == (0 if server.kind == "fastzk" else 143), server.explain("exit code")
    server.start()
    load.verify(server)
    print(f"{rounds} rounds, {load.acks} acknowledged writes")


def test_the_check_itself_notices_losses(server: Server) -> None:
    """A znode gone, one changed, or one too many: each makes the check fail, or it would prove nothing."""
    load = Load(seed=7, writers=1)
    load.create_roots(server)
    load.start(server)
    load.wait_for_acks(300)
    load.stop()
    load.join()
    load.verify(server)
    (writer,) = load.writers
    leaves = [p for p in writer.acknowledged.nodes if not writer.acknowledged.has_children(p)]
    with server.session() as zk:
        zk.create(f"{writer.root}/unexpected")
        with pytest.raises(AssertionError, match="unexpected should not be there"):
            load.verify(server)
        writer.acknowledged.apply(Step("create", f"{writer.root}/unexpected"), None)
        load.verify(server)
        zk.set(leaves[0], b"other")
        with pytest.raises(AssertionError, match="matches none of the states"):
            load.verify(server)
        zk.delete(leaves[0])
        with pytest.raises(AssertionError, match=f"{leaves[0]} is missing"):
            load.verify(server)
