/* Source: see blake3.h. */
#include "blake3.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 }; /* flags of a block */
enum { CHUNK = 1024 };

static const uint32_t IV[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

/* Inputs that are hashed alike: `count` of them, `stride` bytes apart, each of `blocks` blocks of 64 bytes. */
typedef struct {
  const uint8_t *data;
  size_t count, stride, blocks;
  int counted; /* chunks are numbered, parents are not */
  uint64_t counter;
  uint32_t flags, first_flags, last_flags;
  uint32_t last_length; /* bytes that count of the last block */
} fm_inputs;

#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE(x) ((x) >> 24 | ((x) >> 8 & 0xff00) | ((x) << 8 & 0xff0000) | (x) << 24)
#else
#define LITTLE(x) (x)
#endif

#define LIST4(f, d) f(0, d), f(1, d), f(2, d), f(3, d)
#define LIST8(f, d) LIST4(f, d), f(4, d), f(5, d), f(6, d), f(7, d)
#define LIST16(f, d) LIST8(f, d), f(8, d), f(9, d), f(10, d), f(11, d), f(12, d), f(13, d), f(14, d), f(15, d)

#define LANES 4
#define TARGET
#define LIST LIST4
#define NAME(x) x##_4
#include "blake3_lanes.h"
#undef LANES
#undef TARGET
#undef LIST
#undef NAME

#if defined(__x86_64__)
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define LIST LIST8
#define NAME(x) x##_8
#include "blake3_lanes.h"
#undef LANES
#undef TARGET
#undef LIST
#undef NAME

#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512vl")))
#define LIST LIST16
#define NAME(x) x##_16
#include "blake3_lanes.h"
#endif

typedef struct {
  const char *name;
  size_t lanes;
  void (*hash)(const fm_inputs *in, size_t first, uint8_t *out);
} fm_way;

static const fm_way WAYS[] = {
#if defined(__x86_64__)
    {"avx512", 16, hash_16},
    {"avx2", 8, hash_8},
#endif
    {"portable", 4, hash_4},
};

static int machine_has(const char *way) {
#if defined(__x86_64__)
  if (!strcmp(way, "avx512")) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  if (!strcmp(way, "avx2")) return __builtin_cpu_supports("avx2");
#endif
  return !strcmp(way, "portable");
}

static const fm_way *way_at(int n) {
  for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++)
    if (machine_has(WAYS[i].name) && n-- == 0) return &WAYS[i];
  return NULL;
}

const char *fm_blake3_way(int n) {
  const fm_way *way = way_at(n);
  return way ? way->name : NULL;
}

static void hash_all(const fm_way *way, const fm_inputs *in, uint8_t *out) {
  for (size_t first = 0; first < in->count; first += way->lanes) way->hash(in, first, out + first * FM_BLAKE3_HASH);
}

/* The last chunk, or all of a short input: it may be of any length, also none. */
static void hash_last(const fm_way *way, const uint8_t *data, size_t size, uint64_t counter, uint32_t root, uint8_t *out) {
  uint8_t padded[CHUNK] = {0};
  if (size) memcpy(padded, data, size);
  size_t blocks = size ? (size + 63) / 64 : 1;
  fm_inputs in = {.data = padded, .count = 1, .stride = CHUNK, .blocks = blocks, .counted = 1, .counter = counter,
                  .first_flags = CHUNK_START, .last_flags = CHUNK_END | root,
                  .last_length = (uint32_t)(size - 64 * (blocks - 1))};
  way->hash(&in, 0, out);
}

/* Two neighbours make one parent, one without a neighbour goes up as it is: the same tree as with left subtrees that
 * are as large as can be. A level is written over the one below it. */
static void join(const fm_way *way, uint8_t *values, size_t count) {
  while (count > 1) {
    size_t pairs = count / 2;
    fm_inputs in = {.data = values, .count = pairs, .stride = 2 * FM_BLAKE3_HASH, .blocks = 1,
                    .flags = PARENT | (count == 2 ? ROOT : 0), .last_length = 64};
    hash_all(way, &in, values);
    if (count % 2) memmove(values + pairs * FM_BLAKE3_HASH, values + (count - 1) * FM_BLAKE3_HASH, FM_BLAKE3_HASH);
    count = pairs + count % 2;
  }
}

void fm_blake3(int n, const uint8_t *data, size_t size, uint8_t *scratch, uint8_t *hash) {
  const fm_way *way = way_at(n);
  if (size <= CHUNK) {
    hash_last(way, data, size, 0, ROOT, hash);
    return;
  }
  size_t whole = size / CHUNK, rest = size % CHUNK;
  fm_inputs in = {.data = data, .count = whole, .stride = CHUNK, .blocks = CHUNK / 64, .counted = 1,
                  .first_flags = CHUNK_START, .last_flags = CHUNK_END, .last_length = 64};
  hash_all(way, &in, scratch);
  if (rest) hash_last(way, data + whole * CHUNK, rest, whole, 0, scratch + whole * FM_BLAKE3_HASH);
  join(way, scratch, whole + (rest > 0));
  memcpy(hash, scratch, FM_BLAKE3_HASH);
}
