/* naive_blas.c: a CBLAS of three loops, with 32-bit and with 64-bit integers, to stand for the
 * foreign provider of batched products. It takes row-major only, as the engine promises. */
#include <stdlib.h>
#include <string.h>

#include "problem.h"

enum { ROW_MAJOR = 101, TRANS = 112 };

#define NAIVE_GEMM(name, real, integer)                                                            \
    static void name(int order, int ta, int tb, integer M, integer N, integer K, real alpha,       \
                     const real *A, integer lda, const real *B, integer ldb, real beta, real *C,   \
                     integer ldc)                                                                  \
    {                                                                                              \
        if (order != ROW_MAJOR)                                                                    \
            abort();                                                                               \
        for (integer m = 0; m < M; m++)                                                            \
            for (integer n = 0; n < N; n++) {                                                      \
                real sum = 0;                                                                      \
                for (integer k = 0; k < K; k++)                                                    \
                    sum += (ta == TRANS ? A[k * lda + m] : A[m * lda + k]) *                       \
                           (tb == TRANS ? B[n * ldb + k] : B[k * ldb + n]);                        \
                C[m * ldc + n] = alpha * sum + (beta == 0 ? 0 : beta * C[m * ldc + n]);            \
            }                                                                                      \
    }

NAIVE_GEMM(sgemm32, float, int)
NAIVE_GEMM(dgemm32, double, int)
NAIVE_GEMM(sgemm64, float, int64_t)
NAIVE_GEMM(dgemm64, double, int64_t)

static int threads = 7;

static int get_threads(void)
{
    return threads;
}

static void put_threads(int n)
{
    threads = n;
}

static int set_threads(int n)
{
    const int old = threads;
    threads = n;
    return old;
}

int naive_blas_threads(void)
{
    return threads;
}

/* The address of a function in a data pointer, as dlsym would give it. */
#define ADDRESS(to, function)                                                                      \
    do {                                                                                           \
        __typeof__(&function) address = function;                                                  \
        memcpy(&(to), &address, sizeof(to));                                                       \
    } while (0)

/* Threads are set by one function where integers have 32 bits, and by two where they have 64. */
static fr_status select_naive(int ilp64, int declared)
{
    fr_blas blas = {.name = "naive", .ilp64 = declared};
    if (ilp64) {
        blas.get_threads = get_threads;
        blas.put_threads = put_threads;
        ADDRESS(blas.sgemm, sgemm64);
        ADDRESS(blas.dgemm, dgemm64);
    } else {
        blas.set_threads = set_threads;
        ADDRESS(blas.sgemm, sgemm32);
        ADDRESS(blas.dgemm, dgemm32);
    }
    return fr_blas_select(&blas);
}

fr_status naive_blas_select(int ilp64)
{
    return select_naive(ilp64, ilp64);
}

fr_status too_wide_blas_select(void)
{
    return select_naive(1, 0);
}

fr_status wrong_blas_select(void)
{
    fr_blas blas = {.name = "wrong"};
    ADDRESS(blas.sgemm, sgemm32);
    ADDRESS(blas.dgemm, sgemm32); /* the wrong element type */
    return fr_blas_select(&blas);
}
