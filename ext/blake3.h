/* BLAKE3 of at most one piece of bytes, with the widest vectors that the machine has.
 * Source: "BLAKE3: one function, fast everywhere" (O'Connor, Aumasson, Neves, Wilcox-O'Hearn), sections 2 and 5.3. */
#ifndef FASTMIRROR_BLAKE3_H
#define FASTMIRROR_BLAKE3_H

#include <stddef.h>
#include <stdint.h>

enum {
  FM_BLAKE3_MOST = 1 << 20, /* bytes */
  FM_BLAKE3_HASH = 32,
  FM_BLAKE3_SCRATCH = FM_BLAKE3_MOST / 1024 * FM_BLAKE3_HASH,
};

/* The n-th way to compute it that this machine can run, fastest first: "avx512", "avx2", "portable"; NULL past those. */
const char *fm_blake3_way(int n);

/* `way` is an index of fm_blake3_way. `scratch` is FM_BLAKE3_SCRATCH bytes, aligned to 64. */
void fm_blake3(int way, const uint8_t *data, size_t size, uint8_t *scratch, uint8_t *hash);

#endif
