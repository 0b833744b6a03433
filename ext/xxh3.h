/* XXH3 with 128 bits, seed 0 and the secret of the specification: finds accidents, not attacks.
 * Source: doc/xxhash_spec.md of the xxHash project, "XXH3 Algorithm Overview". */
#ifndef FASTMIRROR_XXH3_H
#define FASTMIRROR_XXH3_H

#include <stddef.h>
#include <stdint.h>

/* Writes the 16 bytes of the canonical form: the high half first, big-endian. */
void fm_xxh3_128(const uint8_t *data, size_t size, uint8_t *hash);

#endif
