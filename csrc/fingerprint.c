/* fingerprint.c: has a block of memory changed? 64 bits say so without keeping a copy.
 *
 * Weights are packed once and used many times, while anyone who holds an array of them may write
 * into it. Eight independent lanes of xor and odd multiplication (each step is a bijection of the
 * lane, so a single changed word always shows), folded with rotations. Not for security. */
#include <string.h>

#include "fastrnn.h"

enum { LANES = 8 };

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

uint64_t fr_fingerprint(const void *p, size_t bytes)
{
    const uint64_t odd = 0x9e3779b97f4a7c15; /* 2^64 / golden ratio */
    const unsigned char *from = p;
    uint64_t lane[LANES], word[LANES], sum = bytes;
    for (int l = 0; l < LANES; l++)
        lane[l] = odd * (uint64_t)(2 * l + 1);
    for (; bytes >= sizeof word; bytes -= sizeof word, from += sizeof word) {
        memcpy(word, from, sizeof word);
        for (int l = 0; l < LANES; l++)
            lane[l] = rotate((lane[l] ^ word[l]) * odd, 29);
    }
    memset(word, 0, sizeof word);
    if (bytes)
        memcpy(word, from, bytes);
    for (int l = 0; l < LANES; l++)
        sum = rotate((sum ^ (lane[l] ^ word[l]) * odd) * odd, 31);
    return sum;
}
