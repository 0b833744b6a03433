"""C face of ``ext/index.pyx``."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef struct Pool:
    uint16_t *blocks
    uint64_t room      # blocks that there is memory for
    uint32_t count     # blocks that were ever given out
    uint32_t unused    # number + 1 of the first of the list of those given back; 0: none


cdef class Index:
    cdef uint64_t seed
    cdef uint64_t capacity
    cdef uint64_t used
    cdef readonly uint64_t entries
    cdef uint64_t cursor
    cdef uint32_t highest      # all numbers below have been given out, perhaps
    cdef uint32_t vacant       # no number below is free
    cdef uint32_t closed
    cdef bint sweeping
    cdef uint64_t *keys
    cdef uint32_t *refs
    cdef uint8_t *states
    cdef Pool pools[15]

    cdef int expect(self, uint32_t node) except -1
    cdef uint64_t seek(self, uint64_t key) noexcept nogil
    cdef int put(self, uint64_t key, uint32_t node) except -1
    cdef int take(self, uint64_t slot, uint32_t node) except -1
    cdef void vacate(self, uint64_t hole) noexcept nogil
    cdef int resize(self, uint64_t capacity) except -1
    cdef void begin_sweep(self) noexcept
    cdef bint clean(self, uint64_t slot) except -1
    cdef uint16_t *block(self, uint32_t ref) noexcept nogil
    cdef uint32_t claim(self, uint32_t size) except 0
    cdef void release(self, uint32_t ref) noexcept nogil
    cdef uint32_t join(self, uint32_t ref, uint32_t node) except 0
    cdef uint32_t shrink(self, uint32_t ref) except 0
