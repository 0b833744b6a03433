/* Threads that send files to sockets, so that one cold or throttled file delays nobody else.
 *
 * One epoll is shared by all threads; a socket is armed with EPOLLONESHOT, so that exactly one thread has it at a time:
 * it sends one turn and arms it again behind those that wait. Nothing here knows Python.
 * Source: epoll(7), sendfile(2), eventfd(2).
 */
#ifndef FASTMIRROR_SENDPOOL_H
#define FASTMIRROR_SENDPOOL_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct SendPool SendPool;

/* One body on its way. The caller fills the first part and leaves all of it alone from start to collect. */
typedef struct Sending {
  int sock;
  int file;
  off_t pos;  /* next byte to send */
  off_t stop; /* first byte that is not sent */
  void *owner;

  int error;      /* at the end: 0, or the errno of sendfile; ENODATA: the file is shorter than `stop` */
  int armed_once; /* kept from one start to the next on the same socket */
  _Atomic int64_t reached;
  struct Sending *next;
} Sending;

/* Begin `threads` threads; NULL with errno if the system has no room. */
SendPool *sendpool_open(int threads);

/* Readable when collect has something. */
int sendpool_fd(const SendPool *pool);

/* Send [pos, stop). The descriptors are borrowed until collect has given it back. 0, or -errno: then nothing began.
 * To end it early, shut the socket down: the thread that has it, or takes it next, comes back with an error. */
int sendpool_start(SendPool *pool, Sending *sending);

/* Offset of the first byte that has not left; from any thread, at any time after start. */
static inline int64_t sendpool_reached(const Sending *sending) {
  return atomic_load_explicit(&sending->reached, memory_order_relaxed);
}

/* The sendings that ended since the last call, linked by `next`, in no order. */
Sending *sendpool_collect(SendPool *pool);

/* Let go of the pool. Without sendings on their way its threads have ended on return. With some (a read of a slow disk
 * cannot be interrupted) each thread ends after the call it is in; what it works on must stay as it is for ever. */
void sendpool_close(SendPool *pool);

#endif
