/* gemm.c: dense products, and the provider of those that are batched over time.
 *
 * The only file that knows BLAS conventions. Everything here is row-major, C = op(A) op(B); a
 * foreign provider is called through CBLAS, which takes row-major as it is. */
#ifndef _WIN32
#include <pthread.h>
#endif
#include <string.h>

#include "internal.h"

/* ---- providers ---------------------------------------------------------------------------- */

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

typedef void sgemm32(int, int, int, int, int, int, float, const float *, int, const float *, int,
                     float, float *, int);
typedef void dgemm32(int, int, int, int, int, int, double, const double *, int, const double *, int,
                     double, double *, int);
typedef void sgemm64(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                     const float *, int64_t, float, float *, int64_t);
typedef void dgemm64(int, int, int, int64_t, int64_t, int64_t, double, const double *, int64_t,
                     const double *, int64_t, double, double *, int64_t);

static fr_blas provider; /* sgemm NULL: own */
static char provider_name[32] = "own";
static int serial; /* 0: own */

int fr_blas_serial(void)
{
    return provider.sgemm ? serial : 0;
}

const char *fr_blas_name(void)
{
    return provider.sgemm ? provider_name : "own";
}

/* A data pointer that holds a function's address: ISO C has no cast for it, POSIX and Windows
 * promise that the bits are the same. */
#define AS_FUNCTION(type, from, to)                                                                \
    type *to;                                                                                      \
    memcpy(&to, &(from), sizeof to)

static void call_blas(const fr_blas *blas, fr_dtype dtype, int ta, int tb, int64_t M, int64_t N,
                      int64_t K, const void *A, int64_t lda, const void *B, int64_t ldb,
                      double beta, void *C, int64_t ldc)
{
    const int a = ta ? TRANS : NO_TRANS, b = tb ? TRANS : NO_TRANS;
    if (dtype == FR_F32 && blas->ilp64) {
        AS_FUNCTION(sgemm64, blas->sgemm, gemm);
        gemm(ROW_MAJOR, a, b, M, N, K, 1, A, lda, B, ldb, (float)beta, C, ldc);
    } else if (dtype == FR_F32) {
        AS_FUNCTION(sgemm32, blas->sgemm, gemm);
        gemm(ROW_MAJOR, a, b, (int)M, (int)N, (int)K, 1, A, (int)lda, B, (int)ldb, (float)beta, C,
             (int)ldc);
    } else if (blas->ilp64) {
        AS_FUNCTION(dgemm64, blas->dgemm, gemm);
        gemm(ROW_MAJOR, a, b, M, N, K, 1, A, lda, B, ldb, beta, C, ldc);
    } else {
        AS_FUNCTION(dgemm32, blas->dgemm, gemm);
        gemm(ROW_MAJOR, a, b, (int)M, (int)N, (int)K, 1, A, (int)lda, B, (int)ldb, beta, C,
             (int)ldc);
    }
}

void fr_blas_gemm(fr_dtype dtype, int ta, int tb, int64_t M, int64_t N, int64_t K, const void *A,
                  int64_t lda, const void *B, int64_t ldb, double beta, void *C, int64_t ldc)
{
    if (M && N && K)
        call_blas(&provider, dtype, ta, tb, M, N, K, A, lda, B, ldb, beta, C, ldc);
}

/* Calls may overlap, and its number of threads is one for the whole process: the first call in
 * sets it, the last one out puts it back. */
static atomic_flag counting = ATOMIC_FLAG_INIT;
static int calls_inside, threads_before;
static int left_behind; /* by calls that a fork has ended: threads_before is still to be put back */

static int swap_threads(int n)
{
    if (provider.set_threads)
        return provider.set_threads(n);
    if (!provider.get_threads || !provider.put_threads)
        return 0;
    const int old = provider.get_threads();
    provider.put_threads(n);
    return old;
}

void fr_blas_enter(void)
{
    while (atomic_flag_test_and_set_explicit(&counting, memory_order_acquire))
        ;
    if (calls_inside++ == 0) {
        const int now = swap_threads(1);
        threads_before = left_behind ? threads_before : now;
        left_behind = 0;
    }
    atomic_flag_clear_explicit(&counting, memory_order_release);
}

#ifndef _WIN32
/* In the child, where the calls of other threads will never end. */
static void after_fork(void)
{
    left_behind = left_behind || calls_inside > 0;
    calls_inside = 0;
    atomic_flag_clear(&counting);
}
#endif

void fr_blas_leave(void)
{
    while (atomic_flag_test_and_set_explicit(&counting, memory_order_acquire))
        ;
    if (--calls_inside == 0)
        swap_threads(threads_before);
    atomic_flag_clear_explicit(&counting, memory_order_release);
}

/* A library of 64-bit integers that is declared as one of 32 would read halves of registers that
 * nobody has set. Where the halves of an argument can be told apart (a function of 32-bit integers
 * takes the low one and expects nothing of the other), the first call sets both, so that M is 2 in
 * the low half and negative as a whole, which means no rows at all. Declared the other way round,
 * the library reads low halves that are right for every product that fits into memory. */
#if (defined(__x86_64__) || defined(__aarch64__) || defined(_M_X64) || defined(_M_ARM64))
static const int64_t M_of_low_half = 2 - ((int64_t)1 << 32);
#else
static const int64_t M_of_low_half = 2;
#endif

/* A^T B of small integers has one right answer in any arithmetic; a wrong order, a wrong symbol or
 * 64-bit integers where 32 were promised do not give it. */
static int answers(const fr_blas *blas, int64_t M)
{
    const float af[6] = {1, 2, 3, 4, 5, 6}, bf[6] = {7, 8, 9, 10, 11, 12};
    const double ad[6] = {1, 2, 3, 4, 5, 6}, bd[6] = {7, 8, 9, 10, 11, 12};
    const int want[4] = {89 + 1, 98 + 1, 116 + 1, 128 + 1};
    float cf[4] = {1, 1, 1, 1};
    double cd[4] = {1, 1, 1, 1};
    call_blas(blas, FR_F32, 1, 0, M, 2, 3, af, 2, bf, 2, 1, cf, 2);
    call_blas(blas, FR_F64, 1, 0, M, 2, 3, ad, 2, bd, 2, 1, cd, 2);
    for (int i = 0; i < 4; i++)
        if (cf[i] != (float)want[i] || cd[i] != want[i])
            return 0;
    return 1;
}

static int answers_correctly(const fr_blas *blas)
{
    fr_blas wide = *blas;
    wide.ilp64 = 1;
    if (M_of_low_half < 0 && !blas->ilp64 && !answers(&wide, M_of_low_half))
        return 0;
    return answers(blas, 2);
}

fr_status fr_blas_select(const fr_blas *blas)
{
    if (!blas) {
        memset(&provider, 0, sizeof provider);
        return FR_OK;
    }
    if (!blas->sgemm || !blas->dgemm || !blas->name)
        return FR_EARG;
    if (!answers_correctly(blas))
        return FR_EBLAS;
#ifndef _WIN32
    static int watching_forks;
    if (!watching_forks && pthread_atfork(NULL, NULL, after_fork))
        return FR_EBLAS;
    watching_forks = 1;
#endif
    left_behind = 0; /* it is another provider's */
    strncpy(provider_name, blas->name, sizeof provider_name - 1);
    provider = *blas;
    provider.name = provider_name;
    serial++;
    return FR_OK;
}

/* ---- the public product ------------------------------------------------------------------- */

enum { ALIGN = FR_ALIGN };

static size_t align_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Byte offsets in scratch: places to meet, panels, then a block for each thread. */
static size_t layout(const fr_gemm_args *g, int threads, fr_gemm_call *call)
{
    const size_t real = g->dtype == FR_F64 ? 8 : 4;
    const int nr = fr_current_kernels()->typed[g->dtype].nr;
    const size_t panels = align_up((size_t)((g->N + nr - 1) / nr * nr) * (size_t)g->K * real);
    const size_t work = align_up(FR_MC * (FR_KC + 16) * real);
    size_t at = sizeof(fr_place) * (size_t)threads;
    if (call) {
        char *base = g->scratch;
        call->places = (fr_place *)base;
        call->panels = base + at;
        call->work = base + at + panels;
        call->work_stride = work;
    }
    return at + panels + work * (size_t)threads;
}

static int threads_of(const fr_gemm_args *g)
{
    return g->threads ? g->threads : fr_get_num_threads();
}

static fr_status check(const fr_gemm_args *g)
{
    if (!g || g->threads < 0 || g->threads > FR_MAX_THREADS ||
        (g->dtype != FR_F32 && g->dtype != FR_F64))
        return FR_EARG;
    if (g->M < 0 || g->N < 0 || g->K < 0)
        return FR_EDIM;
    const int64_t most = INT64_MAX / 64;
    if (g->N > most || (g->N && g->K > most / (g->N + 64)) || (g->N && g->M > most / g->N) ||
        (g->K && g->M > most / g->K))
        return FR_EDIM;
    if (g->lda < (g->transpose_a ? g->M : g->K) || g->ldb < (g->transpose_b ? g->K : g->N) ||
        g->ldc < g->N)
        return FR_EDIM;
    return FR_OK;
}

size_t fr_gemm_scratch_bytes(const fr_gemm_args *args)
{
    return check(args) == FR_OK ? layout(args, threads_of(args), NULL) : 0;
}

void fr_gemm_begin(fr_gemm_call *call, const fr_gemm_args *args)
{
    *call = (fr_gemm_call){.args = *args, .threads = 1};
    layout(args, 1, call);
}

fr_status fr_gemm(const fr_gemm_args *args)
{
    const fr_status status = check(args);
    if (status != FR_OK)
        return status;
    if (args->M == 0 || (args->N == 0 && !args->sums)) /* the sums are of A alone */
        return FR_OK;
    if ((args->N && !args->C) || (args->K && (!args->A || (args->N && !args->B))) || !args->scratch)
        return FR_EARG;
    fr_gemm_call call = {.args = *args};
    const double multiplies = (double)args->M * args->N * args->K;
    call.threads = threads_of(args);
    if (multiplies < (double)FR_PRODUCT_OF_A_THREAD * call.threads || args->M < call.threads)
        call.threads = 1;
    layout(args, call.threads, &call);
    memset(call.places, 0, sizeof(fr_place) * (size_t)call.threads);
    return fr_team_run(call.threads, fr_current_kernels()->typed[args->dtype].gemm, &call,
                       sizeof call);
}
