"""fastzk: a coordination server and client that speak ZooKeeper's protocol."""

from fastzk._version import __version__

__all__ = ["__version__"]
