/* Threads that move bytes from sockets into files, hashing them on the way; no Python in here.
 * One epoll is shared by all threads. A job is in the hands of one thread or armed in the epoll (EPOLLONESHOT), never
 * both, so that what is not marked "shared" below has one user at a time.
 * Source: epoll(7), eventfd(2), timerfd_create(2), recv(2), pwrite(2), shutdown(2), pthread_sigmask(3). */
#ifndef FASTMIRROR_INGEST_THREADS_H
#define FASTMIRROR_INGEST_THREADS_H

#include <stddef.h>
#include <stdint.h>

#include "sha2.h"

enum { FM_RUNNING, FM_COMPLETE, FM_CLOSED, FM_RESET, FM_FAILED, FM_DISK, FM_CANCELLED };

typedef struct fm_ingester fm_ingester;
typedef struct fm_job fm_job;
struct fm_job {
  void *owner; /* the caller's; not used here */
  int sock, file; /* borrowed until `outcome` is not FM_RUNNING */
  int64_t offset;
  fm_hash *hash; /* borrowed likewise, taken by the caller (fm_hash_take), given back at the end; may be NULL */
  const uint8_t *prefix; /* borrowed likewise; bytes that are stored before any is received */
  size_t prefix_size;
  int watched; /* the epoll knows the socket; stored last when a thread hands the job on */
  int error;   /* errno of FM_RESET, FM_FAILED, FM_DISK; valid after `outcome` was read */
  /* shared: written by the job's thread, read by anybody with the functions below */
  int64_t received, progress_ns;
  int outcome;
  /* shared: written by fm_ingester_cancel */
  int cancelled;
  /* under the ingester's lock */
  int64_t length;   /* written on the caller's thread only, which may read it without the lock */
  int64_t paid;     /* bytes that count in the rate already */
  int64_t promised; /* the bytes before it are received or being received: the length is never below it */
  fm_job *previous, *next; /* all that run */
  fm_job *next_ready;      /* those that wait for a turn without being armed */
  fm_job *next_news;       /* those with news */
  int has_news;
  fm_ingester *ingester; /* written by fm_ingester_start */
  /* written by fm_ingester_collect */
  fm_job *next_collected;
  int final; /* the job had ended when it was collected: nothing here will use it again */
};

static inline int fm_job_outcome(const fm_job *job) { return __atomic_load_n(&job->outcome, __ATOMIC_ACQUIRE); }
static inline int64_t fm_job_received(const fm_job *job) { return __atomic_load_n(&job->received, __ATOMIC_ACQUIRE); }
static inline int64_t fm_job_progress_ns(const fm_job *job) {
  return __atomic_load_n(&job->progress_ns, __ATOMIC_RELAXED);
}

/* `rate` bytes per second are received by all jobs together at most; 0: any. NULL with errno set if the system refuses a
 * thread, a descriptor or memory. */
fm_ingester *fm_ingester_new(int threads, int64_t rate);

/* Readable when there is something to collect: at once when a job has ended, at most every 2 ms for mere progress. */
int fm_ingester_fd(const fm_ingester *ingester);

/* The caller has set owner to prefix_size and zeroed the rest. 0, or the errno of a descriptor that cannot be used. */
int fm_ingester_start(fm_ingester *ingester, fm_job *job);

/* Jobs with news since the last call, linked by next_collected; each is in the list once. */
fm_job *fm_ingester_collect(fm_ingester *ingester);

/* Ends the job soon, unless it has ended. To be called while its descriptors are open. */
void fm_ingester_cancel(fm_job *job);

/* Lowers the length to `length`, or to what may be being received, and gives what it is now; it never raises it. A job
 * that has all of that ends soon, its socket shut down. To be called like fm_ingester_cancel. */
int64_t fm_ingester_shorten(fm_job *job, int64_t length);

/* Stops the threads, then ends all jobs as cancelled: they can be collected. Once only. */
void fm_ingester_stop(fm_ingester *ingester);

/* In a forked child, where the threads are not: closes its descriptors and touches nothing that it shares. */
void fm_ingester_abandon(fm_ingester *ingester);

/* After stop or abandon, and after all is collected. */
void fm_ingester_free(fm_ingester *ingester);

#endif
