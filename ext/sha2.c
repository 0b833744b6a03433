/* Source: FIPS 180-4, the section numbers below are its own. Intel SDM volume 2 (SHA256RNDS2, SHA256MSG1, SHA256MSG2);
 * Arm ACLE (vsha256hq_u32 and its like). */
#include "sha2.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* 4.2.3: the cube roots of the first 80 primes, 64 bits of their fractions. 4.2.2 takes the upper halves of 64. */
#define K_FIRST_64(X) \
  X(0x428a2f98d728ae22) X(0x7137449123ef65cd) X(0xb5c0fbcfec4d3b2f) X(0xe9b5dba58189dbbc) \
  X(0x3956c25bf348b538) X(0x59f111f1b605d019) X(0x923f82a4af194f9b) X(0xab1c5ed5da6d8118) \
  X(0xd807aa98a3030242) X(0x12835b0145706fbe) X(0x243185be4ee4b28c) X(0x550c7dc3d5ffb4e2) \
  X(0x72be5d74f27b896f) X(0x80deb1fe3b1696b1) X(0x9bdc06a725c71235) X(0xc19bf174cf692694) \
  X(0xe49b69c19ef14ad2) X(0xefbe4786384f25e3) X(0x0fc19dc68b8cd5b5) X(0x240ca1cc77ac9c65) \
  X(0x2de92c6f592b0275) X(0x4a7484aa6ea6e483) X(0x5cb0a9dcbd41fbd4) X(0x76f988da831153b5) \
  X(0x983e5152ee66dfab) X(0xa831c66d2db43210) X(0xb00327c898fb213f) X(0xbf597fc7beef0ee4) \
  X(0xc6e00bf33da88fc2) X(0xd5a79147930aa725) X(0x06ca6351e003826f) X(0x142929670a0e6e70) \
  X(0x27b70a8546d22ffc) X(0x2e1b21385c26c926) X(0x4d2c6dfc5ac42aed) X(0x53380d139d95b3df) \
  X(0x650a73548baf63de) X(0x766a0abb3c77b2a8) X(0x81c2c92e47edaee6) X(0x92722c851482353b) \
  X(0xa2bfe8a14cf10364) X(0xa81a664bbc423001) X(0xc24b8b70d0f89791) X(0xc76c51a30654be30) \
  X(0xd192e819d6ef5218) X(0xd69906245565a910) X(0xf40e35855771202a) X(0x106aa07032bbd1b8) \
  X(0x19a4c116b8d2d0c8) X(0x1e376c085141ab53) X(0x2748774cdf8eeb99) X(0x34b0bcb5e19b48a8) \
  X(0x391c0cb3c5c95a63) X(0x4ed8aa4ae3418acb) X(0x5b9cca4f7763e373) X(0x682e6ff3d6b2b8a3) \
  X(0x748f82ee5defb2fc) X(0x78a5636f43172f60) X(0x84c87814a1f0ab72) X(0x8cc702081a6439ec) \
  X(0x90befffa23631e28) X(0xa4506cebde82bde9) X(0xbef9a3f7b2c67915) X(0xc67178f2e372532b)

#define K_LAST_16(X) \
  X(0xca273eceea26619c) X(0xd186b8c721c0c207) X(0xeada7dd6cde0eb1e) X(0xf57d4f7fee6ed178) \
  X(0x06f067aa72176fba) X(0x0a637dc5a2c898a6) X(0x113f9804bef90dae) X(0x1b710b35131c471b) \
  X(0x28db77f523047d84) X(0x32caab7b40c72493) X(0x3c9ebe0a15c9bebc) X(0x431d67c49c100d4c) \
  X(0x4cc5d4becb3e42b6) X(0x597f299cfc657e2a) X(0x5fcb6fab3ad6faec) X(0x6c44198c4a475817)

/* 5.3.5: the square roots of the first 8 primes likewise; 5.3.3 takes the upper halves. */
#define SQUARE_ROOTS(X) \
  X(0x6a09e667f3bcc908) X(0xbb67ae8584caa73b) X(0x3c6ef372fe94f82b) X(0xa54ff53a5f1d36f1) \
  X(0x510e527fade682d1) X(0x9b05688c2b3e6c1f) X(0x1f83d9abfb41bd6b) X(0x5be0cd19137e2179)

#define WHOLE(k) k,
#define UPPER(k) (uint32_t)(k >> 32),

static const uint64_t K512[80] = {K_FIRST_64(WHOLE) K_LAST_16(WHOLE)};
static const uint32_t K256[64] __attribute__((aligned(16))) = {K_FIRST_64(UPPER)};
static const uint64_t START512[8] = {SQUARE_ROOTS(WHOLE)};
static const uint32_t START256[8] = {SQUARE_ROOTS(UPPER)};

INLINE uint32_t load32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(v) : v;
}

INLINE uint64_t load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, 8);
  return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(v) : v;
}

INLINE void store64(uint8_t *p, uint64_t v) {
  if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) v = __builtin_bswap64(v);
  memcpy(p, &v, 8);
}

INLINE uint32_t right32(uint32_t x, int n) { return x >> n | x << (32 - n); }
INLINE uint64_t right64(uint64_t x, int n) { return x >> n | x << (64 - n); }

/* 4.1.2 and 4.1.3; Maj and Ch with one operation less than written there, equal bit for bit. */
#define CH(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJ(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#define SUM0_32(x) (right32(x, 2) ^ right32(x, 13) ^ right32(x, 22))
#define SUM1_32(x) (right32(x, 6) ^ right32(x, 11) ^ right32(x, 25))
#define MIX0_32(x) (right32(x, 7) ^ right32(x, 18) ^ (x) >> 3)
#define MIX1_32(x) (right32(x, 17) ^ right32(x, 19) ^ (x) >> 10)
#define SUM0_64(x) (right64(x, 28) ^ right64(x, 34) ^ right64(x, 39))
#define SUM1_64(x) (right64(x, 14) ^ right64(x, 18) ^ right64(x, 41))
#define MIX0_64(x) (right64(x, 1) ^ right64(x, 8) ^ (x) >> 7)
#define MIX1_64(x) (right64(x, 19) ^ right64(x, 61) ^ (x) >> 6)

/* 6.2.2 step 1 in a ring of 16 words: the first 16 come from the block, then w[t] becomes w[t + 16]. */
#define LOAD(BITS, t) w[t] = load##BITS(data + (t) * (BITS / 8))
#define EXTEND(BITS, t) w[t] += MIX0_##BITS(w[((t) + 1) & 15]) + w[((t) + 9) & 15] + MIX1_##BITS(w[((t) + 14) & 15])

/* 6.2.2 step 3 without moving the eight variables: EIGHT rotates their names. BITS is 32 or 64, GET one of the above. */
#define ROUND(BITS, GET, a, b, c, d, e, f, g, h, t)      \
  GET(BITS, t);                                          \
  h += SUM1_##BITS(e) + CH(e, f, g) + k[t] + w[t];       \
  d += h;                                                \
  h += SUM0_##BITS(a) + MAJ(a, b, c)

#define EIGHT(BITS, GET, t)                              \
  ROUND(BITS, GET, a, b, c, d, e, f, g, h, (t));         \
  ROUND(BITS, GET, h, a, b, c, d, e, f, g, (t) + 1);     \
  ROUND(BITS, GET, g, h, a, b, c, d, e, f, (t) + 2);     \
  ROUND(BITS, GET, f, g, h, a, b, c, d, e, (t) + 3);     \
  ROUND(BITS, GET, e, f, g, h, a, b, c, d, (t) + 4);     \
  ROUND(BITS, GET, d, e, f, g, h, a, b, c, (t) + 5);     \
  ROUND(BITS, GET, c, d, e, f, g, h, a, b, (t) + 6);     \
  ROUND(BITS, GET, b, c, d, e, f, g, h, a, (t) + 7)

#define BLOCKS(BITS, ROUNDS)                                                                            \
  INLINE void blocks##BITS(uint##BITS##_t s[8], const uint8_t *data, size_t count,                      \
                           const uint##BITS##_t *constants) {                                           \
    for (; count; count--, data += BITS * 2) {                                                          \
      uint##BITS##_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];    \
      uint##BITS##_t w[16];                                                                             \
      const uint##BITS##_t *k = constants;                                                              \
      EIGHT(BITS, LOAD, 0);                                                                             \
      EIGHT(BITS, LOAD, 8);                                                                             \
      for (k += 16; k < constants + ROUNDS; k += 16) {                                                  \
        EIGHT(BITS, EXTEND, 0);                                                                         \
        EIGHT(BITS, EXTEND, 8);                                                                         \
      }                                                                                                 \
      s[0] += a, s[1] += b, s[2] += c, s[3] += d, s[4] += e, s[5] += f, s[6] += g, s[7] += h;           \
    }                                                                                                   \
  }

BLOCKS(32, 64)
BLOCKS(64, 80)

static void sha256_portable(fm_hash_state *state, const uint8_t *data, size_t count) {
  blocks32(state->words32, data, count, K256);
}

static void sha512_portable(fm_hash_state *state, const uint8_t *data, size_t count) {
  blocks64(state->words64, data, count, K512);
}

#if defined(__x86_64__)

/* The same C with RORX and ANDN: a tenth faster; SHA-256 gains nothing from them (benches/micro/bench_hashing.py). */
__attribute__((target("bmi,bmi2"))) static void sha512_bmi2(fm_hash_state *state, const uint8_t *data, size_t count) {
  blocks64(state->words64, data, count, K512);
}

/* Rounds 4g..4g+3. SHA256RNDS2 does two: it wants {a,b,e,f} and {c,d,g,h} (highest lane first) and the sums of
 * message and constant in its lower lanes. */
#define NI_ROUNDS(g, m)                                                       \
  sum = _mm_add_epi32(m, _mm_load_si128((const __m128i *)K256 + (g)));        \
  cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);                              \
  abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e))

/* m0..m3 hold w[t..t+15]; m0 becomes w[t+16..t+19]: MSG1 adds sigma0, the shifted pair is w[t+9..], MSG2 adds sigma1. */
#define NI_SCHEDULE(m0, m1, m2, m3) \
  m0 = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(m0, m1), _mm_alignr_epi8(m3, m2, 4)), m3)

#define NI_FOUR(g)                                                    \
  NI_SCHEDULE(m0, m1, m2, m3); NI_ROUNDS((g), m0);                    \
  NI_SCHEDULE(m1, m2, m3, m0); NI_ROUNDS((g) + 1, m1);                \
  NI_SCHEDULE(m2, m3, m0, m1); NI_ROUNDS((g) + 2, m2);                \
  NI_SCHEDULE(m3, m0, m1, m2); NI_ROUNDS((g) + 3, m3)

__attribute__((target("sha,sse4.1"))) static void sha256_ni(fm_hash_state *state, const uint8_t *data, size_t count) {
  const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  uint32_t *s = state->words32;
  __m128i abef = _mm_set_epi32((int)s[0], (int)s[1], (int)s[4], (int)s[5]);
  __m128i cdgh = _mm_set_epi32((int)s[2], (int)s[3], (int)s[6], (int)s[7]);
  for (; count; count--, data += 64) {
    const __m128i *in = (const __m128i *)data, abef_was = abef, cdgh_was = cdgh;
    __m128i sum, m0 = _mm_shuffle_epi8(_mm_loadu_si128(in), swap), m1 = _mm_shuffle_epi8(_mm_loadu_si128(in + 1), swap);
    __m128i m2 = _mm_shuffle_epi8(_mm_loadu_si128(in + 2), swap), m3 = _mm_shuffle_epi8(_mm_loadu_si128(in + 3), swap);
    NI_ROUNDS(0, m0);
    NI_ROUNDS(1, m1);
    NI_ROUNDS(2, m2);
    NI_ROUNDS(3, m3);
    NI_FOUR(4);
    NI_FOUR(8);
    NI_FOUR(12);
    abef = _mm_add_epi32(abef, abef_was);
    cdgh = _mm_add_epi32(cdgh, cdgh_was);
  }
  s[0] = (uint32_t)_mm_extract_epi32(abef, 3), s[1] = (uint32_t)_mm_extract_epi32(abef, 2);
  s[4] = (uint32_t)_mm_extract_epi32(abef, 1), s[5] = (uint32_t)_mm_extract_epi32(abef, 0);
  s[2] = (uint32_t)_mm_extract_epi32(cdgh, 3), s[3] = (uint32_t)_mm_extract_epi32(cdgh, 2);
  s[6] = (uint32_t)_mm_extract_epi32(cdgh, 1), s[7] = (uint32_t)_mm_extract_epi32(cdgh, 0);
}

#elif defined(__aarch64__) && defined(__linux__)

/* Checked under qemu-user by tests/native/sha2_arm.sh; not timed on a real machine. */
#define ARM_HWCAP_SHA2 (1UL << 6) /* arch/arm64/include/uapi/asm/hwcap.h */

#if defined(__clang__)
#define ARM_TARGET __attribute__((target("sha2")))
#else
#define ARM_TARGET __attribute__((target("+crypto")))
#endif

/* Rounds 4g..4g+3: the instructions want {a,b,c,d} and {e,f,g,h} and the sums of message and constant. */
#define ARM_ROUNDS(g, m)                              \
  sum = vaddq_u32(m, vld1q_u32(K256 + 4 * (g)));      \
  was = abcd;                                         \
  abcd = vsha256hq_u32(abcd, efgh, sum);              \
  efgh = vsha256h2q_u32(efgh, was, sum)

#define ARM_SCHEDULE(m0, m1, m2, m3) m0 = vsha256su1q_u32(vsha256su0q_u32(m0, m1), m2, m3)

#define ARM_FOUR(g)                                                     \
  ARM_SCHEDULE(m0, m1, m2, m3); ARM_ROUNDS((g), m0);                    \
  ARM_SCHEDULE(m1, m2, m3, m0); ARM_ROUNDS((g) + 1, m1);                \
  ARM_SCHEDULE(m2, m3, m0, m1); ARM_ROUNDS((g) + 2, m2);                \
  ARM_SCHEDULE(m3, m0, m1, m2); ARM_ROUNDS((g) + 3, m3)

ARM_TARGET static void sha256_armv8(fm_hash_state *state, const uint8_t *data, size_t count) {
  uint32x4_t abcd = vld1q_u32(state->words32), efgh = vld1q_u32(state->words32 + 4);
  for (; count; count--, data += 64) {
    uint32x4_t sum, was, abcd_was = abcd, efgh_was = efgh;
    uint32x4_t m0 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
    uint32x4_t m1 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16)));
    uint32x4_t m2 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 32)));
    uint32x4_t m3 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 48)));
    ARM_ROUNDS(0, m0);
    ARM_ROUNDS(1, m1);
    ARM_ROUNDS(2, m2);
    ARM_ROUNDS(3, m3);
    ARM_FOUR(4);
    ARM_FOUR(8);
    ARM_FOUR(12);
    abcd = vaddq_u32(abcd, abcd_was);
    efgh = vaddq_u32(efgh, efgh_was);
  }
  vst1q_u32(state->words32, abcd);
  vst1q_u32(state->words32 + 4, efgh);
}

#endif

static const fm_hash_kind KINDS[] = {
#if defined(__x86_64__)
    {"sha256", "sha-ni", 64, 32, sha256_ni},
    {"sha512", "bmi2", 128, 64, sha512_bmi2},
#elif defined(__aarch64__) && defined(__linux__)
    {"sha256", "armv8", 64, 32, sha256_armv8},
#endif
    {"sha256", "portable", 64, 32, sha256_portable},
    {"sha512", "portable", 128, 64, sha512_portable},
};

static int machine_has(const char *implementation) {
#if defined(__x86_64__)
  unsigned a, b, c, d, leaf1_c = 0, leaf7_b = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) leaf1_c = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) leaf7_b = b;
  if (!strcmp(implementation, "sha-ni")) return (leaf7_b & bit_SHA) && (leaf1_c & bit_SSE4_1) && (leaf1_c & bit_SSSE3);
  if (!strcmp(implementation, "bmi2")) return (leaf7_b & bit_BMI) && (leaf7_b & bit_BMI2);
#elif defined(__aarch64__) && defined(__linux__)
  if (!strcmp(implementation, "armv8")) return (getauxval(AT_HWCAP) & ARM_HWCAP_SHA2) != 0;
#endif
  return !strcmp(implementation, "portable");
}

const fm_hash_kind *fm_hash_kind_at(const char *algorithm, int n) {
  for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
    if (!strcmp(KINDS[i].algorithm, algorithm) && machine_has(KINDS[i].implementation) && n-- == 0) return &KINDS[i];
  return NULL;
}

void fm_hash_begin(fm_hash *hash, const fm_hash_kind *kind) {
  memset(hash, 0, sizeof *hash);
  hash->kind = kind;
  if (kind->block_size == 64) memcpy(hash->state.words32, START256, sizeof START256);
  else memcpy(hash->state.words64, START512, sizeof START512);
}

/* 5.1: a one bit, zeros, and the length in bits in the last 8 or 16 bytes of a block. */
void fm_hash_digest(const fm_hash *hash, uint8_t *digest) {
  size_t block = hash->kind->block_size, held = hash->length % block, counter = block / 8;
  size_t padded = held + 1 + counter <= block ? block : 2 * block;
  fm_hash_state state = hash->state;
  uint8_t last[256] = {0};
  memcpy(last, hash->tail, held);
  last[held] = 0x80;
  store64(last + padded - 8, hash->length << 3);
  if (counter == 16) store64(last + padded - 16, hash->length >> 61);
  hash->kind->blocks(&state, last, padded / block);
  for (size_t i = 0; i < hash->kind->digest_size; i += 8)
    store64(digest + i, block == 128 ? state.words64[i / 8]
                                     : (uint64_t)state.words32[i / 4] << 32 | state.words32[i / 4 + 1]);
}
