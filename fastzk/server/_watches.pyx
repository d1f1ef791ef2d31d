"""Watches: who is told of which change.

A *Watched* is a path that somebody watches; a *Watch* is one client's watches on it, as bits: one-shot data
(or existence), one-shot child, persistent, recursive. Watches hang on two lists, of their path and of their
client, so that a change visits exactly the watchers of its path and a closed connection exactly its own;
setting the same watch twice finds the first in an index. Everything is linked by 32-bit numbers in two
arrays: a watch costs 28 bytes and an index bucket, a watched path its bytes and 40.

One change may reach a client by several ways (data and child watch, a recursive watch above): it gets one
event. A client that may not read the znode gets none. An event's header carries the zxid of the change,
as ZooKeeper does since 3.9.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

import os

from fastzk._acl cimport acl_permits
from fastzk._codec cimport out_free, put_i32, put_i64, put_span

from fastzk._constants cimport (
    EVENT_CHILDREN_CHANGED, EVENT_CREATED, EVENT_DATA_CHANGED, EVENT_DELETED, PERM_READ, STATE_SYNC_CONNECTED,
    XID_NOTIFICATION,
)
from fastzk._index cimport index_next, index_put, index_remove, index_reserve, index_resize, index_start
from fastzk._paths cimport fz_hash, parent_length
from fastzk.server._clients cimport OUT_LIMIT

cdef enum:
    WATCH_ONE_SHOT = 3


cdef class Watches:
    """The watches of all clients of this server."""

    def __cinit__(self, Clients clients, AclTable acls) -> None:
        self.clients = clients
        self.acls = acls
        self.seed = int.from_bytes(os.urandom(8), "little")
        index_resize(&self.paths, 256)
        index_resize(&self.pairs, 256)
        self.watched_size = self.watches_size = 1

    def __dealloc__(self) -> None:
        cdef uint32_t i
        if self.watched != NULL:
            for i in range(1, self.watched_size):
                free(self.watched[i].path)
        free(self.watched)
        free(self.watches)
        free(self.paths.buckets)
        free(self.pairs.buckets)
        out_free(&self.frame)

    cdef uint64_t pair_hash(self, uint32_t path, uint32_t client) noexcept:
        cdef uint32_t key[2]
        key[0] = path
        key[1] = client
        return fz_hash(<uint8_t*>key, 8, self.seed)

    cdef uint32_t find_path(self, const uint8_t* path, int32_t n, uint64_t h) noexcept:
        cdef uint64_t at = index_start(&self.paths, h)
        cdef uint32_t number
        while True:
            number = index_next(&self.paths, h, &at)
            if number == 0:
                return 0
            if self.watched[number].n == n and memcmp(self.watched[number].path, path, n) == 0:
                return number

    cdef uint32_t find(self, uint32_t path, uint32_t client) noexcept:
        cdef uint64_t h = self.pair_hash(path, client)
        cdef uint64_t at = index_start(&self.pairs, h)
        cdef uint32_t number
        while True:
            number = index_next(&self.pairs, h, &at)
            if number == 0 or (self.watches[number].path == path and self.watches[number].client == client):
                return number

    cdef void count_modes(self, uint32_t modes, int64_t sign) noexcept:
        # A persistent watch is a data and a child watch; a recursive one a data watch.
        if modes & (WATCH_DATA | WATCH_PERSISTENT | WATCH_RECURSIVE):
            self.count += sign
        if modes & (WATCH_CHILD | WATCH_PERSISTENT):
            self.count += sign
        if modes & WATCH_RECURSIVE:
            self.recursive_count += sign

    cdef int add(self, const uint8_t* path, int32_t n, Client client, uint32_t modes) except -1:
        cdef uint64_t h = fz_hash(path, n, self.seed)
        cdef uint32_t at
        cdef uint32_t number
        cdef uint32_t capacity
        cdef uint8_t* copy
        cdef void* moved
        cdef Watched* entry
        cdef Watch* watch
        if client.slot == 0:
            return 0
        at = self.find_path(path, n, h)
        if at:
            number = self.find(at, client.slot)
            if number:
                watch = &self.watches[number]
                self.count_modes(watch.modes, -1)
                watch.modes |= modes
                self.count_modes(watch.modes, 1)
                return 0
        index_reserve(&self.paths)
        index_reserve(&self.pairs)
        if self.watches_free == 0 and self.watches_size >= self.watches_capacity:
            capacity = self.watches_capacity * 2 or 64
            moved = realloc(self.watches, capacity * sizeof(Watch))
            if moved == NULL:
                raise MemoryError("no memory for watches")
            self.watches = <Watch*>moved
            self.watches_capacity = capacity
        if at == 0:
            if self.watched_free == 0 and self.watched_size >= self.watched_capacity:
                capacity = self.watched_capacity * 2 or 64
                moved = realloc(self.watched, capacity * sizeof(Watched))
                if moved == NULL:
                    raise MemoryError("no memory for watches")
                self.watched = <Watched*>moved
                self.watched_capacity = capacity
            copy = <uint8_t*>malloc(n + 1)
            if copy == NULL:
                raise MemoryError("no memory for watches")
            memcpy(copy, path, n)
            if self.watched_free:
                at = self.watched_free
                self.watched_free = self.watched[at].first
            else:
                at = self.watched_size
                self.watched_size += 1
            entry = &self.watched[at]
            entry.hash = h
            entry.path = copy
            entry.n = n
            entry.first = 0
            entry.count = 0
            index_put(&self.paths, h, at)
        if self.watches_free:
            number = self.watches_free
            self.watches_free = self.watches[number].next
        else:
            number = self.watches_size
            self.watches_size += 1
        entry = &self.watched[at]
        watch = &self.watches[number]
        watch.path = at
        watch.client = client.slot
        watch.modes = modes
        watch.prev = 0
        watch.next = entry.first
        if entry.first:
            self.watches[entry.first].prev = number
        entry.first = number
        entry.count += 1
        watch.client_prev = 0
        watch.client_next = client.first_watch
        if client.first_watch:
            self.watches[client.first_watch].client_prev = number
        client.first_watch = number
        client.watch_count += 1
        index_put(&self.pairs, self.pair_hash(at, client.slot), number)
        self.count_modes(modes, 1)
        return 0

    cdef int unlink(self, uint32_t number) except -1:
        # Remove a watch altogether, and its path if it was the last there.
        cdef Watch* watch = &self.watches[number]
        cdef Watched* entry = &self.watched[watch.path]
        cdef Client client = self.clients.get(watch.client)
        self.count_modes(watch.modes, -1)
        index_remove(&self.pairs, self.pair_hash(watch.path, watch.client), number)
        if watch.prev:
            self.watches[watch.prev].next = watch.next
        else:
            entry.first = watch.next
        if watch.next:
            self.watches[watch.next].prev = watch.prev
        if watch.client_prev:
            self.watches[watch.client_prev].client_next = watch.client_next
        else:
            client.first_watch = watch.client_next
        if watch.client_next:
            self.watches[watch.client_next].client_prev = watch.client_prev
        client.watch_count -= 1
        entry.count -= 1
        if entry.first == 0:
            index_remove(&self.paths, entry.hash, watch.path)
            free(entry.path)
            entry.path = NULL
            entry.n = 0
            entry.first = self.watched_free
            self.watched_free = watch.path
        watch.path = 0
        watch.next = self.watches_free
        self.watches_free = number
        return 0

    cdef uint32_t drop(self, const uint8_t* path, int32_t n, Client client, uint32_t modes) except? 0xFFFFFFFF:
        # Take these modes of the client's watches on the path away; the ones it had of them.
        cdef uint32_t at = self.find_path(path, n, fz_hash(path, n, self.seed))
        cdef uint32_t number = self.find(at, client.slot) if at else 0
        cdef uint32_t had
        if number == 0:
            return 0
        had = self.watches[number].modes & modes
        if had == self.watches[number].modes:
            self.unlink(number)
        elif had:
            self.count_modes(self.watches[number].modes, -1)
            self.watches[number].modes &= ~modes
            self.count_modes(self.watches[number].modes, 1)
        return had

    cdef uint32_t modes_of(self, const uint8_t* path, int32_t n, Client client) noexcept:
        cdef uint32_t at = self.find_path(path, n, fz_hash(path, n, self.seed))
        cdef uint32_t number = self.find(at, client.slot) if at else 0
        return self.watches[number].modes if number else 0

    cdef uint32_t modes_of_any(self, const uint8_t* path, int32_t n) noexcept:
        cdef uint32_t at = self.find_path(path, n, fz_hash(path, n, self.seed))
        cdef uint32_t modes = 0
        cdef uint32_t number = self.watched[at].first if at else 0
        while number:
            modes |= self.watches[number].modes
            number = self.watches[number].next
        return modes

    def forget(self, client: Client) -> None:
        """Remove every watch of a client whose connection ended."""
        while (<Client>client).first_watch:
            self.unlink((<Client>client).first_watch)

    # -- events -----------------------------------------------------------------------------------------

    cdef int send(self, Client client, const uint8_t* path, int32_t n, int32_t event, int64_t zxid) except -1:
        # One event to one client, whatever it watches.
        cdef OutBuf* out = &client.out
        if out.n > OUT_LIMIT:
            client.overrun = True          # its flush will cut it off
            self.clients.mark(client)
            return 0
        put_i32(out, 28 + n)
        put_i32(out, XID_NOTIFICATION)
        put_i64(out, zxid)
        put_i32(out, 0)
        put_i32(out, event)
        put_i32(out, STATE_SYNC_CONNECTED)
        put_span(out, path, n)
        self.clients.mark(client)
        return 0

    cdef int fire_at(self, const uint8_t* at, int32_t at_n, const uint8_t* path, int32_t n, int32_t event, int64_t zxid,
                     uint32_t acl, uint32_t modes) except -1:
        # Tell those who watch `at` with one of these modes that `path` changed.
        cdef uint32_t entry = self.find_path(at, at_n, fz_hash(at, at_n, self.seed))
        cdef uint32_t number
        cdef uint32_t after
        cdef uint32_t left
        cdef Watch* watch
        cdef Client client
        if entry == 0:
            return 0
        number = self.watched[entry].first
        while number:
            watch = &self.watches[number]
            after = watch.next
            if watch.modes & modes:
                client = self.clients.get(watch.client)
                if client.event_stamp != self.stamp:
                    client.event_stamp = self.stamp
                    if acl_permits(self.acls, acl, PERM_READ, &client.auth):
                        self.send(client, path, n, event, zxid)
                left = watch.modes & ~(modes & <uint32_t>WATCH_ONE_SHOT)
                if left == 0:
                    self.unlink(number)
                elif left != watch.modes:
                    self.count_modes(watch.modes, -1)
                    watch.modes = left
                    self.count_modes(left, 1)
            number = after
        return 0

    cdef int fire(self, const uint8_t* path, int32_t n, int32_t event, int64_t zxid, uint32_t acl,
                  uint32_t modes) except -1:
        cdef int32_t above = n
        if self.paths.used == 0:
            return 0
        self.stamp += 1
        self.fire_at(path, n, path, n, event, zxid, acl, modes)
        if self.recursive_count and modes & <uint32_t>WATCH_RECURSIVE:
            while above > 1:
                above = parent_length(path, above)
                if above <= 0:
                    self.fire_at(b"/", 1, path, n, event, zxid, acl, WATCH_RECURSIVE)
                    break
                self.fire_at(path, above, path, n, event, zxid, acl, WATCH_RECURSIVE)
        return 0

    cdef int created(self, const uint8_t* path, int32_t n, int64_t zxid, uint32_t acl, uint32_t parent_acl) except -1:
        cdef int32_t above
        if self.paths.used == 0:
            return 0
        self.fire(path, n, EVENT_CREATED, zxid, acl, WATCH_DATA | WATCH_PERSISTENT | WATCH_RECURSIVE)
        above = parent_length(path, n)
        if above > 0:
            self.fire(path, above, EVENT_CHILDREN_CHANGED, zxid, parent_acl, WATCH_CHILD | WATCH_PERSISTENT)
        else:
            self.fire(b"/", 1, EVENT_CHILDREN_CHANGED, zxid, parent_acl, WATCH_CHILD | WATCH_PERSISTENT)
        return 0

    cdef int deleted(self, const uint8_t* path, int32_t n, int64_t zxid, uint32_t acl, uint32_t parent_acl) except -1:
        cdef int32_t above
        if self.paths.used == 0:
            return 0
        self.fire(path, n, EVENT_DELETED, zxid, acl, WATCH_DATA | WATCH_CHILD | WATCH_PERSISTENT | WATCH_RECURSIVE)
        above = parent_length(path, n)
        if above > 0:
            self.fire(path, above, EVENT_CHILDREN_CHANGED, zxid, parent_acl, WATCH_CHILD | WATCH_PERSISTENT)
        else:
            self.fire(b"/", 1, EVENT_CHILDREN_CHANGED, zxid, parent_acl, WATCH_CHILD | WATCH_PERSISTENT)
        return 0

    cdef int changed(self, const uint8_t* path, int32_t n, int64_t zxid, uint32_t acl) except -1:
        return self.fire(path, n, EVENT_DATA_CHANGED, zxid, acl, WATCH_DATA | WATCH_PERSISTENT | WATCH_RECURSIVE)

    # -- for four-letter words ----------------------------------------------------------------------------

    cdef bytes path_bytes(self, uint32_t number):
        return (<const uint8_t*>self.watched[number].path)[:self.watched[number].n]

    def __len__(self) -> int:
        return self.count

    @property
    def path_count(self) -> int:
        """Distinct paths that somebody watches."""
        return self.paths.used

    def by_path(self) -> list[tuple[bytes, list[Client]]]:
        """Each path whose data somebody watches, with the watchers; one-shot child watches are left out."""
        cdef uint32_t i
        cdef uint32_t number
        found = []
        for i in range(1, self.watched_size):
            if self.watched[i].path == NULL:
                continue
            watchers = []
            number = self.watched[i].first
            while number:
                if self.watches[number].modes & ~<uint32_t>WATCH_CHILD:
                    watchers.append(self.clients.get(self.watches[number].client))
                number = self.watches[number].next
            if watchers:
                found.append((self.path_bytes(i), watchers))
        return found

    def of_client(self, client: Client) -> list[bytes]:
        """The paths whose data a client watches."""
        cdef uint32_t number = (<Client>client).first_watch
        found = []
        while number:
            if self.watches[number].modes & ~<uint32_t>WATCH_CHILD:
                found.append(self.path_bytes(self.watches[number].path))
            number = self.watches[number].client_next
        return found
