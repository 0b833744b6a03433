/* One width of vectors: LANES inputs at once, one in each 32-bit lane. Included by blake3.c, once for each width, with
 * LANES, BITS (its binary logarithm), TARGET and NAME(x) defined. */

typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES)));
#define V NAME(words)

/* Rows of LANES words become columns: squares of 2^k words are swapped, for k from large to small. */
#define UPPER(k, d) ((k) & (d) ? LANES + (k) - (d) : (k))
#define LOWER(k, d) ((k) & (d) ? LANES + (k) : (k) + (d))
#define SWAP(rows, d)                                                          \
  for (int i = 0; i < LANES; i++)                                              \
    if (!(i & (d))) {                                                          \
      V upper = SHUFFLE(V, rows[i], rows[i + (d)], LIST(UPPER, d));            \
      rows[i + (d)] = SHUFFLE(V, rows[i], rows[i + (d)], LIST(LOWER, d));      \
      rows[i] = upper;                                                         \
    }

TARGET static inline void NAME(transpose)(V *rows) {
#if LANES > 8
  SWAP(rows, 8)
#endif
#if LANES > 4
  SWAP(rows, 4)
#endif
  SWAP(rows, 2)
  SWAP(rows, 1)
}

/* To the right; where there is no instruction for it, whole bytes are moved by one that moves bytes. */
#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))
#if LANES == 8
#define FOUR(a, b, c, d) (a) | (b) << 8 | (c) << 16 | (d) << 24
#define MOVED(at, n) FOUR((at) + (n) % 4, (at) + (1 + (n)) % 4, (at) + (2 + (n)) % 4, (at) + (3 + (n)) % 4)
#define MOVES(n) (__m256i)(V){MOVED(0, n), MOVED(4, n), MOVED(8, n), MOVED(12, n), MOVED(0, n), MOVED(4, n), MOVED(8, n), MOVED(12, n)}
#define ROTATE_BYTES(x, n) ((V)_mm256_shuffle_epi8((__m256i)(x), MOVES(n)))
#else
#define ROTATE_BYTES(x, n) ROTATE(x, 8 * (n))
#endif
#define G(a, b, c, d, x, y)                           \
  a += b + (x), d = ROTATE_BYTES(d ^ a, 2);         \
  c += d, b = ROTATE(b ^ c, 12);                      \
  a += b + (y), d = ROTATE_BYTES(d ^ a, 1);         \
  c += d, b = ROTATE(b ^ c, 7)
#define ROUND(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, pa, pb, pc, pd, pe, pf)                        \
  G(v0, v4, v8, vc, m[p0], m[p1]); G(v1, v5, v9, vd, m[p2], m[p3]);                                  \
  G(v2, v6, va, ve, m[p4], m[p5]); G(v3, v7, vb, vf, m[p6], m[p7]);                                  \
  G(v0, v5, va, vf, m[p8], m[p9]); G(v1, v6, vb, vc, m[pa], m[pb]);                                  \
  G(v2, v7, v8, vd, m[pc], m[pd]); G(v3, v4, v9, ve, m[pe], m[pf])

/* The compression of one block in each lane: `cv` becomes the chaining value after it. */
TARGET static inline void NAME(compress)(V *cv, const V *m, V low, V high, uint32_t length, uint32_t flags) {
  const V zero = {0};
  V v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
  V v8 = zero + IV[0], v9 = zero + IV[1], va = zero + IV[2], vb = zero + IV[3];
  V vc = low, vd = high, ve = zero + length, vf = zero + flags;
  ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8);
  ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1);
  ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6);
  ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4);
  ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7);
  ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13);
  cv[0] = v0 ^ v8, cv[1] = v1 ^ v9, cv[2] = v2 ^ va, cv[3] = v3 ^ vb;
  cv[4] = v4 ^ vc, cv[5] = v5 ^ vd, cv[6] = v6 ^ ve, cv[7] = v7 ^ vf;
}

/* Chaining values of up to LANES inputs of the same form; unused lanes do the work of the last one again. */
TARGET static void NAME(hash)(const fm_inputs *in, size_t first, uint8_t *out) {
  size_t left = in->count - first, used = left < LANES ? left : LANES;
  const uint8_t *from[LANES];
  V cv[8], low, high;
  for (size_t i = 0; i < 8; i++) cv[i] = (V){0} + IV[i];
  for (size_t i = 0; i < LANES; i++) {
    size_t input = first + (i < used ? i : used - 1);
    uint64_t counter = in->counted ? in->counter + input : 0;
    from[i] = in->data + input * in->stride;
    low[i] = (uint32_t)counter;
    high[i] = (uint32_t)(counter >> 32);
  }
  for (size_t block = 0; block < in->blocks; block++) {
    V m[16];
    uint32_t flags = in->flags | (block ? 0 : in->first_flags);
    int last = block + 1 == in->blocks;
    for (int group = 0; group < 16; group += LANES) {
      for (int i = 0; i < LANES; i++) memcpy(&m[group + i], from[i] + block * 64 + group * 4, sizeof(V));
      NAME(transpose)(m + group);
    }
    for (int i = 0; i < 16; i++) m[i] = LITTLE(m[i]);
    NAME(compress)(cv, m, low, high, last ? in->last_length : 64, last ? flags | in->last_flags : flags);
  }
  for (int group = 0; group < 8; group += LANES) {
    V rows[LANES] = {{0}};
    for (int i = 0; i < LANES && group + i < 8; i++) rows[i] = LITTLE(cv[group + i]);
    NAME(transpose)(rows);
    for (size_t i = 0; i < used; i++) memcpy(out + i * 32 + group * 4, &rows[i], LANES < 8 ? sizeof(V) : 32);
  }
}

#undef V
#undef UPPER
#undef LOWER
#undef SWAP
#undef ROTATE
#undef ROTATE_BYTES
#undef G
#undef ROUND
