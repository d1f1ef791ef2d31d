from fastzk._tree import Tree

class Overlay:
    """The changes that are proposed but not applied yet, over ``tree``."""

    def __init__(self, tree: Tree) -> None: ...
    def __len__(self) -> int:
        """Znodes with proposed changes."""
