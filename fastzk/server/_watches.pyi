from fastzk._acl import AclTable
from fastzk.server._clients import Client, Clients

class Watches:
    """The watches of all clients of this server."""

    def __init__(self, clients: Clients, acls: AclTable) -> None: ...
    @property
    def count(self) -> int:
        """Watches as ZooKeeper counts them: data and child watches apart."""

    @property
    def recursive_count(self) -> int: ...
    @property
    def path_count(self) -> int:
        """Distinct paths that somebody watches."""

    def __len__(self) -> int:
        """The same as ``count``."""

    def forget(self, client: Client) -> None:
        """Remove every watch of a client whose connection ended."""

    def by_path(self) -> list[tuple[bytes, list[Client]]]:
        """Each watched path with its watchers."""

    def of_client(self, client: Client) -> list[bytes]:
        """The paths that a client watches."""
