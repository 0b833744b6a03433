/* Prints the digests of standard input by every implementation of this machine: "algorithm implementation hex". */
#include <stdio.h>

#include "sha2.h"

int main(void) {
  static const char *const algorithms[] = {"sha256", "sha512"};
  static uint8_t data[1 << 20];
  size_t size = fread(data, 1, sizeof data, stdin);
  for (int a = 0; a < 2; a++) {
    const fm_hash_kind *kind;
    for (int n = 0; (kind = fm_hash_kind_at(algorithms[a], n)); n++) {
      fm_hash hash;
      uint8_t digest[64];
      fm_hash_begin(&hash, kind);
      fm_hash_update(&hash, data, size / 3);
      fm_hash_update(&hash, data + size / 3, size - size / 3);
      fm_hash_digest(&hash, digest);
      printf("%s %s ", kind->algorithm, kind->implementation);
      for (size_t i = 0; i < kind->digest_size; i++) printf("%02x", digest[i]);
      printf("\n");
    }
  }
  return 0;
}
