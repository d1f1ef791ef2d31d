"""The transaction log as the pipeline sees it. The story and the layout on disk are in ``_log.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastzk._log_reader cimport LOG_HEADER_BYTES


cdef struct Rotation:  # the move to a fresh segment, done by the log thread just before the job it hangs on
    int fd
    uint64_t segment_id
    uint8_t header[96]
    char old_name[48]
    char new_name[48]


cdef struct Job:  # what the log thread needs of one batch; lives inside the Batch
    Job* next
    void* owner  # the Batch, with a reference held for as long as the job is in flight
    uint8_t* data
    size_t size
    int64_t offset
    int64_t last_zxid
    uint64_t checksum
    Rotation* rotation


cdef class Batch:
    cdef uint8_t* buf  # LOG_HEADER_BYTES, the payload, up to 7 bytes of padding; NULL until first used
    cdef size_t length  # payload bytes written so far
    cdef size_t capacity  # payload bytes there is room for
    cdef public int64_t first_zxid
    cdef public int64_t last_zxid
    cdef public uint32_t count
    cdef bint submitted  # true from submit() until take_done() hands it back
    cdef Job job
    cdef readonly int exports  # views of the payload that live: until they are released nothing here may change

    cdef uint8_t* reserve(self, size_t n) except NULL
    cdef int clear(self) except -1
    cdef int writable(self) except -1


cdef struct Shared  # what the loop's thread and the log thread have in common


cdef class TxnLog:
    cdef readonly str directory
    cdef readonly bytes store_id
    cdef readonly int64_t segment_bytes
    cdef readonly int event_fd
    cdef int dir_fd
    cdef int owner_pid
    cdef Shared* shared
    cdef bint running
    cdef bint closed
    # the end of the log as stamped so far, which runs ahead of what is durable
    cdef list _segments  # of Segment, oldest first; the last one is live
    cdef int64_t position  # where the next batch goes in the live segment
    cdef int64_t live_size
    cdef uint64_t live_id
    cdef uint64_t chain  # checksum of the last stamped batch
    cdef int64_t stamped_zxid
    cdef int64_t submitted_zxid  # the held batches included
    # batches with the log thread, in order: a list through Job.next
    cdef Job* first
    cdef Job* last
    cdef int64_t taken  # batches ever handed back as durable
    cdef object held  # deque of batches that wait, unstamped, for the next segment
    cdef bint refusing  # refused batches were handed back and that is not acknowledged yet
    cdef object preparer
    cdef object walk  # the finished walk of recover(), until start() takes it over
    # reading back
    cdef object ends  # array('q'): the index that take_index() has not asked for yet
    cdef bint based  # what a log without segments begins behind is known: `base`
    cdef int64_t base
    cdef dict cursors  # zxid at which a reader stopped -> the offset of what follows it in the same segment
    cdef object holds  # WeakSet of LogHold

    cpdef submit(self, Batch batch)
    cpdef tuple take_done(self)
    cdef bint busy(self)
    cdef bint _place(self, Batch batch) except -1
    cdef int _rotate(self, int64_t first_zxid, Rotation** result, object spare) except -1
    cdef int _stamp(self, Batch batch, int64_t durable_to) except -1
    cdef list _roll_back(self)
