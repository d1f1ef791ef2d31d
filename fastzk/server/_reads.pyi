from fastzk._tree import Tree
from fastzk.server._clients import Clients
from fastzk.server._paging import Pages
from fastzk.server._watches import Watches

class Reads:
    """Answers requests that need no transaction."""

    pages: Pages
    #: Whether requests beyond ZooKeeper's are answered; ``extend`` makes it so.
    extensions: bool
    def __init__(self, tree: Tree, watches: Watches, clients: Clients) -> None: ...
    def limit(self, max_reply: int, max_page: int) -> None:
        """Set how large replies may be, in bytes of a frame: ``max_reply`` for lists (0: no limit), and
        ``max_page`` for a page of a list where there is no such limit.
        """

    def extend(self, virtual: dict[bytes, bytes]) -> None:
        """Answer the extensions' requests, and show the znodes ``virtual`` (path -> data), which are in no tree."""

    def descendants(self, top: int) -> int:
        """How many znodes are below the one in slot ``top``."""
