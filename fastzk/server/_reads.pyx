"""Requests that change nothing in the tree: answered at once, from memory, into the client's buffer.

``serve`` opens the reply, lets ``answer`` append the body, and turns an error into a header alone. Setting
and removing watches is here too: watches belong to the connection, not to the replicated state.

A list may be longer than a client can take: ZooKeeper's Java client closes the connection on a reply above its
jute.maxbuffer, connects again and asks again, for ever. So what has no bound of its own (lists, and multiRead, which
holds lists) is an error when it is larger than ``max_reply``.
"""

import logging

from libc.string cimport memchr, memcmp, memset

from fastzk._acl cimport acl_permits
from fastzk._codec cimport (
    fz_store32, get_acls, get_bool, get_i32, get_i64, get_span, out_room, put_bytes, put_i32, put_span, put_u8,
)
from fastzk._constants cimport (
    ADDWATCH_PERSISTENT, ADDWATCH_PERSISTENT_RECURSIVE,
    ERR_BAD_ARGUMENTS, ERR_MARSHALLING, ERR_NO_AUTH, ERR_NO_NODE, ERR_NO_WATCHER, ERR_OK, ERR_UNIMPLEMENTED,
    EVENT_CHILDREN_CHANGED, EVENT_CREATED, EVENT_DATA_CHANGED, EVENT_DELETED,
    OP_ADD_WATCH, OP_CHECK_WATCHES, OP_ERROR, OP_EXISTS, OP_GET_ACL, OP_GET_ALL_CHILDREN_NUMBER, OP_GET_CHILDREN,
    OP_GET_CHILDREN2, OP_GET_DATA, OP_GET_EPHEMERALS, OP_MULTI_READ, OP_PING, OP_REMOVE_WATCHES, OP_SET_WATCHES,
    OP_SET_WATCHES2, OP_WHO_AM_I, PERM_ADMIN, PERM_READ,
    LIST_ALL, LIST_EPHEMERAL_ONLY, LIST_PERSISTENT_ONLY, OP_FILTERED_LIST, OP_PAGED_LIST,
    OP_CHECK, OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_TTL, OP_DELETE, OP_SET_DATA,
    PAGE_EPHEMERAL_ONLY, PAGE_PERSISTENT_ONLY, PAGE_WATCH,
    WATCHER_ANY, WATCHER_CHILDREN, WATCHER_DATA, WATCHER_PERSISTENT, WATCHER_PERSISTENT_RECURSIVE, XID_PING,
)
from fastzk._tree cimport Node, OWNER_EPHEMERAL, STAT_BYTES, owner_kind
from fastzk.server._clients cimport OUT_LIMIT, begin_reply, end_reply, fz_monotonic_ns, put_reply
from fastzk.server._paging cimport Pages
from fastzk.server._watches cimport WATCH_CHILD, WATCH_DATA, WATCH_PERSISTENT, WATCH_RECURSIVE


cdef bytes JAVA_BLANKS = bytes(range(33))     # what String.trim takes away
cdef int64_t WARN_NS = 60 * <int64_t>1000000000
cdef int64_t HEADER = 16                      # bytes of a reply's header, without the frame's length

logger = logging.getLogger("fastzk.server.reads")


cdef bint is_read(int32_t op) noexcept nogil:
    return op in (
        OP_GET_DATA, OP_EXISTS, OP_GET_CHILDREN, OP_GET_CHILDREN2, OP_PING, OP_GET_ACL, OP_SET_WATCHES, OP_SET_WATCHES2,
        OP_ADD_WATCH, OP_REMOVE_WATCHES, OP_CHECK_WATCHES, OP_MULTI_READ, OP_GET_EPHEMERALS, OP_GET_ALL_CHILDREN_NUMBER,
        OP_WHO_AM_I, OP_FILTERED_LIST, OP_PAGED_LIST,
    )


cdef inline uint32_t modes_of_type(int32_t watcher_type) noexcept nogil:
    # What a WatcherType of a request means; 0: there is no such type.
    if watcher_type == WATCHER_CHILDREN:
        return WATCH_CHILD
    if watcher_type == WATCHER_DATA:
        return WATCH_DATA
    if watcher_type == WATCHER_PERSISTENT:
        return WATCH_PERSISTENT
    if watcher_type == WATCHER_PERSISTENT_RECURSIVE:
        return WATCH_RECURSIVE
    if watcher_type == WATCHER_ANY:
        return WATCH_CHILD | WATCH_DATA | WATCH_PERSISTENT | WATCH_RECURSIVE
    return 0


cdef class Reads:
    """Answers requests that need no transaction."""

    def __cinit__(self, Tree tree, Watches watches, Clients clients) -> None:
        self.tree = tree
        self.watches = watches
        self.clients = clients
        self.pages = Pages(tree)
        self.max_reply = 0x7FFFFFFF
        self.max_page = 0xFFFFF
        self.virtual = {}

    def limit(self, max_reply: int, max_page: int) -> None:
        """Set how large replies may be, in bytes of a frame: ``max_reply`` for lists (0: no limit), and
        ``max_page`` for a page of a list where there is no such limit.
        """
        self.max_reply = max_reply or 0x7FFFFFFF
        self.max_page = max_reply or max_page

    def extend(self, virtual: dict[bytes, bytes]) -> None:
        """Answer the extensions' requests, and show the znodes ``virtual`` (path -> data), which are in no tree."""
        self.extensions = True
        self.virtual = virtual

    cdef int serve(self, Client client, int32_t xid, int32_t op, Reader* r) except -1:
        # One request, one reply in client.out. Events that the request itself causes stand before it.
        cdef int64_t zxid = self.clients.zxid
        cdef OutBuf* out = &client.out
        cdef size_t start
        cdef int32_t err
        if op == OP_PING:
            return put_reply(client, XID_PING, zxid, ERR_OK)
        if op == OP_SET_WATCHES or op == OP_SET_WATCHES2:
            return put_reply(client, xid, zxid, self.set_watches(client, r, op == OP_SET_WATCHES2))
        start = begin_reply(client, xid, zxid, ERR_OK)
        err = self.answer(client, op, r)
        if err:
            out.n = start + 20
            fz_store32(out.p + start + 16, <uint32_t>err)
        end_reply(client, start)
        return 0

    cdef int32_t node_for(self, Client client, Span path, int32_t perm, uint32_t* slot) except? 1:
        # The znode that a request names, if the client has one of the permissions.
        if path.n < 0:
            return ERR_MARSHALLING
        slot[0] = self.tree.find(path.p, path.n, self.tree.hash(path.p, path.n))
        if slot[0] == 0:
            return ERR_NO_NODE
        if not acl_permits(self.tree.acls, self.tree.node(slot[0]).acl, perm, &client.auth):
            return ERR_NO_AUTH
        return ERR_OK

    cdef int32_t answer(self, Client client, int32_t op, Reader* r) except? 1:
        cdef OutBuf* out = &client.out
        cdef Span path
        cdef bint watch
        cdef uint32_t slot = 0
        cdef uint32_t modes
        cdef Node* node
        cdef int32_t err
        if op == OP_GET_ACL:
            return self.get_acl(client, r)
        if op == OP_MULTI_READ:
            return self.multi_read(client, r)
        if op == OP_GET_EPHEMERALS:
            return self.get_ephemerals(client, r)
        if op == OP_WHO_AM_I:
            return self.who_am_i(client)
        path = get_span(r)
        if op == OP_GET_DATA or op == OP_EXISTS or op == OP_GET_CHILDREN or op == OP_GET_CHILDREN2:
            watch = get_bool(r)
            if r.bad:
                return ERR_MARSHALLING
            if op == OP_EXISTS and path.n > 0 and memchr(path.p, 0, path.n) != NULL:
                return ERR_BAD_ARGUMENTS
            err = self.node_for(client, path, PERM_READ, &slot)
            if err == ERR_NO_NODE and self.extensions and self.put_virtual(out, op, path):
                if watch:
                    self.watches.add(path.p, path.n, client, WATCH_DATA)
                return ERR_OK
            if op == OP_EXISTS:
                if watch and (err == ERR_OK or err == ERR_NO_NODE):
                    self.watches.add(path.p, path.n, client, WATCH_DATA)
                if err == ERR_OK:
                    self.tree.put_stat(out, slot)
                return err
            if err:
                return err
            if op == OP_GET_DATA:
                if watch:
                    self.watches.add(path.p, path.n, client, WATCH_DATA)
                node = self.tree.node(slot)
                put_span(out, node.blob + node.name_len, node.data_len)
                return self.tree.put_stat(out, slot)
            err = self.put_list(out, op, path, slot, LIST_ALL)
            if err == ERR_OK and watch:
                self.watches.add(path.p, path.n, client, WATCH_CHILD)
            return err
        if op == OP_FILTERED_LIST:
            watch = get_bool(r)
            return self.filtered_list(client, path, watch, r)
        if op == OP_PAGED_LIST:
            return self.paged_list(client, path, r)
        if op == OP_GET_ALL_CHILDREN_NUMBER:
            if r.bad:
                return ERR_MARSHALLING
            err = self.node_for(client, path, PERM_READ, &slot)
            if err == ERR_OK:
                put_i32(out, self.descendants(slot) + (1 if path.n == 0 else 0))
            return err
        if op == OP_ADD_WATCH:
            err = get_i32(r)                         # the mode
            if r.bad or path.n < 0 or (err != ADDWATCH_PERSISTENT and err != ADDWATCH_PERSISTENT_RECURSIVE):
                return ERR_MARSHALLING
            self.watches.add(
                path.p, path.n, client, WATCH_PERSISTENT if err == ADDWATCH_PERSISTENT else WATCH_RECURSIVE)
            put_i32(out, 0)
            return ERR_OK
        if op == OP_CHECK_WATCHES or op == OP_REMOVE_WATCHES:
            modes = modes_of_type(get_i32(r))
            if r.bad or modes == 0:
                return ERR_MARSHALLING
            if path.n < 0:
                return ERR_NO_WATCHER if op == OP_REMOVE_WATCHES else ERR_MARSHALLING
            if op == OP_REMOVE_WATCHES:
                return ERR_OK if self.watches.drop(path.p, path.n, client, modes) else ERR_NO_WATCHER
            return ERR_OK if self.watches.modes_of(path.p, path.n, client) & modes else ERR_NO_WATCHER
        return ERR_UNIMPLEMENTED

    cdef bint put_virtual(self, OutBuf* out, int32_t op, Span path) except -1:
        # There is no znode at `path`: the reply to a getData or exists if it is one that the server makes up.
        cdef bytes data
        if (path.n != 19 and path.n != 21) or (op != OP_GET_DATA and op != OP_EXISTS):
            return False
        data = self.virtual.get(path.p[:path.n])
        if data is None:
            return False
        if op == OP_GET_DATA:
            put_span(out, data, <int32_t>len(data))
        memset(out_room(out, STAT_BYTES), 0, STAT_BYTES)
        fz_store32(out.p + out.n + 52, <uint32_t>len(data))         # dataLength
        out.n += STAT_BYTES
        return True

    # -- lists ------------------------------------------------------------------------------------------------

    cdef int32_t too_large(self, const uint8_t* path, int32_t n, int64_t size) except? 1:
        # The answer instead of a list that takes `size` bytes, or more.
        cdef int64_t now = fz_monotonic_ns()
        if self.warned_ns == 0 or now - self.warned_ns >= WARN_NS:
            self.warned_ns = now
            logger.warning(
                "reply refused path=%s bytes=%d reason=%s", (path[:n] if n > 0 else b"").decode("utf-8", "replace"),
                size, f"more than maxReplyBytes={self.max_reply}: a client would lose its connection over it; "
                "see pagedList in docs/extensions.md")
        return ERR_MARSHALLING

    cdef int32_t put_list(self, OutBuf* out, int32_t op, Span path, uint32_t slot, int32_t kind) except? 1:
        # The children, and for all but getChildren the stat; or nothing, and an error.
        cdef Node* node = self.tree.node(slot)
        cdef size_t start = out.n
        cdef int64_t rest = HEADER + (0 if op == OP_GET_CHILDREN else STAT_BYTES)
        if kind == LIST_ALL:
            # A name takes five bytes at least: most of what is too large need not be gathered to be refused.
            if rest + 4 + 5 * <int64_t>node.num_children > self.max_reply:
                return self.too_large(path.p, path.n, rest + 4 + 5 * <int64_t>node.num_children)
            self.tree.put_children(out, slot)
        else:
            self.put_filtered(out, slot, kind)
        if op != OP_GET_CHILDREN:
            self.tree.put_stat(out, slot)
            rest = HEADER
        rest += <int64_t>(out.n - start)
        if rest > self.max_reply:
            out.n = start
            return self.too_large(path.p, path.n, rest)
        return ERR_OK

    cdef int put_filtered(self, OutBuf* out, uint32_t slot, int32_t kind) except -1:
        # Only the ephemeral children, or only the others; no more of them than make a reply too large.
        cdef uint32_t child = self.tree.node(slot).first_child
        cdef size_t start = out.n
        cdef int32_t count = 0
        cdef Node* node
        put_i32(out, 0)
        while child and <int64_t>(out.n - start) <= self.max_reply:
            node = self.tree.node(child)
            if (owner_kind(node.owner) == OWNER_EPHEMERAL) == (kind == LIST_EPHEMERAL_ONLY):
                put_span(out, node.blob, <int32_t>node.name_len)
                count += 1
            child = node.next_sibling
        fz_store32(out.p + start, <uint32_t>count)
        return 0

    cdef int32_t filtered_list(self, Client client, Span path, bint watch, Reader* r) except? 1:
        # ClickHouse Keeper's: getChildren2 with one byte more, which says which children.
        cdef uint32_t slot = 0
        cdef int32_t err
        cdef int32_t kind
        if r.bad or r.p >= r.end:
            return ERR_MARSHALLING
        kind = r.p[0]
        if kind != LIST_ALL and kind != LIST_PERSISTENT_ONLY and kind != LIST_EPHEMERAL_ONLY:
            return ERR_BAD_ARGUMENTS
        err = self.node_for(client, path, PERM_READ, &slot)
        if err == ERR_OK:
            err = self.put_list(&client.out, OP_FILTERED_LIST, path, slot, kind)
        if err == ERR_OK and watch:
            self.watches.add(path.p, path.n, client, WATCH_CHILD)
        return err

    cdef int32_t paged_list(self, Client client, Span path, Reader* r) except? 1:
        # Ours: path, the name behind which the page begins, how many names at most (0 or less: as many as fit), flags.
        cdef Span after = get_span(r)
        cdef int32_t limit = get_i32(r)
        cdef uint32_t flags = <uint32_t>get_i32(r)
        cdef uint32_t owners = flags & (PAGE_PERSISTENT_ONLY | PAGE_EPHEMERAL_ONLY)
        cdef uint32_t slot = 0
        cdef int32_t err
        if r.bad:
            return ERR_MARSHALLING
        if flags & ~<uint32_t>(PAGE_WATCH | PAGE_PERSISTENT_ONLY | PAGE_EPHEMERAL_ONLY) or (
            owners == (PAGE_PERSISTENT_ONLY | PAGE_EPHEMERAL_ONLY)
        ):
            return ERR_BAD_ARGUMENTS
        err = self.node_for(client, path, PERM_READ, &slot)
        if err:
            return err
        self.pages.put_page(
            &client.out, slot, after.p, after.n if after.n > 0 else 0, owners, limit if limit > 0 else 0x7FFFFFFF,
            self.max_page - HEADER - STAT_BYTES)
        if flags & PAGE_WATCH:
            self.watches.add(path.p, path.n, client, WATCH_CHILD)
        return self.tree.put_stat(&client.out, slot)

    def descendants(self, top: int) -> int:
        """How many znodes are below the one in slot ``top``."""
        cdef uint32_t root = top
        cdef uint32_t slot = self.tree.node(root).first_child
        cdef int64_t total = 0
        while slot and slot != root:
            total += 1
            if self.tree.node(slot).first_child:
                slot = self.tree.node(slot).first_child
                continue
            while slot != root and not self.tree.node(slot).next_sibling:
                slot = self.tree.node(slot).parent
            if slot != root:
                slot = self.tree.node(slot).next_sibling
        return total

    cdef int32_t get_acl(self, Client client, Reader* r) except? 1:
        cdef OutBuf* out = &client.out
        cdef Span path = get_span(r)
        cdef uint32_t slot = 0
        cdef uint32_t acl
        cdef Reader entries
        cdef int32_t count
        cdef int32_t colon
        cdef Span scheme
        cdef Span who
        cdef int32_t err
        if r.bad:
            return ERR_MARSHALLING
        err = self.node_for(client, path, PERM_READ | PERM_ADMIN, &slot)
        if err:
            return err
        acl = self.tree.node(slot).acl
        entries.p = self.tree.acls.entries[acl].data
        entries.end = entries.p + self.tree.acls.entries[acl].n
        entries.bad = False
        if HEADER + STAT_BYTES + (entries.end - entries.p) > self.max_reply:
            return self.too_large(path.p, path.n, HEADER + STAT_BYTES + (entries.end - entries.p))
        if acl_permits(self.tree.acls, acl, PERM_ADMIN, &client.auth):
            put_bytes(out, entries.p, entries.end - entries.p)
            return self.tree.put_stat(out, slot)
        # Without ADMIN the hash behind a digest's user name is nobody's business (CVE-2019-0201).
        count = get_i32(&entries)
        put_i32(out, count)
        while count > 0:
            put_i32(out, get_i32(&entries))
            scheme = get_span(&entries)
            who = get_span(&entries)
            put_span(out, scheme.p, scheme.n)
            colon = 0
            while colon < who.n and who.p[colon] != 58:
                colon += 1
            if scheme.n == 6 and memcmp(scheme.p, b"digest", 6) == 0 and colon < who.n:
                put_i32(out, colon + 2)
                put_bytes(out, who.p, colon)
                put_bytes(out, b":x", 2)
            else:
                put_span(out, who.p, who.n)
            count -= 1
        return self.tree.put_stat(out, slot)

    cdef int32_t set_watches(self, Client client, Reader* r, bint both) except? 1:
        # A client that reconnected sets its watches again; what changed while it was away is told first.
        cdef int64_t relative = get_i64(r)
        cdef Reader ahead = r[0]
        cdef int kind
        cdef int kinds = 5 if both else 3
        cdef int32_t count
        cdef int32_t event
        cdef uint32_t slot
        cdef uint32_t modes
        cdef Span path
        for _ in range(kinds):
            count = get_i32(&ahead)
            while count > 0 and not ahead.bad:
                get_span(&ahead)
                count -= 1
        if ahead.bad:
            return ERR_MARSHALLING
        for kind in range(kinds):
            # What comes before a null has its effect, as in ZooKeeper.
            count = get_i32(r)
            if count == -1:
                return ERR_MARSHALLING
            while count > 0:
                count -= 1
                path = get_span(r)
                if path.n < 0:
                    return ERR_MARSHALLING
                slot = self.tree.lookup(path.p, path.n)
                event = 0
                modes = WATCH_DATA
                if kind == 0:
                    if slot == 0:
                        event = EVENT_DELETED
                    elif self.tree.node(slot).mzxid > relative:
                        event = EVENT_DATA_CHANGED
                elif kind == 1:
                    if slot:
                        event = EVENT_CREATED
                elif kind == 2:
                    modes = WATCH_CHILD
                    if slot == 0:
                        event = EVENT_DELETED
                    elif self.tree.node(slot).pzxid > relative:
                        event = EVENT_CHILDREN_CHANGED
                elif kind == 3:
                    modes = WATCH_PERSISTENT
                else:
                    modes = WATCH_RECURSIVE
                if event:
                    self.watches.send(client, path.p, path.n, event, -1)
                else:
                    self.watches.add(path.p, path.n, client, modes)
        return ERR_OK

    cdef int32_t check_multi_read(self, Reader r, bint* writes) except? 1:
        # ZooKeeper reads the whole request first. It knows the requests of a multi, too, but not both in one.
        cdef int32_t op
        cdef bint reads = False
        writes[0] = False
        while True:
            op = get_i32(&r)
            if get_bool(&r):
                get_i32(&r)
                return ERR_MARSHALLING if r.bad or (reads and writes[0]) else ERR_OK
            get_i32(&r)
            if r.bad:
                return ERR_MARSHALLING
            get_span(&r)
            if op == OP_GET_DATA or op == OP_GET_CHILDREN or (self.extensions and (
                op == OP_EXISTS or op == OP_GET_CHILDREN2 or op == OP_FILTERED_LIST
            )):
                reads = True
                get_bool(&r)
                if op == OP_FILTERED_LIST:
                    get_bool(&r)
                continue
            writes[0] = True
            if op == OP_CREATE or op == OP_CREATE2 or op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL:
                get_span(&r)
                get_acls(&r)
                get_i32(&r)
                if op == OP_CREATE_TTL:
                    get_i64(&r)
            elif op == OP_DELETE or op == OP_CHECK:
                get_i32(&r)
            elif op == OP_SET_DATA:
                get_span(&r)
                get_i32(&r)
            else:
                return ERR_MARSHALLING

    cdef int32_t multi_read(self, Client client, Reader* r) except? 1:
        # Reads in one request, each with its own result. Watch flags are ignored. Keeper's clients put more kinds of
        # reads into it than ZooKeeper takes.
        cdef OutBuf* out = &client.out
        cdef size_t start = out.n
        cdef size_t at
        cdef int32_t op, err, kind
        cdef Span path
        cdef uint32_t slot = 0
        cdef Node* node
        cdef bint broken = False
        err = self.check_multi_read(r[0], &broken)
        if err:
            return err
        while not broken:
            op = get_i32(r)
            if get_bool(r):
                break
            get_i32(r)
            path = get_span(r)
            get_bool(r)
            kind = LIST_ALL
            if op == OP_FILTERED_LIST:
                kind = r.p[0]
                r.p += 1
            if path.n < 0:
                broken = True
                break
            at = out.n
            # filteredList answers as getChildren2, in Keeper, too
            put_i32(out, OP_GET_CHILDREN2 if op == OP_FILTERED_LIST else op)
            put_u8(out, 0)
            put_i32(out, ERR_OK)
            err = self.node_for(client, path, PERM_READ, &slot)
            if err == ERR_NO_NODE and self.extensions and self.put_virtual(out, op, path):
                err = ERR_OK
            elif err == ERR_OK and op == OP_GET_DATA:
                node = self.tree.node(slot)
                put_span(out, node.blob + node.name_len, node.data_len)
                self.tree.put_stat(out, slot)
            elif err == ERR_OK and op == OP_EXISTS:
                self.tree.put_stat(out, slot)
            elif err == ERR_OK:
                err = ERR_BAD_ARGUMENTS if kind > LIST_EPHEMERAL_ONLY else self.put_list(out, op, path, slot, kind)
            if err:
                out.n = at
                put_i32(out, OP_ERROR)
                put_u8(out, 0)
                put_i32(out, err)
                put_i32(out, err)
            if HEADER + 9 + <int64_t>(out.n - start) > self.max_reply or out.n - start > OUT_LIMIT:
                # A short request may name a large znode many times.
                return self.too_large(path.p, path.n, HEADER + 9 + <int64_t>(out.n - start))
        put_i32(out, OP_ERROR)
        put_u8(out, 1)
        put_i32(out, -1)
        if broken:
            # Writes, or a null path: an error, and behind it the list of the results so far.
            fz_store32(out.p + start - 4, <uint32_t>ERR_MARSHALLING)
        return ERR_OK

    cdef int32_t get_ephemerals(self, Client client, Reader* r) except? 1:
        # The session's own ephemerals whose path begins with a prefix: a plain comparison of strings.
        cdef OutBuf* out = &client.out
        cdef Span prefix = get_span(r)
        cdef uint32_t slot
        cdef size_t count_at = out.n
        cdef size_t at
        cdef int32_t count = 0
        cdef bytes wanted
        if r.bad:
            return ERR_MARSHALLING
        wanted = prefix.p[:prefix.n].strip(JAVA_BLANKS) if prefix.n > 0 else b""
        wanted = b"" if wanted == b"/" or not wanted else prefix.p[:prefix.n]
        put_i32(out, 0)
        for slot in self.tree.ephemerals.get(client.session_id, ()):
            at = out.n
            put_i32(out, 0)
            self.tree.put_path(out, slot)
            if out.n - at - 4 < <size_t>len(wanted) or memcmp(out.p + at + 4, <const uint8_t*>wanted, len(wanted)) != 0:
                out.n = at
                continue
            fz_store32(out.p + at, <uint32_t>(out.n - at - 4))
            count += 1
            if HEADER + <int64_t>(out.n - count_at) > self.max_reply:
                return self.too_large(prefix.p, prefix.n, HEADER + <int64_t>(out.n - count_at))
        fz_store32(out.p + count_at, <uint32_t>count)
        return ERR_OK

    cdef int32_t who_am_i(self, Client client) except? 1:
        # vector<ClientInfo>: scheme and user; a digest's user is the part before the colon.
        cdef OutBuf* out = &client.out
        cdef bytes scheme_raw
        cdef bytes user_raw
        infos = client.identities()
        put_i32(out, <int32_t>len(infos))
        for scheme, who in infos:
            scheme_raw = scheme.encode("utf-8", "surrogateescape")
            user_raw = (who.split(":", 1)[0] if scheme == "digest" else who).encode("utf-8", "surrogateescape")
            put_span(out, scheme_raw, <int32_t>len(scheme_raw))
            put_span(out, user_raw, <int32_t>len(user_raw))
        return ERR_OK
