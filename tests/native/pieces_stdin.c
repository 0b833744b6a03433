/* Hashes of the piece on standard input, one line each: algorithm, implementation, hash. For pieces_foreign.sh. */
#include <stdio.h>
#include <unistd.h>

#include "blake3.h"
#include "xxh3.h"

static uint8_t piece[FM_BLAKE3_MOST], scratch[FM_BLAKE3_SCRATCH] __attribute__((aligned(64)));

static void print(const char *algorithm, const char *way, const uint8_t *hash, size_t size) {
  printf("%s %s ", algorithm, way);
  for (size_t i = 0; i < size; i++) printf("%02x", hash[i]);
  printf("\n");
}

int main(void) {
  size_t size = 0;
  uint8_t hash[32];
  for (ssize_t n; (n = read(0, piece + size, sizeof piece - size)) > 0;) size += (size_t)n;
  for (int way = 0; fm_blake3_way(way); way++) {
    fm_blake3(way, piece, size, scratch, hash);
    print("blake3", fm_blake3_way(way), hash, 32);
  }
  fm_xxh3_128(piece, size, hash);
  print("xxh3-128", "portable", hash, 16);
  return 0;
}
