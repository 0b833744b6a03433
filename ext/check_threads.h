/* Threads that hash what is in files; no Python in here.
 * A work is in the hands of one thread, or queued, or idle (a follow that has reached its limit). What is not marked
 * otherwise is set by the caller before fm_checker_start and not changed any more.
 * Source: pread(2), eventfd(2), pthread_cond_wait(3), setpriority(2) (a nice value belongs to a thread on Linux). */
#ifndef FASTMIRROR_CHECK_THREADS_H
#define FASTMIRROR_CHECK_THREADS_H

#include <stddef.h>
#include <stdint.h>

#include "sha2.h"

enum { FM_WORK_RUNNING, FM_WORK_COMPLETE, FM_WORK_SHORT, FM_WORK_FAILED, FM_WORK_CANCELLED };
enum { FM_PIECE = 1 << 20 }; /* bytes; pieces begin at multiples of it, the last one may be shorter */

/* How pieces are hashed: "blake3", "sha256" or "xxh3-128". */
typedef struct fm_sum fm_sum;
const fm_sum *fm_sum_named(const char *name);
size_t fm_sum_size(const fm_sum *sum);

/* The hash of one piece in memory, for tests: `way` is an index of fm_blake3_way. 0, or ENOMEM. */
int fm_sum_hash(const fm_sum *sum, int way, const uint8_t *data, size_t size, uint8_t *hash);

/* Either the hashes of all pieces of [position, stop), or one hash that follows a limit as far as `stop`. */
typedef struct fm_work fm_work;
struct fm_work {
  void *owner; /* the caller's; not used here */
  int file;    /* borrowed until `outcome` is not FM_WORK_RUNNING */
  int64_t stop;
  const fm_sum *sum; /* NULL: this one follows */
  uint8_t *hashes;   /* borrowed likewise; room for all */
  fm_hash *hash;     /* borrowed likewise, taken by the caller (fm_hash_take), given back at the end */
  int error;         /* errno of FM_WORK_FAILED; valid after `outcome` was read */
  /* shared: written by the work's thread (at first by the caller), read by anybody with the functions below */
  int64_t position;
  int outcome;
  /* shared: written by fm_checker_cancel */
  int cancelled;
  /* under the checker's lock; the caller sets limit at first */
  int64_t limit;
  int state;
  fm_work *previous, *next; /* all that run */
  fm_work *next_queued;
  fm_work *next_news;
};

static inline int fm_work_outcome(const fm_work *work) { return __atomic_load_n(&work->outcome, __ATOMIC_ACQUIRE); }
static inline int64_t fm_work_position(const fm_work *work) {
  return __atomic_load_n(&work->position, __ATOMIC_ACQUIRE);
}

typedef struct fm_checker fm_checker;

/* NULL with errno set if the system refuses a thread, a descriptor or memory. `nice` is added to that of the process. */
fm_checker *fm_checker_new(int threads, int nice);

/* Readable when there is something to collect. */
int fm_checker_fd(const fm_checker *checker);

/* 0, or the errno of a descriptor that cannot be used. */
int fm_checker_start(fm_checker *checker, fm_work *work);

/* A follow may go on to there; smaller limits than before change nothing. */
void fm_checker_advance(fm_checker *checker, fm_work *work, int64_t limit);

/* Ends the work soon, unless it has ended. */
void fm_checker_cancel(fm_checker *checker, fm_work *work);

/* Works that have ended since the last call, linked by next_news; nothing here will use them again. */
fm_work *fm_checker_collect(fm_checker *checker);

/* Stops the threads, then ends all works as cancelled: they can be collected. Once only. */
void fm_checker_stop(fm_checker *checker);

/* In a forked child, where the threads are not: closes its descriptors and touches nothing that it shares. */
void fm_checker_abandon(fm_checker *checker);

/* After stop or abandon, and after all is collected. */
void fm_checker_free(fm_checker *checker);

#endif
