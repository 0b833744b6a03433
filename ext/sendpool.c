#define _GNU_SOURCE
#include "sendpool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <unistd.h>

enum {
  SHARED_TURN = 512 * 1024, /* bytes of one turn when several sendings want one */
  LONE_TURN = 0x7ffff000,   /* Linux moves at most this much in one sendfile, sendfile(2) */
  STACK_BYTES = 256 * 1024, /* of address space; the C library takes thread-local storage out of it */
};

struct SendPool {
  int epoll;
  int stop_fd;
  int done_fd;
  int threads;
  atomic_int users;   /* the owner, and the threads that run: the last one frees the pool */
  atomic_int running; /* sendings that have not ended */
  _Atomic(Sending *) done;
  pthread_t ids[];
};

/* After the push the sending is the caller's again: nothing of it is touched. */
static void finish(SendPool *pool, Sending *sending, int error) {
  sending->error = error;
  atomic_fetch_sub_explicit(&pool->running, 1, memory_order_relaxed);
  Sending *head = atomic_load_explicit(&pool->done, memory_order_relaxed);
  do sending->next = head;
  while (!atomic_compare_exchange_weak_explicit(&pool->done, &head, sending, memory_order_release,
                                                memory_order_relaxed));
  if (head == NULL) { /* the list was empty: nobody has told the loop yet */
    uint64_t one = 1;
    ssize_t n = write(pool->done_fd, &one, sizeof one);
    (void)n; /* an eventfd refuses only when its counter is full: then it is readable already */
  }
}

/* The socket may be another thread's, or the caller's again, before this returns 0: nothing of it is touched after. */
static int arm(SendPool *pool, Sending *sending) {
  struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data.ptr = sending};
  int how = sending->armed_once ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  sending->armed_once = 1;
  return epoll_ctl(pool->epoll, how, sending->sock, &event) < 0 ? -errno : 0;
}

/* One turn: to the end of the socket's room, of the turn or of the body. */
static void turn(SendPool *pool, Sending *sending) {
  int several = atomic_load_explicit(&pool->running, memory_order_relaxed) > 1;
  off_t left = sending->stop - sending->pos, most = several ? SHARED_TURN : LONE_TURN;
  ssize_t n;
  do n = sendfile(sending->sock, sending->file, &sending->pos, (size_t)(left < most ? left : most));
  while (n < 0 && errno == EINTR);
  int error = n < 0 && errno != EAGAIN ? errno : n == 0 ? ENODATA : 0;
  atomic_store_explicit(&sending->reached, sending->pos, memory_order_relaxed);
  if (error != 0 || sending->pos == sending->stop) {
    finish(pool, sending, error);
  } else {
    error = arm(pool, sending);
    if (error < 0) finish(pool, sending, -error);
  }
}

static void leave(SendPool *pool) {
  if (atomic_fetch_sub_explicit(&pool->users, 1, memory_order_acq_rel) > 1) return;
  if (pool->epoll >= 0) close(pool->epoll);
  if (pool->stop_fd >= 0) close(pool->stop_fd);
  if (pool->done_fd >= 0) close(pool->done_fd);
  free(pool);
}

static void *run(void *argument) {
  SendPool *pool = argument;
  for (;;) {
    struct epoll_event event;
    int n = epoll_wait(pool->epoll, &event, 1, -1);
    if (n == 1 && event.data.ptr == NULL) break;
    if (n == 1) turn(pool, event.data.ptr);
  }
  leave(pool);
  return NULL;
}

static int begin_thread(SendPool *pool) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return ENOMEM;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  atomic_fetch_add_explicit(&pool->users, 1, memory_order_relaxed);
  int error = pthread_create(&pool->ids[pool->threads], &attributes, run, pool);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    atomic_fetch_sub_explicit(&pool->users, 1, memory_order_relaxed);
    return error;
  }
  pthread_setname_np(pool->ids[pool->threads], "fm-send");
  pool->threads++;
  return 0;
}

SendPool *sendpool_open(int threads) {
  SendPool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->ids[0]);
  if (pool == NULL) return NULL;
  atomic_init(&pool->users, 1);
  pool->epoll = epoll_create1(EPOLL_CLOEXEC);
  pool->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pool->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct epoll_event stop = {.events = EPOLLIN, .data.ptr = NULL}; /* level-triggered: every thread sees it */
  if (pool->epoll < 0 || pool->stop_fd < 0 || pool->done_fd < 0 ||
      epoll_ctl(pool->epoll, EPOLL_CTL_ADD, pool->stop_fd, &stop) < 0) {
    int error = errno;
    leave(pool);
    errno = error;
    return NULL;
  }
  sigset_t all, before; /* signals are the business of Python's threads; SIGPIPE: sendfile has no MSG_NOSIGNAL */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  while (error == 0 && pool->threads < threads) error = begin_thread(pool);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) {
    sendpool_close(pool);
    errno = error;
    return NULL;
  }
  return pool;
}

int sendpool_fd(const SendPool *pool) { return pool->done_fd; }

int sendpool_start(SendPool *pool, Sending *sending) {
  atomic_store_explicit(&sending->reached, sending->pos, memory_order_relaxed);
  atomic_fetch_add_explicit(&pool->running, 1, memory_order_relaxed);
  int error = arm(pool, sending);
  if (error < 0) atomic_fetch_sub_explicit(&pool->running, 1, memory_order_relaxed);
  return error;
}

Sending *sendpool_collect(SendPool *pool) {
  uint64_t count;
  ssize_t n = read(pool->done_fd, &count, sizeof count);
  (void)n; /* nothing to read: somebody collected between the push and the write */
  return atomic_exchange_explicit(&pool->done, NULL, memory_order_acquire);
}

void sendpool_close(SendPool *pool) {
  uint64_t one = 1;
  ssize_t n = write(pool->stop_fd, &one, sizeof one);
  (void)n;
  int idle = atomic_load_explicit(&pool->running, memory_order_relaxed) == 0;
  for (int i = 0; i < pool->threads; i++) {
    if (idle)
      pthread_join(pool->ids[i], NULL);
    else
      pthread_detach(pool->ids[i]);
  }
  leave(pool);
}
