// Compares `copied` and `moved`, which src/memcpy.c is compiled into, with copying byte by byte.

#include <stdio.h>
#include <stdlib.h>

void *copied(void *restrict, const void *restrict, size_t);
void *moved(void *, const void *, size_t);

enum { ROOM = 4096 };
static unsigned char expected[ROOM], got[ROOM];

static void try(size_t to, size_t from, size_t size) {
  static unsigned char source[ROOM];
  for (size_t n = 0; n < ROOM; n++) expected[n] = got[n] = source[n] = (unsigned char)rand();
  for (volatile size_t n = 0; n < size; n++) expected[to + n] = source[from + n];
  int apart = from + size <= to || to + size <= from;
  void *returned = apart && size % 2 ? copied(got + to, got + from, size) : moved(got + to, got + from, size);
  if (returned != got + to) exit(2);
  for (size_t n = 0; n < ROOM; n++) {
    if (got[n] == expected[n]) continue;
    printf("%zu bytes from %zu to %zu: wrong at %zu\n", size, from, to, n);
    exit(1);
  }
}

int main(void) {
  unsigned long tried = 0;
  for (size_t size = 0; size <= 300; size++) {
    // Apart, and overlapping either way; every alignment of both.
    for (size_t shift = 0; shift < 16; shift++, tried += 3) {
      try(shift, 1000 + tried % 16, size);
      try(1000 + shift, 1000 + shift + tried % (size + 2), size);
      try(1000 + shift + tried % (size + 2), 1000 + shift, size);
    }
  }
  for (size_t n = 0; n < 20000; n++, tried++) {
    size_t size = (size_t)rand() % 1800;
    try((size_t)rand() % 2000, (size_t)rand() % 2000, size);
  }
  printf("%lu tried\n", tried);
}
