#define _GNU_SOURCE
#include "peak.h"

#include <sched.h>

enum { CHAINS = 12 }; /* two units of latency 4 or 5 need 8 to 10; more would not fit AVX2 */

static volatile float sink;

/* With -ffp-contract=fast, a * b + c on vectors is one instruction wherever there is one. */
#define PEAK(name, attributes, bytes)                                                              \
    attributes static double name(long turns)                                                      \
    {                                                                                              \
        typedef float vector __attribute__((vector_size(bytes)));                                  \
        vector chain[CHAINS], factor = {0}, term = {0};                                            \
        for (int i = 0; i < bytes / 4; i++) {                                                      \
            factor[i] = 0.9f + sink;                                                               \
            term[i] = 0.1f + sink;                                                                 \
        }                                                                                          \
        for (int i = 0; i < CHAINS; i++)                                                           \
            chain[i] = term * (float)i;                                                            \
        for (long t = 0; t < turns; t++) {                                                         \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) chain[i] =                   \
                chain[i] * factor + term;                                                          \
        }                                                                                          \
        for (int i = 1; i < CHAINS; i++)                                                           \
            chain[0] += chain[i];                                                                  \
        for (int i = 0; i < bytes / 4; i++)                                                        \
            sink = chain[0][i] * 0;                                                                \
        return 2.0 * CHAINS * (bytes / 4) * (double)turns;                                         \
    }

#if defined(__x86_64__)
PEAK(peak_sse, , 16)
PEAK(peak_avx2, __attribute__((target("avx2,fma"))), 32)
PEAK(peak_avx512, __attribute__((target("avx512f,fma"))), 64)

double peak_run(long turns)
{
    if (__builtin_cpu_supports("avx512f")) /* asks the operating system too */
        return peak_avx512(turns);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return peak_avx2(turns);
    return peak_sse(turns);
}
#else
PEAK(peak_baseline, , 16)

double peak_run(long turns)
{
    return peak_baseline(turns);
}
#endif

void keep_off_core(int core)
{
    cpu_set_t others;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others))
        return;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others))
        sched_setaffinity(0, sizeof others, &others);
}
