"""One client's requests and replies, as bytes and states: no socket, no clock but for what is measured.

*Requests* are encoded one behind the other into ``out`` as they are made, connected or not. Each leaves an entry in
a ring: its xid, its opcode, who waits for it (``sink``) and where its frame ends in the stream of all requests.
Replies come in the order of the requests, so a reply belongs to the oldest entry or the server is out of its mind.

*Replies* are decoded where the socket put them; only the beginning of a frame whose end is still to come is copied.
A reply settles its sink: a ``Call`` or an asyncio future. Settling runs no code of the program, so this is never
re-entered while it reads.

*When a connection breaks*, the ends tell what the server can have seen: a frame that left completely may have been
carried out, one that left in part was not, and what did not leave at all stays for the next connection. What must
come before requests there (handshake, credentials, watches) goes into ``head``, which always leaves first.

Everything that touches the fields happens under the GIL, in stretches that do not let go of it. That is why there is
no lock: threads may make requests while another one reads.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memmove

cimport cython

from fastzk._codec cimport (
    Span, fz_load32, fz_store32, get_bool, get_i32, get_i64, get_span, out_free, out_room, put_bytes, put_i32, put_i64,
    put_span, put_u8, reader_init,
)
from fastzk._constants cimport (
    ERR_NO_NODE, ERR_OK, OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_TTL, OP_DELETE, OP_EXISTS, OP_GET_ACL,
    OP_GET_CHILDREN, OP_GET_CHILDREN2, OP_GET_DATA, OP_PING, OP_SET_ACL, OP_SET_DATA, OP_SYNC, XID_AUTH,
    XID_NOTIFICATION, XID_PING, XID_SET_WATCHES,
)
from fastzk.client._call cimport CALL_DONE, CALL_FAILED, Call

import logging

from fastzk.acl import ACL, Id
from fastzk.errors import ConnectionLossError, MaybeApplied, NotSent, from_code

logger = logging.getLogger("fastzk.client")

cdef extern from *:
    """
    #include <time.h>
    #include <stdint.h>
    static inline int64_t fz_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    """
    int64_t fz_now_ns() noexcept nogil

cdef extern from *:
    """
    #include <string.h>
    /* A string in UTF-8. Names are nearly always ASCII, and such a string is a header and a copy. */
    static PyObject* fz_text(const char* p, Py_ssize_t n) {
        uint64_t bits = 0, word;
        Py_ssize_t i = 0;
        PyObject* text;
        for (; i + 8 <= n; i += 8) { memcpy(&word, p + i, 8); bits |= word; }
        for (; i < n; i++) bits |= (uint64_t)(unsigned char)p[i];
        if ((bits & 0x8080808080808080ull) || n < 2)   /* Python keeps strings of one character */
            return PyUnicode_DecodeUTF8(p, n, "replace");
        text = PyUnicode_New(n, 127);
        if (text != NULL) memcpy(PyUnicode_1BYTE_DATA(text), p, n);
        return text;
    }
    """
    object fz_text(const char* p, Py_ssize_t n)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    KEEP_BYTES = 256 << 10           # a buffer that grew beyond is given back when it is empty
    FIRST_SLOTS = 64
    # Servers echo any xid. SASL comes before requests, so its replies must not be taken for theirs.
    XID_SASL = -16

cdef object new_tuple = tuple.__new__
# The classes of results; fastzk.client.results imports this module, so it hands them over.
cdef object NodeData = None, Children = None, Created = None, NodeACL = None


def use_results(node_data, children, created, node_acl) -> None:
    """Called once by the package: the classes of the results with more than one part."""
    global NodeData, Children, Created, NodeACL
    NodeData, Children, Created, NodeACL = node_data, children, created, node_acl


class ProtocolError(Exception):
    """The server sent what no server may send; the connection is of no more use."""


_FIELDS = (
    "czxid", "mzxid", "ctime", "mtime", "version", "cversion", "aversion", "ephemeralOwner", "dataLength",
    "numChildren", "pzxid",
)


@cython.freelist(256)
@cython.final
cdef class ZnodeStat:
    """What a server knows of a znode besides its data. Behaves like a tuple of its eleven fields."""

    def __init__(self, czxid=0, mzxid=0, ctime=0, mtime=0, version=0, cversion=0, aversion=0, ephemeralOwner=0,
                 dataLength=0, numChildren=0, pzxid=0) -> None:
        self.czxid = czxid
        self.mzxid = mzxid
        self.ctime = ctime
        self.mtime = mtime
        self.version = version
        self.cversion = cversion
        self.aversion = aversion
        self.ephemeralOwner = ephemeralOwner
        self.dataLength = dataLength
        self.numChildren = numChildren
        self.pzxid = pzxid

    def _astuple(self) -> tuple:
        return (self.czxid, self.mzxid, self.ctime, self.mtime, self.version, self.cversion, self.aversion,
                self.ephemeralOwner, self.dataLength, self.numChildren, self.pzxid)

    def _asdict(self) -> dict:
        return dict(zip(_FIELDS, self._astuple()))

    def __reduce__(self):
        return ZnodeStat, self._astuple()

    def __iter__(self):
        return iter(self._astuple())

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index):
        return self._astuple()[index]

    def __eq__(self, other):
        if isinstance(other, ZnodeStat):
            return self._astuple() == (<ZnodeStat>other)._astuple()
        return self._astuple() == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._astuple())

    def __repr__(self) -> str:
        return f"ZnodeStat({', '.join(f'{name}={value}' for name, value in self._asdict().items())})"

    @property
    def creation_transaction_id(self) -> int:
        """The same as czxid."""
        return self.czxid

    @property
    def last_modified_transaction_id(self) -> int:
        """The same as mzxid."""
        return self.mzxid

    @property
    def created(self) -> float:
        """When it was created, in seconds since 1970."""
        return self.ctime / 1000.0

    @property
    def last_modified(self) -> float:
        """When its data were last set, in seconds since 1970."""
        return self.mtime / 1000.0

    @property
    def children_version(self) -> int:
        """The same as cversion."""
        return self.cversion

    @property
    def acl_version(self) -> int:
        """The same as aversion."""
        return self.aversion

    @property
    def owner_session_id(self):
        """The session an ephemeral znode belongs to; None for others."""
        return self.ephemeralOwner or None

    @property
    def data_length(self) -> int:
        """The same as dataLength."""
        return self.dataLength

    @property
    def children_count(self) -> int:
        """The same as numChildren."""
        return self.numChildren


cdef ZnodeStat read_stat(Reader* r):
    cdef ZnodeStat stat = ZnodeStat.__new__(ZnodeStat)
    stat.czxid = get_i64(r)
    stat.mzxid = get_i64(r)
    stat.ctime = get_i64(r)
    stat.mtime = get_i64(r)
    stat.version = get_i32(r)
    stat.cversion = get_i32(r)
    stat.aversion = get_i32(r)
    stat.ephemeralOwner = get_i64(r)
    stat.dataLength = get_i32(r)
    stat.numChildren = get_i32(r)
    stat.pzxid = get_i64(r)
    return stat


cdef object read_text(Reader* r):
    cdef Span s = get_span(r)
    return fz_text(<const char*>s.p, s.n) if s.n > 0 else ""


cdef object read_bytes(Reader* r):
    cdef Span s = get_span(r)
    return None if s.n < 0 else PyBytes_FromStringAndSize(<const char*>s.p, s.n)


cdef list read_texts(Reader* r):
    cdef int32_t count = get_i32(r)
    cdef int32_t i
    cdef list texts
    if count <= 0:
        return []
    if count > (r.end - r.p) // 4:               # each takes four bytes at least: memory only for what is there
        r.bad = True
        return []
    texts = PyList_New(count)
    for i in range(count):
        text = read_text(r)
        Py_INCREF(text)
        PyList_SET_ITEM(texts, i, text)
    return texts


cdef list read_acl(Reader* r):
    cdef int32_t count = get_i32(r)
    cdef int32_t perms
    cdef list acl = []
    while count > 0 and not r.bad:
        perms = get_i32(r)
        scheme = read_text(r)
        acl.append(ACL(perms, Id(scheme, read_text(r))))
        count -= 1
    return acl


def decode_stat(data: bytes) -> ZnodeStat:
    """A stat from its bytes, for replies that are decoded in Python."""
    cdef Reader r
    reader_init(&r, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    stat = read_stat(&r)
    if r.bad:
        raise ProtocolError("a stat was cut short")
    return stat


def normal_path(path: str, trailing: bool = False) -> str:
    """The path as servers want it: one slash in front and between names, none at the end.

    :param trailing: keep a slash at the end, for a sequence number without a name before it.
    :raises ValueError: for names that are "." or "..".
    """
    names = [name for name in path.split("/") if name]
    if "." in names or ".." in names:
        raise ValueError(f"relative paths are not allowed: {path!r}")
    normal = "/" + "/".join(names)
    return normal + "/" if trailing and path.endswith("/") and names else normal


cdef bint is_done(sink) except -1:
    return (<Call>sink).state != 0 if type(sink) is Call else sink.done()


cdef int settle_value(sink, value) except -1:
    if type(sink) is Call:
        (<Call>sink).settle(CALL_DONE, value)
    elif not sink.done():
        sink.set_result(value)
    return 0


cdef int settle_error(sink, error) except -1:
    if type(sink) is Call:
        (<Call>sink).settle(CALL_FAILED, error)
    elif not sink.done():
        sink.set_exception(error)
    return 0


cdef class Channel:
    """The requests and replies of one client, over all its connections."""

    def __cinit__(self, delegate, str chroot="", int64_t max_frame=64 << 20) -> None:
        self.delegate = delegate
        self.chroot = chroot
        self.chroot_raw = chroot.encode()
        self.max_frame = max_frame
        self.slots = FIRST_SLOTS
        self.ring = <Entry*>malloc(self.slots * sizeof(Entry))
        self.input = <uint8_t*>malloc(INPUT_BYTES)
        if self.ring == NULL or self.input == NULL:
            raise MemoryError()
        self.input_view = PyMemoryView_FromMemory(<char*>self.input, INPUT_BYTES, PyBUF_WRITE)
        self.heard_ns = self.sent_ns = fz_now_ns()

    def __dealloc__(self) -> None:
        cdef uint32_t i
        cdef Entry* entry
        if self.ring != NULL:
            for i in range(self.count):
                entry = self.ring + ((self.first + i) & (self.slots - 1))
                Py_XDECREF(entry.sink)
                Py_XDECREF(entry.path)
                Py_XDECREF(entry.extra)
                Py_XDECREF(entry.token)
        free(self.ring)
        free(self.input)
        out_free(&self.head)
        out_free(&self.out)
        out_free(&self.inbox)

    @property
    def observer(self):
        """Who is told of each request that ended; see fastzk.client.interfaces."""
        return self.watching

    @observer.setter
    def observer(self, observer) -> None:
        self.watching = observer
        self.on_begin = getattr(observer, "began", None)
        self.on_end = getattr(observer, "ended", None) if self.on_begin is not None else None

    # ---- requests

    cdef str clean(self, path):
        # The path as it goes over the wire, less the chroot. Nearly always the one given.
        cdef Py_ssize_t n
        cdef const char* p
        cdef const char* at
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        p = PyUnicode_AsUTF8AndSize(path, &n)
        if n > 0 and p[0] == 47 and (n == 1 or p[n - 1] != 47):
            at = <const char*>memchr(p + 1, 47, n - 1)
            while at != NULL and at[1] != 47 and at[1] != 46:
                at = <const char*>memchr(at + 1, 47, n - (at + 1 - p))
            if at == NULL and (n == 1 or p[1] != 46) and (n == 1 or p[1] != 47):
                return path
        return normal_path(path)

    cdef int begin(self, int32_t op, size_t more) except -1:
        # The header of a frame; `commit` fills in its length. Room for `more` bytes behind it.
        cdef uint8_t* at
        if self.on_begin is not None:
            # Before the frame: this is Python and may let another thread write a whole one.
            self.token = self.ask(op)
        if self.out_at == self.out.n:
            self.out_at = self.out.n = 0
        at = out_room(&self.out, 12 + more)
        self.mark = self.out.n
        self.xid = 1 if self.xid == 0x7FFFFFFF else self.xid + 1
        fz_store32(at + 4, <uint32_t>self.xid)
        fz_store32(at + 8, <uint32_t>op)
        self.out.n += 12
        return 0

    cdef object ask(self, int32_t op):
        try:
            return self.on_begin(op)
        except Exception:
            logger.exception("the observer raised an exception")
        return None

    cdef int put_path(self, str path) except -1:
        cdef Py_ssize_t n
        cdef Py_ssize_t above = PyBytes_GET_SIZE(self.chroot_raw)
        cdef const char* p = PyUnicode_AsUTF8AndSize(path, &n)
        cdef uint8_t* at
        if n == 1 and above:
            n = 0                                    # "/" is the chroot itself
        at = out_room(&self.out, 4 + above + n)
        fz_store32(at, <uint32_t>(above + n))
        memcpy(at + 4, PyBytes_AS_STRING(self.chroot_raw), above)
        memcpy(at + 4 + above, p, n)
        self.out.n += 4 + above + n
        return 0

    cdef int commit(self, int32_t op, uint32_t flags, sink, path, extra) except -1:
        cdef Entry entry
        cdef size_t size = self.out.n - self.mark
        fz_store32(self.out.p + self.mark, <uint32_t>(size - 4))
        entry.xid = self.xid
        entry.op = op
        entry.flags = flags
        entry.size = <uint32_t>size
        entry.end = self.sent + (self.out.n - self.out_at)
        entry.began_ns = 0 if self.watching is None else fz_now_ns()
        entry.sink = <PyObject*>sink
        entry.path = NULL if path is None else <PyObject*>path
        entry.extra = NULL if extra is None else <PyObject*>extra
        entry.token = NULL if self.token is None else <PyObject*>self.token
        self.push(&entry)
        Py_XINCREF(entry.sink)
        Py_XINCREF(entry.path)
        Py_XINCREF(entry.extra)
        Py_XINCREF(entry.token)
        self.token = None
        return 0

    cdef int push(self, Entry* entry) except -1:
        cdef Entry* larger
        cdef uint32_t i
        if self.count == self.slots:
            larger = <Entry*>malloc(2 * self.slots * sizeof(Entry))
            if larger == NULL:
                raise MemoryError()
            for i in range(self.count):
                larger[i] = self.ring[(self.first + i) & (self.slots - 1)]
            free(self.ring)
            self.ring = larger
            self.slots *= 2
            self.first = 0
        self.ring[(self.first + self.count) & (self.slots - 1)] = entry[0]
        self.count += 1
        return 0

    def read(self, int32_t op, path, watch, sink) -> None:
        """exists, getData, getChildren or getChildren2.

        :param watch: who is told of the next change; handed to ``delegate.on_watch`` once the server watches.
        """
        cdef str clean = self.clean(path)
        self.begin(op, 0)
        self.put_path(clean)
        put_u8(&self.out, watch is not None)
        self.commit(op, 0, sink, clean, watch)

    def about(self, int32_t op, path, sink) -> None:
        """A request that is nothing but a path: sync, getACL."""
        cdef str clean = self.clean(path)
        self.begin(op, 0)
        self.put_path(clean)
        self.commit(op, 0, sink, clean, None)

    def set(self, path, value, int32_t version, sink) -> None:
        """setData."""
        cdef str clean = self.clean(path)
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"data are bytes or None, not {type(value).__name__}")
        self.begin(OP_SET_DATA, 0)
        self.put_path(clean)
        put_span(&self.out, NULL if value is None else <const uint8_t*>PyBytes_AS_STRING(value),
                 -1 if value is None else <int32_t>PyBytes_GET_SIZE(value))
        put_i32(&self.out, version)
        self.commit(OP_SET_DATA, ENTRY_CHANGES, sink, clean, None)

    def delete(self, path, int32_t version, sink) -> None:
        """delete."""
        cdef str clean = self.clean(path)
        self.begin(OP_DELETE, 0)
        self.put_path(clean)
        put_i32(&self.out, version)
        self.commit(OP_DELETE, ENTRY_CHANGES, sink, clean, None)

    def create(self, int32_t op, path, value, bytes acl not None, int32_t flags, int64_t ttl, bint with_stat,
               sink) -> None:
        """create, create2, createContainer or createTTL.

        :param acl: the vector as bytes.
        :param flags: the numbers of CreateMode.
        :param ttl: in milliseconds, only for createTTL.
        :param with_stat: the result is a Created; otherwise only the path.
        """
        cdef str clean
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        clean = normal_path(path, True) if flags in (2, 3, 6) and path.endswith("/") else self.clean(path)
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"data are bytes or None, not {type(value).__name__}")
        self.begin(op, 0)
        self.put_path(clean)
        put_span(&self.out, NULL if value is None else <const uint8_t*>PyBytes_AS_STRING(value),
                 -1 if value is None else <int32_t>PyBytes_GET_SIZE(value))
        put_bytes(&self.out, PyBytes_AS_STRING(acl), PyBytes_GET_SIZE(acl))
        put_i32(&self.out, flags)
        if op == OP_CREATE_TTL:
            put_i64(&self.out, ttl)
        self.commit(op, ENTRY_CHANGES | (ENTRY_STAT if with_stat else 0), sink, clean, None)

    def set_acl(self, path, bytes acl not None, int32_t version, sink) -> None:
        """setACL; ``acl`` is the vector as bytes."""
        cdef str clean = self.clean(path)
        self.begin(OP_SET_ACL, 0)
        self.put_path(clean)
        put_bytes(&self.out, PyBytes_AS_STRING(acl), PyBytes_GET_SIZE(acl))
        put_i32(&self.out, version)
        self.commit(OP_SET_ACL, ENTRY_CHANGES, sink, clean, None)

    def request(self, int32_t op, bytes body not None, bint changes, path, decoder, sink) -> None:
        """Any other request.

        :param body: what follows the header, the chroot already in it.
        :param changes: whether it may change the tree.
        :param path: what errors are to name; or None.
        :param decoder: gets the bytes of the reply, returns its value.
        """
        self.begin(op, 0)
        put_bytes(&self.out, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        self.commit(op, ENTRY_GENERIC | (ENTRY_CHANGES if changes else 0), sink, path, decoder)

    # ---- what the session itself sends

    def connect(self, bytes frame not None) -> None:
        """A new connection: begin it with this frame (length included). Nothing else leaves before its answer."""
        self.shaken = False
        self.open = False
        self.inbox.n = 0
        self.head.n = self.head_at = 0
        put_bytes(&self.head, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        self.heard_ns = self.sent_ns = fz_now_ns()

    def control(self, bytes frame not None) -> None:
        """Send a frame (length included) with one of the reserved xids, before requests if those wait."""
        if self.open:
            if self.out_at == self.out.n:
                self.out_at = self.out.n = 0
            put_bytes(&self.out, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        else:
            if self.head_at == self.head.n:
                self.head_at = self.head.n = 0
            put_bytes(&self.head, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))

    def ping(self) -> None:
        """Send a ping."""
        if self.out_at == self.out.n:
            self.out_at = self.out.n = 0
        put_i32(&self.out, 8)
        put_i32(&self.out, XID_PING)
        put_i32(&self.out, OP_PING)

    def release(self) -> None:
        """Let requests leave; those that were cancelled meanwhile are left out."""
        self.rebuild(0, False)
        self.open = True

    # ---- output

    cdef bint pending_output(self) noexcept:
        return self.head_at < self.head.n or (self.open and self.out_at < self.out.n)

    cdef int taken(self, size_t n, bint from_head) except -1:
        # The first n bytes of what output() showed were sent.
        if from_head:
            self.head_at += n
            if self.head_at == self.head.n:
                out_free(&self.head)
                self.head_at = 0
            return 0
        self.out_at += n
        self.sent += n
        if self.out_at == self.out.n:
            self.out_at = self.out.n = 0
            if self.out.cap > KEEP_BYTES:
                out_free(&self.out)
        return 0

    def unsent(self) -> int:
        """How many bytes wait that may leave now."""
        return self.head.n - self.head_at + (self.out.n - self.out_at if self.open else 0)

    def take(self) -> bytes:
        """All bytes that may leave now, which count as sent from here on."""
        cdef bytes first, second = b""
        first = PyBytes_FromStringAndSize(<const char*>self.head.p + self.head_at, self.head.n - self.head_at)
        self.taken(self.head.n - self.head_at, True)
        if self.open and self.out_at < self.out.n:
            second = PyBytes_FromStringAndSize(<const char*>self.out.p + self.out_at, self.out.n - self.out_at)
            self.taken(self.out.n - self.out_at, False)
        self.sent_ns = fz_now_ns()
        return first + second if first else second

    # ---- input

    def received(self, Py_ssize_t n) -> None:
        """``n`` bytes are in ``input_view``.

        :raises ProtocolError: when they make no sense; the connection must be given up.
        """
        assert 0 <= n <= INPUT_BYTES
        self.feed(self.input, n)

    def receive(self, bytes data not None) -> None:
        """The same for bytes that are elsewhere."""
        self.feed(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int feed(self, const uint8_t* p, size_t n) except -1:
        cdef size_t used
        self.heard_ns = fz_now_ns()
        if self.inbox.n == 0:
            used = self.consume(p, n)
            if used < n:
                put_bytes(&self.inbox, p + used, n - used)
            return 0
        put_bytes(&self.inbox, p, n)
        used = self.consume(self.inbox.p, self.inbox.n)
        if used == self.inbox.n:
            self.inbox.n = 0
            if self.inbox.cap > KEEP_BYTES:
                out_free(&self.inbox)
        elif used:
            memmove(self.inbox.p, self.inbox.p + used, self.inbox.n - used)
            self.inbox.n -= used
        return 0

    cdef size_t consume(self, const uint8_t* p, size_t n) except? 0xFFFFFFFFFFFFFFFF:
        # Use the whole frames in p[:n]; how many bytes that were.
        cdef size_t at = 0
        cdef int64_t length
        while n - at >= 4:
            length = <int32_t>fz_load32(p + at)
            if length < 0 or length > self.max_frame:
                raise ProtocolError(f"a frame of {length} bytes")
            if n - at - 4 < <size_t>length:
                break
            if self.shaken:
                self.reply(p + at + 4, length)
            else:
                self.handshake(p + at + 4, length)
            at += 4 + length
        return at

    cdef int handshake(self, const uint8_t* p, size_t n) except -1:
        cdef Reader r
        cdef int32_t timeout
        cdef int64_t session
        cdef bint read_only
        reader_init(&r, p, n)
        get_i32(&r)                                  # the protocol's version
        timeout = get_i32(&r)
        session = get_i64(&r)
        password = read_bytes(&r)
        read_only = get_bool(&r) if r.p < r.end else False
        if r.bad:
            raise ProtocolError("the answer to the handshake is cut short")
        self.shaken = True
        self.delegate.on_handshake(timeout, session, password or b"", read_only)
        return 0

    cdef int reply(self, const uint8_t* p, size_t n) except -1:
        cdef Reader r
        cdef Entry entry
        cdef int32_t xid, err, kind, state
        cdef int64_t zxid
        reader_init(&r, p, n)
        xid = get_i32(&r)
        zxid = get_i64(&r)
        err = get_i32(&r)
        if r.bad:
            raise ProtocolError(f"a reply of {n} bytes")
        if zxid > self.last_zxid:
            self.last_zxid = zxid
        if xid < 0:
            if xid == XID_NOTIFICATION:
                kind = get_i32(&r)
                state = get_i32(&r)
                path = self.below(read_text(&r))
                if r.bad:
                    raise ProtocolError("a watch event is cut short")
                self.delegate.on_event(kind, state, path)
            elif xid == XID_AUTH or xid == XID_SET_WATCHES:
                self.delegate.on_control(xid, err)
            elif xid == XID_SASL:
                self.delegate.on_sasl(err, read_bytes(&r) if err == ERR_OK else None)
            elif xid != XID_PING:
                raise ProtocolError(f"a reply with xid {xid}")
            return 0
        if self.count == 0 or self.ring[self.first].xid != xid:
            raise ProtocolError(f"a reply with xid {xid}, which is not the next one")
        entry = self.ring[self.first]
        self.first = (self.first + 1) & (self.slots - 1)
        self.count -= 1
        try:
            self.finish(&entry, err, &r)
        except BaseException as error:
            # It is not in the ring any more: nobody else would settle it.
            settle_error(<object>entry.sink, error if isinstance(error, Exception) else ConnectionLossError(
                None if entry.path == NULL else <object>entry.path))
            raise
        finally:
            Py_XDECREF(entry.sink)
            Py_XDECREF(entry.path)
            Py_XDECREF(entry.extra)
            Py_XDECREF(entry.token)
        return 0

    def below(self, str path not None) -> str:
        """The path as seen from the chroot."""
        if self.chroot and path.startswith(self.chroot):
            if len(path) == len(self.chroot):
                return "/"
            if path[len(self.chroot)] == "/":
                return path[len(self.chroot):]
        return path

    cdef int finish(self, Entry* entry, int32_t err, Reader* r) except -1:
        sink = <object>entry.sink
        path = None if entry.path == NULL else <object>entry.path
        if entry.extra != NULL and not entry.flags & ENTRY_GENERIC:
            if err == ERR_OK or (entry.op == OP_EXISTS and err == ERR_NO_NODE):
                self.delegate.on_watch(entry.op, err != ERR_OK, path, <object>entry.extra)
        if err == ERR_OK:
            try:
                value = self.value(entry, r)
            except Exception as error:
                settle_error(sink, error)
                raise ProtocolError(f"the reply to a request of type {entry.op} makes no sense: {error}") from error
            settle_value(sink, value)
        elif err == ERR_NO_NODE and entry.op == OP_EXISTS:
            settle_value(sink, None)
        else:
            settle_error(sink, from_code(err, path))
        if self.watching is not None and entry.began_ns:
            self.observe(None if entry.token == NULL else <object>entry.token, entry.op, path, err,
                         (fz_now_ns() - entry.began_ns) / 1e9)
        return 0

    cdef int observe(self, token, int32_t op, path, int32_t err, double seconds) except -1:
        # A request cannot fail because of what an observer raises.
        try:
            if self.on_end is not None:
                self.on_end(token, op, path, err, seconds)
            else:
                self.watching(op, path, err, seconds)
        except Exception:
            logger.exception("the observer raised an exception")
        return 0

    cdef object value(self, Entry* entry, Reader* r):
        cdef int32_t op = entry.op
        if entry.flags & ENTRY_GENERIC:
            data = PyBytes_FromStringAndSize(<const char*>r.p, r.end - r.p)
            return None if entry.extra == NULL else (<object>entry.extra)(data)
        if op == OP_GET_DATA:
            data = read_bytes(r)
            value = new_tuple(NodeData, (data, read_stat(r)))
        elif op == OP_EXISTS or op == OP_SET_DATA or op == OP_SET_ACL:
            value = read_stat(r)
        elif op == OP_DELETE:
            value = True
        elif op == OP_CREATE or op == OP_SYNC:
            value = self.below(read_text(r))
        elif op == OP_CREATE2 or op == OP_CREATE_CONTAINER or op == OP_CREATE_TTL:
            value = self.below(read_text(r))
            if entry.flags & ENTRY_STAT:
                value = new_tuple(Created, (value, read_stat(r)))
        elif op == OP_GET_CHILDREN:
            value = read_texts(r)
        elif op == OP_GET_CHILDREN2:
            names = read_texts(r)
            value = new_tuple(Children, (names, read_stat(r)))
        elif op == OP_GET_ACL:
            acl = read_acl(r)
            value = new_tuple(NodeACL, (acl, read_stat(r)))
        else:
            raise AssertionError(f"no decoder for requests of type {op}")
        if r.bad:
            raise ValueError("it is cut short")
        return value

    # ---- the end of a connection

    def disconnected(self) -> None:
        """The connection is gone: settle what it took with it, keep what did not leave."""
        self.open = False
        self.shaken = False
        self.inbox.n = 0
        out_free(&self.head)
        self.head_at = 0
        self.rebuild(self.sent, False)

    def fail(self, error) -> None:
        """Settle everything by ``error(path)``; nothing stays."""
        self.rebuild(0, error)

    def rebuild(self, uint64_t sent, error) -> None:
        """Keep only the entries that did not leave and that somebody still waits for.

        :param sent: entries whose frame begins before this point of the stream are settled by what became of them.
        :param error: settles every entry, where it is not False.
        """
        # First everything moves to a new ring and a new buffer, then sinks are settled: that may run finalizers,
        # which may make requests.
        cdef Entry* old = self.ring
        cdef uint32_t old_slots = self.slots
        cdef uint32_t first = self.first
        cdef uint32_t count = self.count
        cdef OutBuf out = self.out
        cdef uint64_t base = self.sent - self.out_at
        cdef Entry* entry
        cdef uint32_t i
        cdef uint64_t begins
        cdef list sinks = []
        cdef int64_t now = 0 if self.watching is None else fz_now_ns()
        cdef Entry* fresh = <Entry*>malloc(old_slots * sizeof(Entry))
        if fresh == NULL:
            raise MemoryError()
        self.ring = fresh
        self.first = self.count = 0
        self.out.p = NULL
        self.out.n = self.out.cap = self.out_at = 0
        try:
            for i in range(count):
                entry = old + ((first + i) & (old_slots - 1))
                begins = entry.end - entry.size
                if error is False and begins >= sent and not is_done(<object>entry.sink):
                    put_bytes(&self.out, out.p + (begins - base), entry.size)
                    entry.end = self.sent + self.out.n
                    self.push(entry)
                    continue
                sinks.append((entry.op, <object>entry.sink, None if entry.path == NULL else <object>entry.path,
                              None if entry.token == NULL else <object>entry.token,
                              (now - entry.began_ns) / 1e9 if entry.began_ns and now else 0.0,
                              error if error is not False else
                              NotSent if entry.end > sent else
                              MaybeApplied if entry.flags & ENTRY_CHANGES else ConnectionLossError))
                Py_XDECREF(entry.sink)
                Py_XDECREF(entry.path)
                Py_XDECREF(entry.extra)
                Py_XDECREF(entry.token)
        finally:
            free(old)
            out_free(&out)
        for op, sink, path, token, seconds, cause in sinks:
            problem = cause(path)
            if not is_done(sink):
                settle_error(sink, problem)
            # Those that nobody waited for any longer ended, too.
            if self.watching is not None:
                self.observe(token, op, path, problem.code, seconds)
