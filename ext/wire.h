/* Socket and file calls of the connection: EINTR is retried, everything else is told as -errno.
 * Source: sendmsg(2), sendfile(2), recv(2), preadv2(2), tcp(7). */
#ifndef FASTMIRROR_WIRE_H
#define FASTMIRROR_WIRE_H

#include <errno.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

/* Send three pieces in one call, without their first `skip` bytes, of which there are no more than bytes in all; with
 * `more` the last segment waits for what follows (MSG_MORE). */
static inline ssize_t wire_send(int fd, const char *a, size_t an, const char *b, size_t bn, const char *c, size_t cn,
                                size_t skip, int more) {
  struct iovec parts[3] = {{(void *)a, an}, {(void *)b, bn}, {(void *)c, cn}};
  size_t first = 0;
  while (first < 2 && skip >= parts[first].iov_len) skip -= parts[first++].iov_len;
  parts[first].iov_base = (char *)parts[first].iov_base + skip;
  parts[first].iov_len -= skip;
  struct msghdr message = {.msg_iov = parts + first, .msg_iovlen = 3 - first};
  ssize_t n;
  do n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
  while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

/* One call; 0 means that the file is shorter than was promised. sendfile has no MSG_NOSIGNAL: Python ignores SIGPIPE. */
static inline ssize_t wire_sendfile(int fd, int file, off_t offset, size_t count) {
  ssize_t n;
  do n = sendfile(fd, file, &offset, count);
  while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

/* Whether reading [start, stop) might wait for a disk: looked at in places, since the kernel reads ahead in runs.
 * A file system that cannot tell is taken for a slow one, unless it is memory itself. */
static inline int wire_would_block(int file, off_t start, off_t stop) {
  enum { STEP = 256 * 1024 };
  char byte;
  struct iovec one = {&byte, 1};
  struct statfs system;
  for (off_t at = start; at < stop; at = at < stop - 1 && at + STEP >= stop ? stop - 1 : at + STEP) {
    ssize_t n = preadv2(file, &one, 1, at, RWF_NOWAIT);
    if (n < 0 && errno == EOPNOTSUPP)
      return fstatfs(file, &system) < 0 || (system.f_type != TMPFS_MAGIC && system.f_type != RAMFS_MAGIC);
    if (n < 0) return 1;
    if (n == 0) return 0; /* the file was cut: sendfile will say so */
  }
  return 0;
}

static inline ssize_t wire_recv(int fd, char *buffer, size_t size) {
  ssize_t n;
  do n = recv(fd, buffer, size, MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

/* Throw away what was received without copying it: MSG_TRUNC on a stream socket, tcp(7). */
static inline ssize_t wire_discard(int fd, size_t size) {
  ssize_t n;
  do n = recv(fd, NULL, size, MSG_DONTWAIT | MSG_TRUNC);
  while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

static inline void wire_nodelay(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* How many unsent bytes the kernel may hold for this socket before it stops being writable; 0: its own choice. */
static inline void wire_notsent_lowat(int fd, int bytes) {
  setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
}

/* While on, only whole segments leave, but for a pause of 200 ms: TCP_CORK, tcp(7). Off sends the rest. */
static inline void wire_cork(int fd, int on) {
  setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
}

/* Seconds of CLOCK_MONOTONIC, clock_gettime(2). */
static inline double wire_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* End both directions: a thread that is sending on this socket, or waits for room in it, comes back with EPIPE. */
static inline void wire_shutdown(int fd) { shutdown(fd, SHUT_RDWR); }

static inline void wire_fin(int fd) { shutdown(fd, SHUT_WR); }

#endif
