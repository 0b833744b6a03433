"""SHA-256 and SHA-512 (``ext/sha2.c``) as a Python class whose state native threads can feed.

Source: FIPS 180-4.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t


cdef enum:
    DIGEST_MAX = 64
    ALONE = 16384                # bytes that are hashed with the GIL held: about 8 us


cdef const fm_hash_kind *find_kind(str algorithm, str implementation) except NULL:
    cdef bytes wanted = implementation.encode()
    cdef bytes name = algorithm.encode()
    cdef const fm_hash_kind *kind = fm_hash_kind_at(name, 0)
    cdef int n = 0
    if kind is NULL:
        raise ValueError(f"digest algorithm {algorithm!r} is not supported: use sha256 or sha512")
    while wanted and kind is not NULL and <bytes>kind.implementation != wanted:
        n += 1
        kind = fm_hash_kind_at(name, n)
    if kind is NULL:
        raise ValueError(f"{algorithm} has no implementation {implementation!r} on this machine")
    return kind


def implementations(str algorithm not None):
    """Name what can compute ``algorithm`` on this machine, fastest first; the last one is always "portable"."""
    cdef list names = []
    find_kind(algorithm, "")
    while fm_hash_kind_at(algorithm.encode(), <int>len(names)) is not NULL:
        names.append(fm_hash_kind_at(algorithm.encode(), <int>len(names)).implementation.decode())
    return tuple(names)


@cython.final
cdef class Hasher:
    """A running SHA-2 digest over the bytes given so far.

    Invariants  ``state.busy`` is set exactly while one caller, or one ingest job, reads or changes the rest of
                ``state``; whoever took it gives it back. Owns no memory but itself.
    """

    def __cinit__(self, str algorithm not None, str implementation not None=""):
        fm_hash_begin(&self.state, find_kind(algorithm, implementation))

    cdef int take(self) except -1:
        """Become the only user of ``state``; the partner is ``fm_hash_give``."""
        if not fm_hash_take(&self.state):
            raise RuntimeError("the hasher is in use by a job or another thread")
        return 0

    @property
    def algorithm(self):
        return self.state.kind.algorithm.decode()

    @property
    def implementation(self):
        return self.state.kind.implementation.decode()

    @property
    def digest_size(self):
        return self.state.kind.digest_size

    @property
    def length(self):
        self.take()
        length = self.state.length
        fm_hash_give(&self.state)
        return length

    def update(self, data not None):
        """Append bytes from any contiguous buffer; pieces of 16 KiB and more are hashed without the GIL."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.take()
            if view.len >= ALONE:
                with nogil:
                    fm_hash_update(&self.state, <const uint8_t *>view.buf, <size_t>view.len)
            elif view.len > 0:
                fm_hash_update(&self.state, <const uint8_t *>view.buf, <size_t>view.len)
            fm_hash_give(&self.state)
        finally:
            PyBuffer_Release(&view)

    def digest(self):
        """The digest of the bytes so far; more may follow."""
        cdef uint8_t out[DIGEST_MAX]
        self.take()
        fm_hash_digest(&self.state, out)
        fm_hash_give(&self.state)
        return (<char *>out)[:self.state.kind.digest_size]

    def hexdigest(self):
        """Like :meth:`digest`, in lower-case hex."""
        return self.digest().hex()

    def copy(self):
        """An independent hasher in the same state."""
        cdef Hasher other = Hasher(self.algorithm)
        self.take()
        other.state = self.state
        fm_hash_give(&self.state)
        fm_hash_give(&other.state)
        return other
