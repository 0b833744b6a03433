/* SHA-256 and SHA-512 with the implementation chosen at run time.
 * Source: FIPS 180-4 sections 4-6; the state is hashed block by block, so it can be copied between any two bytes. */
#ifndef FASTMIRROR_SHA2_H
#define FASTMIRROR_SHA2_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef union {
  uint32_t words32[8];
  uint64_t words64[8];
} fm_hash_state;

/* One implementation of one algorithm. */
typedef struct {
  const char *algorithm;      /* as in an OCI digest */
  const char *implementation; /* "sha-ni", "armv8", "bmi2" or "portable" */
  size_t block_size;          /* bytes: 64 or 128 */
  size_t digest_size;         /* bytes: 32 or 64 */
  void (*blocks)(fm_hash_state *state, const uint8_t *data, size_t count);
} fm_hash_kind;

typedef struct {
  const fm_hash_kind *kind;
  int busy; /* someone updates it now: fm_hash_take, fm_hash_give */
  uint64_t length; /* bytes so far */
  fm_hash_state state;
  uint8_t tail[128]; /* the length % block_size bytes that make no block yet */
} fm_hash;

/* The n-th implementation of an algorithm that this machine can run, fastest first; NULL past the last. */
const fm_hash_kind *fm_hash_kind_at(const char *algorithm, int n);

/* No bytes yet, nobody's. */
void fm_hash_begin(fm_hash *hash, const fm_hash_kind *kind);

/* Writes digest_size bytes; `hash` can be updated further. */
void fm_hash_digest(const fm_hash *hash, uint8_t *digest);

/* 1: the caller is now the only user of `hash`, until fm_hash_give; 0: it has one already. */
static inline int fm_hash_take(fm_hash *hash) {
  int nobody = 0;
  return __atomic_compare_exchange_n(&hash->busy, &nobody, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void fm_hash_give(fm_hash *hash) { __atomic_store_n(&hash->busy, 0, __ATOMIC_RELEASE); }

/* Inline, and through `kind`, so that other modules need not link the implementations. */
static inline void fm_hash_update(fm_hash *hash, const uint8_t *data, size_t size) {
  size_t block = hash->kind->block_size, held = hash->length % block;
  if (!size) return; /* data may be NULL then, which memcpy(3) must not be given */
  hash->length += size;
  if (held) {
    size_t n = block - held < size ? block - held : size;
    memcpy(hash->tail + held, data, n);
    if (held + n < block) return;
    hash->kind->blocks(&hash->state, hash->tail, 1);
    data += n;
    size -= n;
  }
  if (size >= block) hash->kind->blocks(&hash->state, data, size / block);
  memcpy(hash->tail, data + size - size % block, size % block);
}

#endif
