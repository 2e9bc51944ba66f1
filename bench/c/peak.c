#define _GNU_SOURCE
#include "peak.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { CHAINS = 12 }; /* two units of latency 4 or 5 need 8 to 10; more would not fit AVX2 */

static volatile float sink, was_read; /* the first is 0 */

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

/* Eight sums, so that loads and not additions are what is waited for. */
#define READ(name, attributes, bytes)                                                              \
    attributes static void name(const float *data, size_t count)                                   \
    {                                                                                              \
        typedef float vector __attribute__((vector_size(bytes)));                                  \
        const vector *v = (const vector *)data;                                                    \
        vector sum[8] = {0};                                                                       \
        for (size_t i = 0; i < count / (bytes / 4); i += 8) {                                      \
            _Pragma("GCC unroll 8") for (int k = 0; k < 8; k++) sum[k] += v[i + (size_t)k];        \
        }                                                                                          \
        for (int k = 1; k < 8; k++)                                                                \
            sum[0] += sum[k];                                                                      \
        was_read = sum[0][0];                                                                      \
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

READ(read_sse, , 16)
READ(read_avx2, __attribute__((target("avx2"))), 32)
READ(read_avx512, __attribute__((target("avx512f"))), 64)

void read_all(const float *data, size_t count)
{
    if (__builtin_cpu_supports("avx512f"))
        read_avx512(data, count);
    else if (__builtin_cpu_supports("avx2"))
        read_avx2(data, count);
    else
        read_sse(data, count);
}
#else
PEAK(peak_baseline, , 16)
READ(read_baseline, , 16)

double peak_run(long turns)
{
    return peak_baseline(turns);
}

void read_all(const float *data, size_t count)
{
    read_baseline(data, count);
}
#endif

/* Linux has the sizes in files; sysconf adds up the caches of a whole host inside some guests. */
size_t cache_bytes(int level)
{
    static const size_t usual[3] = {32 << 10, 512 << 10, 16 << 20};
    for (int index = 0; index < 8; index++) {
        char path[96], type[16] = "";
        int number = 0;
        long kilobytes = 0;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
        FILE *f = fopen(path, "r");
        if (!f)
            break;
        const int known = fscanf(f, "%d", &number);
        fclose(f);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", index);
        if (known != 1 || number != level + 1 || !(f = fopen(path, "r")))
            continue;
        const int typed = fscanf(f, "%15s", type);
        fclose(f);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if (typed != 1 || !strcmp(type, "Instruction") || !(f = fopen(path, "r")))
            continue;
        const int sized = fscanf(f, "%ldK", &kilobytes);
        fclose(f);
        if (sized == 1 && kilobytes > 0)
            return (size_t)kilobytes << 10;
    }
    return usual[level];
}

void keep_off_core(int core)
{
    cpu_set_t others;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others))
        return;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others))
        sched_setaffinity(0, sizeof others, &others);
}
