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

fr_status naive_blas_select(int ilp64)
{
    fr_blas blas = {"naive", NULL, NULL, ilp64, set_threads};
    if (ilp64) {
        ADDRESS(blas.sgemm, sgemm64);
        ADDRESS(blas.dgemm, dgemm64);
    } else {
        ADDRESS(blas.sgemm, sgemm32);
        ADDRESS(blas.dgemm, dgemm32);
    }
    return fr_blas_select(&blas);
}

fr_status wrong_blas_select(void)
{
    fr_blas blas = {"wrong", NULL, NULL, 0, NULL};
    ADDRESS(blas.sgemm, sgemm32);
    ADDRESS(blas.dgemm, sgemm32); /* the wrong element type */
    return fr_blas_select(&blas);
}
