/* team.c: the threads. One job at a time is handed to all of them; a sequence is one job.
 *
 * A worker waits for its next job by spinning for a short while, since the next layer is
 * usually microseconds away, and then parks on a condition variable, so that an idle process
 * costs nothing. A short job that one thread can do alone is only offered to those that are awake. Each
 * worker has a cache line of its own to spin on. The calling thread is thread 0 of every job.
 *
 * Only the forking thread exists in a child process: the team notices (pthread_atfork) and
 * starts anew there. No OpenMP: a second runtime in a process full of them is a known source
 * of deadlocks and of threads that steal each other's cores. */
#ifndef _WIN32
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sched_getcpu, where there is one */
#endif
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <pthread.h>
#include <sched.h>
#include <time.h>
#endif
#include <stdatomic.h>
#include <string.h>

#include "internal.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

enum {
    SPINS_BEFORE_PARKING = 4000,  /* about 50 to 100 us */
    SPINS_BEFORE_YIELDING = 2000, /* then somebody else may need this core to arrive at all */
    CLOSE_TOGETHER_US = 50,
    WAKING_US = 120
};

/* ---- the little that differs between systems ---------------------------------------------- */

#ifdef _WIN32
#include <windows.h>
typedef SRWLOCK lock_t;
typedef CONDITION_VARIABLE wake_t;
#define LOCK_INIT SRWLOCK_INIT
#define lock_take(l) AcquireSRWLockExclusive(l)
#define lock_drop(l) ReleaseSRWLockExclusive(l)
#define lock_try(l) TryAcquireSRWLockExclusive(l)
#define wake_init(w) InitializeConditionVariable(w)
#define lock_init(l) InitializeSRWLock(l)
#define wake_wait(w, l) SleepConditionVariableSRW(w, l, INFINITE, 0)
#define wake_signal(w) WakeConditionVariable(w)
#define yield() SwitchToThread()
int64_t fr_nanoseconds(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (int64_t)(1e9 * (double)ticks.QuadPart / (double)per_second.QuadPart);
}
#else
typedef pthread_mutex_t lock_t;
typedef pthread_cond_t wake_t;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define lock_take(l) pthread_mutex_lock(l)
#define lock_drop(l) pthread_mutex_unlock(l)
#define lock_try(l) (!pthread_mutex_trylock(l))
#define wake_init(w) pthread_cond_init(w, NULL)
#define lock_init(l) pthread_mutex_init(l, NULL)
#define wake_wait(w, l) pthread_cond_wait(w, l)
#define wake_signal(w) pthread_cond_signal(w)
#define yield() sched_yield()
int64_t fr_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
#endif

static int64_t microseconds(void)
{
    return fr_nanoseconds() / 1000;
}

/* ---- waiting ------------------------------------------------------------------------------ */

/* Until *value, which is returned, is no longer behind `wanted`; both count round and round. */
static unsigned spin_until(_Atomic int *value, unsigned wanted)
{
    for (int spins = 0;; spins++) {
        const unsigned now = (unsigned)atomic_load_explicit(value, memory_order_acquire);
        if ((int)(now - wanted) >= 0)
            return now;
        if (spins < SPINS_BEFORE_YIELDING)
            RELAX();
        else
            yield();
    }
}

void fr_meet(fr_place *places, int n, int me)
{
    const unsigned times =
        (unsigned)atomic_load_explicit(&places[me].times, memory_order_relaxed) + 1;
    atomic_store_explicit(&places[me].times, (int)times, memory_order_release);
    for (int i = 0; i < n; i++)
        spin_until(&places[i].times, times);
}

void fr_tell(fr_place *place, int64_t times)
{
    atomic_store_explicit(&place->times, (int)(unsigned)times, memory_order_release);
}

int64_t fr_wait(fr_place *place, int64_t times)
{
    const int ahead = (int)(spin_until(&place->times, (unsigned)times) - (unsigned)times);
    return times + ahead;
}

/* ---- where ------------------------------------------------------------------------------------ */

#ifdef __linux__
static int this_core(void)
{
    return sched_getcpu();
}

/* A thread that is woken often finds itself on the core of who woke it, if the others are busy with
 * something unimportant; and there the two would spin by turns, a time slice each. Forbidden that
 * core for a moment, it is moved to another at once. */
static void leave_core(int core)
{
    cpu_set_t allowed, others;
    if (core < 0 || core >= CPU_SETSIZE || sched_getcpu() != core ||
        sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others))
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static int this_core(void)
{
    return -1;
}

static void leave_core(int core)
{
    (void)core;
}
#endif

/* ---- the team ----------------------------------------------------------------------------- */

typedef struct worker {
    /* what a spinning worker waits for and then needs, in one line */
    _Alignas(64) _Atomic int go; /* number of the newest job for this worker */
    _Atomic int parked;
    fr_job *job;
    void *arg;
    size_t bytes; /* of arg */
    int caller;   /* the core that thread 0 is on */
    int tid;
    _Alignas(64) _Atomic int done; /* number of the last job it finished */
    _Alignas(64) lock_t lock;
    wake_t wake;
} worker;

static worker workers[FR_MAX_THREADS];
static int started; /* workers[1 .. started] exist */
static lock_t team = LOCK_INIT;

static void run_flushed(fr_job *job, void *arg, int tid)
{
    const unsigned long saved = fr_flush_on();
    job(arg, tid);
    fr_flush_restore(saved);
}

/* What the caller has just written comes from its cache one line after the other, as the job gets to it,
 * unless all are asked for at once. */
static void fetch(const void *arg, size_t bytes)
{
    const char *const end = (const char *)arg + bytes;
    for (const char *line = (const char *)arg - (uintptr_t)arg % 64; line < end; line += 64)
        FR_PREFETCH(line);
}

static void wait_for_job(worker *w, int seen)
{
    for (int spins = 0; spins < SPINS_BEFORE_PARKING; spins++) {
        if (atomic_load_explicit(&w->go, memory_order_acquire) != seen)
            return;
        RELAX();
    }
    lock_take(&w->lock);
    atomic_store(&w->parked, 1); /* before looking again: the caller looks in the other order */
    while (atomic_load(&w->go) == seen)
        wake_wait(&w->wake, &w->lock);
    atomic_store(&w->parked, 0);
    lock_drop(&w->lock);
}

#ifdef _WIN32
static DWORD WINAPI work(void *arg)
#else
static void *work(void *arg)
#endif
{
    worker *w = arg;
    for (int seen = 0;; seen++) {
        wait_for_job(w, seen);
        fetch(w->arg, w->bytes);
        leave_core(w->caller);
        run_flushed(w->job, w->arg, w->tid);
        atomic_store_explicit(&w->done, seen + 1, memory_order_release);
    }
    return 0;
}

static int start(worker *w)
{
#ifdef _WIN32
    HANDLE thread = CreateThread(NULL, 0, work, w, 0, NULL);
    if (thread)
        CloseHandle(thread);
    return thread != NULL;
#else
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, w))
        return 0;
    pthread_detach(thread);
    return 1;
#endif
}

#ifndef _WIN32
static void after_fork(void)
{
    started = 0;
    lock_init(&team);
}
#endif

/* With the team's lock held. */
static fr_status grow(int threads)
{
#ifndef _WIN32
    static int watching_forks;
    if (!watching_forks && pthread_atfork(NULL, NULL, after_fork))
        return FR_ETHREAD;
    watching_forks = 1;
#endif
    while (started < threads - 1) {
        worker *w = &workers[started + 1];
        memset(w, 0, sizeof *w);
        w->tid = started + 1;
        lock_init(&w->lock);
        wake_init(&w->wake);
        if (!start(w))
            return FR_ETHREAD;
        started++;
    }
    return FR_OK;
}

/* With the team's lock held, and grown. */
static void run_all(int threads, fr_job *job, void *arg, size_t bytes)
{
    const int core = this_core();
    for (int i = 1; i < threads; i++) {
        worker *w = &workers[i];
        w->caller = core;
        w->job = job;
        w->arg = arg;
        w->bytes = bytes;
        atomic_fetch_add(&w->go, 1);
        if (atomic_load(&w->parked)) {
            lock_take(&w->lock);
            wake_signal(&w->wake);
            lock_drop(&w->lock);
        }
    }
    run_flushed(job, arg, 0);
    for (int i = 1; i < threads; i++)
        spin_until(&workers[i].done,
                   (unsigned)atomic_load_explicit(&workers[i].go, memory_order_relaxed));
}

fr_status fr_team_run(int threads, fr_job *job, void *arg, size_t bytes)
{
    if (threads <= 1) {
        run_flushed(job, arg, 0);
        return FR_OK;
    }
    /* Two callers at once take turns: each job still gets all its threads, and so its result
     * does not depend on who else is there. */
    lock_take(&team);
    const fr_status status = grow(threads);
    if (status == FR_OK)
        run_all(threads, job, arg, bytes);
    lock_drop(&team);
    return status;
}

/* Jobs without their workers: when the last one came back, and how long those took that came close
 * together up to it. */
static _Atomic int64_t alone_until, alone_for;

/* To wake a worker takes 10 to 30 us, of a virtual machine 120, longer than many a job that it could help
 * with. It is worth it for calls that come close together, once they have taken as long as that: so
 * about as much again is lost at most. With the team's lock held. */
static int worth_waking(int threads)
{
    for (int i = 1; i < threads; i++)
        if (atomic_load_explicit(&workers[i].parked, memory_order_relaxed))
            return alone_for >= WAKING_US && microseconds() - alone_until < CLOSE_TOGETHER_US;
    return 1;
}

void fr_team_leave(fr_job *job, void *arg)
{
    const int64_t start = microseconds();
    run_flushed(job, arg, 0);
    const int64_t end = microseconds(),
                  before = start - alone_until < CLOSE_TOGETHER_US ? alone_for : 0;
    alone_for = before + (end - start);
    alone_until = end;
}

void fr_team_offer(int threads, fr_job *job, void *arg, size_t bytes, int *alone)
{
    *alone = 0;
    if (threads > 1 && lock_try(&team)) {
        const int together = grow(threads) == FR_OK && worth_waking(threads);
        if (together)
            run_all(threads, job, arg, bytes);
        lock_drop(&team);
        if (together)
            return;
    }
    *alone = 1;
    fr_team_leave(job, arg);
}

/* ---- how many ----------------------------------------------------------------------------- */

static _Atomic int threads_wanted = 1;

int fr_get_num_threads(void)
{
    return threads_wanted;
}

fr_status fr_set_num_threads(int n)
{
    if (n < 1 || n > FR_MAX_THREADS)
        return FR_EARG;
    threads_wanted = n;
    return FR_OK;
}
