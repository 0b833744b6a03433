/* Source: see check_threads.h. */
#define _GNU_SOURCE /* pthread_setname_np, gettid */
#include "check_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blake3.h"
#include "xxh3.h"

enum {
  BITE = 256 * 1024,   /* bytes of one pread: they are still in the CPU's cache when they are hashed */
  STACK = 256 * 1024,  /* bytes reserved for a thread; a few KiB are touched */
};

enum { IDLE, QUEUED, TAKEN, ENDED };

typedef struct {
  fm_checker *checker;
  pthread_t id;
  uint8_t *piece;   /* FM_PIECE bytes */
  uint8_t *scratch; /* FM_BLAKE3_SCRATCH bytes */
} fm_thread;

struct fm_checker {
  int wake; /* eventfd towards the loop */
  int stopping, abandoned;
  int nice;
  int thread_count;
  fm_thread *threads;
  pthread_mutex_t lock; /* guards what follows and the links in the works; never held while bytes are read or hashed */
  pthread_cond_t ready;
  fm_work *running;
  fm_work *queue, **queue_end;
  fm_work *news, **news_end;
};

/* ---- how pieces are hashed */

struct fm_sum {
  const char *name;
  size_t size;
  void (*hash)(int way, const uint8_t *data, size_t size, uint8_t *scratch, uint8_t *hash);
};

/* cpuid, which a virtual machine has to ask its host for, once and not for every piece. */
static const fm_hash_kind *sha256_kind(void) {
  static const fm_hash_kind *fastest;
  const fm_hash_kind *kind = __atomic_load_n(&fastest, __ATOMIC_RELAXED);
  if (!kind) __atomic_store_n(&fastest, kind = fm_hash_kind_at("sha256", 0), __ATOMIC_RELAXED);
  return kind;
}

static void hash_sha256(int way, const uint8_t *data, size_t size, uint8_t *scratch, uint8_t *out) {
  fm_hash hash;
  fm_hash_begin(&hash, sha256_kind());
  fm_hash_update(&hash, data, size);
  fm_hash_digest(&hash, out);
}

static void hash_xxh3(int way, const uint8_t *data, size_t size, uint8_t *scratch, uint8_t *hash) {
  fm_xxh3_128(data, size, hash);
}

static const fm_sum SUMS[] = {
    {"blake3", FM_BLAKE3_HASH, fm_blake3}, {"sha256", 32, hash_sha256}, {"xxh3-128", 16, hash_xxh3},
};

const fm_sum *fm_sum_named(const char *name) {
  for (size_t i = 0; i < sizeof SUMS / sizeof *SUMS; i++)
    if (!strcmp(SUMS[i].name, name)) return &SUMS[i];
  return NULL;
}

size_t fm_sum_size(const fm_sum *sum) { return sum->size; }

int fm_sum_hash(const fm_sum *sum, int way, const uint8_t *data, size_t size, uint8_t *hash) {
  void *scratch;
  int error = posix_memalign(&scratch, 64, FM_BLAKE3_SCRATCH);
  if (!error) sum->hash(way, data, size, scratch, hash);
  if (!error) free(scratch);
  return error;
}

/* ---- the threads */

static int is_cancelled(const fm_work *work) { return __atomic_load_n(&work->cancelled, __ATOMIC_ACQUIRE); }

static void signal_fd(int fd) {
  uint64_t one = 1;
  ssize_t n;
  do n = write(fd, &one, sizeof one);
  while (n < 0 && errno == EINTR);
}

/* `size` bytes of the file at `at`; FM_WORK_RUNNING if all of them are there. */
static int read_all(fm_work *work, uint8_t *into, size_t size, int64_t at) {
  while (size) {
    ssize_t n = pread(work->file, into, size < BITE ? size : BITE, at);
    if (n == 0) return FM_WORK_SHORT;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return work->error = errno, FM_WORK_FAILED;
    into += n;
    size -= (size_t)n;
    at += n;
  }
  return FM_WORK_RUNNING;
}

/* The next piece, or as many bytes of a follow, up to `limit`. */
static int take_turn(const fm_thread *thread, fm_work *work, int64_t limit) {
  int64_t at = fm_work_position(work), left = limit - at;
  size_t size = left < FM_PIECE ? (size_t)left : FM_PIECE;
  int outcome = FM_WORK_RUNNING;
  if (!size) return outcome; /* no bytes have no piece, and there is no room for its hash */
  if (work->sum) {
    outcome = read_all(work, thread->piece, size, at);
    if (outcome != FM_WORK_RUNNING) return outcome;
    work->sum->hash(0, thread->piece, size, thread->scratch, work->hashes);
    work->hashes += work->sum->size;
  } else {
    for (size_t done = 0, bite; done < size && outcome == FM_WORK_RUNNING && !is_cancelled(work); done += bite) {
      bite = size - done < BITE ? size - done : BITE;
      outcome = read_all(work, thread->piece, bite, at + (int64_t)done);
      if (outcome != FM_WORK_RUNNING) return outcome;
      fm_hash_update(work->hash, thread->piece, bite);
      __atomic_store_n(&work->position, at + (int64_t)(done + bite), __ATOMIC_RELEASE);
    }
    return outcome;
  }
  __atomic_store_n(&work->position, at + (int64_t)size, __ATOMIC_RELEASE);
  return outcome;
}

/* With the lock held. */
static void queue(fm_checker *checker, fm_work *work) {
  work->state = QUEUED;
  work->next_queued = NULL;
  *checker->queue_end = work;
  checker->queue_end = &work->next_queued;
}

/* With the lock held. The loop may free the work once it has collected it. */
static void end(fm_checker *checker, fm_work *work, int outcome) {
  if (work->next) work->next->previous = work->previous;
  if (work->previous) work->previous->next = work->next;
  else checker->running = work->next;
  if (work->hash) fm_hash_give(work->hash);
  int first = checker->news == NULL;
  work->state = ENDED;
  work->next_news = NULL;
  *checker->news_end = work;
  checker->news_end = &work->next_news;
  __atomic_store_n(&work->outcome, outcome, __ATOMIC_RELEASE);
  if (first && checker->wake >= 0) signal_fd(checker->wake);
}

static void *run(void *argument) {
  fm_thread *me = argument;
  fm_checker *checker = me->checker;
  if (checker->nice) {
    pid_t thread = (pid_t)syscall(SYS_gettid);
    setpriority(PRIO_PROCESS, (id_t)thread, getpriority(PRIO_PROCESS, (id_t)thread) + checker->nice);
  }
  pthread_mutex_lock(&checker->lock);
  for (;;) {
    while (!checker->queue && !checker->stopping) pthread_cond_wait(&checker->ready, &checker->lock);
    if (checker->stopping) break;
    fm_work *work = checker->queue;
    checker->queue = work->next_queued;
    if (!checker->queue) checker->queue_end = &checker->queue;
    work->state = TAKEN;
    int64_t limit = work->limit;
    pthread_mutex_unlock(&checker->lock);
    int outcome = is_cancelled(work) ? FM_WORK_CANCELLED : take_turn(me, work, limit);
    pthread_mutex_lock(&checker->lock);
    if (outcome == FM_WORK_RUNNING && fm_work_position(work) == work->stop) outcome = FM_WORK_COMPLETE;
    if (outcome != FM_WORK_RUNNING) end(checker, work, outcome);
    else if (is_cancelled(work) || fm_work_position(work) < work->limit) queue(checker, work);
    else work->state = IDLE;
  }
  pthread_mutex_unlock(&checker->lock);
  return NULL;
}

static int begin_thread(fm_checker *checker, fm_thread *thread, int number) {
  pthread_attr_t attributes;
  void *memory;
  thread->checker = checker;
  int error = posix_memalign(&memory, 4096, FM_PIECE + FM_BLAKE3_SCRATCH);
  if (error) return error;
  thread->piece = memory;
  thread->scratch = thread->piece + FM_PIECE;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK);
  error = pthread_create(&thread->id, &attributes, run, thread);
  pthread_attr_destroy(&attributes);
  if (error) return free(memory), error;
  char name[16];
  snprintf(name, sizeof name, "fm-check-%d", (unsigned char)number);
  pthread_setname_np(thread->id, name);
  return 0;
}

/* Signals are for the threads that Python knows. Those of a fault in the thread itself stay as they are. */
static int begin_threads(fm_checker *checker, int count) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
  sigset_t blocked, old;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&blocked, faults[i]);
  pthread_sigmask(SIG_BLOCK, &blocked, &old);
  int error = 0;
  while (checker->thread_count < count && !error) {
    error = begin_thread(checker, &checker->threads[checker->thread_count], checker->thread_count);
    if (!error) checker->thread_count++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return error;
}

fm_checker *fm_checker_new(int threads, int nice) {
  fm_checker *checker = calloc(1, sizeof *checker);
  if (!checker) return NULL;
  pthread_mutex_init(&checker->lock, NULL);
  pthread_cond_init(&checker->ready, NULL);
  checker->nice = nice;
  checker->queue_end = &checker->queue;
  checker->news_end = &checker->news;
  checker->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  checker->threads = calloc((size_t)threads, sizeof *checker->threads);
  int error = checker->wake < 0 || !checker->threads ? errno : begin_threads(checker, threads);
  if (!error) return checker;
  fm_checker_stop(checker);
  fm_checker_free(checker);
  errno = error;
  return NULL;
}

int fm_checker_fd(const fm_checker *checker) { return checker->wake; }

int fm_checker_start(fm_checker *checker, fm_work *work) {
  if (fcntl(work->file, F_GETFL) < 0) return errno;
  pthread_mutex_lock(&checker->lock);
  work->next = checker->running;
  if (work->next) work->next->previous = work;
  checker->running = work;
  work->state = IDLE;
  if (work->position < work->limit || work->position == work->stop) queue(checker, work);
  pthread_cond_signal(&checker->ready);
  pthread_mutex_unlock(&checker->lock);
  return 0;
}

static void go_on(fm_checker *checker, fm_work *work) {
  if (work->state == IDLE) {
    queue(checker, work);
    pthread_cond_signal(&checker->ready);
  }
}

void fm_checker_advance(fm_checker *checker, fm_work *work, int64_t limit) {
  pthread_mutex_lock(&checker->lock);
  if (limit > work->stop) limit = work->stop;
  if (limit > work->limit && work->state != ENDED) {
    work->limit = limit;
    go_on(checker, work);
  }
  pthread_mutex_unlock(&checker->lock);
}

void fm_checker_cancel(fm_checker *checker, fm_work *work) {
  pthread_mutex_lock(&checker->lock);
  if (work->state != ENDED) {
    __atomic_store_n(&work->cancelled, 1, __ATOMIC_RELEASE);
    go_on(checker, work);
  }
  pthread_mutex_unlock(&checker->lock);
}

fm_work *fm_checker_collect(fm_checker *checker) {
  uint64_t count;
  if (checker->wake >= 0) while (read(checker->wake, &count, sizeof count) < 0 && errno == EINTR) continue;
  pthread_mutex_lock(&checker->lock);
  fm_work *first = checker->news;
  checker->news = NULL;
  checker->news_end = &checker->news;
  pthread_mutex_unlock(&checker->lock);
  return first;
}

static void close_fd(fm_checker *checker) {
  if (checker->wake >= 0) close(checker->wake);
  checker->wake = -1;
}

void fm_checker_stop(fm_checker *checker) {
  pthread_mutex_lock(&checker->lock);
  checker->stopping = 1;
  pthread_cond_broadcast(&checker->ready);
  pthread_mutex_unlock(&checker->lock);
  for (int i = 0; i < checker->thread_count; i++) pthread_join(checker->threads[i].id, NULL);
  close_fd(checker);
  while (checker->running) end(checker, checker->running, FM_WORK_CANCELLED);
}

void fm_checker_abandon(fm_checker *checker) {
  close_fd(checker);
  checker->abandoned = 1;
}

void fm_checker_free(fm_checker *checker) {
  for (int i = 0; i < checker->thread_count; i++) free(checker->threads[i].piece);
  free(checker->threads);
  if (!checker->abandoned) { /* else it would wait for threads that this process does not have */
    pthread_cond_destroy(&checker->ready);
    pthread_mutex_destroy(&checker->lock);
  }
  free(checker);
}
