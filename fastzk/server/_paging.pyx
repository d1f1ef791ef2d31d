"""Pages of a children list in the byte order of the names (the extension pagedList).

The tree keeps siblings in no order, and a list of a million is too long to be sorted for each page of it. So a
search goes through all children once and keeps the ``WINDOW`` smallest names behind the cursor, sorted, as
slots: a *window*. It serves every further page in its range until a child comes or goes, which the parent's
pzxid tells. A list of n children is read in n / ``WINDOW`` searches if nobody changes it, and in one search a
page at worst. A few windows are kept, so pages cost a bounded amount of memory, whatever clients ask for.

A search is a walk over the siblings with no Python object for a child. Names are compared by a 64-bit *key*
first: the eight bytes behind what most names have in common (``node-0000``), found from a sample. Equal keys
are decided by the whole names, so a bad sample costs time only. Candidates gather in an array of twice the
window; when it is full, a quickselect drops its larger half. The order of the siblings does not matter to
that, while a heap would be at its worst for names that were counted up, which is what most long lists are.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from fastzk._codec cimport fz_load64, fz_store32, put_i32, put_span
from fastzk._constants cimport PAGE_EPHEMERAL_ONLY, PAGE_PERSISTENT_ONLY
from fastzk._tree cimport Node, OWNER_EPHEMERAL, owner_kind

cdef enum:
    WINDOW = 1 << 16
    WINDOWS = 8
    SAMPLES = 64


cdef inline bint is_wanted(int64_t owner, uint32_t owners) noexcept nogil:
    # Whether a child with this owner is among those that the flags ask for.
    if owners & (PAGE_PERSISTENT_ONLY | PAGE_EPHEMERAL_ONLY) == 0:
        return True
    return (owner_kind(owner) == OWNER_EPHEMERAL) == (owners & PAGE_EPHEMERAL_ONLY != 0)


cdef inline int compare_names(const uint8_t* a, int32_t a_n, const uint8_t* b, int32_t b_n) noexcept nogil:
    cdef int found = memcmp(a, b, a_n if a_n < b_n else b_n)
    if found:
        return found
    return (a_n > b_n) - (a_n < b_n)


cdef class Window:
    """See the ``.pxd``."""

    def __dealloc__(self) -> None:
        free(self.slots)


cdef class Pages:
    """Pages of the children lists of ``tree``."""

    def __cinit__(self, Tree tree) -> None:
        self.tree = tree
        self.windows = []
        self.random = tree.seed | 1

    cdef int put_page(self, OutBuf* out, uint32_t parent, const uint8_t* after, int32_t after_n, uint32_t owners,
                      int32_t limit, int64_t room) except -1:
        # A vector<ustring> of the names behind `after`, at most `limit` and at most `room` bytes but at least one,
        # and the cursor of the next page as a ustring: empty if there is none.
        cdef Window window = self.find(parent, after, after_n, owners)
        cdef size_t start = out.n
        cdef uint32_t at = self.start_in(window, after, after_n)
        cdef int32_t count = 0
        cdef Node* node = NULL
        put_i32(out, 0)
        while at < window.count and count < limit:
            node = self.tree.node(window.slots[at])
            # The last name comes a second time, as the cursor.
            if count and <int64_t>(out.n - start) + 8 + 2 * <int64_t>node.name_len > room:
                break
            put_span(out, node.blob, <int32_t>node.name_len)
            count += 1
            at += 1
        fz_store32(out.p + start, <uint32_t>count)
        if count and (at < window.count or not window.last):
            node = self.tree.node(window.slots[at - 1])
            return put_span(out, node.blob, <int32_t>node.name_len)
        return put_i32(out, 0)

    cdef Window find(self, uint32_t parent, const uint8_t* after, int32_t after_n, uint32_t owners):
        # A window that has the children behind `after`, at least the first of them.
        cdef Node* node = self.tree.node(parent)
        cdef Window window
        cdef int i
        for i in range(<int>len(self.windows) - 1, -1, -1):
            window = self.windows[i]
            if window.parent != parent or window.owners != owners:
                continue
            if window.pzxid != node.pzxid or window.children != node.num_children:
                del self.windows[i]
                continue
            if compare_names(window.after, <int32_t>len(window.after), after, after_n) > 0:
                continue
            if window.last or (
                window.count and self.compare(window.slots[window.count - 1], after, after_n) > 0
            ):
                if i != <int>len(self.windows) - 1:
                    del self.windows[i]
                    self.windows.append(window)
                return window
        window = self.search(parent, after, after_n, owners)
        if len(self.windows) >= WINDOWS:
            del self.windows[0]
        self.windows.append(window)
        self.searches += 1
        return window

    cdef uint32_t start_in(self, Window window, const uint8_t* after, int32_t after_n) noexcept nogil:
        # Where in the window the names behind `after` begin.
        cdef uint32_t low = 0
        cdef uint32_t high = window.count
        cdef uint32_t middle
        while low < high:
            middle = (low + high) / 2
            if self.compare(window.slots[middle], after, after_n) > 0:
                high = middle
            else:
                low = middle + 1
        return low

    cdef int compare(self, uint32_t slot, const uint8_t* p, int32_t n) noexcept nogil:
        cdef Node* node = self.tree.node(slot)
        return compare_names(node.blob, <int32_t>node.name_len, p, n)

    # -- a search ---------------------------------------------------------------------------------------------

    cdef Window search(self, uint32_t parent, const uint8_t* after, int32_t after_n, uint32_t owners):
        cdef Window window = Window()
        cdef Node* above = self.tree.node(parent)
        cdef uint32_t child = above.first_child
        cdef uint32_t room = above.num_children if above.num_children < 2 * WINDOW else 2 * WINDOW
        cdef Ranked* found = <Ranked*>malloc((room + 1) * sizeof(Ranked))
        cdef Ranked cursor
        cdef Ranked last               # while `full`: nothing from here on belongs to the window
        cdef bint full = False
        cdef uint32_t n = 0
        cdef uint32_t i
        cdef Node* node
        if found == NULL:
            raise MemoryError("no memory for a page of children")
        window.parent = parent
        window.owners = owners
        window.pzxid = above.pzxid
        window.children = above.num_children
        window.after = after[:after_n] if after_n > 0 else b""
        window.last = True
        try:
            self.learn_shared(parent)
            cursor.key = self.key_of(after, after_n)
            while child:
                node = self.tree.node(child)
                found[n].slot = child
                child = node.next_sibling
                if not is_wanted(node.owner, owners):
                    continue
                found[n].key = self.key_of(node.blob, <int32_t>node.name_len)
                if found[n].key < cursor.key or (
                    found[n].key == cursor.key
                    and compare_names(node.blob, <int32_t>node.name_len, after, after_n) <= 0
                ):
                    continue
                if full and not self.less(&found[n], &last):
                    continue
                n += 1
                if n == 2 * WINDOW:
                    self.select(found, n, WINDOW)
                    n = WINDOW
                    last = found[0]
                    for i in range(1, n):
                        if self.less(&last, &found[i]):
                            last = found[i]
                    full = True
                    window.last = False
            self.sort(found, n)
            if n > WINDOW:
                n = WINDOW
                window.last = False
            window.slots = <uint32_t*>malloc((n + 1) * sizeof(uint32_t))
            if window.slots == NULL:
                raise MemoryError("no memory for a page of children")
            for i in range(n):
                window.slots[i] = found[i].slot
            window.count = n
        finally:
            free(found)
            self.shared = NULL
            self.shared_n = 0
        return window

    cdef int learn_shared(self, uint32_t parent) except -1:
        # What a sample of the names begins with. It points into the first one, which stays while a search runs.
        cdef uint32_t child = self.tree.node(parent).first_child
        cdef uint32_t step = self.tree.node(parent).num_children / SAMPLES + 1
        cdef uint32_t number = 0
        cdef int32_t n
        cdef Node* node
        self.shared_n = 0
        if child == 0 or step == 1:
            return 0                           # a short list needs no such care
        node = self.tree.node(child)
        self.shared = node.blob
        self.shared_n = <int32_t>node.name_len
        while child:
            node = self.tree.node(child)
            if number % step == 0:
                n = 0
                while n < self.shared_n and n < <int32_t>node.name_len and node.blob[n] == self.shared[n]:
                    n += 1
                self.shared_n = n
            number += 1
            child = node.next_sibling
        return 0

    cdef uint64_t key_of(self, const uint8_t* p, int32_t n) noexcept nogil:
        # Names in order have keys in order: smaller or equal.
        cdef uint64_t key = 0
        cdef int i
        cdef int found
        if self.shared_n:
            found = memcmp(p, self.shared, self.shared_n if self.shared_n < n else n) if n > 0 else 0
            if found < 0 or (found == 0 and n < self.shared_n):
                return 0
            if found > 0:
                return 0xFFFFFFFFFFFFFFFFULL
            p += self.shared_n
            n -= self.shared_n
        if n >= 8:
            return fz_load64(p)
        for i in range(n):
            key |= <uint64_t>p[i] << (56 - 8 * i)
        return key

    cdef bint less(self, const Ranked* a, const Ranked* b) noexcept nogil:
        cdef Node* left
        cdef Node* right
        if a.key != b.key:
            return a.key < b.key
        left = self.tree.node(a.slot)
        right = self.tree.node(b.slot)
        return compare_names(left.blob, <int32_t>left.name_len, right.blob, <int32_t>right.name_len) < 0

    cdef void select(self, Ranked* a, int64_t n, int64_t keep) noexcept nogil:
        # The `keep` smallest of a[:n] come first, in any order. Pivots are random, lest somebody choose names that
        # make it quadratic.
        cdef int64_t low = 0
        cdef int64_t high = n - 1
        cdef int64_t i, j
        cdef Ranked pivot
        while low < high:
            self.random ^= self.random << 13
            self.random ^= self.random >> 7
            self.random ^= self.random << 17
            pivot = a[low + <int64_t>(self.random % <uint64_t>(high - low + 1))]
            i = low
            j = high
            while i <= j:
                while self.less(&a[i], &pivot):
                    i += 1
                while self.less(&pivot, &a[j]):
                    j -= 1
                if i <= j:
                    a[i], a[j] = a[j], a[i]
                    i += 1
                    j -= 1
            if keep <= j:
                high = j
            elif keep >= i:
                low = i
            else:
                return

    cdef void sort(self, Ranked* a, int64_t n) noexcept nogil:
        # A heap sort: in place, and never worse than n log n, whatever names clients choose.
        cdef int64_t start, end, at, child
        cdef Ranked moved
        start = n / 2
        end = n
        while end > 1:
            if start > 0:
                start -= 1
                moved = a[start]
            else:
                end -= 1
                moved = a[end]
                a[end] = a[0]
                if end == 1:
                    a[0] = moved
                    return
            at = start
            child = 2 * at + 1
            while child < end:
                if child + 1 < end and self.less(&a[child], &a[child + 1]):
                    child += 1
                if not self.less(&moved, &a[child]):
                    break
                a[at] = a[child]
                at = child
                child = 2 * at + 1
            a[at] = moved
