#: ``world:anyone`` with every permission, as a ``vector<ACL>`` on the wire.
OPEN_ACL: bytes

class AclTable:
    """Every distinct ACL list in use, by number, with reference counts. Number 0 is ``OPEN_ACL``."""

    #: Let every request pass whatever the ACLs say (ZooKeeper's ``skipACL``).
    skip_checks: bool

    def __len__(self) -> int:
        """Distinct lists in use; ``OPEN_ACL`` always counts."""

    def vector(self, acl_id: int) -> bytes:
        """The list with this number, in wire form. Raises KeyError when there is none."""

    def take_changed(self) -> dict[int, bytes | None]:
        """The lists that appeared (bytes) or went (None) since the last call."""

    def mark_changed(self, ids: set[int]) -> None:
        """A checkpoint failed: ``ids`` still have to be written."""

    def load(self, acl_id: int, vector: bytes) -> None:
        """Restore one list under its number; loading the znodes adds the references.

        Raises ValueError when the number or the list is there already, or the number is out of range.
        """

    def load_finish(self) -> None:
        """Make the numbers that nobody uses free again; those that were loaded are to be removed by the
        next checkpoint."""

def permits(vector: bytes, perm: int, identities: bytes) -> bool:
    """Whether ``identities`` hold one of the permissions ``perm`` under the ACL ``vector``.

    ``vector`` is a ``vector<ACL>`` on the wire, ``identities`` are (scheme, id) pairs of strings on the wire,
    without a count. A malformed vector permits what its readable part permits; a null matches nothing.
    """
