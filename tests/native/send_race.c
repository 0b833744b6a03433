/* Many bodies, readers, cuts and collects at once over one pool; built with ThreadSanitizer by test_send_races.py.
 * Prints how the sendings ended; exits with 1 if one is lost, told twice, or if a reader got other bytes.
 *
 * Wrapped calls (ld --wrap): sendfile can be made to hang as on a slow disk. epoll_ctl looks the descriptor up, then
 * hands what it is given to whichever thread epoll_wait wakes; ThreadSanitizer knows that of EPOLL_CTL_ADD only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sendpool.h"

#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#else
#define __tsan_acquire(address) (void)(address)
#define __tsan_release(address) (void)(address)
#endif

enum { ROUNDS = 30, BODIES = 12, LENGTH = 1500 * 1000, THREADS = 3 };

typedef struct {
  Sending c;
  int peer, number, ended;
  int64_t read;
  pthread_t reader;
} test_case;

static uint8_t body[LENGTH];
static int file, whole, gone, cut, shut;
static atomic_int hangs, hanging;

ssize_t __real_sendfile(int out, int in, off_t *offset, size_t count);
ssize_t __wrap_sendfile(int out, int in, off_t *offset, size_t count);

ssize_t __wrap_sendfile(int out, int in, off_t *offset, size_t count) {
  atomic_fetch_add(&hanging, 1);
  while (atomic_load(&hangs)) usleep(1000);
  atomic_fetch_sub(&hanging, 1);
  return __real_sendfile(out, in, offset, count);
}

int __wrap_epoll_ctl(int epoll, int how, int fd, struct epoll_event *event);
int __wrap_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout);

int __wrap_epoll_ctl(int epoll, int how, int fd, struct epoll_event *event) {
  if (event->data.ptr != NULL) __tsan_release(event->data.ptr);
  return (int)syscall(SYS_epoll_ctl, epoll, how, fd, event);
}

int __wrap_epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
  int n = (int)syscall(SYS_epoll_pwait, epoll, events, most, timeout, NULL, 8);
  if (n == 1 && events->data.ptr != NULL) __tsan_acquire(events->data.ptr);
  return n;
}

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

/* Every fourth leaves in the middle; all look at the bytes. */
static void *read_body(void *argument) {
  test_case *test = argument;
  uint8_t piece[70 * 1000];
  int64_t stop = test->number % 4 == 0 ? LENGTH / 3 : INT64_MAX;
  while (test->read < stop) {
    ssize_t n = recv(test->peer, piece, sizeof piece, 0);
    if (n <= 0) break;
    if (test->read + n > LENGTH || memcmp(piece, body + test->read, (size_t)n)) fail("other bytes");
    test->read += n;
  }
  close(test->peer);
  return NULL;
}

static test_case *begin(SendPool *pool, int number) {
  test_case *test = calloc(1, sizeof *test);
  int ends[2], room = 100 * 1000;
  if (!test || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) fail("socketpair");
  setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  test->c = (Sending){.sock = ends[0], .file = file, .stop = number % 5 == 1 ? LENGTH + 1 : LENGTH};
  test->number = number;
  test->peer = dup(ends[1]);
  close(ends[1]);
  struct pollfd wait = {.fd = test->peer, .events = POLLIN};
  if (sendpool_start(pool, &test->c)) fail("start");
  if (poll(&wait, 1, 10000) != 1) fail("nothing was sent");
  if (fcntl(test->peer, F_SETFL, 0)) fail("fcntl");
  if (pthread_create(&test->reader, NULL, read_body, test)) fail("reader");
  return test;
}

static void settle(SendPool *pool, test_case **tests, int *left) {
  Sending *next;
  for (Sending *c = sendpool_collect(pool); c != NULL; c = next) {
    next = c->next;
    test_case *test = NULL;
    for (int i = 0; i < BODIES; i++)
      if (&tests[i]->c == c) test = tests[i];
    if (test == NULL || test->ended++) fail("told twice, or never begun");
    if (sendpool_reached(c) != c->pos || c->pos > LENGTH) fail("it came to another place");
    int was_shut = test->number % 6 == 2;
    if (c->error == 0 && c->pos == LENGTH) whole++;
    else if (c->error == ENODATA && c->pos == LENGTH && c->stop > LENGTH) cut++;
    else if ((c->error == EPIPE || c->error == ECONNRESET) && was_shut) shut++;
    else if (c->error == EPIPE || c->error == ECONNRESET) gone++;
    else fail("an end that cannot be");
    close(c->sock); /* ours again: no thread may touch it any more */
    --*left;
  }
}

static void round_of(SendPool *pool, int round) {
  test_case *tests[BODIES];
  int left = BODIES;
  for (int i = 0; i < BODIES; i++) tests[i] = begin(pool, round * BODIES + i);
  for (int i = 0; i < BODIES; i++) {
    if (sendpool_reached(&tests[i]->c) > LENGTH) fail("more than there is");
    if (tests[i]->number % 6 == 2) shutdown(tests[i]->c.sock, SHUT_RDWR); /* not given back yet: still open */
  }
  while (left > 0) {
    struct pollfd wait = {.fd = sendpool_fd(pool), .events = POLLIN};
    if (poll(&wait, 1, 20000) != 1) fail("some have not ended");
    settle(pool, tests, &left);
  }
  for (int i = 0; i < BODIES; i++) {
    pthread_join(tests[i]->reader, NULL);
    if (tests[i]->c.error == 0 && tests[i]->number % 4 && tests[i]->read != LENGTH) fail("some bytes are missing");
    free(tests[i]);
  }
}

/* A pool that is let go of while a read hangs: its thread ends after it, and frees the pool. */
static void let_go_while_a_read_hangs(void) {
  static Sending stuck;
  int ends[2];
  SendPool *pool = sendpool_open(THREADS);
  if (!pool || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) fail("open");
  stuck = (Sending){.sock = ends[0], .file = file, .stop = LENGTH};
  atomic_store(&hangs, 1);
  if (sendpool_start(pool, &stuck)) fail("start");
  while (!atomic_load(&hanging)) usleep(1000);
  shutdown(ends[0], SHUT_RDWR);
  sendpool_close(pool); /* returns at once */
  atomic_store(&hangs, 0);
  while (atomic_load(&hanging)) usleep(1000);
  usleep(100 * 1000); /* for the thread's last steps, which the sanitizers are to see */
  close(ends[0]);
  close(ends[1]);
}

int main(void) {
  for (int i = 0; i < LENGTH; i++) body[i] = (uint8_t)(i * 2654435761u >> 13);
  file = memfd_create("body", MFD_CLOEXEC);
  if (file < 0 || write(file, body, LENGTH) != LENGTH) fail("memfd");
  SendPool *pool = sendpool_open(THREADS);
  if (!pool) fail("open");
  for (int round = 0; round < ROUNDS; round++) round_of(pool, round);
  sendpool_close(pool);
  let_go_while_a_read_hangs();
  printf("whole %d gone %d cut %d shut %d\n", whole, gone, cut, shut);
  return 0;
}
