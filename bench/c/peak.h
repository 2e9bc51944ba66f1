/* peak.h: how many multiply-adds a core does, and how much it reads, when nothing else stands in the way.
 *
 * Independent chains of fused multiply-adds in registers, and sums of what is read, on the widest vectors
 * that this machine has: the measure of what a kernel leaves unused. Not theoretical figures; the clock
 * that the machine gives us at this moment is in them. */
#ifndef FR_PEAK_H
#define FR_PEAK_H

#include <stddef.h>

double peak_run(long turns); /* the flops done; takes about 10 ms for 1e6 turns */

void read_all(const float *data, size_t count); /* a multiple of 128 */

/* Of level 0, 1 or 2 for L1, L2 and L3. */
size_t cache_bytes(int level);

/* The calling thread moves to another core than this one (-1: stays), as far as the system lets it:
 * what is asked is what all cores can do, not how soon the system spreads threads over them. */
void keep_off_core(int core);

#endif
