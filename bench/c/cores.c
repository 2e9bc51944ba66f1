/* cores.c: in what state the two cores of this machine are at the moment, for bench/cores.py.
 *
 * A virtual machine's processors move about below it. They may be two cores side by side; one core's
 * two hardware threads, which together do no more than one; cores that do not share a third-level
 * cache, between which a line takes five times as long; or shared with another machine's work, which takes
 * a part of their multipliers or of their second-level caches. What two threads gain is then a matter of
 * the minute, whatever they run.
 *
 * For every line on standard input, two threads run independent multiply-adds at the same time, each
 * pinned to a processor, read half of a second-level cache several times, and hand a line of memory to and
 * fro. Printed, a line of JSON: what each did in GFLOP/s and read in GB/s, and nanoseconds there and back.
 * A check takes a millisecond; between two, both sleep.
 *
 *   make -C csrc cores && while sleep 1; do echo; done | csrc/build/plain/cores */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "peak.h"

enum {
    WARM_TURNS = 10000,
    TURNS = 30000,
    READINGS = 8,
    EXCHANGES = 1000,
    MEETINGS = 3,
    TURNS_OF_PATIENCE = 1 << 20
};

static double nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static struct line {
    _Alignas(128) atomic_long count;
} lines[2]; /* each written by one of the threads only */

/* On a machine with other work the other thread may have no core for a while. */
static void wait_for(int who, long count)
{
    for (long turns = 0; atomic_load_explicit(&lines[who].count, memory_order_acquire) < count;
         turns++)
        if (turns > TURNS_OF_PATIENCE)
            sched_yield();
}

static void tell(int me, long count)
{
    atomic_store_explicit(&lines[me].count, count, memory_order_release);
}

static double gflops[2], gbps[2], there_and_back;
static float *data[2]; /* as much as half of a second-level cache holds */
static size_t count;

static void check(int me, long first)
{
    peak_run(WARM_TURNS); /* the clock of wide vectors settles */
    tell(me, first);
    wait_for(!me, first);
    const double start = nanoseconds(), flops = peak_run(TURNS);
    gflops[me] = flops / (nanoseconds() - start);
    read_all(data[me], count);
    tell(me, first + 1);
    wait_for(!me, first + 1);
    const double reading = nanoseconds();
    for (int i = 0; i < READINGS; i++)
        read_all(data[me], count);
    gbps[me] = READINGS * sizeof(float) * (double)count / (nanoseconds() - reading);
    tell(me, first + 2);
    wait_for(!me, first + 2);
    const double begin = nanoseconds();
    for (long i = MEETINGS; i < EXCHANGES + MEETINGS; i++) {
        if (me)
            wait_for(0, first + i);
        tell(me, first + i);
        if (!me)
            wait_for(1, first + i);
    }
    if (!me)
        there_and_back = (nanoseconds() - begin) / EXCHANGES;
}

/* The n-th processor that this process may use; -1: there are fewer. */
static int processor(int n)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return -1;
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &allowed) && n-- == 0)
            return i;
    return -1;
}

static int pin(int to)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(to, &one);
    return sched_setaffinity(0, sizeof one, &one);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked = PTHREAD_COND_INITIALIZER;
static long checks;

static long first_of(long check)
{
    return (check - 1) * (EXCHANGES + MEETINGS) + 1;
}

static void *second(void *arg)
{
    if (pin(*(int *)arg))
        abort();
    for (long done = 0;; done++) {
        pthread_mutex_lock(&lock);
        while (checks == done)
            pthread_cond_wait(&asked, &lock);
        pthread_mutex_unlock(&lock);
        check(1, first_of(done + 1));
    }
    return NULL;
}

int main(void)
{
    char line[256];
    int on[2] = {processor(0), processor(1)};
    pthread_t thread;
    if (on[1] < 0) {
        fprintf(stderr, "cores: one processor has no state to speak of; two are needed\n");
        return 1;
    }
    count = cache_bytes(1) / 2 / 4096 * 4096 / sizeof(float);
    for (int i = 0; i < 2; i++) {
        data[i] = aligned_alloc(4096, count * sizeof(float));
        if (!data[i])
            abort();
        for (size_t k = 0; k < count; k++)
            data[i][k] = 1e-6f * (float)(k % 1000); /* pages of their own, nothing denormal */
    }
    if (pthread_create(&thread, NULL, second, &on[1]) || pin(on[0]))
        abort();
    while (fgets(line, sizeof line, stdin)) {
        pthread_mutex_lock(&lock);
        checks++;
        pthread_cond_signal(&asked);
        pthread_mutex_unlock(&lock);
        check(0, first_of(checks));
        printf("{\"gflops\": [%.1f, %.1f], \"gbps\": [%.1f, %.1f], \"there_and_back_ns\": %.0f}\n",
               gflops[0], gflops[1], gbps[0], gbps[1], there_and_back);
        fflush(stdout);
    }
    return 0;
}
