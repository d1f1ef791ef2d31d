from asyncio import AbstractEventLoop
from collections.abc import Callable

class Gathering:
    """Says when a leader's next batch is to leave; ``wake`` is called in ``loop`` when one has waited long enough."""

    #: What a batch took lately from the log to its commit, in nanoseconds: one that waits does so for twice as long.
    cycle_ns: int
    #: Nanoseconds for which a batch waits at most.
    most_ns: int
    def __init__(self, loop: AbstractEventLoop, wake: Callable[[], object]) -> None: ...
    def expired(self) -> None:
        """Called by the event loop."""
