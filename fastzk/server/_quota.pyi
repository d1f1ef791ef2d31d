from fastzk._tree import Tree

def parse_track(data: bytes | None) -> dict[str, int] | None:
    """The numbers in the data of a limits or stats znode by name; None if ZooKeeper could not read it.

    Pairs ``name=number`` with commas or semicolons between; an empty number is -1, what follows a second
    ``=`` is ignored, the last of several pairs with one name counts.
    """

class Quotas:
    """The quotas of ``tree``, which must be whole already; kept by those who prepare and apply changes."""

    #: Refuse what exceeds a hard limit (``enforceQuota``); else it is only logged.
    enforce: bool
    def __init__(self, tree: Tree) -> None: ...
    @property
    def active(self) -> int:
        """How many quotas there are."""

    @property
    def open(self) -> int:
        """Proposed changes below a quota that are not applied yet."""

    def usage(self) -> dict[bytes, tuple[int, int] | None]:
        """Path -> znodes and bytes that its stats show; None: there are no stats."""
