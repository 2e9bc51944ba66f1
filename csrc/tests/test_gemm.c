/* test_gemm.c: fr_gemm, and the small tools beside it: activations and the fingerprint. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Around tiles (6, 10; of less than 2, 4 or 8 steps as short ones), panels (4 .. 32), FR_MC (72 rows) and
 * FR_KC (320 deep). */
static const int sizes_M[] = {1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13, 73};
static const int sizes_N[] = {1, 3, 8, 9, 17, 33, 70},
                 sizes_K[] = {0, 1, 2, 3, 4, 7, 8, 16, 319, 320, 321};

#define COUNT(list) (sizeof(list) / sizeof *(list))
_Static_assert(COUNT(sizes_K) % 2 && COUNT(sizes_K) % 3,
               "types and flags go in turn: else each depth would meet only some of them");

enum {
    BIAS = 1,
    ACCUMULATE = 2,
    TRANSPOSE_A = 4,
    TRANSPOSE_B = 8,
    GAPS = 16,
    SUMS = 32,
    FLAGS = 64
};

/* A rows x columns matrix in rows of ld; the gaps between them stay 0xff. */
static void *matrix(fr_dtype dtype, int64_t rows, int64_t columns, int64_t ld, double *copy)
{
    const int64_t n = rows ? (rows - 1) * ld + columns : 0;
    void *p = guarded((size_t)n * real_size(dtype));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            put(p, dtype, r * ld + c, copy[r * columns + c] = uniform());
    return p;
}

static void check_product(fr_dtype dtype, int64_t M, int64_t N, int64_t K, int flags)
{
    const int ta = (flags & TRANSPOSE_A) != 0, tb = (flags & TRANSPOSE_B) != 0;
    const int64_t gap = flags & GAPS ? 3 : 0;
    const size_t size = real_size(dtype);
    double *a = calloc((size_t)(M * K + 1), sizeof *a), *b = calloc((size_t)(K * N + 1), sizeof *b);
    double *c = calloc((size_t)(M * N + 1), sizeof *c);
    double *bias = calloc((size_t)N, sizeof *bias);
    fr_gemm_args g = {.dtype = dtype,
                      .M = M,
                      .N = N,
                      .K = K,
                      .lda = (ta ? M : K) + gap,
                      .transpose_a = ta,
                      .ldb = (tb ? K : N) + gap,
                      .transpose_b = tb,
                      .ldc = N + gap,
                      .accumulate = (flags & ACCUMULATE) != 0};
    g.C = matrix(dtype, M, N, g.ldc, c);
    void *A = matrix(dtype, ta ? K : M, ta ? M : K, g.lda, a);
    void *B = matrix(dtype, tb ? N : K, tb ? K : N, g.ldb, b);
    void *bias_given = matrix(dtype, 1, N, N, bias);
    g.A = A;
    g.B = B;
    g.bias = flags & BIAS ? bias_given : NULL;
    double *sums = calloc((size_t)(M + 1), sizeof *sums);
    g.sums = flags & SUMS ? matrix(dtype, 1, M, M, sums) : NULL;
    g.scratch = guarded(fr_gemm_scratch_bytes(&g));

    const fr_status status = fr_gemm(&g);
    CHECK(status == FR_OK, "%s", fr_status_text(status));
    /* Rounding is measured by what was added up, not by what is left of it: one number can be the
     * small difference of large ones. */
    double error = 0;
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double sum = (flags & ACCUMULATE ? c[m * N + n] : 0) + (flags & BIAS ? bias[n] : 0);
            double size_of_terms = fabs(sum);
            for (int64_t k = 0; k < K; k++) {
                const double term =
                    (ta ? a[k * M + m] : a[m * K + k]) * (tb ? b[n * K + k] : b[k * N + n]);
                sum += term;
                size_of_terms += fabs(term);
            }
            error =
                fmax(error, fabs(sum - get(g.C, dtype, m * g.ldc + n)) / (size_of_terms + 1e-300));
        }
    const double d = error, allowed = dtype == FR_F64 ? 1e-15 : 6e-7;
    CHECK(d < allowed, "f%d M %d N %d K %d flags %d: off by %.2g", (int)size * 8, (int)M, (int)N,
          (int)K, flags, d);
    double wrong = 0;
    for (int64_t m = 0; m < M && g.sums; m++) {
        double size_of_terms = fabs(sums[m]);
        for (int64_t k = 0; k < K; k++) {
            sums[m] += ta ? a[k * M + m] : a[m * K + k];
            size_of_terms += fabs(ta ? a[k * M + m] : a[m * K + k]);
        }
        wrong = fmax(wrong, fabs(sums[m] - get(g.sums, dtype, m)) / (size_of_terms + 1e-300));
    }
    CHECK(wrong < allowed, "sums of f%d M %d N %d K %d flags %d", (int)size * 8, (int)M, (int)N,
          (int)K, flags);
    for (int64_t m = 0; m + 1 < M; m++)
        CHECK(untouched((char *)g.C + (size_t)(m * g.ldc + N) * size, (size_t)gap * size),
              "written between rows of C, M %d N %d K %d flags %d", (int)M, (int)N, (int)K, flags);
    release(g.C), release(A), release(B), release(bias_given), release(g.scratch);
    release(g.sums), free(sums);
    free(a), free(b), free(c), free(bias);
}

static void products_of_every_size_and_transpose_are_right(void)
{
    unsigned turn = 0;
    for (size_t m = 0; m < COUNT(sizes_M); m++)
        for (size_t n = 0; n < COUNT(sizes_N); n++)
            for (size_t k = 0; k < COUNT(sizes_K); k++)
                for (int flags = (int)(turn++ % 3); flags < FLAGS; flags += 3)
                    check_product(turn & 1 ? FR_F32 : FR_F64, sizes_M[m], sizes_N[n], sizes_K[k],
                                  flags);
}

static void products_shared_by_threads_are_right(void)
{
    for (int threads = 2; threads <= 3; threads++)
        for (int flags = 0; flags < FLAGS; flags += 5) {
            fr_set_num_threads(threads);
            check_product(flags & 1 ? FR_F64 : FR_F32, 75, 70, 330, flags);
        }
    fr_set_num_threads(1);
}

static void the_sums_of_a_are_added_also_where_b_has_no_columns(void)
{
    const float A[2 * 3] = {1, 2, 3, 4, 5, 6};
    float sums[2] = {10, 20};
    fr_gemm_args g = {.dtype = FR_F32, .M = 2, .K = 3, .A = A, .lda = 3, .sums = sums};
    g.scratch = guarded(fr_gemm_scratch_bytes(&g));
    CHECK(fr_gemm(&g) == FR_OK, "N 0");
    CHECK(sums[0] == 16 && sums[1] == 35, "%g and %g", sums[0], sums[1]);
    release(g.scratch);
}

static void a_product_over_nothing_is_zero_or_the_bias_without_any_operand(void)
{
    double C[2 * 70], bias[70];
    for (int n = 0; n < 70; n++)
        bias[n] = n;
    for (int n = 0; n < 2 * 70; n++)
        C[n] = NAN;
    fr_gemm_args g = {.dtype = FR_F64, .M = 2, .N = 70, .C = C, .ldc = 70, .ldb = 70, .bias = bias};
    g.scratch = guarded(fr_gemm_scratch_bytes(&g));
    CHECK(fr_gemm(&g) == FR_OK, "K 0");
    for (int n = 0; n < 2 * 70; n++)
        CHECK(C[n] == n % 70, "C[%d] is %g", n, C[n]);
    release(g.scratch);
}

static void an_empty_product_touches_nothing(void)
{
    fr_gemm_args g = {.dtype = FR_F32, .M = 0, .N = 3, .K = 2, .lda = 2, .ldb = 3, .ldc = 3};
    CHECK(fr_gemm(&g) == FR_OK, "M 0, and no arrays at all");
    g.M = 3;
    g.N = 0;
    CHECK(fr_gemm(&g) == FR_OK, "N 0, and no arrays at all");
}

/* ---- activations -------------------------------------------------------------------------- */

static double exact(int kind, double x)
{
    return kind == 0 ? exp(x) : kind == 1 ? 1 / (1 + exp(-x)) : tanh(x);
}

static double activate(fr_dtype dtype, int kind, double x)
{
    double in[1], out[1]; /* large enough, and aligned, for a float too */
    put(in, dtype, 0, x);
    CHECK(fr_activation(dtype, kind, out, in, 1) == FR_OK, "kind %d", kind);
    return get(out, dtype, 0);
}

static void activations_agree_with_the_c_library(void)
{
    const double epsilon[FR_DTYPES] = {FLT_EPSILON, DBL_EPSILON};
    for (int dtype = 0; dtype < FR_DTYPES; dtype++)
        for (int kind = 0; kind < 3; kind++)
            for (double x = -30; x < 30; x += 0.0703125) { /* a float, exactly */
                const double want = exact(kind, x), have = activate((fr_dtype)dtype, kind, x);
                CHECK(fabs(have - want) <= 2 * epsilon[dtype] * want * (want < 0 ? -1 : 1),
                      "kind %d of %g: %.17g, not %.17g", kind, x, have, want);
            }
}

static void activations_keep_nan_zero_and_saturation(void)
{
    for (int dtype = 0; dtype < FR_DTYPES; dtype++) {
        const fr_dtype d = (fr_dtype)dtype;
        for (int kind = 0; kind < 3; kind++)
            CHECK(isnan(activate(d, kind, NAN)), "kind %d of NaN", kind);
        CHECK(activate(d, 0, 0) == 1 && activate(d, 1, 0) == 0.5 && activate(d, 2, 0) == 0, "at 0");
        CHECK(signbit(activate(d, 2, -0.0)), "tanh of -0");
        CHECK(activate(d, 1, INFINITY) == 1 && activate(d, 1, -INFINITY) == 0, "sigmoid");
        CHECK(activate(d, 2, INFINITY) == 1 && activate(d, 2, -INFINITY) == -1, "tanh");
        CHECK(activate(d, 0, -INFINITY) < (dtype == FR_F64 ? 2 * DBL_MIN : 2 * FLT_MIN), "exp");
    }
}

static void activations_write_exactly_n_elements(void)
{
    for (int dtype = 0; dtype < FR_DTYPES; dtype++)
        for (size_t n = 0; n <= 40; n++) {
            const size_t bytes = n * real_size((fr_dtype)dtype);
            void *in = guarded(bytes), *out = guarded(bytes);
            for (size_t i = 0; i < n; i++)
                put(in, (fr_dtype)dtype, (ptrdiff_t)i, uniform());
            CHECK(fr_activation((fr_dtype)dtype, 2, out, in, (int64_t)n) == FR_OK, "n %d", (int)n);
            for (size_t i = 0; i < n; i++)
                CHECK(fabs(get(out, (fr_dtype)dtype, (ptrdiff_t)i)) < 1, "element %d", (int)i);
            release(in), release(out);
        }
}

/* ---- fingerprint -------------------------------------------------------------------------- */

static void every_changed_bit_changes_the_fingerprint(void)
{
    for (size_t bytes = 0; bytes < 600; bytes += bytes < 300 ? 1 : 37) {
        unsigned char *p = guarded(bytes);
        for (size_t i = 0; i < bytes; i++)
            p[i] = (unsigned char)below(256);
        const uint64_t before = fr_fingerprint(p, bytes);
        for (size_t i = 0; i < bytes; i++) {
            p[i] ^= (unsigned char)(1 << i % 8);
            CHECK(fr_fingerprint(p, bytes) != before, "byte %d of %d", (int)i, (int)bytes);
            p[i] ^= (unsigned char)(1 << i % 8);
        }
        CHECK(fr_fingerprint(p, bytes) == before, "%d bytes, asked again", (int)bytes);
        release(p);
    }
}

/* Signs of two weights: wherever they are, one flip must not take the other back. */
static void the_same_flip_in_two_words_changes_the_fingerprint(void)
{
    uint32_t p[512] = {0};
    const uint64_t before = fr_fingerprint(p, sizeof p);
    for (int i = 1; i < 512; i++) {
        p[0] ^= 1u << 31, p[i] ^= 1u << 31;
        CHECK(fr_fingerprint(p, sizeof p) != before, "words 0 and %d", i);
        p[0] ^= 1u << 31, p[i] ^= 1u << 31;
    }
}

static void zeros_of_different_length_have_different_fingerprints(void)
{
    static const unsigned char zeros[100];
    for (size_t n = 1; n < sizeof zeros; n++)
        CHECK(fr_fingerprint(zeros, n) != fr_fingerprint(zeros, n - 1), "%d bytes", (int)n);
}

/* Neither where threads meet, nor panels that another has not packed yet. */
static void a_shared_product_does_not_read_what_was_in_its_scratch(void)
{
    enum { N = 600, K = 8, TURNS = 200 };
    float A[N * K], B[K * N], *C = guarded(sizeof(float) * N * N);
    for (int i = 0; i < N * K; i++)
        A[i] = B[i] = 1;
    fr_gemm_args g = {.dtype = FR_F32,
                      .M = N,
                      .N = N,
                      .K = K,
                      .A = A,
                      .lda = K,
                      .B = B,
                      .ldb = N,
                      .C = C,
                      .ldc = N,
                      .threads = 2};
    const size_t bytes = fr_gemm_scratch_bytes(&g);
    char *scratch = g.scratch = guarded(bytes);
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < bytes; i++) /* in every place something else */
            scratch[i] = (char)(i / 64 + (size_t)turn);
        memset(scratch + bytes / 8, 0xff, bytes - bytes / 8);
        CHECK(fr_gemm(&g) == FR_OK, "turn %d", turn);
        int wrong = 0;
        for (int i = 0; i < N * N; i++)
            wrong += C[i] != K;
        CHECK(wrong == 0, "turn %d: %d elements", turn, wrong);
    }
    release(C);
    release(scratch);
}

int main(void)
{
    RUN_ON_EVERY_ISA(products_of_every_size_and_transpose_are_right);
    RUN_ON_EVERY_ISA(products_shared_by_threads_are_right);
    RUN_ON_EVERY_ISA(a_product_over_nothing_is_zero_or_the_bias_without_any_operand);
    RUN_ON_EVERY_ISA(the_sums_of_a_are_added_also_where_b_has_no_columns);
    RUN(an_empty_product_touches_nothing);
    RUN_ON_EVERY_ISA(activations_agree_with_the_c_library);
    RUN_ON_EVERY_ISA(activations_keep_nan_zero_and_saturation);
    RUN_ON_EVERY_ISA(activations_write_exactly_n_elements);
    RUN(every_changed_bit_changes_the_fingerprint);
    RUN(the_same_flip_in_two_words_changes_the_fingerprint);
    RUN(zeros_of_different_length_have_different_fingerprints);
    RUN(a_shared_product_does_not_read_what_was_in_its_scratch);
    return summary();
}
