"""Quotas: limits on the znodes and bytes of a subtree, and how much of them is used.

A quota on ``/a`` is the znode ``/zookeeper/quota/a/zookeeper_limits`` with a text like
``count=100,bytes=-1=;byteHardLimit=5000;countHardLimit=-1``. What ``/a`` uses is the text of the
``zookeeper_stats`` beside it. The server overwrites that when it is created and from then on with every
change below ``/a``, silently: no event, no new version, no mzxid. A znode counts for the nearest quota above
it only.

All there is to know stands in the tree, so servers that apply the same transactions keep the same stats, and
a new start reads the table back from ``/zookeeper/quota``. What is proposed and not applied yet is noted with
its zxid: it counts when a hard limit is checked, and goes when it is applied or its zxid is given to another.

A quota costs nothing while there is none: writes then test ``active`` and the beginning of their path.
"""

import logging
import re
from collections import deque

from libc.stdio cimport snprintf
from libc.string cimport memcmp

from fastzk._constants cimport ERR_MARSHALLING, ERR_OK, ERR_QUOTA_EXCEEDED
from fastzk._paths cimport parent_length
from fastzk._tree cimport Node
from fastzk.server._clients cimport fz_monotonic_ns

cdef enum:
    LIMITS = 1
    STATS = 2

cdef int64_t WARN_NS = 1000000000        # a quota is in the log at most once in that time

logger = logging.getLogger("fastzk.server.quota")
# Leading zeros apart, more digits than a long has are not even converted.
_INTEGER = re.compile(r"([+-]?)0*(\d{0,19})(?<=\d)")


def parse_track(data: bytes | None) -> dict[str, int] | None:
    """The numbers in the data of a limits or stats znode by name; None if ZooKeeper could not read it.

    Pairs ``name=number`` with commas or semicolons between; an empty number is -1, what follows a second
    ``=`` is ignored, the last of several pairs with one name counts.
    """
    if data is None:
        return None
    text = data.decode("utf-8", "replace")
    found = {}
    pairs = re.split("[,;]+", text) if text else []
    while pairs and not pairs[len(pairs) - 1]:
        pairs.pop()
    for pair in pairs:
        parts = pair.rstrip("=").split("=")
        match = _INTEGER.fullmatch(parts[1] or "-1") if len(parts) > 1 else None
        if match is None:
            return None
        value = int(match[1] + (match[2] or "0"))
        if not -1 << 63 <= value < 1 << 63:
            return None
        found[parts[0]] = value
    return found


cdef inline int special(const uint8_t* p, int32_t n, int32_t above) noexcept nogil:
    # Which of the two znodes of a quota p[:n] is; p[:above] is its parent.
    if above < QUOTA_ROOT_BYTES or not is_below_quota(p, n):
        return 0
    if n - above == 17 and memcmp(p + above, b"/zookeeper_limits", 17) == 0:
        return LIMITS
    if n - above == 16 and memcmp(p + above, b"/zookeeper_stats", 16) == 0:
        return STATS
    return 0


cdef inline int64_t plus(int64_t a, int64_t b) noexcept nogil:
    return <int64_t>(<uint64_t>a + <uint64_t>b)          # as in Java: a client may have written any number


cdef inline bytes owned(const uint8_t* data, int32_t n):
    return None if n < 0 else data[:n]


cdef class Quota:
    """The limits and the usage of one path."""

    cdef int read_limits(self, const uint8_t* data, int32_t n) except -1:
        found = parse_track(owned(data, n))
        self.broken = found is None
        if found is None:
            found = {}
        self.count_limit = found.get("count", -1)
        self.size_limit = found.get("bytes", -1)
        self.count_hard = found.get("countHardLimit", -1)
        self.size_hard = found.get("byteHardLimit", -1)
        return 0


cdef class Quotas:
    """The quotas of ``tree``, which must be whole already."""

    def __cinit__(self, Tree tree) -> None:
        cdef uint32_t top, slot
        cdef Node* node
        self.tree = tree
        self.table = {}
        self.count_paths()
        self.proposed = deque()
        top = tree.lookup(b"/zookeeper/quota", QUOTA_ROOT_BYTES) if len(tree) else 0
        slot = tree.node(top).first_child if top else 0
        while slot:
            node = tree.node(slot)
            if node.name_len == 16 and memcmp(node.blob, b"zookeeper_limits", 16) == 0 and node.parent != top:
                self.learn(tree.path_of(node.parent)[QUOTA_ROOT_BYTES:], slot)
            if node.first_child:
                slot = node.first_child
                continue
            while slot != top and not tree.node(slot).next_sibling:
                slot = tree.node(slot).parent
            if slot == top:
                break
            slot = tree.node(slot).next_sibling

    def usage(self) -> dict[bytes, tuple[int, int] | None]:
        """Path -> znodes and bytes that its stats show; None: there are no stats."""
        cdef Quota quota
        found = {}
        for path, quota in self.table.items():
            found[path] = (quota.count, quota.size) if quota.has_stats else None
        return found

    cdef Quota nearest(self, const uint8_t* p, int32_t n):
        while n >= self.shortest:
            if n <= self.longest:
                found = self.table.get(p[:n])
                if found is not None:
                    return found
            n = parent_length(p, n)
        return None

    # -- applied changes ----------------------------------------------------------------------------------

    cdef int created(self, const uint8_t* p, int32_t n, const uint8_t* data, int32_t data_len) except -1:
        cdef int32_t above = parent_length(p, n)
        cdef int kind = special(p, n, above)
        cdef bytes path
        cdef Quota quota
        cdef int64_t count, size
        if kind == LIMITS and above > QUOTA_ROOT_BYTES:          # there is none on the root
            path = p[QUOTA_ROOT_BYTES:above]
            self.learn(path, self.tree.lookup(p, n))
        elif kind == STATS:
            path = p[QUOTA_ROOT_BYTES:above]
            self.recount(path, &count, &size)
            self.write_stats(p[:n], count, size)
            quota = self.table.get(path)
            if quota is not None:
                self.read_stats(quota)
        return self.add(p, n, 1, data_len if data_len > 0 else 0)

    cdef int deleted(self, const uint8_t* p, int32_t n, int32_t data_len) except -1:
        cdef int32_t above = parent_length(p, n)
        cdef int kind = special(p, n, above)
        cdef Quota quota
        if kind:
            quota = self.table.get(p[QUOTA_ROOT_BYTES:above])
            if quota is not None:
                if kind == LIMITS:
                    del self.table[quota.path]
                    self.count_paths()
                else:
                    quota.has_stats = False
        return self.add(p, n, -1, -data_len if data_len > 0 else 0)

    cdef int changed(self, const uint8_t* p, int32_t n, const uint8_t* data, int32_t data_len,
                     int32_t before) except -1:
        cdef int32_t above = parent_length(p, n)
        cdef int kind = special(p, n, above)
        cdef Quota quota
        cdef int64_t count, size
        if kind:
            quota = self.table.get(p[QUOTA_ROOT_BYTES:above])
            if kind == STATS and parse_track(owned(data, data_len)) is None:
                # ZooKeeper dies of the next change below the quota. Count anew, as for new stats.
                self.recount(p[QUOTA_ROOT_BYTES:above], &count, &size)
                self.write_stats(p[:n], count, size)
            if quota is not None:
                if kind == LIMITS:
                    quota.read_limits(data, data_len)
                else:
                    self.read_stats(quota)
        return self.add(p, n, 0, (data_len if data_len > 0 else 0) - <int64_t>(before if before > 0 else 0))

    cdef int add(self, const uint8_t* p, int32_t n, int64_t znodes, int64_t size) except -1:
        cdef Quota quota = self.nearest(p, n) if self.active else None
        if quota is None or not quota.has_stats or (znodes == 0 and size == 0 and quota.normal):
            return 0
        quota.count = plus(quota.count, znodes)
        quota.size = plus(quota.size, size)
        quota.normal = True
        return self.write_stats(quota.stats_path, quota.count, quota.size)

    cdef int learn(self, bytes path, uint32_t slot) except -1:
        # There is a quota on `path`: its limits are in `slot`.
        cdef Node* node = self.tree.node(slot)
        cdef Quota quota = Quota()
        quota.path = path
        quota.stats_path = b"/zookeeper/quota" + path + b"/zookeeper_stats"
        quota.read_limits(node.blob + node.name_len, node.data_len)
        self.read_stats(quota)
        self.table[path] = quota
        return self.count_paths()

    cdef int count_paths(self) except -1:
        # `table` has changed. There are few quotas, and they change seldom.
        cdef int32_t n
        self.active = <int>len(self.table)
        self.shortest = 0x7FFFFFFF
        self.longest = 0
        for path in self.table:
            n = <int32_t>len(path)
            self.shortest = min(self.shortest, n)
            self.longest = max(self.longest, n)
        return 0

    cdef int read_stats(self, Quota quota) except -1:
        cdef uint32_t slot = self.tree.lookup(quota.stats_path, <int32_t>len(quota.stats_path))
        cdef Node* node = self.tree.node(slot)
        quota.has_stats = slot != 0
        if slot == 0:
            return 0
        data = owned(node.blob + node.name_len, node.data_len)
        found = parse_track(data)
        if found is None:                    # written by something else than this server: count, and write
            self.recount(quota.path, &quota.count, &quota.size)        # it with the next change
        else:
            quota.count = found.get("count", -1)
            quota.size = found.get("bytes", -1)
        quota.normal = data == b"count=%d,bytes=%d" % (quota.count, quota.size)
        return 0

    cdef int write_stats(self, bytes stats_path, int64_t count, int64_t size) except -1:
        cdef char text[64]
        cdef int n = snprintf(text, sizeof(text), b"count=%lld,bytes=%lld", <long long>count, <long long>size)
        cdef int32_t length = <int32_t>len(stats_path)
        cdef uint32_t slot = self.tree.lookup(stats_path, length)
        cdef Node* node = self.tree.node(slot)
        if slot == 0:
            return 0
        return self.tree.assign(
            slot, stats_path, length, <uint8_t*>text, n, node.version, node.mzxid, node.mtime)

    cdef int recount(self, bytes path, int64_t* count, int64_t* size) except -1:
        # The znodes at and below `path`, and the bytes of their data.
        cdef Tree tree = self.tree
        cdef uint32_t top = tree.lookup(path, <int32_t>len(path))
        cdef uint32_t slot = top
        cdef Node* node
        count[0] = size[0] = 0
        while slot:
            node = tree.node(slot)
            count[0] += 1
            size[0] += node.data_len if node.data_len > 0 else 0
            if node.first_child:
                slot = node.first_child
                continue
            while slot != top and not tree.node(slot).next_sibling:
                slot = tree.node(slot).parent
            if slot == top:
                break
            slot = tree.node(slot).next_sibling
        return 0

    # -- proposed changes ---------------------------------------------------------------------------------

    cdef int32_t ask(self, const uint8_t* p, int32_t n, int64_t znodes, int64_t size, int64_t zxid) except? 1:
        # May a create or setData add this? If so, it counts from now on.
        cdef Quota quota = self.nearest(p, n)
        cdef int32_t err
        if quota is None:
            return ERR_OK
        err = self.check(quota, znodes, size)
        if err:
            return err
        self.note(quota, znodes, size, zxid)
        return ERR_OK

    cdef int propose(self, const uint8_t* p, int32_t n, int64_t znodes, int64_t size, int64_t zxid) except -1:
        # What is not asked: deletions.
        cdef Quota quota = self.nearest(p, n)
        return 0 if quota is None else self.note(quota, znodes, size, zxid)

    cdef int note(self, Quota quota, int64_t znodes, int64_t size, int64_t zxid) except -1:
        if znodes or size:
            quota.open_count += znodes
            quota.open_size += size
            self.proposed.append((zxid, quota, znodes, size))
            self.open += 1
        return 0

    cdef int settle(self, int64_t zxid) except -1:
        # What was proposed up to `zxid` is applied: the stats have it.
        cdef Quota quota
        while self.open and self.proposed[0][0] <= zxid:
            _, quota, znodes, size = self.proposed.popleft()
            quota.open_count -= znodes
            quota.open_size -= size
            self.open -= 1
        return 0

    cdef int rewind(self, int64_t zxid) except -1:
        # `zxid` is given out (again): what was proposed under it, or after it, does not happen.
        cdef Quota quota
        while self.open and self.proposed[self.open - 1][0] >= zxid:
            _, quota, znodes, size = self.proposed.pop()
            quota.open_count -= znodes
            quota.open_size -= size
            self.open -= 1
        return 0

    cdef int32_t check(self, Quota quota, int64_t znodes, int64_t size) except? 1:
        # ZooKeeper's rules: of a hard and a soft limit only the hard one is looked at, and what adds nothing
        # is not checked, but what takes bytes away is.
        cdef int64_t after, limit
        cdef bint hard
        if quota.broken:
            return ERR_MARSHALLING if self.enforce else ERR_OK
        if not quota.has_stats:
            return ERR_OK
        hard = quota.count_hard > -1
        limit = quota.count_hard if hard else quota.count_limit
        after = plus(plus(quota.count, quota.open_count), znodes)
        if znodes and limit > -1 and after > limit:
            self.warn(quota, "count", hard, after, limit)
            if hard and self.enforce:
                return ERR_QUOTA_EXCEEDED
        hard = quota.size_hard > -1
        limit = quota.size_hard if hard else quota.size_limit
        after = plus(plus(quota.size, quota.open_size), size)
        if size and limit > -1 and after > limit:
            self.warn(quota, "bytes", hard, after, limit)
            if hard and self.enforce:
                return ERR_QUOTA_EXCEEDED
        return ERR_OK

    cdef int warn(self, Quota quota, str what, bint hard, int64_t found, int64_t limit) except -1:
        cdef int64_t now = fz_monotonic_ns()
        if quota.warned_ns and now - quota.warned_ns < WARN_NS:
            return 0
        quota.warned_ns = now
        logger.warning(
            "quota exceeded path=%s %s=%d %s_limit=%d refused=%s",
            quota.path.decode("utf-8", "replace"), what, found, "hard" if hard else "soft", limit,
            bool(hard and self.enforce))
        return 0
