from fastzk._tree import Tree
from fastzk.server._clients import Clients
from fastzk.server._watches import Watches

class Reads:
    """Answers requests that need no transaction."""

    def __init__(self, tree: Tree, watches: Watches, clients: Clients) -> None: ...
    def descendants(self, top: int) -> int:
        """How many znodes are below the one in slot ``top``."""
