from fastzk._tree import Tree

class Pages:
    """Pages of the children lists of ``tree`` in the byte order of the names."""

    def __init__(self, tree: Tree) -> None: ...
    @property
    def searches(self) -> int:
        """How many times all children of a znode were looked through; to be tested."""
