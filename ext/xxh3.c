/* Source: see xxh3.h. */
#include "xxh3.h"

#include <string.h>

static const uint64_t P32_1 = 0x9E3779B1, P32_2 = 0x85EBCA77, P32_3 = 0xC2B2AE3D;
static const uint64_t P64_1 = 0x9E3779B185EBCA87, P64_2 = 0xC2B2AE3D27D4EB4F, P64_3 = 0x165667B19E3779F9;
static const uint64_t P64_4 = 0x85EBCA77C2B2AE63, P64_5 = 0x27D4EB2F165667C5;
static const uint64_t MIX_1 = 0x165667919E3779F9, MIX_2 = 0x9FB21C651E98DF25;

enum { SECRET_SIZE = 192, STRIPE = 64, STRIPES = 16, BLOCK = STRIPE * STRIPES };

static const uint8_t SECRET[SECRET_SIZE] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d,
    0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0,
    0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0,
    0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b,
    0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac,
    0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51,
    0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34,
    0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49,
    0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8,
    0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b,
    0x40, 0x7e,
};

typedef struct {
  uint64_t low, high;
} fm_wide;

static inline uint32_t load32(const uint8_t *p) {
  uint32_t value;
  memcpy(&value, p, sizeof value);
  return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap32(value) : value;
}

static inline uint64_t load64(const uint8_t *p) {
  uint64_t value;
  memcpy(&value, p, sizeof value);
  return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap64(value) : value;
}

static inline fm_wide multiply(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (fm_wide){(uint64_t)product, (uint64_t)(product >> 64)};
}

static inline uint64_t fold(uint64_t a, uint64_t b) {
  fm_wide product = multiply(a, b);
  return product.low ^ product.high;
}

static inline uint64_t avalanche(uint64_t h) {
  h ^= h >> 37;
  h *= MIX_1;
  return h ^ h >> 32;
}

static inline uint64_t avalanche64(uint64_t h) {
  h ^= h >> 33;
  h *= P64_2;
  h ^= h >> 29;
  h *= P64_3;
  return h ^ h >> 32;
}

static inline uint64_t flip(size_t at) { return load64(SECRET + at) ^ load64(SECRET + at + 8); }

static fm_wide hash_none(void) { return (fm_wide){avalanche64(flip(64)), avalanche64(flip(80))}; }

static fm_wide hash_to_3(const uint8_t *data, size_t size) {
  uint32_t low = (uint32_t)data[0] << 16 | (uint32_t)data[size >> 1] << 24 | data[size - 1] | (uint32_t)size << 8;
  uint32_t swapped = __builtin_bswap32(low), high = swapped << 13 | swapped >> 19;
  uint32_t low_flip = load32(SECRET) ^ load32(SECRET + 4), high_flip = load32(SECRET + 8) ^ load32(SECRET + 12);
  return (fm_wide){avalanche64(low ^ low_flip), avalanche64(high ^ high_flip)};
}

static fm_wide hash_to_8(const uint8_t *data, size_t size) {
  uint64_t both = load32(data) + ((uint64_t)load32(data + size - 4) << 32);
  fm_wide m = multiply(both ^ flip(16), P64_1 + (size << 2));
  m.high += m.low << 1;
  m.low ^= m.high >> 3;
  m.low = (m.low ^ m.low >> 35) * MIX_2;
  m.low ^= m.low >> 28;
  m.high = avalanche(m.high);
  return m;
}

static fm_wide hash_to_16(const uint8_t *data, size_t size) {
  uint64_t low = load64(data), high = load64(data + size - 8);
  fm_wide m = multiply(low ^ high ^ flip(32), P64_1);
  m.low += (uint64_t)(size - 1) << 54;
  high ^= flip(48);
  m.high += high + (high & 0xffffffff) * (P32_2 - 1);
  m.low ^= __builtin_bswap64(m.high);
  fm_wide h = multiply(m.low, P64_2);
  h.high += m.high * P64_2;
  return (fm_wide){avalanche(h.low), avalanche(h.high)};
}

static inline uint64_t mix16(const uint8_t *data, size_t at) {
  return fold(load64(data) ^ load64(SECRET + at), load64(data + 8) ^ load64(SECRET + at + 8));
}

static inline void mix32(fm_wide *acc, const uint8_t *a, const uint8_t *b, size_t at) {
  acc->low = (acc->low + mix16(a, at)) ^ (load64(b) + load64(b + 8));
  acc->high = (acc->high + mix16(b, at + 16)) ^ (load64(a) + load64(a + 8));
}

static inline fm_wide finish(fm_wide acc, size_t size) {
  uint64_t high = acc.low * P64_1 + acc.high * P64_4 + size * P64_2;
  return (fm_wide){avalanche(acc.low + acc.high), 0 - avalanche(high)};
}

static fm_wide hash_to_128(const uint8_t *data, size_t size) {
  fm_wide acc = {size * P64_1, 0};
  for (size_t pair = (size - 1) / 32 + 1; pair-- > 0;)
    mix32(&acc, data + 16 * pair, data + size - 16 * (pair + 1), 32 * pair);
  return finish(acc, size);
}

static fm_wide hash_to_240(const uint8_t *data, size_t size) {
  fm_wide acc = {size * P64_1, 0};
  for (size_t at = 0; at < 128; at += 32) mix32(&acc, data + at, data + at + 16, at);
  acc = (fm_wide){avalanche(acc.low), avalanche(acc.high)};
  for (size_t at = 128; at + 32 <= size; at += 32) mix32(&acc, data + at, data + at + 16, 3 + at - 128);
  mix32(&acc, data + size - 16, data + size - 32, 136 - 17 - 16);
  return finish(acc, size);
}

static inline void take_stripe(uint64_t *restrict acc, const uint8_t *restrict data, const uint8_t *restrict secret) {
  for (int i = 0; i < 8; i++) {
    uint64_t value = load64(data + 8 * i), key = value ^ load64(secret + 8 * i);
    acc[i ^ 1] += value;
    acc[i] += (key & 0xffffffff) * (key >> 32);
  }
}

static inline uint64_t merge(const uint64_t *acc, const uint8_t *secret, uint64_t sum) {
  for (int i = 0; i < 8; i += 2) sum += fold(acc[i] ^ load64(secret + 8 * i), acc[i + 1] ^ load64(secret + 8 * i + 8));
  return avalanche(sum);
}

static fm_wide hash_long(const uint8_t *data, size_t size) {
  uint64_t acc[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
  size_t blocks = (size - 1) / BLOCK, stripes = (size - 1) % BLOCK / STRIPE;
  for (size_t block = 0; block < blocks; block++) {
    for (size_t n = 0; n < STRIPES; n++) take_stripe(acc, data + block * BLOCK + n * STRIPE, SECRET + 8 * n);
    for (int i = 0; i < 8; i++)
      acc[i] = (acc[i] ^ acc[i] >> 47 ^ load64(SECRET + SECRET_SIZE - STRIPE + 8 * i)) * P32_1;
  }
  for (size_t n = 0; n < stripes; n++) take_stripe(acc, data + blocks * BLOCK + n * STRIPE, SECRET + 8 * n);
  take_stripe(acc, data + size - STRIPE, SECRET + SECRET_SIZE - STRIPE - 7);
  return (fm_wide){merge(acc, SECRET + 11, size * P64_1), merge(acc, SECRET + SECRET_SIZE - STRIPE - 11, ~(size * P64_2))};
}

void fm_xxh3_128(const uint8_t *data, size_t size, uint8_t *hash) {
  fm_wide h;
  if (size == 0) h = hash_none();
  else if (size <= 3) h = hash_to_3(data, size);
  else if (size <= 8) h = hash_to_8(data, size);
  else if (size <= 16) h = hash_to_16(data, size);
  else if (size <= 128) h = hash_to_128(data, size);
  else if (size <= 240) h = hash_to_240(data, size);
  else h = hash_long(data, size);
  for (int i = 0; i < 8; i++) {
    hash[i] = (uint8_t)(h.high >> (56 - 8 * i));
    hash[8 + i] = (uint8_t)(h.low >> (56 - 8 * i));
  }
}
