"""Which key the next request is for: drawn in a few instructions, whatever the distribution.

Uniform keys and hot sets are computed. Zipf's law is drawn from an alias table (Vose): each key has a column of the
same height that is split between the key itself and one other, so a draw is one random column and one comparison, and
exact for every exponent, also those below 1. It takes 8 bytes a key.
"""

from libc.stdlib cimport free, malloc


cdef class KeyChooser:
    """Draws keys, numbers from 0 on, by a distribution.

    :param distribution: a :class:`fastzk.bench.plan.KeyDistribution`.
    :param keys: how many there are.
    :param seed: those of the same seed draw the same.
    :param position: with which key a sequential one begins.
    """

    def __cinit__(self, distribution, keys, seed=0, position=0):
        if not 0 < keys < 1 << 31:
            raise ValueError(f"not a number of keys: {keys}")
        self.keys = keys
        self.state = seed & 0xFFFFFFFFFFFFFFFF
        self.position = position % keys
        name = distribution.name
        if name == "uniform":
            self.kind = UNIFORM
        elif name == "sequential":
            self.kind = SEQUENTIAL
        elif name == "hot":
            self.kind = HOT
            self.hot = min(max(round(distribution.fraction * keys), 1), keys)
            self.hot_share = min(round(distribution.share * 2.0**32), 0xFFFFFFFF)
        elif name == "zipf":
            self.kind = WEIGHTED
            self.weigh(distribution.exponent)
        else:
            raise ValueError(f"not a distribution of keys: {name}")

    def __dealloc__(self):
        free(self.share)
        free(self.alias)

    cdef int weigh(self, double exponent) except -1:
        # Columns that are too low are filled up from those that are too high, until all have the same height.
        cdef uint32_t n = self.keys, key, small, large, smalls = 0, larges
        cdef double total = 0
        cdef double* height = <double*>malloc(n * sizeof(double))
        cdef uint32_t* waiting = <uint32_t*>malloc(n * sizeof(uint32_t))
        self.share = <uint32_t*>malloc(n * sizeof(uint32_t))
        self.alias = <uint32_t*>malloc(n * sizeof(uint32_t))
        try:
            if height is NULL or waiting is NULL or self.share is NULL or self.alias is NULL:
                raise MemoryError()
            for key in range(n):
                height[key] = (<double>(key + 1)) ** -exponent
                total += height[key]
            # one array holds both lists: low columns from the front, high ones from the back
            larges = n
            for key in range(n):
                height[key] *= n / total
                self.share[key] = 0xFFFFFFFF
                self.alias[key] = key
                if height[key] < 1:
                    waiting[smalls] = key
                    smalls += 1
                else:
                    larges -= 1
                    waiting[larges] = key
            while smalls and larges < n:
                smalls -= 1
                small = waiting[smalls]
                large = waiting[larges]
                self.share[small] = <uint32_t>(height[small] * 4294967295.0)
                self.alias[small] = large
                height[large] -= 1 - height[small]
                if height[large] < 1:
                    larges += 1
                    waiting[smalls] = large
                    smalls += 1
        finally:
            free(height)
            free(waiting)
        return 0

    def draw(self, count):
        """The next ``count`` keys."""
        return [self.next() for _ in range(count)]
