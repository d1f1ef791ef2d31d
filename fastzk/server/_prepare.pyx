"""From a write request to a transaction: validation against what is applied and proposed.

``prepare`` checks a request in ZooKeeper's own order (which error wins matters to clients), records in the
overlay what will have changed, and encodes ZooKeeper's ``TxnHeader`` and transaction record into ``txn``.
A request that is refused changes nothing and spends no zxid. The transaction says all that the change
needs: applying it never fails and never asks who sent it.

The requests that ZooKeeper does not have (``docs/extensions.md``) become its transactions, too: createIfNotExists a
create or nothing, removeRecursive a multi of deletes. What was applied then has not the shape of what was asked, so
``plan`` says how the reply is made of it (``put_planned``).
"""

from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memset

from fastzk._acl cimport acl_permits, is_open_acl
from fastzk._codec cimport (
    get_acls, get_bool, get_i32, get_i64, get_span, out_free, put_bytes, put_i32, put_i64, put_span, put_u8,
    reader_init,
)
from fastzk._constants cimport (
    ERR_BAD_ARGUMENTS, ERR_BAD_VERSION, ERR_EPHEMERAL_ON_LOCAL_SESSION, ERR_INVALID_ACL, ERR_MARSHALLING, ERR_NO_AUTH,
    ERR_NO_CHILDREN_FOR_EPHEMERALS, ERR_NODE_EXISTS, ERR_NO_NODE, ERR_NOT_EMPTY, ERR_OK, ERR_UNIMPLEMENTED,
    MODE_CONTAINER, MODE_EPHEMERAL, MODE_EPHEMERAL_SEQUENTIAL, MODE_PERSISTENT_SEQUENTIAL,
    MODE_PERSISTENT_SEQUENTIAL_WITH_TTL, MODE_PERSISTENT_WITH_TTL,
    OP_CHECK, OP_CLOSE_SESSION, OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_SESSION, OP_CREATE_TTL,
    OP_CHECK_NOT_EXISTS, OP_CREATE_IF_NOT_EXISTS, OP_DELETE, OP_DELETE_CONTAINER, OP_ERROR, OP_FILTERED_LIST, OP_MULTI,
    OP_RECONFIG, OP_REMOVE_RECURSIVE, OP_SET_ACL, OP_SET_DATA,
    PERM_ADMIN, PERM_CREATE, PERM_DELETE, PERM_READ, PERM_WRITE,
)
from fastzk._paths cimport parent_length, valid_path
from fastzk._tree cimport OWNER_EPHEMERAL, OWNER_PERSISTENT, STAT_BYTES, owner_kind, ttl_owner
from fastzk.server._overlay cimport Change
from fastzk.server._quota cimport QUOTA_ROOT_BYTES, is_below_quota

cdef int64_t CONTAINER_OWNER = <int64_t>0x8000000000000000ULL
cdef int64_t MAX_TTL = 0xFFFFFFFFFFLL
cdef int FIXED_MAX = 4096
cdef const char* CONFIG_PATH = b"/zookeeper/config"
cdef int32_t CONFIG_BYTES = 17
cdef int32_t HEADER_BYTES = 32                 # of a TxnHeader
cdef size_t MULTI_BYTES = 16 << 20             # of a multi's transaction, unless its request was larger


cdef inline int32_t next_version(int32_t version) noexcept nogil:
    # -1 is skipped: clients could not name it (ZOOKEEPER-4743).
    cdef int32_t after = <int32_t>(<uint32_t>version + 1)
    return 0 if after == -1 else after


cdef inline bint has_nul(const uint8_t* p, int32_t n) noexcept nogil:
    return n > 0 and memchr(p, 0, n) != NULL


cdef inline bint is_special(const uint8_t* p, int32_t n) noexcept nogil:
    # The znodes that nobody may delete (ZKDatabase.isSpecialPath).
    if n <= 1:
        return n == 0 or p[0] == 47
    if n < 10 or memcmp(p, b"/zookeeper", 10) != 0:
        return False
    return n == 10 or (
        n == 16 and memcmp(p + 10, b"/quota", 6) == 0
    ) or (n == 17 and memcmp(p + 10, b"/config", 7) == 0)


cdef inline bint is_config(const uint8_t* p, int32_t n) noexcept nogil:
    return n == CONFIG_BYTES and memcmp(p, CONFIG_PATH, CONFIG_BYTES) == 0


cdef inline bint is_limits(const uint8_t* p, int32_t n, int32_t above, int32_t parent) noexcept nogil:
    # Whether p[:n] is called zookeeper_limits, below a parent whose path has `parent` bytes.
    return above == parent and n == parent + 17 and memcmp(p + parent, b"/zookeeper_limits", 17) == 0


cdef inline bint is_ephemeral(int32_t flags) noexcept nogil:
    return flags == MODE_EPHEMERAL or flags == MODE_EPHEMERAL_SEQUENTIAL


cdef bint asks_for_ephemeral(int32_t op, Reader r) noexcept:
    # Whether a request, a multi perhaps, asks for an ephemeral znode. What is malformed does not.
    cdef int32_t flags
    cdef bint end = False
    if op != OP_MULTI:
        if op != OP_CREATE and op != OP_CREATE2 and op != OP_CREATE_IF_NOT_EXISTS:
            return False
        get_span(&r)
        get_span(&r)
        get_acls(&r)
        flags = get_i32(&r)
        return not r.bad and is_ephemeral(flags)
    while not r.bad:
        op = get_i32(&r)
        end = get_bool(&r)
        get_i32(&r)
        if end:
            break
        get_span(&r)
        if op == OP_CREATE or op == OP_CREATE2 or op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL or (
                op == OP_CREATE_IF_NOT_EXISTS):
            get_span(&r)
            get_acls(&r)
            flags = get_i32(&r)
            if op == OP_CREATE_TTL:
                get_i64(&r)
            elif op != OP_CREATE_CONTAINER and not r.bad and is_ephemeral(flags):
                return True
        elif op == OP_SET_DATA:
            get_span(&r)
            get_i32(&r)
        elif op == OP_DELETE or op == OP_CHECK or op == OP_CHECK_NOT_EXISTS or op == OP_REMOVE_RECURSIVE:
            get_i32(&r)
        else:
            break
    return False


cdef class Preparer:
    """Turns write requests into transactions."""

    def __cinit__(self, Tree tree, Overlay overlay) -> None:
        self.tree = tree
        self.overlay = overlay
        self.fixed = {}
        self.max_removal = 0xFFFFF

    def __dealloc__(self) -> None:
        out_free(&self.txn)
        out_free(&self.sub)
        out_free(&self.plan)

    cdef int begin(self, int64_t session, int32_t xid, int64_t zxid, int64_t now, int32_t op) except -1:
        # TxnHeader: clientId, cxid, zxid, time, type.
        if self.quotas.open:
            self.quotas.rewind(zxid)           # of a request that was refused in the end
        self.txn.n = 0
        put_i64(&self.txn, session)
        put_i32(&self.txn, xid)
        put_i64(&self.txn, zxid)
        put_i64(&self.txn, now)
        put_i32(&self.txn, op)
        return 0

    cdef int32_t prepare(self, Client client, int32_t op, Reader* r, int32_t xid, int64_t zxid, int64_t now) except? 1:
        # ERR_OK with the transaction in `txn`, or the error to answer. A refused multi answers ERR_OK in its
        # header and details; then `multi_count` is not 0 and there is no transaction. Nor is there for an extension
        # that leaves `unlogged` set.
        cdef int32_t txn_type = op
        cdef int32_t err
        self.multi_count = 0
        self.begin(client.session_id, xid, zxid, now, op)
        if op == OP_MULTI:
            return self.multi(client, r, zxid)
        if op >= OP_FILTERED_LIST:
            return self.extension(client, op, r, zxid)
        err = self.one(client, op, r, zxid, &self.txn, &txn_type)
        return err

    cdef int32_t one(self, Client client, int32_t op, Reader* r, int64_t zxid, OutBuf* out,
                     int32_t* txn_type) except? 1:
        txn_type[0] = op
        if op == OP_SET_DATA:
            return self.set_data(client, r, zxid, out)
        if op == OP_CREATE or op == OP_CREATE2 or op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL:
            return self.create(client, op, r, zxid, out, txn_type)
        if op == OP_DELETE:
            return self.delete(client, r, zxid, out, False)
        if op == OP_DELETE_CONTAINER:
            return self.delete(client, r, zxid, out, True)
        if op == OP_SET_ACL:
            return self.set_acl(client, r, zxid, out)
        if op == OP_CHECK:
            return self.check(client, r, out)
        return ERR_UNIMPLEMENTED

    # -- ACLs -------------------------------------------------------------------------------------------

    cdef int32_t accept_acl(self, Client client, Span asked, Span* accepted) except? 1:
        # What is stored for the ACL that was asked for: without duplicates, `auth` replaced by the client's
        # identities (PrepRequestProcessor.fixupACL). Python's dictionaries do the remembering; nearly every
        # create asks for the open ACL, which comes here first.
        cdef bytes key
        cdef bytes vector
        accepted[0] = asked
        if asked.n == -1:
            return ERR_INVALID_ACL
        if is_open_acl(asked.p, asked.n):
            return ERR_OK
        key = asked.p[:asked.n]
        found = self.fixed.get(key)
        if found is None:
            try:
                found = self.fix_acl(key, client.identities() if client is not None else [])
            except ValueError:
                return ERR_MARSHALLING
            if found is None:
                return ERR_INVALID_ACL
            if b"auth" not in key:
                if len(self.fixed) >= FIXED_MAX:
                    self.fixed.clear()
                self.fixed[key] = found
        vector = found
        self.kept_acl = vector             # keeps the bytes alive while they are encoded
        accepted.p = vector
        accepted.n = <int32_t>len(vector)
        return ERR_OK

    # -- the operations -----------------------------------------------------------------------------------

    cdef int32_t create(self, Client client, int32_t op, Reader* r, int64_t zxid, OutBuf* out,
                        int32_t* txn_type) except? 1:
        cdef Span path = get_span(r)
        cdef Span data = get_span(r)
        cdef Span asked
        cdef Span acl
        cdef int32_t flags, err, above, version
        cdef int64_t ttl = -1
        cdef bint sequential, ephemeral, is_ttl
        cdef uint64_t h
        cdef Change room
        cdef Change fresh
        cdef Change* parent
        cdef uint8_t* name
        cdef char digits[16]
        cdef int width
        asked = get_acls(r)
        flags = get_i32(r)
        if op == OP_CREATE_TTL:
            ttl = get_i64(r)
        if r.bad:
            return ERR_MARSHALLING
        if flags < 0 or flags > MODE_PERSISTENT_SEQUENTIAL_WITH_TTL:
            return ERR_BAD_ARGUMENTS
        is_ttl = flags == MODE_PERSISTENT_WITH_TTL or flags == MODE_PERSISTENT_SEQUENTIAL_WITH_TTL
        if is_ttl and op == OP_CREATE_TTL and not self.ttl_enabled:
            return ERR_UNIMPLEMENTED
        if is_ttl:
            if ttl <= 0 or ttl > MAX_TTL:
                return ERR_BAD_ARGUMENTS
        elif op == OP_CREATE_TTL:
            return ERR_BAD_ARGUMENTS          # with ttl -1 the real server dies of it
        sequential = flags == MODE_PERSISTENT_SEQUENTIAL or flags == MODE_EPHEMERAL_SEQUENTIAL or (
            flags == MODE_PERSISTENT_SEQUENTIAL_WITH_TTL)
        ephemeral = is_ephemeral(flags) and op != OP_CREATE_CONTAINER
        if ephemeral and client.local:
            return ERR_EPHEMERAL_ON_LOCAL_SESSION     # the others could not tell when it has to go
        if path.n < 0:
            return ERR_MARSHALLING
        above = parent_length(path.p, path.n)
        if above < 0 or has_nul(path.p, path.n):
            return ERR_BAD_ARGUMENTS
        err = self.accept_acl(client, asked, &acl)
        if err:
            return err
        h = self.tree.hash(path.p, above)
        parent = self.overlay.view(path.p, above, h, &room)
        if parent == NULL:
            return ERR_NO_NODE
        if client is not None and not acl_permits(self.tree.acls, parent.acl, PERM_CREATE, &client.auth):
            return ERR_NO_AUTH
        room = parent[0]                      # the overlay's records move when others are added
        version = <int32_t>(<uint32_t>room.cversion + 1)
        # The txn's record begins with the path; write it there and validate it in place.
        put_i32(out, path.n)
        put_bytes(out, path.p, path.n)
        if sequential:
            width = snprintf(digits, sizeof(digits), b"%010d", room.cversion)
            put_bytes(out, digits, width)
            path.n += width
        name = out.p + out.n - path.n
        if not valid_path(name, path.n):
            return ERR_BAD_ARGUMENTS if path.n > 1 or path.p[0] != 47 else ERR_NODE_EXISTS
        if sequential:
            put_i32_at(name - 4, path.n)
        path.p = name
        if path.n == 1:
            return ERR_NODE_EXISTS
        fresh.exists = True
        if self.overlay.view(path.p, path.n, self.tree.hash(path.p, path.n), &fresh) != NULL:
            return ERR_NODE_EXISTS
        if owner_kind(room.owner) == OWNER_EPHEMERAL:
            return ERR_NO_CHILDREN_FOR_EPHEMERALS
        if is_below_quota(path.p, path.n) and is_limits(path.p, path.n, above, QUOTA_ROOT_BYTES):
            return ERR_BAD_ARGUMENTS          # a quota on the root: the real server dies of it
        if self.quotas.active:
            err = self.quotas.ask(path.p, path.n, 1, data.n if data.n > 0 else 0, zxid)
            if err:
                return err
        # Accepted. From here on nothing is refused.
        memset(&fresh, 0, sizeof(fresh))
        fresh.exists = True
        if op == OP_CREATE_CONTAINER:
            fresh.owner = CONTAINER_OWNER
        elif is_ttl:
            fresh.owner = ttl_owner(ttl)
        elif ephemeral:
            fresh.owner = client.session_id
        parent = self.overlay.touch(path.p, above, h, &room, zxid)
        parent.cversion = version
        parent.children += 1
        fresh.acl = <uint32_t>self.tree.acls.intern(acl.p, acl.n)
        try:
            parent = self.overlay.touch(path.p, path.n, self.tree.hash(path.p, path.n), &fresh, zxid)
            if parent.acl != fresh.acl:       # a record of a deleted znode of this name
                self.tree.acls.unref(parent.acl)
                parent.acl = fresh.acl
                self.tree.acls.ref(fresh.acl)
        finally:
            self.tree.acls.unref(fresh.acl)
        parent.exists = True
        parent.owner = fresh.owner
        parent.version = parent.cversion = parent.aversion = parent.children = 0
        parent.data_len = data.n if data.n > 0 else 0
        put_span(out, data.p, data.n)
        put_bytes(out, acl.p, acl.n)
        if op == OP_CREATE_CONTAINER:
            put_i32(out, version)
        elif is_ttl:
            put_i32(out, version)
            put_i64(out, ttl)
        else:
            put_u8(out, ephemeral)
            put_i32(out, version)
        return ERR_OK

    cdef int32_t delete(self, Client client, Reader* r, int64_t zxid, OutBuf* out, bint reap) except? 1:
        # `reap`: deleteContainer, which the server sends itself and which ends containers and TTL znodes only.
        cdef Span path = get_span(r)
        cdef int32_t expected = -1 if reap else get_i32(r)
        cdef int32_t above
        cdef uint64_t h, parent_h
        cdef Change room
        cdef Change parent_room
        cdef Change* node
        cdef Change* parent
        if reap and client is not None:
            return ERR_BAD_ARGUMENTS          # whatever it asks for: reaping is the server's own work
        if r.bad or path.n < 0:
            return ERR_MARSHALLING
        above = parent_length(path.p, path.n)
        if above < 0 or has_nul(path.p, path.n) or is_special(path.p, path.n):
            return ERR_BAD_ARGUMENTS
        parent_h = self.tree.hash(path.p, above)
        parent = self.overlay.view(path.p, above, parent_h, &parent_room)
        if parent == NULL:
            return ERR_NO_NODE
        if client is not None and not acl_permits(self.tree.acls, parent.acl, PERM_DELETE, &client.auth):
            return ERR_NO_AUTH
        parent_room = parent[0]
        h = self.tree.hash(path.p, path.n)
        node = self.overlay.view(path.p, path.n, h, &room)
        if node == NULL:
            return ERR_NO_NODE
        if expected != -1 and expected != node.version:
            return ERR_BAD_VERSION
        if node.children > 0:
            return ERR_NOT_EMPTY
        if reap and owner_kind(node.owner) in (OWNER_PERSISTENT, OWNER_EPHEMERAL):
            return ERR_BAD_VERSION
        if is_limits(path.p, path.n, above, 10) and memcmp(path.p, b"/zookeeper", 10) == 0:
            return ERR_BAD_ARGUMENTS          # the real server dies of it
        room = node[0]
        if self.quotas.active:
            self.quotas.propose(path.p, path.n, -1, -room.data_len, zxid)
        parent = self.overlay.touch(path.p, above, parent_h, &parent_room, zxid)
        parent.children -= 1
        node = self.overlay.touch(path.p, path.n, h, &room, zxid)
        node.exists = False
        put_span(out, path.p, path.n)
        return ERR_OK

    cdef int32_t set_data(self, Client client, Reader* r, int64_t zxid, OutBuf* out) except? 1:
        cdef Span path = get_span(r)
        cdef Span data = get_span(r)
        cdef int32_t expected = get_i32(r)
        cdef int32_t version, err
        cdef int32_t n
        cdef uint64_t h
        cdef Change room
        cdef Change* node
        if r.bad:
            return ERR_MARSHALLING
        if path.n <= 0:
            return ERR_BAD_ARGUMENTS
        n = 0 if path.n == 1 and path.p[0] == 47 else path.n
        h = self.tree.hash(path.p, n)
        node = self.overlay.view(path.p, n, h, &room)
        if node == NULL:
            return ERR_NO_NODE if valid_path(path.p, path.n) else ERR_BAD_ARGUMENTS
        if not acl_permits(self.tree.acls, node.acl, PERM_WRITE, &client.auth):
            return ERR_NO_AUTH
        if self.keeps_membership and is_config(path.p, n):
            return ERR_BAD_ARGUMENTS          # who belongs to the ensemble is read from it
        if self.quotas.active:
            err = self.quotas.ask(path.p, n, 0, (data.n if data.n > 0 else 0) - <int64_t>node.data_len, zxid)
            if err:
                return err
        if expected != -1 and expected != node.version:
            return ERR_BAD_VERSION
        room = node[0]
        version = next_version(room.version)
        node = self.overlay.touch(path.p, n, h, &room, zxid)
        node.version = version
        node.data_len = data.n if data.n > 0 else 0
        put_span(out, path.p, path.n)
        put_span(out, data.p, data.n)
        put_i32(out, version)
        return ERR_OK

    cdef int32_t set_acl(self, Client client, Reader* r, int64_t zxid, OutBuf* out) except? 1:
        cdef Span path = get_span(r)
        cdef Span asked = get_acls(r)
        cdef Span acl
        cdef int32_t err
        cdef int32_t expected = get_i32(r)
        cdef int32_t version
        cdef int32_t n
        cdef uint64_t h
        cdef uint32_t fresh
        cdef Change room
        cdef Change* node
        if r.bad:
            return ERR_MARSHALLING
        if not valid_path(path.p, path.n):
            return ERR_BAD_ARGUMENTS
        err = self.accept_acl(client, asked, &acl)
        if err:
            return err
        n = 0 if path.n == 1 else path.n
        h = self.tree.hash(path.p, n)
        node = self.overlay.view(path.p, n, h, &room)
        if node == NULL:
            return ERR_NO_NODE
        if not acl_permits(self.tree.acls, node.acl, PERM_ADMIN, &client.auth):
            return ERR_NO_AUTH
        if expected != -1 and expected != node.aversion:
            return ERR_BAD_VERSION
        room = node[0]
        version = next_version(room.aversion)
        node = self.overlay.touch(path.p, n, h, &room, zxid)
        node.aversion = version
        fresh = <uint32_t>self.tree.acls.intern(acl.p, acl.n)
        self.tree.acls.unref(node.acl)
        node.acl = fresh
        put_span(out, path.p, path.n)
        put_bytes(out, acl.p, acl.n)
        put_i32(out, version)
        return ERR_OK

    cdef int32_t check(self, Client client, Reader* r, OutBuf* out) except? 1:
        cdef Span path = get_span(r)
        cdef int32_t expected = get_i32(r)
        cdef int32_t n
        cdef Change room
        cdef Change* node
        if r.bad:
            return ERR_MARSHALLING
        if not valid_path(path.p, path.n):
            return ERR_BAD_ARGUMENTS
        n = 0 if path.n == 1 else path.n
        node = self.overlay.view(path.p, n, self.tree.hash(path.p, n), &room)
        if node == NULL:
            return ERR_NO_NODE
        if not acl_permits(self.tree.acls, node.acl, PERM_READ, &client.auth):
            return ERR_NO_AUTH
        if expected != -1 and expected != node.version:
            return ERR_BAD_VERSION
        put_span(out, path.p, path.n)
        put_i32(out, next_version(node.version))
        return ERR_OK

    # -- extensions -----------------------------------------------------------------------------------------

    cdef int32_t extension(self, Client client, int32_t op, Reader* r, int64_t zxid) except? 1:
        # A request of its own, not in a multi.
        cdef int32_t err
        cdef int32_t records = 0
        self.unlogged = False
        if op == OP_CREATE_IF_NOT_EXISTS:
            put_i32_at(self.txn.p + HEADER_BYTES - 4, OP_CREATE)
            return self.create_if_not_exists(client, r, zxid, &self.txn)
        if op == OP_CHECK_NOT_EXISTS:
            self.unlogged = True
            return self.check_not_exists(client, r)
        put_i32_at(self.txn.p + HEADER_BYTES - 4, OP_MULTI)
        put_i32(&self.txn, 0)
        self.overlay.begin()
        err = self.remove_recursive(client, r, zxid, &records)
        if err:
            self.overlay.rollback()
            return err
        self.overlay.commit()
        put_i32_at(self.txn.p + HEADER_BYTES, records)
        return ERR_OK

    cdef int32_t create_if_not_exists(self, Client client, Reader* r, int64_t zxid, OutBuf* out) except? 1:
        # A create that is content with a znode that is there already; then `unlogged` is set, and `found` its path.
        cdef Reader ahead = r[0]
        cdef int32_t flags, txn_type, err
        cdef int32_t before = <int32_t>out.n
        self.found = get_span(&ahead)
        get_span(&ahead)
        get_acls(&ahead)
        flags = get_i32(&ahead)
        if not ahead.bad and (flags == MODE_PERSISTENT_SEQUENTIAL or flags == MODE_EPHEMERAL_SEQUENTIAL):
            return ERR_BAD_ARGUMENTS          # what should it be that exists?
        err = self.create(client, OP_CREATE, r, zxid, out, &txn_type)
        self.unlogged = err == ERR_NODE_EXISTS
        if err == ERR_NODE_EXISTS:
            out.n = before
            return ERR_OK
        return err

    cdef int32_t check_not_exists(self, Client client, Reader* r) except? 1:
        # Refuses if there is such a znode with this version, or with any if that is -1.
        cdef Span path = get_span(r)
        cdef int32_t version = get_i32(r)
        cdef int32_t n
        cdef Change room
        cdef Change* node
        if r.bad:
            return ERR_MARSHALLING
        if not valid_path(path.p, path.n):
            return ERR_BAD_ARGUMENTS
        n = 0 if path.n == 1 else path.n
        node = self.overlay.view(path.p, n, self.tree.hash(path.p, n), &room)
        if node == NULL:
            return ERR_OK
        if not acl_permits(self.tree.acls, node.acl, PERM_READ, &client.auth):
            return ERR_NO_AUTH
        return ERR_NODE_EXISTS if version == -1 or version == node.version else ERR_OK

    cdef int32_t remove_recursive(self, Client client, Reader* r, int64_t zxid, int32_t* records) except? 1:
        # A znode and all below it go, or none of them. Appends a delete for each to `txn`. More than the request's
        # limit is NotEmpty, and so is what makes a transaction that ZooKeeper could not read: clients go on one by
        # one then.
        cdef Span path = get_span(r)
        cdef int64_t limit = <uint32_t>get_i32(r)
        cdef bytes top, request, each
        cdef list doomed
        cdef Reader single
        cdef int32_t err
        if r.bad or path.n < 0:
            return ERR_MARSHALLING
        if not valid_path(path.p, path.n) or is_special(path.p, path.n):
            return ERR_BAD_ARGUMENTS
        top = path.p[:path.n]
        doomed = self.subtree(top, limit)
        if doomed is None:
            return ERR_NOT_EMPTY
        for each in doomed or (top,):         # with none, the delete says why
            request = len(each).to_bytes(4, "big") + each + b"\xff\xff\xff\xff"
            reader_init(&single, request, len(request))
            self.sub.n = 0
            err = self.delete(client, &single, zxid, &self.sub, False)
            if err:
                return err
            put_i32(&self.txn, OP_DELETE)
            put_span(&self.txn, self.sub.p, <int32_t>self.sub.n)
            records[0] += 1
            if <int64_t>self.txn.n > self.max_removal:
                return ERR_NOT_EMPTY
        return ERR_OK

    cdef list subtree(self, bytes top, int64_t limit):
        # The paths at and below `top`, as they will be once everything proposed is applied, children before their
        # parents; None if there are more than `limit`. The work is bounded by that and by what is proposed.
        cdef Tree tree = self.tree
        cdef Overlay overlay = self.overlay
        cdef const uint8_t* p = top
        cdef int32_t n = <int32_t>len(top)
        cdef uint32_t root = tree.lookup(p, n)
        cdef uint32_t slot = root
        cdef uint32_t i
        cdef Change* change
        cdef Change room
        cdef bytes path
        cdef list found = []
        while slot:
            path = tree.path_of(slot)
            if overlay.view(path, <int32_t>len(path), tree.hash(path, <int32_t>len(path)), &room) != NULL:
                found.append(path)
                if <int64_t>len(found) > limit:
                    return None
            if tree.node(slot).first_child:
                slot = tree.node(slot).first_child
                continue
            while slot != root and not tree.node(slot).next_sibling:
                slot = tree.node(slot).parent
            if slot == root:
                break
            slot = tree.node(slot).next_sibling
        if overlay.index.used:
            for i in range(1, overlay.size):
                change = overlay.changes[i]
                if (
                    change.zxid and change.exists and change.n >= n and memcmp(change.path, p, n) == 0
                    and (change.n == n or change.path[n] == 47) and tree.find(change.path, change.n, change.hash) == 0
                ):
                    found.append((<const uint8_t*>change.path)[:change.n])
                    if <int64_t>len(found) > limit:
                        return None
        found.sort(key=len, reverse=True)      # what is below has a longer path
        return found

    # -- multi ------------------------------------------------------------------------------------------------

    cdef int32_t multi(self, Client client, Reader* r, int64_t zxid) except? 1:
        # Parsed whole before anything is validated, as ZooKeeper does: a malformed operation refuses all.
        cdef Reader ahead = r[0]
        cdef const uint8_t* start = r.p
        cdef int32_t op, asked, txn_type
        cdef int32_t err = ERR_OK
        cdef int32_t count = 0
        cdef int32_t done_ops = 0
        cdef int32_t records = 0
        cdef int32_t before
        cdef bint extended = False
        cdef Span path
        self.plan.n = 0
        while True:
            op = get_i32(&ahead)
            if get_bool(&ahead):
                get_i32(&ahead)
                break
            get_i32(&ahead)
            if ahead.bad:
                return ERR_MARSHALLING
            path = get_span(&ahead)
            if path.n < 0:
                return ERR_MARSHALLING
            if op == OP_CREATE or op == OP_CREATE2 or op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL:
                get_span(&ahead)
                get_acls(&ahead)
                get_i32(&ahead)
                if op == OP_CREATE_TTL:
                    get_i64(&ahead)
            elif op == OP_DELETE or op == OP_CHECK:
                get_i32(&ahead)
            elif op == OP_SET_DATA:
                get_span(&ahead)
                get_i32(&ahead)
            elif op == OP_CREATE_IF_NOT_EXISTS and self.extensions:
                extended = True
                get_span(&ahead)
                get_acls(&ahead)
                get_i32(&ahead)
            elif (op == OP_CHECK_NOT_EXISTS or op == OP_REMOVE_RECURSIVE) and self.extensions:
                extended = True
                get_i32(&ahead)
            else:
                return ERR_MARSHALLING
            count += 1
        if ahead.bad:
            return ERR_MARSHALLING
        put_i32(&self.txn, count)
        self.overlay.begin()
        while done_ops < count:
            asked = get_i32(r)
            op = multi_create_type(asked, r)
            if op == OP_ERROR:
                self.overlay.rollback()
                return ERR_MARSHALLING
            get_bool(r)
            get_i32(r)
            self.sub.n = 0
            before = records
            self.unlogged = False
            if op == OP_REMOVE_RECURSIVE:
                err = self.remove_recursive(client, r, zxid, &records)
                self.unlogged = True
            elif op == OP_CHECK_NOT_EXISTS:
                err = self.check_not_exists(client, r)
                self.unlogged = True
            elif op == OP_CREATE_IF_NOT_EXISTS:
                txn_type = OP_CREATE
                err = self.create_if_not_exists(client, r, zxid, &self.sub)
            else:
                err = self.one(client, op, r, zxid, &self.sub, &txn_type)
            if err == ERR_MARSHALLING:
                self.overlay.rollback()
                return err
            if err:
                break
            if asked == OP_CREATE_TTL and op != OP_CREATE_TTL:
                get_i64(r)                     # the ttl that a plain create has no use for
            if not self.unlogged:
                put_i32(&self.txn, txn_type)
                put_span(&self.txn, self.sub.p, <int32_t>self.sub.n)
                records += 1
            if extended:
                put_i32(&self.plan, op)
                put_i32(&self.plan, records - before)
                if op == OP_CREATE_IF_NOT_EXISTS and self.unlogged:
                    put_span(&self.plan, self.found.p, self.found.n)
            done_ops += 1
            if self.txn.n > MULTI_BYTES and self.txn.n > 2 * <size_t>(ahead.end - start):
                self.overlay.rollback()        # many ACLs of the scheme auth, each of which became a long one
                return ERR_MARSHALLING
        if err:
            self.overlay.rollback()
            self.multi_count = count
            self.multi_failed = done_ops
            self.multi_error = err
            return ERR_OK
        self.overlay.commit()
        if extended:
            put_i32_at(self.txn.p + HEADER_BYTES, records)
        return ERR_OK

    # -- sessions ---------------------------------------------------------------------------------------

    cdef int create_session(self, int64_t session, int32_t timeout, int64_t zxid, int64_t now) except -1:
        self.begin(session, 0, zxid, now, OP_CREATE_SESSION)
        put_i32(&self.txn, timeout)
        return 0

    cdef int close_session(self, int64_t session, int64_t zxid, int64_t now, int32_t xid) except -1:
        # The ephemerals that go with it are those of the moment it is applied: the record names none, so its
        # size does not depend on them. The overlay has to know them now.
        cdef uint32_t slot
        cdef uint32_t i
        cdef bytes path
        cdef Change* change
        cdef list doomed = []
        self.begin(session, xid, zxid, now, OP_CLOSE_SESSION)
        for slot in self.tree.ephemerals.get(session, ()):
            doomed.append(self.tree.path_of(slot))
        if self.overlay.index.used:
            for i in range(1, self.overlay.size):
                change = self.overlay.changes[i]
                if change.zxid and change.exists and change.owner == session:
                    doomed.append((<const uint8_t*>change.path)[:change.n])
        for path in doomed:
            self.gone(path, <int32_t>len(path), session, zxid)
        return 0

    cdef bint may_reconfigure(self, Client client) except -1:
        # Whether the client may write /zookeeper/config.
        cdef Change room
        cdef const uint8_t* path = <const uint8_t*>CONFIG_PATH
        cdef Change* node = self.overlay.view(path, CONFIG_BYTES, self.tree.hash(path, CONFIG_BYTES), &room)
        return node != NULL and acl_permits(self.tree.acls, node.acl, PERM_WRITE, &client.auth)

    cdef int reconfig(self, int64_t session, int32_t xid, int64_t zxid, int64_t now, bytes text) except -1:
        # A new membership, which is accepted already. As in ZooKeeper the znode's version is -1 after it.
        cdef Change room
        cdef const uint8_t* path = <const uint8_t*>CONFIG_PATH
        cdef const uint8_t* data = text
        cdef int32_t n = <int32_t>len(text)
        cdef uint64_t h = self.tree.hash(path, CONFIG_BYTES)
        cdef Change* node = self.overlay.view(path, CONFIG_BYTES, h, &room)
        if node == NULL:
            raise RuntimeError("there is no znode /zookeeper/config")
        self.begin(session, xid, zxid, now, OP_RECONFIG)
        room = node[0]
        if self.quotas.active:
            self.quotas.propose(path, CONFIG_BYTES, 0, n - <int64_t>room.data_len, zxid)
        node = self.overlay.touch(path, CONFIG_BYTES, h, &room, zxid)
        node.version = -1
        node.data_len = n
        put_span(&self.txn, path, CONFIG_BYTES)
        put_span(&self.txn, data, n)
        return put_i32(&self.txn, -1)

    cdef int gone(self, const uint8_t* p, int32_t n, int64_t session, int64_t zxid) except -1:
        cdef int32_t above = parent_length(p, n)
        cdef uint64_t h = self.tree.hash(p, n)
        cdef uint64_t parent_h = self.tree.hash(p, above)
        cdef Change room
        cdef Change parent_room
        cdef Change* node = self.overlay.view(p, n, h, &room)
        cdef Change* parent
        if node == NULL or node.owner != session:
            return 0                           # proposed before: it goes, or is somebody else's by then
        room = node[0]
        if self.quotas.active:
            self.quotas.propose(p, n, -1, -room.data_len, zxid)
        node = self.overlay.touch(p, n, h, &room, zxid)
        node.exists = False
        parent = self.overlay.view(p, above, parent_h, &parent_room)
        parent_room = parent[0]
        parent = self.overlay.touch(p, above, parent_h, &parent_room, zxid)
        parent.children -= 1
        return 0


cdef inline void put_i32_at(uint8_t* p, int32_t v) noexcept nogil:
    p[0] = <uint8_t>(<uint32_t>v >> 24)
    p[1] = <uint8_t>(<uint32_t>v >> 16)
    p[2] = <uint8_t>(<uint32_t>v >> 8)
    p[3] = <uint8_t>v


cdef int32_t multi_create_type(int32_t op, const Reader* r) noexcept:
    # Inside a multi ZooKeeper picks the kind of create by the flags, not by the operation's number. A TTL's flags
    # without a ttl: OP_ERROR, but only if it comes to this operation. The reader stands behind the number; done
    # flag and err follow.
    cdef Reader ahead
    cdef int32_t flags
    if op != OP_CREATE and op != OP_CREATE2 and op != OP_CREATE_CONTAINER and op != OP_CREATE_TTL:
        return op
    ahead = r[0]
    ahead.p += 5
    get_span(&ahead)
    get_span(&ahead)
    get_acls(&ahead)
    flags = get_i32(&ahead)
    if flags == MODE_CONTAINER:
        return OP_CREATE_CONTAINER
    if flags == MODE_PERSISTENT_WITH_TTL or flags == MODE_PERSISTENT_SEQUENTIAL_WITH_TTL:
        return OP_CREATE_TTL if op == OP_CREATE_TTL else OP_ERROR
    return OP_CREATE


cdef int put_planned(OutBuf* out, const uint8_t* plan, int32_t plan_n, const uint8_t* body, size_t n) except -1:
    # The reply to a multi with extensions in it. `body` has the results of what was applied; `plan` says for each
    # operation asked for how many of these it became, and the path for a createIfNotExists that became none.
    cdef Reader steps
    cdef Reader results
    cdef int32_t op, count, kind
    cdef Span path
    cdef const uint8_t* start
    reader_init(&steps, plan, plan_n)
    reader_init(&results, body, n)
    while steps.p < steps.end:
        op = get_i32(&steps)
        count = get_i32(&steps)
        start = results.p
        while count > 0:
            start = results.p
            kind = get_i32(&results)
            results.p += 5                    # done and err
            if kind == OP_CREATE or kind == OP_CREATE2:
                get_span(&results)
            if kind == OP_CREATE2 or kind == OP_SET_DATA:
                results.p += STAT_BYTES
            count -= 1
            if op == OP_CREATE_IF_NOT_EXISTS:
                put_i32(out, op)
                put_bytes(out, start + 4, results.p - start - 4)
                break
        else:
            if op < OP_FILTERED_LIST:
                put_bytes(out, start, results.p - start)
                continue
            put_i32(out, op)
            put_u8(out, 0)
            put_i32(out, ERR_OK)
            if op == OP_CREATE_IF_NOT_EXISTS:
                path = get_span(&steps)
                put_span(out, path.p, path.n)
    put_i32(out, OP_ERROR)
    put_u8(out, 1)
    return put_i32(out, -1)
