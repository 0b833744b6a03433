/* Many jobs, senders, cancels and collects at once; built with ThreadSanitizer by test_ingest_races.py.
 * Prints how the jobs ended; exits with 1 if one is lost, told twice, or has wrong bytes. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ingest_threads.h"

enum { ROUNDS = 30, JOBS = 12, LENGTH = 700 * 1000 };

typedef struct {
  fm_job c; /* first, so that a job is its case */
  int peer, ended, number;
  fm_hash hash;
  pthread_t sender;
} test_case;

static uint8_t body[LENGTH];
static int outcomes[FM_CANCELLED + 1];
static unsigned dice = 1, shortened;

static unsigned roll(unsigned sides) {
  dice = dice * 1103515245 + 12345;
  return dice / 65536 % sides;
}

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void *send_body(void *argument) {
  test_case *test = argument;
  size_t sent = 1000, stop = test->number % 3 ? LENGTH : LENGTH / 2; /* every third peer leaves early */
  while (sent < stop) {
    ssize_t n = send(test->peer, body + sent, stop - sent > 50000 ? 50000 : stop - sent, MSG_NOSIGNAL);
    if (n <= 0) break;
    sent += (size_t)n;
  }
  shutdown(test->peer, SHUT_RDWR);
  return NULL;
}

/* What was promised is kept: the job never has more than that, and where it ended well it has all of it. */
static void shorten(test_case *test, int64_t length) {
  int64_t before = test->c.length, after = fm_ingester_shorten(&test->c, length);
  if (after > before || (after < length && after < before)) fail("another length than was asked for");
  if (fm_job_received(&test->c) > after) fail("more than what is left");
  shortened += after < before;
}

static test_case *begin(fm_ingester *ingester, int number) {
  test_case *test = calloc(1, sizeof *test);
  int ends[2];
  if (!test || socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) fail("socketpair");
  test->peer = ends[1];
  test->number = number;
  fm_hash_begin(&test->hash, fm_hash_kind_at("sha256", 0));
  fm_hash_take(&test->hash);
  test->c = (fm_job){.owner = test, .sock = ends[0], .file = memfd_create("spool", 0), .length = LENGTH - number,
                     .hash = &test->hash, .prefix = body, .prefix_size = 1000};
  if (fm_ingester_start(ingester, &test->c)) fail("start");
  pthread_create(&test->sender, NULL, send_body, test);
  return test;
}

static int collect(fm_ingester *ingester) {
  int ended = 0;
  for (fm_job *job = fm_ingester_collect(ingester), *next; job; job = next) {
    next = job->next_collected;
    test_case *test = job->owner;
    if (fm_job_received(job) > job->length) fail("more than was asked for");
    if (!job->final) continue;
    if (fm_job_outcome(job) == FM_COMPLETE && fm_job_received(job) != job->length) fail("complete too early");
    if (test->ended++) fail("told twice");
    outcomes[fm_job_outcome(job)]++;
    ended++;
  }
  return ended;
}

static void check(test_case *test) {
  size_t size = (size_t)fm_job_received(&test->c);
  fm_hash expected;
  uint8_t a[32], b[32], *bytes = malloc(LENGTH);
  pthread_join(test->sender, NULL);
  if (!test->ended || !fm_hash_take(&test->hash)) fail("not ended");
  fm_hash_begin(&expected, fm_hash_kind_at("sha256", 0));
  fm_hash_update(&expected, body, size);
  fm_hash_digest(&expected, a);
  fm_hash_digest(&test->hash, b);
  if (!bytes || pread(test->c.file, bytes, LENGTH, 0) != (ssize_t)size || memcmp(bytes, body, size)) fail("wrong bytes");
  if (memcmp(a, b, 32)) fail("wrong digest");
  close(test->c.sock);
  close(test->c.file);
  close(test->peer);
  free(bytes);
  free(test);
}

int main(void) {
  for (size_t i = 0; i < LENGTH; i++) body[i] = (uint8_t)(i * 2654435761u >> 13);
  for (int round = 0; round < ROUNDS; round++) {
    fm_ingester *ingester = fm_ingester_new(4, round % 7 == 6 ? 200 * 1000 * 1000 : 0);
    test_case *tests[JOBS];
    int ended = 0, stop_early = round % 5 == 4;
    if (!ingester) fail("new");
    for (int i = 0; i < JOBS; i++) tests[i] = begin(ingester, i);
    for (int i = 0; i < JOBS; i++) {
      if (roll(2)) ended += collect(ingester);
      if (roll(3) == 0) fm_ingester_cancel(&tests[roll(JOBS)]->c);
      if (roll(2)) shorten(tests[roll(JOBS)], 1000 * roll(LENGTH / 1000));
    }
    while (!stop_early && ended < JOBS) {
      struct pollfd wake = {.fd = fm_ingester_fd(ingester), .events = POLLIN};
      if (poll(&wake, 1, 20000) != 1) fail("no news for 20 s");
      ended += collect(ingester);
    }
    fm_ingester_stop(ingester);
    ended += collect(ingester);
    if (ended != JOBS) fail("a job was lost");
    for (int i = 0; i < JOBS; i++) {
      shutdown(tests[i]->c.sock, SHUT_RDWR);
      check(tests[i]);
    }
    fm_ingester_free(ingester);
  }
  if (!shortened) fail("no job was shortened");
  printf("complete %d closed %d cancelled %d\n", outcomes[FM_COMPLETE], outcomes[FM_CLOSED], outcomes[FM_CANCELLED]);
  return 0;
}
