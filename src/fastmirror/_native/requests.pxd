"""C face of ``ext/requests.pyx``."""


cdef class Request:
    cdef readonly str method
    cdef readonly bytes raw_target
    cdef readonly bytes range
    cdef readonly bytes if_range
    cdef readonly bint keep_alive
    cdef readonly str client
    cdef readonly bytes token


cdef class Refusal:
    cdef readonly int status
    cdef readonly str message
    cdef readonly bint close


cdef class RequestReader:
    cdef str client
    cdef object queue
    cdef object parser
    cdef bint stopped
    cdef long long complete
    cdef Py_ssize_t head_bytes
    cdef Py_ssize_t queued_bytes
    cdef double head_since
    cdef bytes url
    cdef bytes range
    cdef bytes if_range
    cdef bytes token
    cdef int fields
    cdef int hosts
    cdef bint bad_host
    cdef bint framed
    cdef bint not_allowed

    cdef Py_ssize_t feed(self, bytes data, double now) except -1
    cdef void refuse(self, int status, str message)
