"""The znode tree: lookup, mutation, ephemerals, digest, and its pages for checkpoints.

Memory layout. A znode is a 104-byte ``Node`` in a slab of 1,024, named by its *slot* (u32), so links
between znodes cost four bytes and never move. Name and data share one allocation. A lookup hashes the
whole path once and probes one open-addressing table of 8-byte buckets: the slot, and the upper half of the
hash, which is both the probe's start and a filter, so that the table grows without touching a znode. A hit
is verified by walking up the parents, comparing names from the path's end: no two paths are ever confused,
and the path itself is stored nowhere. Siblings form a doubly linked list; the encoded list of a znode with
many children is kept until it changes, because walking a thousand siblings is a thousand cache misses.
One million znodes of 128 bytes cost about 280 bytes each, all told.

Pages. For checkpoints, 128 consecutive slots are one page, the unit in which state goes to LMDB. A page
has two bits: changed since the last checkpoint, and frozen in the running one but not yet taken. Every
mutation first calls ``touch``; a frozen page is encoded then, before the change, so a checkpoint is exact
as of its beginning while requests go on.

The digest is a sum over znodes, so it is kept by adding and subtracting what changed. It has a term for a
znode's path and stat and one for its data, so that a child's creation does not hash the parent's data.
Equal trees have equal digests on every server: it depends on nothing of the process.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset
from cpython.bytes cimport PyBytes_FromStringAndSize

import os

from fastzk._acl import OPEN_ACL

from fastzk._codec cimport OutBuf, fz_store32, fz_store64, out_free, out_room, put_span
from fastzk._index cimport index_next, index_put, index_remove, index_reserve, index_resize, index_start
from fastzk._paths cimport fz_hash, parent_length

cdef enum:
    USED = 1                 # Node.flags: the slot holds a znode
    LISTED = 2               # its children list is in `lists`
    CHANGED = 1              # page_state
    FROZEN = 2
    LIST_SLOTS = 1024
    LIST_MIN = 16            # children below which a list is not kept
    PAGE_FORMAT = 1
    RECORD_BYTES = 77
    # Slots end one slab (32 pages) before 2^32, so that rounding up to slabs stays in 32 bits.
    SLOTS_MAX = 0xFFFFFC00
    PAGES_MAX = SLOTS_MAX >> PAGE_BITS

cdef uint64_t DIGEST_SEED = 0x666173747A6B2D31ULL
cdef size_t LISTS_MAX = 64 << 20


class TreeCorruption(ValueError):
    """A page of a checkpoint that does not decode, or pages that do not form a tree."""


cdef class Tree:
    """All znodes of a server, in memory.

    The methods with a leading ``cdef`` are the hot path's; the Python methods are for recovery,
    checkpoints, administration and tests. Paths are UTF-8; the root is ``b""`` or ``b"/"``.
    """

    def __cinit__(self) -> None:
        self.acls = AclTable()
        self.ephemerals = {}
        self.containers = set()
        self.ttls = set()
        self.captured = []
        self.frozen_acls = {}
        self.acl_pages = []
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.next_slot = ROOT
        self.lists = <ChildList*>calloc(LIST_SLOTS, sizeof(ChildList))
        if self.lists == NULL:
            raise MemoryError("no memory for the tree")
        index_resize(&self.index, 1024)
        self.reserve_slots(ROOT + 1)        # lookups and checkpoints may look at the root of an empty tree

    def __dealloc__(self) -> None:
        cdef uint32_t slot
        if self.slabs != NULL:
            for slot in range(ROOT, self.next_slot):
                if self.node(slot).flags & USED:
                    free(self.node(slot).blob)
            for slot in range(self.slab_count):
                free(self.slabs[slot])
            free(self.slabs)
        if self.lists != NULL:
            for slot in range(<uint32_t>LIST_SLOTS):
                out_free(&self.lists[slot].body)
            free(self.lists)
        free(self.index.buckets)
        free(self.page_state)
        free(self.page_frozen)

    # -- lookup ---------------------------------------------------------------------------------------

    cdef uint64_t hash(self, const uint8_t* p, int32_t n) noexcept nogil:
        return fz_hash(p, n, self.seed)

    cdef bint matches(self, uint32_t slot, const uint8_t* p, int32_t n) noexcept nogil:
        cdef Node* node
        cdef int32_t length
        while slot != ROOT:
            node = self.node(slot)
            length = <int32_t>node.name_len
            if n <= length or p[n - length - 1] != 47 or memcmp(p + n - length, node.blob, length) != 0:
                return False
            n -= length + 1
            slot = node.parent
        return n == 0

    cdef uint32_t find(self, const uint8_t* p, int32_t n, uint64_t h) noexcept nogil:
        # The slot of the znode with this path, whose hash is h; 0 when there is none.
        cdef uint64_t at
        cdef uint32_t slot
        if n <= 0 or (n == 1 and p[0] == 47):
            return ROOT
        at = index_start(&self.index, h)
        while True:
            slot = index_next(&self.index, h, &at)
            if slot == 0 or self.matches(slot, p, n):
                return slot

    cdef uint32_t lookup(self, const uint8_t* p, int32_t n) noexcept nogil:
        return self.find(p, n, self.hash(p, n if n > 0 else 0))

    # -- slots and links --------------------------------------------------------------------------------

    cdef int reserve_slots(self, uint32_t slots) except -1:
        # Room for slot numbers below `slots`.
        cdef uint32_t slabs = (slots + (1 << SLAB_BITS) - 1) >> SLAB_BITS
        cdef uint32_t pages = slabs << (SLAB_BITS - PAGE_BITS)
        cdef uint32_t capacity
        cdef Node** moved
        cdef uint8_t* states
        if slabs > self.slab_count:
            moved = <Node**>realloc(self.slabs, slabs * sizeof(Node*))
            if moved == NULL:
                raise MemoryError("no memory for znodes")
            self.slabs = moved
            while self.slab_count < slabs:
                self.slabs[self.slab_count] = <Node*>calloc(1 << SLAB_BITS, sizeof(Node))
                if self.slabs[self.slab_count] == NULL:
                    raise MemoryError("no memory for znodes")
                self.slab_count += 1
        if pages > self.page_capacity:
            capacity = self.page_capacity or 64
            while capacity < pages:
                capacity *= 2
            states = <uint8_t*>realloc(self.page_state, capacity)
            if states == NULL:
                raise MemoryError("no memory for page states")
            self.page_state = states
            states = <uint8_t*>realloc(self.page_frozen, capacity)
            if states == NULL:
                raise MemoryError("no memory for page states")
            self.page_frozen = states
            memset(self.page_state + self.page_capacity, 0, capacity - self.page_capacity)
            memset(self.page_frozen + self.page_capacity, 0, capacity - self.page_capacity)
            self.page_capacity = capacity
        return 0

    cdef uint32_t new_slot(self) except 0:
        cdef uint32_t slot = self.free_head
        if slot:
            self.free_head = self.node(slot).parent
            return slot
        if self.next_slot >= SLOTS_MAX:
            raise MemoryError("the tree is full: 2^32 znodes")
        self.reserve_slots(self.next_slot + 1)
        slot = self.next_slot
        self.next_slot += 1
        return slot

    cdef void link(self, uint32_t slot, uint32_t parent) noexcept nogil:
        cdef Node* node = self.node(slot)
        cdef Node* above = self.node(parent)
        node.parent = parent
        node.prev_sibling = 0
        node.next_sibling = above.first_child
        if above.first_child:
            self.node(above.first_child).prev_sibling = slot
        above.first_child = slot
        above.num_children += 1

    cdef void list_drop(self, uint32_t slot) noexcept nogil:
        # Forget the kept children list of `slot`.
        cdef ChildList* kept = &self.lists[slot & (LIST_SLOTS - 1)]
        self.node(slot).flags &= ~<uint32_t>LISTED
        if kept.slot == slot:
            self.lists_bytes -= kept.body.cap
            out_free(&kept.body)
            kept.slot = 0

    # -- digest -----------------------------------------------------------------------------------------

    cdef uint64_t meta_digest(self, Node* node, uint64_t path_hash) noexcept nogil:
        cdef int64_t fields[9]
        fields[0] = node.czxid
        fields[1] = node.mzxid
        fields[2] = node.pzxid
        fields[3] = node.ctime
        fields[4] = node.mtime
        fields[5] = node.owner
        fields[6] = <int64_t>((<uint64_t>node.version << 32) | <uint32_t>node.cversion)
        fields[7] = <int64_t>((<uint64_t>node.aversion << 32) | <uint32_t>node.data_len)
        fields[8] = <int64_t>self.acls.entries[node.acl].hash
        return fz_hash(<uint8_t*>fields, sizeof(fields), path_hash)

    cdef uint64_t data_digest(self, Node* node, uint64_t path_hash) noexcept nogil:
        if node.data_len <= 0:
            return 0
        return fz_hash(node.blob + node.name_len, node.data_len, path_hash)

    # -- changes ----------------------------------------------------------------------------------------

    cdef int touch(self, uint32_t slot) except -1:
        # Before any change to the znode in `slot`: its page has changed, and if the running checkpoint
        # still needs the page as it was, take that now.
        cdef uint32_t page = slot >> PAGE_BITS
        if self.page_state[page] & FROZEN:
            self.captured.append((page_key(page), self.encode_page(page)))
        self.page_state[page] = CHANGED
        return 0

    cdef int own(self, uint32_t slot, int64_t owner) except -1:
        cdef int kind = owner_kind(owner)
        if kind == OWNER_EPHEMERAL:
            slots = self.ephemerals.get(owner)
            if slots is None:
                slots = self.ephemerals[owner] = set()
            (<set>slots).add(slot)
            self.ephemeral_count += 1
        elif kind == OWNER_CONTAINER:
            self.containers.add(slot)
        elif kind == OWNER_TTL:
            self.ttls.add(slot)
        return 0

    cdef int disown(self, uint32_t slot, int64_t owner) except -1:
        cdef int kind = owner_kind(owner)
        if kind == OWNER_EPHEMERAL:
            slots = self.ephemerals[owner]
            (<set>slots).discard(slot)
            if not slots:
                del self.ephemerals[owner]
            self.ephemeral_count -= 1
        elif kind == OWNER_CONTAINER:
            self.containers.discard(slot)
        elif kind == OWNER_TTL:
            self.ttls.discard(slot)
        return 0

    cdef uint32_t insert(self, uint32_t parent, const uint8_t* path, int32_t n, const uint8_t* data, int32_t data_len,
                         uint32_t acl, int64_t owner, int64_t zxid, int64_t time, int32_t parent_cversion) except 0:
        # A new znode; takes over the caller's reference to `acl`. The path must be free and its parent be `parent`.
        cdef int32_t above = parent_length(path, n)
        cdef int32_t name_len = n - above - 1
        cdef uint32_t slot
        cdef Node* node
        cdef Node* up
        cdef uint64_t path_hash
        cdef uint8_t* blob = <uint8_t*>malloc(name_len + (data_len if data_len > 0 else 0) + 1)
        if blob == NULL:
            raise MemoryError("no memory for a znode's data")
        index_reserve(&self.index)
        slot = self.new_slot()
        self.touch(slot)
        self.touch(parent)
        node = self.node(slot)
        memset(node, 0, sizeof(Node))
        memcpy(blob, path + above + 1, name_len)
        if data_len > 0:
            memcpy(blob + name_len, data, data_len)
        node.blob = blob
        node.name_len = <uint32_t>name_len
        node.data_len = data_len
        node.czxid = node.mzxid = node.pzxid = zxid
        node.ctime = node.mtime = time
        node.owner = owner
        node.acl = acl
        node.flags = USED
        if owner:
            self.own(slot, owner)
        path_hash = fz_hash(path, n, DIGEST_SEED)
        self.digest_value += self.meta_digest(node, path_hash) + self.data_digest(node, path_hash)
        up = self.node(parent)
        path_hash = fz_hash(path, above, DIGEST_SEED)
        self.digest_value -= self.meta_digest(up, path_hash)
        up.cversion = parent_cversion
        up.pzxid = zxid
        self.digest_value += self.meta_digest(up, path_hash)
        if up.flags & LISTED:
            self.list_drop(parent)
        self.link(slot, parent)
        index_put(&self.index, self.hash(path, n), slot)
        self.count += 1
        self.data_size += n + (data_len if data_len > 0 else 0)
        return slot

    cdef int remove(self, uint32_t slot, const uint8_t* path, int32_t n, int64_t zxid) except -1:
        # The znode must have no children. The parent's pzxid becomes zxid.
        cdef Node* node = self.node(slot)
        cdef uint32_t parent = node.parent
        cdef Node* up = self.node(parent)
        cdef uint64_t path_hash = fz_hash(path, n, DIGEST_SEED)
        self.touch(slot)
        self.touch(parent)
        self.digest_value -= self.meta_digest(node, path_hash) + self.data_digest(node, path_hash)
        path_hash = fz_hash(path, parent_length(path, n), DIGEST_SEED)
        self.digest_value -= self.meta_digest(up, path_hash)
        up.pzxid = zxid
        self.digest_value += self.meta_digest(up, path_hash)
        index_remove(&self.index, self.hash(path, n), slot)
        if up.flags & LISTED:
            self.list_drop(parent)
        if node.flags & LISTED:
            self.list_drop(slot)
        if node.owner:
            self.disown(slot, node.owner)
        self.acls.unref(node.acl)
        if node.prev_sibling:
            self.node(node.prev_sibling).next_sibling = node.next_sibling
        else:
            up.first_child = node.next_sibling
        if node.next_sibling:
            self.node(node.next_sibling).prev_sibling = node.prev_sibling
        up.num_children -= 1
        self.count -= 1
        self.data_size -= n + (node.data_len if node.data_len > 0 else 0)
        free(node.blob)
        node.blob = NULL
        node.flags = 0
        node.parent = self.free_head
        self.free_head = slot
        return 0

    cdef int assign(self, uint32_t slot, const uint8_t* path, int32_t n, const uint8_t* data, int32_t data_len,
                    int32_t version, int64_t zxid, int64_t time) except -1:
        # setData: new data, data version, mzxid and mtime.
        cdef Node* node = self.node(slot)
        cdef uint64_t path_hash = fz_hash(path, n if n > 1 else 0, DIGEST_SEED)
        cdef size_t size = data_len if data_len > 0 else 0
        cdef size_t old = node.data_len if node.data_len > 0 else 0
        cdef uint8_t* blob
        self.touch(slot)
        self.digest_value -= self.meta_digest(node, path_hash) + self.data_digest(node, path_hash)
        if size != old:
            blob = <uint8_t*>realloc(node.blob, node.name_len + size + 1)
            if blob == NULL:
                raise MemoryError("no memory for a znode's data")
            node.blob = blob
            self.data_size += <int64_t>size - <int64_t>old
        if size:
            memcpy(node.blob + node.name_len, data, size)
        node.data_len = data_len
        node.version = version
        node.mzxid = zxid
        node.mtime = time
        self.digest_value += self.meta_digest(node, path_hash) + self.data_digest(node, path_hash)
        return 0

    cdef int assign_acl(self, uint32_t slot, const uint8_t* path, int32_t n, uint32_t acl, int32_t version) except -1:
        # setACL: takes over the caller's reference to `acl`.
        cdef Node* node = self.node(slot)
        cdef uint64_t path_hash = fz_hash(path, n if n > 1 else 0, DIGEST_SEED)
        self.touch(slot)
        self.digest_value -= self.meta_digest(node, path_hash)
        self.acls.unref(node.acl)
        node.acl = acl
        node.aversion = version
        self.digest_value += self.meta_digest(node, path_hash)
        return 0

    # -- answers ----------------------------------------------------------------------------------------

    cdef int put_stat(self, OutBuf* out, uint32_t slot) except -1:
        cdef Node* node = self.node(slot)
        cdef uint8_t* p = out_room(out, STAT_BYTES)
        fz_store64(p, <uint64_t>node.czxid)
        fz_store64(p + 8, <uint64_t>node.mzxid)
        fz_store64(p + 16, <uint64_t>node.ctime)
        fz_store64(p + 24, <uint64_t>node.mtime)
        fz_store32(p + 32, <uint32_t>node.version)
        fz_store32(p + 36, 2 * <uint32_t>node.cversion - node.num_children)
        fz_store32(p + 40, <uint32_t>node.aversion)
        fz_store64(p + 44, <uint64_t>node.owner if owner_kind(node.owner) == OWNER_EPHEMERAL else 0)
        fz_store32(p + 52, <uint32_t>node.data_len if node.data_len > 0 else 0)
        fz_store32(p + 56, node.num_children)
        fz_store64(p + 60, <uint64_t>node.pzxid)
        out.n += STAT_BYTES
        return 0

    cdef int put_children(self, OutBuf* out, uint32_t slot) except -1:
        # The names of the children as a vector<ustring>.
        cdef Node* node = self.node(slot)
        cdef ChildList* kept = &self.lists[slot & (LIST_SLOTS - 1)]
        cdef uint32_t child = node.first_child
        cdef Node* below
        cdef size_t start
        if node.flags & LISTED and kept.slot == slot:
            memcpy(out_room(out, kept.body.n), kept.body.p, kept.body.n)
            out.n += kept.body.n
            return 0
        start = out.n
        fz_store32(out_room(out, 4), node.num_children)
        out.n += 4
        while child:
            below = self.node(child)
            put_span(out, below.blob, <int32_t>below.name_len)
            child = below.next_sibling
        if node.num_children >= LIST_MIN:
            if kept.slot:
                self.list_drop(kept.slot)
            if self.lists_bytes + out.n - start <= LISTS_MAX:
                memcpy(out_room(&kept.body, out.n - start), out.p + start, out.n - start)
                kept.body.n = out.n - start
                kept.slot = slot
                self.lists_bytes += kept.body.cap
                node.flags |= LISTED
        return 0

    cdef int put_path(self, OutBuf* out, uint32_t slot) except -1:
        # The path's bytes, without a length; "/" for the root.
        cdef size_t length = 0
        cdef uint32_t at = slot
        cdef uint8_t* p
        while at != ROOT:
            length += 1 + self.node(at).name_len
            at = self.node(at).parent
        if length == 0:
            out_room(out, 1)[0] = 47
            out.n += 1
            return 0
        p = out_room(out, length) + length
        out.n += length
        at = slot
        while at != ROOT:
            p -= self.node(at).name_len
            memcpy(p, self.node(at).blob, self.node(at).name_len)
            p -= 1
            p[0] = 47
            at = self.node(at).parent
        return 0

    cdef bytes path_of(self, uint32_t slot):
        cdef OutBuf out
        memset(&out, 0, sizeof(out))
        try:
            self.put_path(&out, slot)
            return (<const uint8_t*>out.p)[:out.n]
        finally:
            out_free(&out)

    # -- a new tree -------------------------------------------------------------------------------------

    def plant(self) -> None:
        """Make the znodes that every new server has: ``/``, ``/zookeeper``, ``quota`` and ``config`` in it."""
        cdef bytes read_acl = OPEN_ACL.replace(b"\x00\x00\x00\x1f", b"\x00\x00\x00\x01")
        cdef Node* root
        cdef uint32_t above
        if self.count:
            raise ValueError("the tree is not empty")
        self.new_slot()
        self.touch(ROOT)
        root = self.node(ROOT)
        memset(root, 0, sizeof(Node))
        root.blob = <uint8_t*>malloc(1)
        root.flags = USED
        self.count = 1
        self.digest_value = self.meta_digest(root, fz_hash(b"", 0, DIGEST_SEED))
        above = self.insert(ROOT, b"/zookeeper", 10, b"", 0, 0, 0, 0, 0, 0)
        self.insert(above, b"/zookeeper/quota", 16, b"", 0, 0, 0, 0, 0, 0)
        self.insert(above, b"/zookeeper/config", 17, b"", 0,
                    <uint32_t>self.acls.intern(read_acl, <int32_t>len(read_acl)), 0, 0, 0, 0)
        self.assign_acl(self.lookup(b"/zookeeper/config", 17), b"/zookeeper/config", 17,
                        <uint32_t>self.acls.intern(read_acl, <int32_t>len(read_acl)), -1)

    # -- checkpoints ------------------------------------------------------------------------------------

    def checkpoint_begin(self) -> int:
        """Freeze what has changed since the last checkpoint, as of now; the number of pages to take."""
        cdef uint32_t page
        cdef uint32_t pages = (self.next_slot + (1 << PAGE_BITS) - 1) >> PAGE_BITS
        cdef uint32_t frozen = 0
        if self.checkpointing:
            raise RuntimeError("a checkpoint is running already")
        for page in range(pages):
            self.page_frozen[page] = self.page_state[page] & CHANGED
            if self.page_state[page] & CHANGED:
                self.page_state[page] = FROZEN
                frozen += 1
        self.scan_page = 0
        self.scan_end = pages
        self.frozen_acls = self.acls.take_changed()
        self.acl_pages = [
            (b"a" + (<uint32_t>acl_id).to_bytes(4, "big"), vector) for acl_id, vector in self.frozen_acls.items()
        ]
        self.checkpointing = True
        return frozen + len(self.acl_pages)

    def checkpoint_take(self, max_bytes: int) -> list[tuple[bytes, bytes | None]]:
        """The next pages of the running checkpoint, about ``max_bytes`` of them; empty when all are taken."""
        cdef list taken = []
        cdef object item
        cdef int64_t room = max(max_bytes, 1)
        if not self.checkpointing:
            raise RuntimeError("no checkpoint is running")
        while room > 0:
            if self.acl_pages:
                item = self.acl_pages.pop()
            elif self.captured:
                item = self.captured.pop()
            else:
                while self.scan_page < self.scan_end and not self.page_state[self.scan_page] & FROZEN:
                    self.scan_page += 1
                if self.scan_page == self.scan_end:
                    break
                self.page_state[self.scan_page] &= ~FROZEN
                item = (page_key(self.scan_page), self.encode_page(self.scan_page))
            taken.append(item)
            room -= 64 + (len(item[1]) if item[1] is not None else 0)
        return taken

    def checkpoint_end(self, ok: bool) -> None:
        """The running checkpoint is durable (``ok``), or its pages count as changed again.

        Raises RuntimeError when no checkpoint is running, or with ``ok`` when not all its pages were taken.
        """
        cdef uint32_t page
        if not self.checkpointing:
            raise RuntimeError("no checkpoint is running")
        if ok:
            while self.scan_page < self.scan_end and not self.page_state[self.scan_page] & FROZEN:
                self.scan_page += 1
            if self.scan_page < self.scan_end or self.captured or self.acl_pages:
                raise RuntimeError("the checkpoint's pages have not all been taken")
        if not ok:
            for page in range(self.scan_end):
                if self.page_frozen[page]:
                    self.page_state[page] = CHANGED
            self.acls.mark_changed(set(self.frozen_acls))
        self.captured = []
        self.acl_pages = []
        self.frozen_acls = {}
        self.checkpointing = False

    @property
    def changed_pages(self) -> int:
        """Pages that differ from the last checkpoint."""
        cdef uint32_t page
        cdef uint32_t changed = 0
        for page in range((self.next_slot + (1 << PAGE_BITS) - 1) >> PAGE_BITS):
            changed += self.page_state[page] & CHANGED
        return changed

    cdef bytes encode_page(self, uint32_t page):
        # b"" or None stands for a page without znodes.
        cdef uint32_t slot
        cdef uint32_t first = page << PAGE_BITS
        cdef uint32_t last = min(first + (1 << PAGE_BITS), self.next_slot)
        cdef size_t size = 1
        cdef size_t data_len
        cdef Node* node
        cdef uint8_t* p
        cdef bytes value
        if first < ROOT:
            first = ROOT
        for slot in range(first, last):
            node = self.node(slot)
            if node.flags & USED:
                size += RECORD_BYTES + node.name_len + (node.data_len if node.data_len > 0 else 0)
        if size == 1:
            return None
        value = PyBytes_FromStringAndSize(NULL, size)
        p = <uint8_t*><char*>value
        p[0] = PAGE_FORMAT
        p += 1
        for slot in range(first, last):
            node = self.node(slot)
            if not node.flags & USED:
                continue
            p[0] = <uint8_t>(slot & ((1 << PAGE_BITS) - 1))
            memcpy(p + 1, &node.czxid, 8)
            memcpy(p + 9, &node.mzxid, 8)
            memcpy(p + 17, &node.pzxid, 8)
            memcpy(p + 25, &node.ctime, 8)
            memcpy(p + 33, &node.mtime, 8)
            memcpy(p + 41, &node.owner, 8)
            memcpy(p + 49, &node.version, 4)
            memcpy(p + 53, &node.cversion, 4)
            memcpy(p + 57, &node.aversion, 4)
            memcpy(p + 61, &node.data_len, 4)
            memcpy(p + 65, &node.name_len, 4)
            memcpy(p + 69, &node.parent, 4)
            memcpy(p + 73, &node.acl, 4)
            data_len = node.data_len if node.data_len > 0 else 0
            memcpy(p + RECORD_BYTES, node.blob, node.name_len + data_len)
            p += RECORD_BYTES + node.name_len + data_len
        return value

    def load_page(self, key: bytes, value) -> None:
        """Restore one page of a checkpoint into an empty tree.

        Raises:
            TreeCorruption: the page does not decode.
        """
        cdef const uint8_t[::1] view = value
        cdef const uint8_t* p
        cdef const uint8_t* end
        cdef uint32_t number
        cdef uint32_t slot
        cdef size_t name_len, data_len
        cdef Node* node
        if len(key) != 5:
            raise TreeCorruption(f"page key {key!r}")
        number = int.from_bytes(key[1:], "big")
        if key[:1] == b"a":
            try:
                self.acls.load(number, bytes(value))
            except ValueError as error:
                raise TreeCorruption(str(error)) from None
            return
        if key[:1] != b"n" or view.shape[0] < 1 or number >= PAGES_MAX:
            raise TreeCorruption(f"page key {key!r}")
        p = &view[0]
        end = p + view.shape[0]
        if p[0] != PAGE_FORMAT:
            raise TreeCorruption(f"page {number} has format {p[0]}, this version reads {PAGE_FORMAT}")
        p += 1
        self.reserve_slots((number + 1) << PAGE_BITS)
        while p < end:
            if end - p < RECORD_BYTES or p[0] >= 1 << PAGE_BITS:
                raise TreeCorruption(f"page {number} is cut short")
            slot = (number << PAGE_BITS) + p[0]
            node = self.node(slot)
            if slot == 0 or node.flags & USED:
                raise TreeCorruption(f"page {number} has slot {slot} twice")
            memcpy(&node.czxid, p + 1, 8)
            memcpy(&node.mzxid, p + 9, 8)
            memcpy(&node.pzxid, p + 17, 8)
            memcpy(&node.ctime, p + 25, 8)
            memcpy(&node.mtime, p + 33, 8)
            memcpy(&node.owner, p + 41, 8)
            memcpy(&node.version, p + 49, 4)
            memcpy(&node.cversion, p + 53, 4)
            memcpy(&node.aversion, p + 57, 4)
            memcpy(&node.data_len, p + 61, 4)
            memcpy(&node.name_len, p + 65, 4)
            memcpy(&node.parent, p + 69, 4)
            memcpy(&node.acl, p + 73, 4)
            name_len = node.name_len        # size_t: a length of almost 2^32 must not wrap around
            data_len = node.data_len if node.data_len > 0 else 0
            if node.data_len < -1 or <size_t>(end - p) < RECORD_BYTES + name_len + data_len:
                raise TreeCorruption(f"page {number} is cut short")
            node.blob = <uint8_t*>malloc(name_len + data_len + 1)
            if node.blob == NULL:
                raise MemoryError("no memory for a znode's data")
            memcpy(node.blob, p + RECORD_BYTES, name_len + data_len)
            node.flags = USED
            p += RECORD_BYTES + name_len + data_len
            self.count += 1
            if slot >= self.next_slot:
                self.next_slot = slot + 1

    def load_finish(self) -> None:
        """All pages are loaded: link the znodes, index them, count what is counted.

        Raises:
            TreeCorruption: the pages do not form a tree.
        """
        cdef uint32_t slot, at, depth
        cdef uint64_t buckets = 1024
        cdef uint64_t path_hash, key
        cdef Node* node
        cdef OutBuf path
        if self.next_slot <= ROOT or not self.node(ROOT).flags & USED:
            raise TreeCorruption("the checkpoint has no root znode")
        node = self.node(ROOT)
        if node.name_len or node.acl >= self.acls.size or self.acls.entries[node.acl].data == NULL:
            raise TreeCorruption("the root znode has a name or an unknown ACL")
        self.data_size = node.data_len if node.data_len > 0 else 0
        while buckets * 3 < <uint64_t>self.count * 4:
            buckets *= 2
        index_resize(&self.index, buckets)
        memset(&path, 0, sizeof(path))
        self.digest_value = self.meta_digest(self.node(ROOT), fz_hash(b"", 0, DIGEST_SEED))
        self.digest_value += self.data_digest(self.node(ROOT), fz_hash(b"", 0, DIGEST_SEED))
        try:
            for slot in range(self.next_slot - 1, <uint32_t>ROOT, -1):
                if slot & 4095 == 0:
                    with nogil:                      # a server that serves loads a received tree in another thread
                        pass
                node = self.node(slot)
                if not node.flags & USED:
                    node.parent = self.free_head
                    self.free_head = slot
                    continue
                at = slot
                depth = 0
                while at != ROOT:
                    at = self.node(at).parent
                    depth += 1
                    if at == 0 or at >= self.next_slot or not self.node(at).flags & USED or depth > self.count:
                        raise TreeCorruption(f"the znode in slot {slot} has no way to the root")
                if node.acl >= self.acls.size or self.acls.entries[node.acl].data == NULL:
                    raise TreeCorruption(f"the znode in slot {slot} names the unknown ACL {node.acl}")
                if node.name_len == 0 or memchr(node.blob, 47, node.name_len) != NULL:
                    raise TreeCorruption(f"the znode in slot {slot} has no valid name")
                path.n = 0
                self.put_path(&path, slot)
                key = self.hash(path.p, <int32_t>path.n)
                if self.find(path.p, <int32_t>path.n, key):
                    raise TreeCorruption(f"the znode in slot {slot} has the same path as another")
                self.acls.ref(node.acl)
                self.link(slot, node.parent)
                index_put(&self.index, key, slot)
                path_hash = fz_hash(path.p, path.n, DIGEST_SEED)
                self.digest_value += self.meta_digest(node, path_hash) + self.data_digest(node, path_hash)
                self.data_size += path.n + (node.data_len if node.data_len > 0 else 0)
                if node.owner:
                    self.own(slot, node.owner)
        finally:
            out_free(&path)
        self.acls.ref(self.node(ROOT).acl)
        self.acls.load_finish()
        memset(self.page_state, 0, self.page_capacity)

    # -- for administration and tests ---------------------------------------------------------------------

    @property
    def digest(self) -> int:
        """The digest of the whole tree, equal on every server with the same znodes."""
        return self.digest_value

    def compute_digest(self) -> int:
        """The digest worked out from every znode anew; slow, to check ``digest`` against."""
        cdef uint32_t slot
        cdef uint64_t total = 0
        cdef uint64_t path_hash
        cdef bytes path
        for slot in range(ROOT, self.next_slot):
            if self.node(slot).flags & USED:
                path = b"" if slot == ROOT else self.path_of(slot)
                path_hash = fz_hash(path, len(path), DIGEST_SEED)
                total += self.meta_digest(self.node(slot), path_hash) + self.data_digest(self.node(slot), path_hash)
        return total

    def __len__(self) -> int:
        return self.count

    def slot(self, path: bytes) -> int:
        """The slot of the znode at ``path``; 0 when there is none."""
        cdef uint32_t slot = self.lookup(path, <int32_t>len(path))
        return slot if self.node(slot).flags & USED else 0

    def path(self, slot: int) -> bytes:
        """The path of the znode in ``slot``."""
        if not 0 < slot < self.next_slot or not self.node(slot).flags & USED:
            raise KeyError(slot)
        return self.path_of(slot)

    def data(self, path: bytes) -> bytes | None:
        """The data at ``path``. Raises KeyError when there is no znode."""
        cdef Node* node = self.node(self.existing(path))
        if node.data_len < 0:
            return None
        return (<const uint8_t*>node.blob)[node.name_len:node.name_len + node.data_len]

    def stat(self, path: bytes) -> bytes:
        """The stat at ``path`` as it travels. Raises KeyError when there is no znode."""
        cdef OutBuf out
        cdef uint32_t slot = self.existing(path)
        memset(&out, 0, sizeof(out))
        try:
            self.put_stat(&out, slot)
            return (<const uint8_t*>out.p)[:out.n]
        finally:
            out_free(&out)

    def acl(self, path: bytes) -> bytes:
        """The ACL at ``path`` in wire form. Raises KeyError when there is no znode."""
        return self.acls.vector(self.node(self.existing(path)).acl)

    def owner(self, path: bytes) -> int:
        """The raw ephemeralOwner at ``path``. Raises KeyError when there is no znode."""
        return self.node(self.existing(path)).owner

    def children(self, path: bytes) -> list[bytes]:
        """The names of the children. Raises KeyError when there is no znode."""
        cdef uint32_t child = self.node(self.existing(path)).first_child
        names = []
        while child:
            names.append((<const uint8_t*>self.node(child).blob)[:self.node(child).name_len])
            child = self.node(child).next_sibling
        return names

    def children_encoded(self, path: bytes) -> bytes:
        """The children as getChildren answers them. Raises KeyError when there is no znode."""
        cdef OutBuf out
        cdef uint32_t slot = self.existing(path)
        memset(&out, 0, sizeof(out))
        try:
            self.put_children(&out, slot)
            return (<const uint8_t*>out.p)[:out.n]
        finally:
            out_free(&out)

    def ephemeral_paths(self, session: int) -> list[bytes]:
        """The paths of the ephemeral znodes of a session."""
        return [self.path_of(slot) for slot in self.ephemerals.get(session, ())]

    def expired(self, slots: list[int], now_ms: int, never_used_ms: int) -> list[int]:
        """Those of ``slots`` that hold a container or TTL znode whose time is over.

        That is a container that had children and has none, or never had one for ``never_used_ms`` milliseconds
        (0: such a one stays); and a TTL znode without children that was not written for its ttl. ``now_ms`` is
        in milliseconds of the epoch. Slots that were freed, or used again for another kind, are left out.
        """
        cdef int64_t now = now_ms
        cdef int64_t unused = never_used_ms
        cdef int64_t age
        cdef uint32_t slot
        cdef Node* node
        cdef list due = []
        for slot in slots:
            if slot < ROOT or slot >= self.next_slot:
                continue
            node = self.node(slot)
            if not node.flags & USED or node.num_children:
                continue
            age = now - node.mtime
            if owner_kind(node.owner) == OWNER_CONTAINER:
                if node.cversion > 0 or (unused and age > unused):
                    due.append(slot)
            elif owner_kind(node.owner) == OWNER_TTL and age > owner_ttl(node.owner) > 0:
                due.append(slot)
        return due

    def existing(self, path: bytes) -> int:
        """The slot at ``path``. Raises KeyError when there is no znode."""
        cdef uint32_t slot = self.lookup(path, <int32_t>len(path))
        if not slot or not self.node(slot).flags & USED:     # the root of an empty tree
            raise KeyError(path)
        return slot

    def create(self, path: bytes, data: bytes | None, acl: bytes = OPEN_ACL, *, owner: int = 0, zxid: int,
               time: int, parent_cversion: int | None = None) -> None:
        """Add a znode, as a create transaction does. Raises KeyError (no parent) or ValueError (exists)."""
        cdef const uint8_t* p = NULL
        cdef int32_t above = parent_length(path, <int32_t>len(path))
        cdef uint32_t parent = self.existing(path[:above])
        if self.lookup(path, <int32_t>len(path)):
            raise ValueError(f"{path!r} exists")
        if parent_cversion is None:
            parent_cversion = self.node(parent).cversion + 1
        if data is not None:
            p = data
        self.insert(parent, path, <int32_t>len(path), p, -1 if data is None else <int32_t>len(data),
                    <uint32_t>self.acls.intern(acl, <int32_t>len(acl)), owner, zxid, time, parent_cversion)

    def delete(self, path: bytes, *, zxid: int) -> None:
        """Remove a znode. Raises KeyError (none there) or ValueError (it has children, or is the root)."""
        cdef uint32_t slot = self.existing(path)
        if slot == ROOT or self.node(slot).num_children:
            raise ValueError(f"{path!r} cannot be removed")
        self.remove(slot, path, <int32_t>len(path), zxid)

    def set_data(self, path: bytes, data: bytes | None, *, version: int, zxid: int, time: int) -> None:
        """Replace a znode's data. Raises KeyError when there is no znode."""
        cdef const uint8_t* p = NULL
        if data is not None:
            p = data
        self.assign(self.existing(path), path, <int32_t>len(path), p, -1 if data is None else <int32_t>len(data),
                    version, zxid, time)

    def set_acl(self, path: bytes, acl: bytes, *, version: int) -> None:
        """Replace a znode's ACL. Raises KeyError when there is no znode."""
        cdef uint32_t slot = self.existing(path)
        self.assign_acl(slot, path, <int32_t>len(path), <uint32_t>self.acls.intern(acl, <int32_t>len(acl)), version)


cdef bytes page_key(uint32_t page):
    cdef uint8_t key[5]
    key[0] = 110
    fz_store32(key + 1, page)
    return (<const uint8_t*>key)[:5]
