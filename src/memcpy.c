// memcpy and memmove of static binaries for x86-64. Those of musl copy by `rep movsq`, which takes tens of cycles before the first
// byte; a worker copies mostly some tens of bytes, many times an event. glibc's, which are not to be had without glibc, do as
// these do: a few unaligned loads, which may overlap, and then as many stores. All is loaded before anything is stored, or in
// the direction in which nothing is lost, so that both functions are one.

#include <stddef.h>
#include <stdint.h>

// A loop that copies would be compiled into a call of memcpy.
#pragma GCC optimize("O2", "no-tree-loop-distribute-patterns")

// Of any alignment, and of any type.
typedef uint16_t two __attribute__((aligned(1), may_alias));
typedef uint32_t four __attribute__((aligned(1), may_alias));
typedef uint64_t eight __attribute__((aligned(1), may_alias));
typedef char sixteen __attribute__((vector_size(16), aligned(1), may_alias));

// From one to two of `type`: the first and the last, which may overlap.
#define ENDS(type)                                                  \
  do {                                                              \
    type first = *(const type *)from;                               \
    type last = *(const type *)(from + size - sizeof(type));        \
    *(type *)to = first;                                            \
    *(type *)(to + size - sizeof(type)) = last;                     \
  } while (0)

// Sixty-four bytes.
struct block { sixteen part[4]; };

static inline struct block load(const char *from) {
  const sixteen *part = (const sixteen *)from;
  return (struct block){{part[0], part[1], part[2], part[3]}};
}

static inline void store(char *to, struct block block) {
  sixteen *part = (sixteen *)to;
  part[0] = block.part[0];
  part[1] = block.part[1];
  part[2] = block.part[2];
  part[3] = block.part[3];
}

static inline __attribute__((always_inline)) void copy(char *to, const char *from, size_t size) {
  if (size < 2) {
    if (size == 1) *to = *from;
  } else if (size < 4) {
    ENDS(two);
  } else if (size < 8) {
    ENDS(four);
  } else if (size < 16) {
    ENDS(eight);
  } else if (size <= 32) {
    ENDS(sixteen);
  } else if (size <= 64) {
    sixteen a = ((const sixteen *)from)[0], b = ((const sixteen *)from)[1];
    const sixteen *tail = (const sixteen *)(from + size - 32);
    sixteen c = tail[0], d = tail[1];
    ((sixteen *)to)[0] = a;
    ((sixteen *)to)[1] = b;
    ((sixteen *)(to + size - 32))[0] = c;
    ((sixteen *)(to + size - 32))[1] = d;
  } else if ((uintptr_t)to - (uintptr_t)from >= size) {
    // What is stored lies before what is still to be loaded, but for the end, which is loaded now.
    struct block end = load(from + size - 64);
    for (size_t done = 0; done < size - 64; done += 64) store(to + done, load(from + done));
    store(to + size - 64, end);
  } else {
    struct block begin = load(from);
    for (size_t left = size; left > 64; left -= 64) store(to + left - 64, load(from + left - 64));
    store(to, begin);
  }
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  copy(to, from, size);
  return to;
}

void *memmove(void *to, const void *from, size_t size) {
  copy(to, from, size);
  return to;
}
