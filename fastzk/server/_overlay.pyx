"""The changes that are proposed but not applied yet, over the tree.

Validation of a write must see the writes proposed before it, and reads must not. So the tree holds what is
applied, and this overlay holds, for each znode that a proposed transaction touches, what it will be. A
record goes when the last transaction that touched it is applied. A multi that fails half-way takes its
changes back: while it is validated, each record's previous content is kept.
"""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from fastzk._index cimport index_next, index_put, index_remove, index_reserve, index_resize, index_start
from fastzk._tree cimport Node


cdef class Overlay:
    """Proposed changes over ``tree``."""

    def __cinit__(self, Tree tree) -> None:
        self.tree = tree
        index_resize(&self.index, 1024)
        self.size = 1
        self.touch_mask = 1023
        self.touches = <Touch*>calloc(1024, sizeof(Touch))
        if self.touches == NULL:
            raise MemoryError("no memory for the overlay")

    def __dealloc__(self) -> None:
        cdef uint32_t i
        if self.changes != NULL:
            for i in range(1, self.size):
                free(self.changes[i].path)
                free(self.changes[i])
        free(self.changes)
        free(self.spare)
        free(self.touches)
        free(self.undo)
        free(self.index.buckets)

    def __len__(self) -> int:
        """Znodes with proposed changes."""
        return self.index.used

    cdef uint32_t number_of(self, const uint8_t* p, int32_t n, uint64_t h) noexcept:
        cdef uint64_t at
        cdef uint32_t number
        if self.index.used == 0:
            return 0
        at = index_start(&self.index, h)
        while True:
            number = index_next(&self.index, h, &at)
            if number == 0:
                return 0
            if self.changes[number].n == n and memcmp(self.changes[number].path, p, n) == 0:
                return number

    cdef Change* find(self, const uint8_t* p, int32_t n, uint64_t h) noexcept:
        cdef uint32_t number = self.number_of(p, n, h)
        return self.changes[number] if number else NULL

    cdef Change* view(self, const uint8_t* p, int32_t n, uint64_t h, Change* room) noexcept:
        # The znode at p[:n] (the root is "") as it will be: a record of the overlay, or `room` filled from the
        # tree. NULL: there will be none.
        cdef Change* change = self.find(p, n, h)
        cdef uint32_t slot
        cdef Node* node
        if change != NULL:
            return change if change.exists else NULL
        slot = self.tree.find(p, n, h)
        if slot == 0:
            return NULL
        node = self.tree.node(slot)
        room.owner = node.owner
        room.exists = True
        room.version = node.version
        room.cversion = node.cversion
        room.aversion = node.aversion
        room.children = <int32_t>node.num_children
        room.data_len = node.data_len if node.data_len > 0 else 0
        room.acl = node.acl
        return room

    cdef int push(self, uint32_t number, int64_t zxid) except -1:
        cdef Touch* fresh
        cdef uint64_t i
        cdef uint64_t used = self.touch_tail - self.touch_head
        if used > self.touch_mask:
            fresh = <Touch*>malloc((self.touch_mask + 1) * 2 * sizeof(Touch))
            if fresh == NULL:
                raise MemoryError("no memory for the overlay")
            for i in range(used):
                fresh[i] = self.touches[(self.touch_head + i) & self.touch_mask]
            free(self.touches)
            self.touches = fresh
            self.touch_mask = self.touch_mask * 2 + 1
            self.mark -= self.touch_head
            self.touch_head = 0
            self.touch_tail = used
        self.touches[self.touch_tail & self.touch_mask].change = number
        self.touches[self.touch_tail & self.touch_mask].zxid = zxid
        self.touch_tail += 1
        return 0

    cdef Change* touch(self, const uint8_t* p, int32_t n, uint64_t h, const Change* now, int64_t zxid) except NULL:
        # The record of p[:n] for transaction `zxid` to change; a new one starts as `now`. Its ACL reference is
        # the overlay's own.
        cdef uint32_t number = self.number_of(p, n, h)
        cdef bint fresh = number == 0
        cdef Change* change
        cdef void* moved
        cdef uint32_t capacity
        if fresh:
            index_reserve(&self.index)
            if self.spares:
                self.spares -= 1
                number = self.spare[self.spares]
            else:
                if self.size >= self.capacity:
                    capacity = self.capacity * 2 or 64
                    moved = realloc(self.changes, capacity * sizeof(Change*))
                    if moved == NULL:
                        raise MemoryError("no memory for the overlay")
                    self.changes = <Change**>moved
                    moved = realloc(self.spare, capacity * sizeof(uint32_t))
                    if moved == NULL:
                        raise MemoryError("no memory for the overlay")
                    self.spare = <uint32_t*>moved
                    self.capacity = capacity
                change = <Change*>calloc(1, sizeof(Change))
                if change == NULL:
                    raise MemoryError("no memory for the overlay")
                number = self.size
                self.changes[number] = change
                self.size += 1
            change = self.changes[number]
            if change.room < n + 1:
                moved = realloc(change.path, n + 33)
                if moved == NULL:
                    raise MemoryError("no memory for the overlay")
                change.path = <uint8_t*>moved
                change.room = n + 33
            memcpy(change.path, p, n)
            change.n = n
            change.hash = h
            change.owner = now.owner
            change.exists = now.exists
            change.version = now.version
            change.cversion = now.cversion
            change.aversion = now.aversion
            change.children = now.children
            change.data_len = now.data_len
            change.acl = now.acl
            self.tree.acls.ref(change.acl)
            index_put(&self.index, h, number)
        else:
            change = self.changes[number]
        if self.recording:
            if self.undo_size >= self.undo_capacity:
                capacity = self.undo_capacity * 2 or 64
                moved = realloc(self.undo, capacity * sizeof(Undo))
                if moved == NULL:
                    raise MemoryError("no memory for the overlay")
                self.undo = <Undo*>moved
                self.undo_capacity = capacity
            self.undo[self.undo_size].change = number
            self.undo[self.undo_size].fresh = fresh
            self.undo[self.undo_size].before = change[0]
            self.tree.acls.ref(change.acl)               # for the copy in the undo list
            self.undo_size += 1
        self.push(number, zxid)
        change.zxid = zxid
        return change

    cdef int release(self, uint32_t number) except -1:
        cdef Change* change = self.changes[number]
        index_remove(&self.index, change.hash, number)
        self.tree.acls.unref(change.acl)
        change.acl = 0
        change.zxid = 0
        self.spare[self.spares] = number
        self.spares += 1
        return 0

    cdef int settle(self, int64_t zxid) except -1:
        # Everything up to `zxid` is applied: the tree shows it now.
        cdef Touch* touch
        while self.touch_head != self.touch_tail:
            touch = &self.touches[self.touch_head & self.touch_mask]
            if touch.zxid > zxid:
                break
            if self.changes[touch.change].zxid == touch.zxid:
                self.release(touch.change)
            self.touch_head += 1
        return 0

    cdef int clear(self) except -1:
        # What was proposed will not happen.
        while self.touch_head != self.touch_tail:
            if self.changes[self.touches[self.touch_head & self.touch_mask].change].zxid:
                self.release(self.touches[self.touch_head & self.touch_mask].change)
            self.touch_head += 1
        return 0

    cdef void begin(self) noexcept:
        # Record what the following touches change, until `rollback` or `commit`.
        self.recording = True
        self.undo_size = 0
        self.mark = self.touch_tail

    cdef int commit(self) except -1:
        cdef uint32_t i
        for i in range(self.undo_size):
            self.tree.acls.unref(self.undo[i].before.acl)
        self.undo_size = 0
        self.recording = False
        return 0

    cdef int rollback(self) except -1:
        cdef Undo* undo
        cdef Change* change
        while self.undo_size:
            self.undo_size -= 1
            undo = &self.undo[self.undo_size]
            change = self.changes[undo.change]
            if undo.fresh:
                self.tree.acls.unref(undo.before.acl)
                self.release(undo.change)
            else:
                self.tree.acls.unref(change.acl)         # its own; the undo list's becomes its own
                undo.before.path = change.path
                undo.before.room = change.room
                change[0] = undo.before
        self.touch_tail = self.mark
        self.recording = False
        return 0
