/* limits.c: what this machine can do, for bench/limits.py to compare times with.
 *
 * Measured, with one thread and with two (each on all of its data at once):
 *
 *   fma_gflops      independent multiply-adds in registers (peak.c), float32
 *   read_gbps       summing an array that lies in L1, L2, L3 or memory
 *   fma_ns          one multiply-add that waits for the one before it
 *   barrier_ns      two threads that wait for each other, once; absent on one processor
 *
 * The figures are medians of alternating rounds, with quartiles, printed as one JSON object. Working
 * sets follow the sizes of the caches where the system tells them.
 *
 *   make -C csrc limits           or, from csrc:  build/plain/limits --rounds 15 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "peak.h"

enum { MOST_ROUNDS = 99, MOST_THREADS = 2, LEVELS = 4 };

static const char *const level_names[LEVELS] = {"L1", "L2", "L3", "DRAM"};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the work of a thread ---------------------------------------------------------------------- */

static volatile float sink;

/* One chain: the result of each multiply-add is an operand of the next. */
#define CHAIN(name, attributes)                                                                    \
    attributes static void name(long turns)                                                        \
    {                                                                                              \
        typedef float vector __attribute__((vector_size(16)));                                     \
        vector chain = {sink}, factor = {0.9f + sink}, term = {0.1f + sink};                       \
        for (long t = 0; t < turns; t++) {                                                         \
            _Pragma("GCC unroll 8") for (int k = 0; k < 8; k++) chain = chain * factor + term;     \
        }                                                                                          \
        sink = chain[0] * 0;                                                                       \
    }

#if defined(__x86_64__)
CHAIN(chain_sse, )
CHAIN(chain_fma, __attribute__((target("avx2,fma"))))

static void chain(long turns)
{
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        chain_fma(turns);
    else
        chain_sse(turns);
}
#else
CHAIN(chain_baseline, )

static void chain(long turns)
{
    chain_baseline(turns);
}
#endif

/* ---- threads ----------------------------------------------------------------------------------- */

/* Both sides of a barrier, each on lines of its own; every thread counts its arrivals. */
static struct arrival {
    _Alignas(128) atomic_long count;
} arrivals[MOST_THREADS];

/* Returns after a while without the other thread: on a busy machine it may have lost its core. */
static void wait_for(int other, long count)
{
    for (long spins = 0; atomic_load_explicit(&arrivals[other].count, memory_order_acquire) < count;
         spins++)
        if (spins > 20000)
            sched_yield();
}

static void meet(int me, long count)
{
    atomic_store_explicit(&arrivals[me].count, count, memory_order_release);
    wait_for(!me, count);
}

enum work { FMA, READ_LEVEL, BARRIER };

typedef struct task {
    enum work work;
    int me, threads, away_from; /* the core of the first thread, or -1 */
    const float *data;
    size_t count; /* floats */
    long turns;
    double done, start, end; /* flops, bytes or barriers; when */
} task;

static void *run(void *argument)
{
    task *t = argument;
    keep_off_core(t->away_from);
    if (t->threads > 1)
        meet(t->me, 1); /* start together, or the first would measure an idle machine */
    t->start = seconds();
    switch (t->work) {
    case FMA:
        t->done = peak_run(t->turns);
        break;
    case READ_LEVEL:
        for (long i = 0; i < t->turns; i++)
            read_all(t->data, t->count);
        t->done = (double)t->turns * (double)t->count * sizeof(float);
        break;
    case BARRIER:
        for (long i = 0; i < t->turns; i++)
            meet(t->me, i + 2);
        t->done = (double)t->turns;
        break;
    }
    t->end = seconds();
    return NULL;
}

/* What all threads did in a second. */
static double rate(task model, int threads, float *const data[])
{
    pthread_t thread[MOST_THREADS];
    task tasks[MOST_THREADS];
    double done = 0, start = 1e300, end = 0;
    for (int i = 0; i < threads; i++) {
        atomic_store(&arrivals[i].count, 0);
        tasks[i] = model;
        tasks[i].me = i;
        tasks[i].threads = threads;
        tasks[i].away_from = i ? sched_getcpu() : -1;
        tasks[i].data = data[i];
    }
    for (int i = 1; i < threads; i++)
        if (pthread_create(&thread[i], NULL, run, &tasks[i]))
            abort();
    run(&tasks[0]);
    for (int i = 1; i < threads; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < threads; i++) {
        done += tasks[i].done;
        start = tasks[i].start < start ? tasks[i].start : start;
        end = tasks[i].end > end ? tasks[i].end : end;
    }
    return done / (end - start);
}

/* ---- sizes --------------------------------------------------------------------------------------- */

/* Of each thread: half of a cache that is its own; of the shared L3 a quarter, but enough to be
 * out of L2; of memory more than L3 holds. */
static size_t working_set(int level)
{
    const size_t l2 = cache_bytes(1), l3 = cache_bytes(2);
    size_t bytes = level == 0 ? cache_bytes(0) / 2 : level == 1 ? l2 / 2 : l3 / 8;
    if (level == 2 && bytes < 3 * l2)
        bytes = 3 * l2;
    if (level == 3)
        bytes = 2 * l3 < (size_t)128 << 20 ? 2 * l3 : (size_t)128 << 20;
    return bytes / 4096 * 4096;
}

/* ---- results ------------------------------------------------------------------------------------- */

typedef struct series {
    double value[MOST_ROUNDS];
} series;

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_series(series s, int n)
{
    qsort(s.value, (size_t)n, sizeof *s.value, ascending);
    printf("{\"median\": %.4g, \"low\": %.4g, \"high\": %.4g}", s.value[n / 2], s.value[n / 4],
           s.value[n - 1 - n / 4]);
}

static series fma[MOST_THREADS], reading[LEVELS][MOST_THREADS], latency, barrier;

static void measure(int round, int threads, float *const data[])
{
    for (int n = 1; n <= threads; n++) {
        fma[n - 1].value[round] = rate((task){.work = FMA, .turns = 500000}, n, data) * 1e-9;
        for (int level = 0; level < LEVELS; level++) {
            const size_t bytes = working_set(level);
            const long turns = level == 3 ? 1 : (long)(((size_t)64 << 20) / bytes);
            const task t = {.work = READ_LEVEL, .count = bytes / sizeof(float), .turns = turns};
            if (level < 3) /* into the cache, outside the clock */
                rate((task){.work = READ_LEVEL, .count = t.count, .turns = 2}, n, data);
            reading[level][n - 1].value[round] = rate(t, n, data) * 1e-9;
        }
    }
    const double start = seconds();
    chain(200000);
    latency.value[round] = (seconds() - start) / (8 * 200000.0) * 1e9;
    if (threads > 1)
        barrier.value[round] =
            1e9 / rate((task){.work = BARRIER, .turns = 300}, 2, data) * 2; /* both counted */
}

static void print_by_threads(const char *name, const series *s, int threads, int rounds)
{
    printf("\"%s\": {", name);
    for (int n = 1; n <= threads; n++) {
        printf("%s\"%d\": ", n > 1 ? ", " : "", n);
        print_series(s[n - 1], rounds);
    }
    printf("}");
}

int main(int argc, char **argv)
{
    int rounds = 9;
    if (argc == 3 && !strcmp(argv[1], "--rounds"))
        rounds = atoi(argv[2]);
    else if (argc != 1)
        rounds = 0;
    if (rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: limits [--rounds N]    1 to %d, default 9\n", MOST_ROUNDS);
        return 2;
    }
    const int threads = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? MOST_THREADS : 1;
    const size_t most = working_set(LEVELS - 1);
    float *data[MOST_THREADS] = {NULL};
    for (int i = 0; i < threads; i++) {
        data[i] = aligned_alloc(4096, most);
        if (!data[i])
            abort();
        for (size_t k = 0; k < most / sizeof(float); k++)
            data[i][k] = 1e-6f * (float)(k % 1000); /* pages of their own, nothing denormal */
    }
    for (int round = 0; round < rounds; round++)
        measure(round, threads, data);

    printf("{");
    print_by_threads("fma_gflops", fma, threads, rounds);
    printf(",\n \"read_gbps\": {");
    for (int level = 0; level < LEVELS; level++) {
        printf("%s", level ? ",\n  " : "");
        print_by_threads(level_names[level], reading[level], threads, rounds);
    }
    printf("},\n \"cache_bytes\": {\"L1\": %zu, \"L2\": %zu, \"L3\": %zu},\n \"fma_ns\": ",
           cache_bytes(0), cache_bytes(1), cache_bytes(2));
    print_series(latency, rounds);
    if (threads > 1) {
        printf(",\n \"barrier_ns\": ");
        print_series(barrier, rounds);
    }
    printf("}\n");
    for (int i = 0; i < threads; i++)
        free(data[i]);
    return 0;
}
