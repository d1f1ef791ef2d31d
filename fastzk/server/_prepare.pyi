from collections.abc import Callable

from fastzk._tree import Tree
from fastzk.server._overlay import Overlay

class Preparer:
    """Turns write requests into transactions, validating them against ``tree`` and ``overlay``."""

    #: From an ACL as asked for (``vector<ACL>`` on the wire) and a client's identities to the one that is
    #: stored; None if it is invalid. ValueError: to be answered as a marshalling error.
    fix_acl: Callable[[bytes, list[tuple[str, str]]], bytes | None]
    #: Whether znodes with a time to live may be made (``extendedTypesEnabled``).
    ttl_enabled: bool
    #: Whether /zookeeper/config holds the membership of an ensemble: then only a reconfiguration changes it.
    keeps_membership: bool
    #: Whether a multi may hold requests beyond ZooKeeper's.
    extensions: bool
    #: Bytes of a transaction that a removeRecursive may become.
    max_removal: int
    def __init__(self, tree: Tree, overlay: Overlay) -> None: ...
