"""Servers for tests, and ways to make things go wrong: nothing but fastzk is needed, no Java, no ports to choose.

The pytest plugin (:mod:`fastzk.testing.plugin`) gives all of this as fixtures.
"""

from fastzk.testing.link import Link
from fastzk.testing.servers import EphemeralEnsemble, EphemeralServer, ServerFailed
from fastzk.testing.sessions import expire_session

__all__ = ["EphemeralEnsemble", "EphemeralServer", "Link", "ServerFailed", "expire_session"]
