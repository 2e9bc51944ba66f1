#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#endif
#include "check.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- tests -------------------------------------------------------------------------------- */

enum {
    SHOWN = 5,      /* failures printed of one test: the first ones say enough */
    SECONDS = 1800, /* that one test may take, with every sanitizer on a slow machine */
};

static int passed, failed, broken;
static char running[200];

/* Threads that wait for each other in vain are a failure, too, and it should say whose. */
static void give_up(int signal)
{
    static const char before[] = "FAILED ", behind[] = "\n  does not come to an end\n";
    (void)signal;
    if (write(1, before, sizeof before - 1) < 0 || write(1, running, strlen(running)) < 0 ||
        write(1, behind, sizeof behind - 1) < 0)
        _exit(2);
    _exit(1);
}

void run_test(const char *name, test_fn *test)
{
    signal(SIGALRM, give_up);
    alarm(SECONDS);
    snprintf(running, sizeof running, "%s", name);
    for (char *c = running; *c; c++)
        if (*c == '_')
            *c = ' ';
    broken = 0;
    seed(1);
    test();
    alarm(0);
    if (broken > SHOWN)
        printf("  ... and %d more\n", broken - SHOWN);
    if (broken)
        failed++;
    else
        passed++;
}

void run_on_every_isa(const char *name, test_fn *test)
{
    char full[200];
    for (int i = 0; fr_isa_name(i); i++)
        if (fr_isa_available(fr_isa_name(i))) {
            fr_isa_select(fr_isa_name(i));
            snprintf(full, sizeof full, "%s: %s", fr_isa_name(i), name);
            run_test(full, test);
        }
    fr_isa_select(NULL);
}

void fail_check(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list list;
    if (++broken > SHOWN)
        return;
    printf("FAILED %s\n  %s:%d: %s\n  ", running, file, line, condition);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
}

int summary(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

/* ---- memory ------------------------------------------------------------------------------- */

/*   [ bytes | canary ][ data ... ][ canary ]   each bracket 64 bytes, but for the data */
enum { LINE = 64, CANARY = 0x5a };

static int all(const unsigned char *p, size_t bytes, int value)
{
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != value)
            return 0;
    return 1;
}

void *guarded(size_t bytes)
{
    void *raw;
    if (posix_memalign(&raw, LINE, UNDER_ASAN ? bytes + !bytes : LINE + bytes + LINE))
        abort();
    if (UNDER_ASAN)
        return memset(raw, 0xff, bytes);
    unsigned char *p = raw;
    memset(p, CANARY, LINE);
    memcpy(p, &bytes, sizeof bytes);
    memset(p + LINE, 0xff, bytes);
    memset(p + LINE + bytes, CANARY, LINE);
    return p + LINE;
}

void release(void *p)
{
    size_t bytes;
    if (!p || UNDER_ASAN) {
        free(p);
        return;
    }
    unsigned char *raw = (unsigned char *)p - LINE;
    memcpy(&bytes, raw, sizeof bytes);
    CHECK(all(raw + sizeof bytes, LINE - sizeof bytes, CANARY), "written before %zu bytes", bytes);
    CHECK(all(raw + LINE + bytes, LINE, CANARY), "written behind %zu bytes", bytes);
    free(raw);
}

int untouched(const void *p, size_t bytes)
{
    return all(p, bytes, 0xff);
}

/* ---- numbers ------------------------------------------------------------------------------ */

static uint64_t state;

void seed(uint64_t s)
{
    state = s;
}

static uint64_t random_bits(void) /* splitmix64: Steele, Lea & Flood 2014 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

double uniform(void)
{
    return (double)(int64_t)(random_bits() >> 40) / (1 << 23) - 1;
}

int64_t below(int64_t n)
{
    return (int64_t)(random_bits() >> 33) % n;
}

double get(const void *p, fr_dtype dtype, ptrdiff_t i)
{
    return dtype == FR_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

void put(void *p, fr_dtype dtype, ptrdiff_t i, double value)
{
    if (dtype == FR_F64)
        ((double *)p)[i] = value;
    else
        ((float *)p)[i] = (float)value;
}

size_t real_size(fr_dtype dtype)
{
    return dtype == FR_F64 ? sizeof(double) : sizeof(float);
}

double distance(const double *a, const double *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    const double d = n ? sqrt(difference / (double)n) / (sqrt(norm / (double)n) + 0.03) : 0;
    return d == d ? d : INFINITY;
}
