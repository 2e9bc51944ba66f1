/* check.h: what a test program is made of. No framework, no dependency.
 *
 *   static void zero_rows_are_allowed(void) { CHECK(status == FR_OK, "B %d", b); }
 *   int main(void) { RUN(zero_rows_are_allowed); return summary(); }
 *
 * The name of a test is a sentence; a failed CHECK prints it together with the message, which
 * says for which case. The last line of a program is `N passed, N failed`. */
#ifndef FR_CHECK_H
#define FR_CHECK_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "fastrnn.h"

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

/* ---- tests -------------------------------------------------------------------------------- */

typedef void test_fn(void);

#define RUN(test) run_test(#test, test)
#define RUN_ON_EVERY_ISA(test) run_on_every_isa(#test, test)
#define CHECK(condition, ...)                                                                      \
    ((condition) ? (void)0 : fail_check(__FILE__, __LINE__, #condition, __VA_ARGS__))

void run_test(const char *name, test_fn *test);
void run_on_every_isa(const char *name, test_fn *test); /* ends with the best one selected */
void fail_check(const char *file, int line, const char *condition, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 4, 5)))
#endif
    ;
int summary(void); /* prints it, and answers main's exit code */

/* ---- memory ------------------------------------------------------------------------------- */

/* `bytes` bytes, 64-byte aligned, every one of them 0xff: NaN as a real, out of range as an integer.
 * The address sanitizer watches both ends; without it, canaries do. */
void *guarded(size_t bytes);
void release(void *p); /* a failed check if a canary has changed; NULL is fine */
int untouched(const void *p, size_t bytes); /* still 0xff all over */

/* ---- numbers ------------------------------------------------------------------------------ */

/* Uniform in [-1, 1), and exactly representable in float: both element types get the same data. */
double uniform(void);
int64_t below(int64_t n); /* 0 .. n-1 */
void seed(uint64_t s);

/* Elements of arrays whose type is known only at run time. */
double get(const void *p, fr_dtype dtype, ptrdiff_t i);
void put(void *p, fr_dtype dtype, ptrdiff_t i, double value);
size_t real_size(fr_dtype dtype);

/* |a - b| / (|b| + floor), root-mean-square norms. The floor keeps an answer that is nearly zero
 * by cancellation from being judged by digits that its terms never had. Any NaN gives infinity. */
double distance(const double *a, const double *b, size_t n);

#endif
