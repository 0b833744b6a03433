"""C face of ``ext/hashing.pyx``: ingest threads feed a hasher through its ``state``."""

from libc.stdint cimport uint8_t, uint64_t


cdef extern from "sha2.h" nogil:
    ctypedef struct fm_hash_kind:
        const char *algorithm
        const char *implementation
        size_t digest_size

    ctypedef struct fm_hash:
        const fm_hash_kind *kind
        uint64_t length

    const fm_hash_kind *fm_hash_kind_at(const char *algorithm, int n)
    void fm_hash_begin(fm_hash *hash, const fm_hash_kind *kind)
    void fm_hash_update(fm_hash *hash, const uint8_t *data, size_t size)
    void fm_hash_digest(const fm_hash *hash, uint8_t *digest)
    int fm_hash_take(fm_hash *hash)
    void fm_hash_give(fm_hash *hash)


cdef class Hasher:
    cdef fm_hash state

    cdef int take(self) except -1
