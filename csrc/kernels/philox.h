/* philox.h: the counter-based generator behind dropout masks.
 *
 * Philox 4x32-10 of Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011:
 * ten rounds of two 32 x 32 -> 64 bit products scramble a 128-bit counter under a 64-bit key (F10, F11).
 * Any block of the stream can be had at once and without any other: no state runs along.
 *
 * Static, for the same reason as in vec.h. Plain C; FR_PHILOX blocks side by side are what compilers
 * vectorise. */
#ifndef FR_PHILOX_H
#define FR_PHILOX_H

#include <stdint.h>

#define FR_PHILOX 16 /* blocks of four words at a time */

/* words[4k .. 4k+3]: block `counter + k`, where only the low word counts on: the caller's counters are
 * multiples of FR_PHILOX, so that nothing is carried. */
static inline void fr_philox_blocks(uint32_t words[4 * FR_PHILOX], const uint32_t counter[4],
                                    const uint32_t key[2])
{
    uint32_t a[FR_PHILOX], b[FR_PHILOX], c[FR_PHILOX], d[FR_PHILOX];
    uint32_t k0 = key[0], k1 = key[1];
    for (uint32_t i = 0; i < FR_PHILOX; i++) {
        a[i] = counter[0] + i;
        b[i] = counter[1];
        c[i] = counter[2];
        d[i] = counter[3];
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < FR_PHILOX; i++) {
            const uint64_t p = (uint64_t)0xD2511F53u * a[i], q = (uint64_t)0xCD9E8D57u * c[i];
            a[i] = (uint32_t)(q >> 32) ^ b[i] ^ k0;
            b[i] = (uint32_t)q;
            c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1;
            d[i] = (uint32_t)p;
        }
        k0 += 0x9E3779B9u; /* a Weyl sequence: of the golden ratio, and of sqrt(3) - 1 */
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < FR_PHILOX; i++) {
        words[4 * i] = a[i];
        words[4 * i + 1] = b[i];
        words[4 * i + 2] = c[i];
        words[4 * i + 3] = d[i];
    }
}

#endif
