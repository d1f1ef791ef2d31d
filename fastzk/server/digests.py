"""Whether this server's tree is the leader's: their digests at the same zxid, compared.

Servers with the same zxid have the same tree, so they have the same digest. The leader says its own now and then, when
this server is perhaps not as far, or further already: so both sides of a comparison may have to wait for the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

#: Batches whose digest is remembered, to be compared with the leader's.
DIGESTS_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Difference:
    """At ``zxid`` this server's tree has the digest ``own``, the leader's has ``leaders``."""

    zxid: int
    own: int
    leaders: int

    def told(self, leader: int) -> str:
        """The same for an operator; ``leader`` is the leader's id."""
        return f"at zxid 0x{self.zxid:x} the tree's digest is {self.own:x}, that of leader {leader} is {self.leaders:x}"


class Digests:
    """The digests behind this server's newest batches, and one of the leader's that is not to be compared yet."""

    def __init__(self) -> None:
        self._own: deque[tuple[int, int]] = deque(maxlen=DIGESTS_KEPT)
        #: What the leader said of a zxid that this server has not applied yet.
        self._expected: tuple[int, int] | None = None

    def note(self, zxid: int, digest: int) -> Difference | None:
        """This server has applied all up to `zxid`. Where its tree is seen to differ from the leader's, if anywhere."""
        self._own.append((zxid, digest))
        if self._expected is None or self._expected[0] > zxid:
            return None
        expected, self._expected = self._expected, None
        return self._compare(*expected)

    def leader_has(self, zxid: int, digest: int, *, applied: int) -> Difference | None:
        """The leader had `digest` at `zxid`, this server has applied all up to `applied`. As ``note``."""
        if zxid <= applied:
            return self._compare(zxid, digest)
        if self._expected is None:
            self._expected = (zxid, digest)
        return None

    def _compare(self, zxid: int, digest: int) -> Difference | None:
        for known, own in reversed(self._own):
            if known <= zxid:
                return Difference(zxid, own, digest) if known == zxid and own != digest else None
        return None
