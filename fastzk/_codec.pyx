"""Records as bytes: the encoder and decoder that Python code uses, driven by the schemas of fastzk.records.

The server's hot paths do not come through here; they use the inline functions of _codec.pxd directly. Both
share those functions, so there is one place that knows the wire layout.

A schema is compiled once, at its first use, into a `_Program`:

    kinds   int[n]           what to read or write for each field: the code of a `switch`
    names   n strings        keys of the decoded dict
    subs    n programs       of the fields that are records or vectors, else None

A vector is a program of one field, its element. The walk over a program keeps in a `_Trail` where it stands
(one number a level, on the C stack); only an error turns that into a readable `acl[2].id.scheme`.
"""

from collections.abc import Mapping, Sequence

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItemWithError
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN

from fastzk.records import (
    BOOLEAN,
    BUFFER,
    INT,
    LONG,
    MULTI_REQUEST_RECORDS,
    MULTI_RESPONSE_RECORDS,
    USTRING,
    MultiHeader,
    Record,
    Vector,
)


cdef enum:
    K_INT
    K_LONG
    K_BOOLEAN
    K_USTRING
    K_BUFFER
    K_RECORD
    K_VECTOR

cdef enum:
    # Levels of records and vectors inside each other. ZooKeeper's deepest record has four (a request, its ACL
    # vector, an ACL, its Id).
    MAX_DEPTH = 8


class CodecError(ValueError):
    """Bytes that are not the record they should be, or values that do not fit a record.

    :param message: what is wrong.
    :param record: name of the record that was to be read or written.
    :param field: where in it, as in ``acl[2].id.scheme``; empty for the record as a whole.
    :param offset: of that field, in bytes from the start of the input or of the output.
    """

    def __init__(self, message, record, field, offset):
        super().__init__(message, record, field, offset)
        self.message = message
        self.record = record
        self.field = field
        self.offset = offset

    def __str__(self):
        where = f"{self.record}.{self.field}" if self.field else self.record
        return f"{where} at offset {self.offset}: {self.message}"


# ---- schemas ----------------------------------------------------------------------------------------

cdef class _Program:
    cdef str name           # of the record; empty for a vector
    cdef int n              # number of fields
    cdef int[32] kinds      # ZooKeeper's widest record has 11 fields
    cdef tuple names
    cdef tuple subs
    cdef bint is_vector
    cdef bint last_optional
    cdef int depth          # levels below and including this one
    cdef Py_ssize_t least   # the fewest bytes one can take; for a vector: that its element can take


cdef dict _KINDS = {INT: K_INT, LONG: K_LONG, BOOLEAN: K_BOOLEAN, USTRING: K_USTRING, BUFFER: K_BUFFER}
cdef dict _LEAST = {K_INT: 4, K_LONG: 8, K_BOOLEAN: 1, K_USTRING: 4, K_BUFFER: 4, K_VECTOR: 4}

# Record -> _Program. Records compare by identity, and the table keeps them alive.
cdef dict _programs = {}


cdef _Program _build(str name, list fields, bint is_vector, bint last_optional):
    cdef _Program p = _Program.__new__(_Program)
    cdef _Program sub
    cdef int kind
    cdef list subs = []
    if len(fields) > <int>(sizeof(p.kinds) // sizeof(int)):
        raise ValueError(f"{name} has too many fields")
    p.name = name
    p.n = 0
    p.is_vector = is_vector
    p.last_optional = last_optional
    p.depth = 1
    p.least = 0
    for _, type_ in fields:
        sub = None
        if isinstance(type_, Record):
            kind = K_RECORD
            sub = _compiled(type_)
            p.least += sub.least
        elif isinstance(type_, Vector):
            kind = K_VECTOR
            sub = _build("", [("", type_.element)], True, False)
        else:
            kind = _KINDS[type_]
        if kind != K_RECORD and not (last_optional and p.n == len(fields) - 1):
            p.least += <Py_ssize_t>_LEAST[kind]
        if sub is not None:
            p.depth = max(p.depth, 1 + sub.depth)
        subs.append(sub)
        p.kinds[p.n] = kind
        p.n += 1
    if p.depth > MAX_DEPTH:
        raise ValueError(f"{name} nests records and vectors more than {MAX_DEPTH} deep")
    p.names = tuple([field_name for field_name, _ in fields])
    p.subs = tuple(subs)
    return p


cdef _Program _compiled(object record):
    cdef PyObject* found = PyDict_GetItemWithError(_programs, record)
    cdef _Program p
    if found != NULL:
        return <_Program>found
    if not isinstance(record, Record):
        raise TypeError(f"a Record is needed, not {type(record).__name__}")
    p = _build(record.name, list(record.fields), False, record.last_optional)
    _programs[record] = p
    return p


# ---- where a walk stands ----------------------------------------------------------------------------

cdef struct _Trail:
    PyObject* root          # borrowed: the _Program the walk began with
    int depth               # the deepest level in use; -1 for the record as a whole
    Py_ssize_t[MAX_DEPTH] at    # at each level, the field's or the element's number


cdef object _fail(_Trail* t, Py_ssize_t offset, str message):
    """Raise CodecError for the place the trail points to."""
    cdef _Program root = <_Program>t.root
    cdef _Program p = root
    cdef str path = ""
    cdef int level
    for level in range(t.depth + 1):
        if p.is_vector:
            path += f"[{t.at[level]}]"
            p = p.subs[0]
        else:
            path += ("." if path else "") + <str>p.names[t.at[level]]
            p = p.subs[t.at[level]]
    raise CodecError(message, root.name, path, offset)


# ---- bytes to values --------------------------------------------------------------------------------

cdef object _fail_read(_Trail* t, const uint8_t* base, const uint8_t* at, const uint8_t* end, int kind):
    """Raise CodecError for a field that begins at `at` and cannot be read."""
    cdef Py_ssize_t left = end - at
    cdef Py_ssize_t fixed = <Py_ssize_t>_LEAST[kind]
    cdef int32_t length
    if left < fixed:
        return _fail(t, at - base, f"{fixed} bytes needed, {left} left")
    length = <int32_t>fz_load32(at)
    if length < 0:
        return _fail(t, at - base, f"length {length}")
    return _fail(t, at - base, f"length {length}, but {left - 4} bytes left")


cdef object _read(Reader* r, _Trail* t, const uint8_t* base, _Program p, int i, int depth):
    """The value of field `i` of `p`, which stands at level `depth`."""
    cdef int kind = p.kinds[i]
    cdef const uint8_t* at = r.p
    cdef _Program sub
    cdef Span span
    cdef int32_t number
    cdef int64_t long_number
    cdef Py_ssize_t k
    cdef list items
    if kind == K_INT:
        number = get_i32(r)
        if r.bad:
            return _fail_read(t, base, at, r.end, kind)
        return number
    if kind == K_LONG:
        long_number = get_i64(r)
        if r.bad:
            return _fail_read(t, base, at, r.end, kind)
        return long_number
    if kind == K_USTRING or kind == K_BUFFER:
        span = get_span(r)
        if r.bad:
            return _fail_read(t, base, at, r.end, kind)
        if span.n == -1:
            return None
        if kind == K_BUFFER:
            return PyBytes_FromStringAndSize(<char*>span.p, span.n)
        # Java, too, replaces what is not UTF-8 and does not refuse it.
        return PyUnicode_DecodeUTF8(<char*>span.p, span.n, "replace")
    if kind == K_BOOLEAN:
        number = get_bool(r)
        if r.bad:
            return _fail_read(t, base, at, r.end, kind)
        return number != 0
    sub = <_Program>p.subs[i]
    if kind == K_RECORD:
        return _read_record(r, t, base, sub, depth + 1)
    number = get_i32(r)
    if r.bad:
        return _fail_read(t, base, at, r.end, kind)
    if number == -1:
        return None
    # Before anything is allocated: can the rest hold so many? To Java negative counts are empty vectors.
    if number > (r.end - r.p) // sub.least:
        return _fail(t, at - base, f"{number} elements, but {r.end - r.p} bytes left")
    items = []
    for k in range(number):
        t.at[depth + 1] = k
        t.depth = depth + 1
        items.append(_read(r, t, base, sub, 0, depth + 1))
    return items


cdef dict _read_record(Reader* r, _Trail* t, const uint8_t* base, _Program p, int depth):
    cdef dict values = {}
    cdef int i
    for i in range(p.n):
        t.at[depth] = i
        t.depth = depth
        if p.last_optional and i == p.n - 1 and r.p == r.end:
            values[p.names[i]] = None
        else:
            values[p.names[i]] = _read(r, t, base, p, i, depth)
    return values


def decode(record, data, Py_ssize_t offset=0):
    """Read one record.

    :param record: its schema.
    :param data: a bytes-like object that holds it. Bytes behind the record are left alone.
    :param offset: where in `data` it begins, in bytes.
    :returns: the fields by name, and the offset behind the record. Nested records are dicts as well, vectors
        are lists, null is None; so is an optional last field that is not there. Invalid UTF-8 becomes U+FFFD.
    :raises CodecError: when the data ends too early or holds an impossible length.
    """
    cdef _Program p = _compiled(record)
    cdef _Trail t
    cdef Reader r
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef dict values
    t.root = <PyObject*>p
    t.depth = -1
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*>view.buf
        if offset < 0 or offset > view.len:
            _fail(&t, offset, f"outside of the {view.len} bytes given")
        reader_init(&r, base + offset, view.len - offset)
        values = _read_record(&r, &t, base, p, 0)
        return values, r.p - base
    finally:
        PyBuffer_Release(&view)


# ---- values to bytes --------------------------------------------------------------------------------

cdef int64_t _integer(_Trail* t, OutBuf* o, object value, int64_t low, int64_t high) except? -1:
    cdef int overflow = 0
    cdef int64_t number
    if not isinstance(value, int):
        _fail(t, o.n, f"an int is needed, not {type(value).__name__}")
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or number < low or number > high:
        _fail(t, o.n, f"{value} does not fit")
    return number


cdef int _write_ustring(OutBuf* o, _Trail* t, object value) except -1:
    cdef const char* p = NULL
    cdef Py_ssize_t n = 0
    if not isinstance(value, str):
        _fail(t, o.n, f"a str or None is needed, not {type(value).__name__}")
    try:
        p = PyUnicode_AsUTF8AndSize(value, &n)
    except UnicodeEncodeError as e:
        _fail(t, o.n, str(e))
    if n > INT32_MAX:
        _fail(t, o.n, f"{n} bytes are too long")
    return put_span(o, <const uint8_t*>p, <int32_t>n)


cdef int _write_buffer(OutBuf* o, _Trail* t, object value) except -1:
    cdef Py_buffer view
    try:
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
    except (TypeError, BufferError):
        _fail(t, o.n, f"a bytes-like object or None is needed, not {type(value).__name__}")
    try:
        if view.len > INT32_MAX:
            _fail(t, o.n, f"{view.len} bytes are too long")
        return put_span(o, <const uint8_t*>view.buf, <int32_t>view.len)
    finally:
        PyBuffer_Release(&view)


cdef tuple _elements(_Trail* t, OutBuf* o, object values, str needed):
    # A tuple of its own, for conversions of the elements may run code that changes a list.
    if type(values) is tuple:
        return values
    if isinstance(values, (list, tuple)) or (
        isinstance(values, Sequence) and not isinstance(values, (str, bytes, bytearray, memoryview))
    ):
        return tuple(values)
    return _fail(t, o.n, f"{needed} is needed, not {type(values).__name__}")


cdef int _write(OutBuf* o, _Trail* t, _Program p, int i, object value, int depth) except -1:
    """Append `value` as field `i` of `p`, which stands at level `depth`."""
    cdef int kind = p.kinds[i]
    cdef _Program sub
    cdef tuple items
    cdef Py_ssize_t k
    if kind == K_INT:
        return put_i32(o, <int32_t>_integer(t, o, value, INT32_MIN, INT32_MAX))
    if kind == K_LONG:
        return put_i64(o, _integer(t, o, value, INT64_MIN, INT64_MAX))
    if kind == K_BOOLEAN:
        if value is not True and value is not False:
            _fail(t, o.n, f"a bool is needed, not {type(value).__name__}")
        return put_u8(o, value is True)
    sub = <_Program>p.subs[i]
    if kind == K_RECORD:
        return _write_record(o, t, sub, value, depth + 1)
    if value is None:
        return put_i32(o, -1)
    if kind == K_USTRING:
        return _write_ustring(o, t, value)
    if kind == K_BUFFER:
        return _write_buffer(o, t, value)
    items = _elements(t, o, value, "a sequence or None")
    if len(items) > INT32_MAX:
        _fail(t, o.n, f"{len(items)} elements are too many")
    put_i32(o, <int32_t>len(items))
    for k in range(len(items)):
        t.at[depth + 1] = k
        t.depth = depth + 1
        _write(o, t, sub, 0, items[k], depth + 1)
    return 0


cdef int _write_record(OutBuf* o, _Trail* t, _Program p, object values, int depth) except -1:
    if isinstance(values, dict):
        return _write_by_name(o, t, p, <dict>values, depth)
    if isinstance(values, Mapping):
        return _write_by_name(o, t, p, dict(values), depth)
    return _write_by_position(o, t, p, _elements(t, o, values, "a mapping or a sequence"), depth)


cdef int _write_by_name(OutBuf* o, _Trail* t, _Program p, dict values, int depth) except -1:
    cdef PyObject* found
    cdef object value
    cdef Py_ssize_t used = 0
    cdef int i
    for i in range(p.n):
        t.at[depth] = i
        t.depth = depth
        found = PyDict_GetItemWithError(values, p.names[i])
        if found != NULL:
            used += 1
        value = <object>found if found != NULL else None
        if p.last_optional and i == p.n - 1 and value is None:
            continue
        if found == NULL:
            _fail(t, o.n, "missing")
        _write(o, t, p, i, value, depth)
    if used != len(values):
        t.depth = depth - 1
        unknown = [key for key in values if key not in p.names]
        _fail(t, o.n, f"no such field: {unknown[0]!r}" if unknown else "the values changed meanwhile")
    return 0


cdef int _write_by_position(OutBuf* o, _Trail* t, _Program p, tuple values, int depth) except -1:
    cdef Py_ssize_t given = len(values)
    cdef int i
    if given != p.n and not (p.last_optional and given == p.n - 1):
        t.depth = depth - 1
        _fail(t, o.n, f"{p.n} values needed, {given} given")
    for i in range(<int>given):
        t.at[depth] = i
        t.depth = depth
        if p.last_optional and i == p.n - 1 and values[i] is None:
            continue
        _write(o, t, p, i, values[i], depth)
    return 0


def encode(record, values):
    """One record as bytes.

    :param record: its schema.
    :param values: its fields by name or in order; nested records alike, vectors as sequences. None stands for
        null in strings, buffers and vectors, and leaves out an optional last field.
    :raises CodecError: for a field that is missing, unknown, of the wrong type, out of range, or text that
        UTF-8 cannot hold.
    """
    cdef _Program p = _compiled(record)
    cdef _Trail t
    cdef OutBuf o
    t.root = <PyObject*>p
    t.depth = -1
    o.p = NULL
    o.n = 0
    o.cap = 0
    try:
        _write_record(&o, &t, p, values, 0)
        return PyBytes_FromStringAndSize(<char*>o.p, o.n)
    finally:
        out_free(&o)


def encode_frame(*parts):
    """Bytes-like objects joined and led by their length, as they are sent.

    :raises CodecError: when they are longer than a length can say (2 GiB).
    """
    size = sum([memoryview(part).nbytes for part in parts])
    if size > INT32_MAX:
        raise CodecError(f"{size} bytes are too long", "frame", "", 0)
    return b"".join([size.to_bytes(4, "big"), *parts])


# ---- multi ------------------------------------------------------------------------------------------
# Each operation, and each result, is a MultiHeader and the record of its type; a header with done ends them.

cdef bytes _END_OF_MULTI = encode(MultiHeader, (-1, True, -1))


cdef object _multi_record(object records, object type_, str which, Py_ssize_t offset):
    record = records.get(type_)
    if record is None:
        message = f"type {type_} does not belong into a multi's {which}"
        raise CodecError(message, "MultiHeader", "type", offset)
    return record


cdef tuple _decode_multi(object records, object data, Py_ssize_t offset, str which):
    cdef list found = []
    while True:
        at = offset
        header, offset = decode(MultiHeader, data, offset)
        if header["done"]:
            return found, offset
        record = _multi_record(records, header["type"], which, at)
        values, offset = decode(record, data, offset)
        found.append((header["type"], values))


def encode_multi_request(ops):
    """The body of a multi or multiRead request.

    :param ops: pairs of an opcode of MULTI_REQUEST_RECORDS and that record's values.
    :raises CodecError: for another opcode, or values that do not fit. Its offset counts from the start of the
        operation.
    """
    parts = []
    for type_, values in ops:
        record = _multi_record(MULTI_REQUEST_RECORDS, type_, "request", 0)
        parts.append(encode(MultiHeader, (type_, False, -1)))
        parts.append(encode(record, values))
    parts.append(_END_OF_MULTI)
    return b"".join(parts)


def decode_multi_request(data, Py_ssize_t offset=0):
    """Read the body of a multi or multiRead request.

    :returns: pairs of opcode and values, and the offset behind the request.
    :raises CodecError: as `decode` does, and for an opcode that does not belong into a multi.
    """
    return _decode_multi(MULTI_REQUEST_RECORDS, data, offset, "request")


def encode_multi_response(results):
    """The body of the reply to a multi or multiRead.

    :param results: pairs of an opcode of MULTI_RESPONSE_RECORDS and that record's values; a failed operation
        is ``(OpCode.ERROR, {"err": code})``.
    :raises CodecError: for another opcode, or values that do not fit. Its offset counts from the start of the
        result.
    """
    parts = []
    for type_, values in results:
        record = _multi_record(MULTI_RESPONSE_RECORDS, type_, "response", 0)
        body = encode(record, values)
        # A failure stands in the header as well.
        err = int.from_bytes(body, "big", signed=True) if type_ == -1 else 0
        parts.append(encode(MultiHeader, (type_, False, err)))
        parts.append(body)
    parts.append(_END_OF_MULTI)
    return b"".join(parts)


def decode_multi_response(data, Py_ssize_t offset=0):
    """Read the body of the reply to a multi or multiRead.

    :returns: pairs of opcode and values, and the offset behind the reply. Failures have opcode ERROR.
    :raises CodecError: as `decode` does, and for an opcode that is no result of a multi.
    """
    return _decode_multi(MULTI_RESPONSE_RECORDS, data, offset, "response")
