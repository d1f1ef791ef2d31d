from fastzk.server._line cimport Line


cdef class ReadOnly(Line):
    pass
