/* peak.h: how many multiply-adds a core does when nothing else stands in the way.
 *
 * Independent chains of fused multiply-adds in registers, on the widest vectors that this machine
 * has: the measure of what a kernel leaves unused. Not a theoretical figure; the clock that the
 * machine gives us at this moment is in it. */
#ifndef FR_PEAK_H
#define FR_PEAK_H

double peak_run(long turns); /* the flops done; takes about 10 ms for 1e6 turns */

/* The calling thread moves to another core than this one (-1: stays), as far as the system lets it:
 * what is asked is what all cores can do, not how soon the system spreads threads over them. */
void keep_off_core(int core);

#endif
