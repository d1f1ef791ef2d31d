import asyncio

from fastzk.server._apply import Applier
from fastzk.server._clients import Clients
from fastzk.server._line import Line

class ReadOnly(Line):
    """Refuses every write and every sync with NotReadOnly."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clients: Clients, applier: Applier) -> None: ...
