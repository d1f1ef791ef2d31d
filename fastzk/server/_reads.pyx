"""Requests that change nothing in the tree: answered at once, from memory, into the client's buffer.

``serve`` opens the reply, lets ``answer`` append the body, and turns an error into a header alone. Setting
and removing watches is here too: watches belong to the connection, not to the replicated state.
"""

from libc.string cimport memchr, memcmp

from fastzk._acl cimport acl_permits
from fastzk._codec cimport (
    fz_store32, get_bool, get_i32, get_i64, get_span, put_bytes, put_i32, put_span, put_u8,
)
from fastzk._constants cimport (
    ADDWATCH_PERSISTENT, ADDWATCH_PERSISTENT_RECURSIVE,
    ERR_BAD_ARGUMENTS, ERR_MARSHALLING, ERR_NO_AUTH, ERR_NO_NODE, ERR_NO_WATCHER, ERR_OK, ERR_UNIMPLEMENTED,
    EVENT_CHILDREN_CHANGED, EVENT_CREATED, EVENT_DATA_CHANGED, EVENT_DELETED,
    OP_ADD_WATCH, OP_CHECK_WATCHES, OP_ERROR, OP_EXISTS, OP_GET_ACL, OP_GET_ALL_CHILDREN_NUMBER, OP_GET_CHILDREN,
    OP_GET_CHILDREN2, OP_GET_DATA, OP_GET_EPHEMERALS, OP_MULTI_READ, OP_PING, OP_REMOVE_WATCHES, OP_SET_WATCHES,
    OP_SET_WATCHES2, OP_WHO_AM_I, PERM_ADMIN, PERM_READ,
    WATCHER_ANY, WATCHER_CHILDREN, WATCHER_DATA, WATCHER_PERSISTENT, WATCHER_PERSISTENT_RECURSIVE, XID_PING,
)
from fastzk._tree cimport Node
from fastzk.server._clients cimport begin_reply, end_reply, put_reply
from fastzk.server._watches cimport WATCH_CHILD, WATCH_DATA, WATCH_PERSISTENT, WATCH_RECURSIVE


cdef bytes JAVA_BLANKS = bytes(range(33))     # what String.trim takes away


cdef bint is_read(int32_t op) noexcept nogil:
    return op in (
        OP_GET_DATA, OP_EXISTS, OP_GET_CHILDREN, OP_GET_CHILDREN2, OP_PING, OP_GET_ACL, OP_SET_WATCHES, OP_SET_WATCHES2,
        OP_ADD_WATCH, OP_REMOVE_WATCHES, OP_CHECK_WATCHES, OP_MULTI_READ, OP_GET_EPHEMERALS, OP_GET_ALL_CHILDREN_NUMBER,
        OP_WHO_AM_I,
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
            if op == OP_EXISTS:
                if watch and (err == ERR_OK or err == ERR_NO_NODE):
                    self.watches.add(path.p, path.n, client, WATCH_DATA)
                if err == ERR_OK:
                    self.tree.put_stat(out, slot)
                return err
            if err:
                return err
            if watch:
                self.watches.add(path.p, path.n, client, WATCH_DATA if op == OP_GET_DATA else WATCH_CHILD)
            if op == OP_GET_DATA:
                node = self.tree.node(slot)
                put_span(out, node.blob + node.name_len, node.data_len)
                return self.tree.put_stat(out, slot)
            self.tree.put_children(out, slot)
            if op == OP_GET_CHILDREN2:
                self.tree.put_stat(out, slot)
            return ERR_OK
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

    cdef int32_t multi_read(self, Client client, Reader* r) except? 1:
        # getData and getChildren in one request; each has its own result. Watch flags are ignored.
        cdef OutBuf* out = &client.out
        cdef int32_t op, err
        cdef Span path
        cdef uint32_t slot = 0
        cdef Node* node
        while True:
            op = get_i32(r)
            if get_bool(r):
                get_i32(r)
                break
            get_i32(r)
            path = get_span(r)
            get_bool(r)
            if r.bad or path.n < 0 or (op != OP_GET_DATA and op != OP_GET_CHILDREN):
                return ERR_MARSHALLING
            err = self.node_for(client, path, PERM_READ, &slot)
            put_i32(out, OP_ERROR if err else op)
            put_u8(out, 0)
            put_i32(out, err)
            if err:
                put_i32(out, err)
            elif op == OP_GET_DATA:
                node = self.tree.node(slot)
                put_span(out, node.blob + node.name_len, node.data_len)
                self.tree.put_stat(out, slot)
            else:
                self.tree.put_children(out, slot)
        if r.bad:
            return ERR_MARSHALLING
        put_i32(out, OP_ERROR)
        put_u8(out, 1)
        put_i32(out, -1)
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
