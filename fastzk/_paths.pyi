def validate(path: str | bytes) -> bool:
    """Whether ZooKeeper accepts ``path`` (text, or its UTF-8 bytes) as the path of a znode to be created."""

def path_hash(data: bytes, seed: int) -> int:
    """The keyed 64-bit hash of the lookup tables and of the tree digest, for tests and tools.

    ``seed`` is an unsigned 64-bit number (OverflowError otherwise).
    """
