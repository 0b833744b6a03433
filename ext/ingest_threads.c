/* Source: see ingest_threads.h. */
#define _GNU_SOURCE /* pthread_setname_np */
#include "ingest_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
  PIECE = 256 * 1024, /* bytes of one recv; smaller pieces cost CPU, larger ones gain nothing */
  TURN = 1024 * 1024, /* bytes of one job before other sockets get their turn */
  STACK = 256 * 1024, /* bytes reserved for a thread; a few KiB are touched */
  PAUSE_NS = 2000000, /* after a collect, before mere progress wakes the loop again; ends wake it at once */
  TICK_MS = 2,         /* how long a job is held that may not receive */
  BURST_NS = 20000000, /* of a limited rate: so much may come at once */
};

enum { ASLEEP, WAKES_SOON, WAKES_NOW };

typedef struct {
  fm_ingester *ingester;
  pthread_t id;
  uint8_t *buffer;
} fm_thread;

struct fm_ingester {
  int epoll;
  int wake; /* timerfd towards the loop */
  int kick; /* eventfd towards the threads: a job is ready, or `stopping`; edge-triggered, so never read */
  int stopping;
  int thread_count;
  fm_thread *threads;
  pthread_mutex_t lock; /* guards what follows and the links in the jobs; never held during I/O */
  fm_job *running;
  fm_job *ready, **ready_end;
  fm_job *held, **held_end; /* wait for the next tick; linked like those that are ready */
  int64_t held_ns;          /* since when the first of them waits */
  int64_t rate, paid_ns;    /* bytes per second, 0: any; the time up to which what was received is paid for */
  fm_job *news, **news_end;
  int woken; /* what was done to `wake` since the loop collected: ASLEEP ... */
  int64_t collected_ns;
};

static void signal_fd(int fd) {
  uint64_t one = 1;
  ssize_t n;
  do n = write(fd, &one, sizeof one);
  while (n < 0 && errno == EINTR);
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Readable at that time of CLOCK_MONOTONIC, which may be past. Two threads may do this in either order: at worst the
 * loop is woken PAUSE_NS later than it should, or once for nothing. */
static void wake_loop(fm_ingester *in, int64_t at_ns) {
  struct itimerspec when = {.it_value = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000}};
  timerfd_settime(in->wake, TFD_TIMER_ABSTIME, &when, NULL);
}

/* With the lock held. Gives the time for wake_loop, which is called without it; 0: nothing is to be done. */
static int64_t add_news(fm_ingester *in, fm_job *job, int urgency) {
  if (!job->has_news) {
    job->has_news = 1;
    job->next_news = NULL;
    *in->news_end = job;
    in->news_end = &job->next_news;
  }
  if (in->woken >= urgency) return 0;
  in->woken = urgency;
  return urgency == WAKES_NOW ? 1 : in->collected_ns + PAUSE_NS;
}

/* How many bytes to receive next; the job will not be shortened below them. */
static size_t promise(fm_ingester *in, fm_job *job) {
  int64_t received = fm_job_received(job);
  pthread_mutex_lock(&in->lock);
  int64_t left = job->length - received;
  if (left > PIECE) left = PIECE;
  job->promised = received + left;
  pthread_mutex_unlock(&in->lock);
  return (size_t)left;
}

/* With the lock held, when a turn is over: nothing is being received. */
static void account(fm_ingester *in, fm_job *job) {
  job->promised = fm_job_received(job);
  if (!in->rate) return;
  int64_t earliest = now_ns() - BURST_NS;
  if (in->paid_ns < earliest) in->paid_ns = earliest;
  in->paid_ns += (int64_t)((double)(job->promised - job->paid) / (double)in->rate * 1e9);
  job->paid = job->promised;
}

static void rest(fm_ingester *in, fm_job *job, int progress) {
  pthread_mutex_lock(&in->lock);
  account(in, job);
  int64_t wake_ns = progress ? add_news(in, job, WAKES_SOON) : 0;
  pthread_mutex_unlock(&in->lock);
  if (wake_ns) wake_loop(in, wake_ns);
}

/* The job must not be touched any more after this: its owner may free it. */
static void end_job(fm_ingester *in, fm_job *job, int outcome, int error) {
  /* Our own shutdown looks like a FIN or a reset to recv. */
  int ours = outcome == FM_CLOSED || outcome == FM_RESET || outcome == FM_FAILED;
  if (ours && __atomic_load_n(&job->cancelled, __ATOMIC_ACQUIRE)) outcome = FM_CANCELLED, error = 0;
  if (job->watched) epoll_ctl(in->epoll, EPOLL_CTL_DEL, job->sock, NULL);
  if (job->hash) fm_hash_give(job->hash);
  job->error = error;
  pthread_mutex_lock(&in->lock);
  if (job->next) job->next->previous = job->previous;
  if (job->previous) job->previous->next = job->next;
  else in->running = job->next;
  account(in, job);
  __atomic_store_n(&job->outcome, outcome, __ATOMIC_RELEASE);
  int64_t wake_ns = add_news(in, job, WAKES_NOW);
  pthread_mutex_unlock(&in->lock);
  if (wake_ns) wake_loop(in, wake_ns);
}

/* Writes and hashes; 0 or the errno of pwrite. What was written before the error counts as received. */
static int store(fm_job *job, const uint8_t *data, size_t size) {
  int64_t at = job->offset + fm_job_received(job);
  size_t done = 0;
  int error = 0;
  while (done < size) {
    ssize_t n = pwrite(job->file, data + done, size - done, at + (int64_t)done);
    if (n > 0) done += (size_t)n;
    else if (n == 0) error = EIO;
    else if (errno != EINTR) error = errno;
    if (error) break;
  }
  if (done && job->hash) fm_hash_update(job->hash, data, done);
  if (done) {
    __atomic_store_n(&job->progress_ns, now_ns(), __ATOMIC_RELAXED);
    __atomic_store_n(&job->received, at - job->offset + (int64_t)done, __ATOMIC_RELEASE);
  }
  return error;
}

/* Lets any thread take the job when its socket is readable; whoever calls this does not touch the job again. */
static void arm(fm_ingester *in, fm_job *job) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.ptr = job};
  int was_watched = job->watched, operation = was_watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  /* Before the call: after it the job may be another thread's. The partner is the load in `work`. */
  __atomic_store_n(&job->watched, 1, __ATOMIC_RELEASE);
  if (epoll_ctl(in->epoll, operation, job->sock, &event) == 0) return;
  job->watched = was_watched;
  end_job(in, job, FM_FAILED, errno);
}

/* The job waits for the next tick; whoever calls this does not touch it again, and calls release_held in time. */
static void hold(fm_ingester *in, fm_job *job) {
  pthread_mutex_lock(&in->lock);
  if (!in->held) in->held_ns = now_ns();
  job->next_ready = NULL;
  *in->held_end = job;
  in->held_end = &job->next_ready;
  pthread_mutex_unlock(&in->lock);
}

/* Makes the held jobs ready when it is time; gives the milliseconds until then, -1 if there are none. */
static int release_held(fm_ingester *in) {
  pthread_mutex_lock(&in->lock);
  int due = in->held && now_ns() - in->held_ns >= TICK_MS * 1000000;
  int wait_ms = due ? 0 : in->held ? TICK_MS : -1;
  if (due) {
    *in->ready_end = in->held;
    in->ready_end = in->held_end;
    in->held = NULL;
    in->held_end = &in->held;
  }
  pthread_mutex_unlock(&in->lock);
  if (due) signal_fd(in->kick);
  return wait_ms;
}

/* How many bytes a turn may receive that begins now. */
static int64_t turn_budget(fm_ingester *in) {
  int64_t burst = in->rate ? in->rate / (1000000000 / BURST_NS) + 1 : TURN;
  pthread_mutex_lock(&in->lock);
  if (in->rate && in->paid_ns > now_ns()) burst = 0;
  pthread_mutex_unlock(&in->lock);
  return burst < TURN ? burst : TURN;
}

/* One turn of a job that this thread holds: ends it, arms it or holds it back. */
static void take_turn(fm_ingester *in, fm_job *job, uint8_t *buffer) {
  int64_t before = fm_job_received(job), budget = turn_budget(in), may = budget;
  if (job->prefix_size) {
    int error = store(job, job->prefix, job->prefix_size);
    job->prefix_size = 0;
    if (error) return end_job(in, job, FM_DISK, error);
  }
  for (;;) {
    size_t left = promise(in, job);
    if (left == 0) return end_job(in, job, FM_COMPLETE, 0);
    if (__atomic_load_n(&job->cancelled, __ATOMIC_ACQUIRE)) return end_job(in, job, FM_CANCELLED, 0);
    if (budget <= 0) break;
    ssize_t n = recv(job->sock, buffer, (int64_t)left < budget ? left : (size_t)budget, MSG_DONTWAIT);
    if (n == 0) return end_job(in, job, FM_CLOSED, 0);
    if (n > 0) {
      int error = store(job, buffer, (size_t)n);
      if (error) return end_job(in, job, FM_DISK, error);
      budget -= n;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno != EINTR) {
      return end_job(in, job, errno == ECONNRESET || errno == EPIPE ? FM_RESET : FM_FAILED, errno);
    }
  }
  rest(in, job, fm_job_received(job) != before);
  if (may) arm(in, job);
  else hold(in, job);
}

/* One job that waits for its first turn, or NULL; another thread is kicked for the next one. */
static fm_job *take_ready(fm_ingester *in) {
  pthread_mutex_lock(&in->lock);
  fm_job *job = in->ready;
  if (job) in->ready = job->next_ready;
  if (!in->ready) in->ready_end = &in->ready;
  int more = in->ready != NULL;
  pthread_mutex_unlock(&in->lock);
  if (more) signal_fd(in->kick);
  return job;
}

static void *work(void *argument) {
  fm_thread *me = argument;
  fm_ingester *in = me->ingester;
  struct epoll_event event;
  while (!__atomic_load_n(&in->stopping, __ATOMIC_ACQUIRE)) {
    if (epoll_wait(in->epoll, &event, 1, release_held(in)) != 1) continue;
    fm_job *job = event.data.ptr;
    if (job) (void)__atomic_load_n(&job->watched, __ATOMIC_ACQUIRE); /* all that its last thread wrote is seen */
    else job = take_ready(in);
    if (job) take_turn(in, job, me->buffer);
  }
  signal_fd(in->kick); /* for the next thread to stop */
  return NULL;
}

static int begin_thread(fm_ingester *in, fm_thread *thread, int number) {
  pthread_attr_t attributes;
  thread->ingester = in;
  int error = posix_memalign((void **)&thread->buffer, 4096, PIECE);
  if (error) return error;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK);
  error = pthread_create(&thread->id, &attributes, work, thread);
  pthread_attr_destroy(&attributes);
  if (error) return free(thread->buffer), error;
  char name[16];
  snprintf(name, sizeof name, "fm-ingest-%d", (unsigned char)number);
  pthread_setname_np(thread->id, name);
  return 0;
}

/* Signals are for the threads that Python knows. Those of a fault in the thread itself stay as they are. */
static int begin_threads(fm_ingester *in, int count) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
  sigset_t blocked, old;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&blocked, faults[i]);
  pthread_sigmask(SIG_BLOCK, &blocked, &old);
  int error = 0;
  while (in->thread_count < count && !error) {
    error = begin_thread(in, &in->threads[in->thread_count], in->thread_count);
    if (!error) in->thread_count++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return error;
}

fm_ingester *fm_ingester_new(int threads, int64_t rate) {
  fm_ingester *in = calloc(1, sizeof *in);
  if (!in) return NULL;
  pthread_mutex_init(&in->lock, NULL);
  in->ready_end = &in->ready;
  in->held_end = &in->held;
  in->rate = rate;
  in->news_end = &in->news;
  in->epoll = epoll_create1(EPOLL_CLOEXEC);
  in->wake = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  in->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  in->threads = calloc((size_t)threads, sizeof *in->threads);
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
  int error = 0;
  if (in->epoll < 0 || in->wake < 0 || in->kick < 0 || !in->threads) error = errno;
  else if (epoll_ctl(in->epoll, EPOLL_CTL_ADD, in->kick, &event)) error = errno;
  else error = begin_threads(in, threads);
  if (!error) return in;
  fm_ingester_stop(in);
  fm_ingester_free(in);
  errno = error;
  return NULL;
}

int fm_ingester_fd(const fm_ingester *in) { return in->wake; }

int fm_ingester_start(fm_ingester *in, fm_job *job) {
  int type;
  socklen_t size = sizeof type;
  if (getsockopt(job->sock, SOL_SOCKET, SO_TYPE, &type, &size)) return errno;
  if (type != SOCK_STREAM) return EPROTOTYPE;
  if (fcntl(job->file, F_GETFL) < 0) return errno;
  job->progress_ns = now_ns();
  job->promised = (int64_t)job->prefix_size;
  job->ingester = in;
  pthread_mutex_lock(&in->lock);
  job->next = in->running;
  if (job->next) job->next->previous = job;
  in->running = job;
  *in->ready_end = job;
  in->ready_end = &job->next_ready;
  pthread_mutex_unlock(&in->lock);
  signal_fd(in->kick);
  return 0;
}

fm_job *fm_ingester_collect(fm_ingester *in) {
  uint64_t count;
  int64_t now = now_ns();
  if (in->wake >= 0) while (read(in->wake, &count, sizeof count) < 0 && errno == EINTR) continue;
  pthread_mutex_lock(&in->lock);
  fm_job *first = in->news;
  for (fm_job *job = first; job; job = job->next_news) {
    job->has_news = 0;
    job->next_collected = job->next_news;
    job->final = fm_job_outcome(job) != FM_RUNNING;
  }
  in->news = NULL;
  in->news_end = &in->news;
  in->woken = ASLEEP;
  in->collected_ns = now;
  pthread_mutex_unlock(&in->lock);
  return first;
}

/* A socket that was shut down stays readable, so that the job is taken by a thread however often it is armed. */
void fm_ingester_cancel(fm_job *job) {
  if (fm_job_outcome(job) != FM_RUNNING) return;
  __atomic_store_n(&job->cancelled, 1, __ATOMIC_RELEASE);
  shutdown(job->sock, SHUT_RDWR);
}

/* A job with nothing left to receive is woken in the same way: else it would wait for one more byte. */
int64_t fm_ingester_shorten(fm_job *job, int64_t length) {
  pthread_mutex_lock(&job->ingester->lock);
  if (length < job->promised) length = job->promised;
  int shorter = length < job->length;
  if (shorter) job->length = length;
  int whole = shorter && length == fm_job_received(job) && fm_job_outcome(job) == FM_RUNNING;
  length = job->length;
  pthread_mutex_unlock(&job->ingester->lock);
  if (whole) shutdown(job->sock, SHUT_RDWR);
  return length;
}

static void close_fds(fm_ingester *in) {
  int *fds[] = {&in->epoll, &in->wake, &in->kick};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
    if (*fds[i] >= 0) close(*fds[i]);
    *fds[i] = -1;
  }
}

void fm_ingester_stop(fm_ingester *in) {
  __atomic_store_n(&in->stopping, 1, __ATOMIC_RELEASE);
  if (in->kick >= 0) signal_fd(in->kick);
  for (int i = 0; i < in->thread_count; i++) pthread_join(in->threads[i].id, NULL);
  while (in->running) end_job(in, in->running, FM_CANCELLED, 0);
  close_fds(in);
}

void fm_ingester_abandon(fm_ingester *in) { close_fds(in); }

void fm_ingester_free(fm_ingester *in) {
  for (int i = 0; i < in->thread_count; i++) free(in->threads[i].buffer);
  free(in->threads);
  pthread_mutex_destroy(&in->lock);
  free(in);
}
