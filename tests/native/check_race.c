/* Many works, limits, cancels and collects at once; built with sanitizers by test_check_races.py.
 * Prints how the works ended; exits with 1 if one is lost, told twice, or has a wrong hash. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check_threads.h"

enum { ROUNDS = 12, WORKS = 12, PIECES = 3, SIZE = PIECES * FM_PIECE };

typedef struct {
  fm_work c;
  int ended;
  fm_hash hash;
  uint8_t hashes[PIECES * 32];
} test_case;

static uint8_t bytes[SIZE], expected[PIECES * 32];
static int outcomes[FM_WORK_CANCELLED + 1];
static unsigned dice = 1;

static unsigned roll(unsigned sides) {
  dice = dice * 1103515245 + 12345;
  return dice / 65536 % sides;
}

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static test_case *begin(fm_checker *checker, int file, int number) {
  test_case *test = calloc(1, sizeof *test);
  if (!test) fail("memory");
  test->c = (fm_work){.owner = test, .file = file, .stop = SIZE};
  if (number % 2) {
    test->c.sum = fm_sum_named("blake3");
    test->c.hashes = test->hashes;
    test->c.limit = SIZE;
  } else {
    fm_hash_begin(&test->hash, fm_hash_kind_at("sha256", 0));
    fm_hash_take(&test->hash);
    test->c.hash = &test->hash;
  }
  if (fm_checker_start(checker, &test->c)) fail("start");
  return test;
}

static int collect(fm_checker *checker) {
  int ended = 0;
  for (fm_work *work = fm_checker_collect(checker); work; work = work->next_news, ended++) {
    test_case *test = work->owner;
    if (test->ended++) fail("told twice");
    outcomes[fm_work_outcome(work)]++;
    if (work->sum && fm_work_outcome(work) == FM_WORK_COMPLETE && memcmp(test->hashes, expected, sizeof expected))
      fail("a wrong hash");
    if (work->hash) {
      fm_hash direct;
      uint8_t a[32], b[32];
      if (!fm_hash_take(work->hash)) fail("not given back");
      if (work->hash->length != (uint64_t)fm_work_position(work)) fail("another position than the hash has");
      fm_hash_begin(&direct, fm_hash_kind_at("sha256", 0));
      fm_hash_update(&direct, bytes, (size_t)fm_work_position(work));
      fm_hash_digest(&direct, a);
      fm_hash_digest(work->hash, b);
      if (memcmp(a, b, 32)) fail("a wrong digest");
    }
  }
  return ended;
}

int main(void) {
  int file = memfd_create("spool", 0);
  for (size_t i = 0; i < SIZE; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 13);
  if (write(file, bytes, SIZE) != SIZE) fail("write");
  for (int i = 0; i < PIECES; i++)
    if (fm_sum_hash(fm_sum_named("blake3"), 0, bytes + i * FM_PIECE, FM_PIECE, expected + 32 * i)) fail("memory");
  for (int round = 0; round < ROUNDS; round++) {
    fm_checker *checker = fm_checker_new(4, round % 2);
    test_case *tests[WORKS];
    int ended = 0, stop_early = round % 4 == 3;
    if (!checker) fail("new");
    for (int i = 0; i < WORKS; i++) tests[i] = begin(checker, file, i);
    for (int i = 0; i < 4 * WORKS; i++) {
      if (roll(2)) ended += collect(checker);
      fm_work *work = &tests[roll(WORKS)]->c;
      if (!work->sum) fm_checker_advance(checker, work, roll(SIZE));
      if (roll(16) == 0) fm_checker_cancel(checker, work);
    }
    for (int i = 0; i < WORKS && !stop_early; i++)
      if (!tests[i]->c.sum) fm_checker_advance(checker, &tests[i]->c, 2L * SIZE);
    while (!stop_early && ended < WORKS) {
      struct pollfd wake = {.fd = fm_checker_fd(checker), .events = POLLIN};
      if (poll(&wake, 1, 20000) != 1) fail("no news for 20 s");
      ended += collect(checker);
    }
    fm_checker_stop(checker);
    ended += collect(checker);
    if (ended != WORKS) fail("a work was lost");
    fm_checker_free(checker);
    for (int i = 0; i < WORKS; i++) free(tests[i]);
  }
  close(file);
  printf("complete %d cancelled %d\n", outcomes[FM_WORK_COMPLETE], outcomes[FM_WORK_CANCELLED]);
  return 0;
}
