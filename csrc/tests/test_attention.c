/* test_attention.c: additive attention against its formulas, one number at a time, at sizes around
 * every vector, in memory that is watched at both ends. */
#include <math.h>
#include <stdlib.h>

#include "check.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

static const int sizes_M[] = {1, 3, 4, 7, 8, 9, 16, 17, 33};

typedef struct array {
    fr_dtype dtype;
    int64_t n;
    void *real;    /* what the core sees */
    double *exact; /* the same numbers, or the answers expected */
} array;

static array make(fr_dtype dtype, int64_t n, int filled)
{
    array a = {dtype, n, guarded((size_t)n * real_size(dtype)),
               calloc((size_t)n + 1, sizeof(double))};
    for (int64_t i = 0; filled && i < n; i++)
        put(a.real, dtype, i, a.exact[i] = uniform());
    return a;
}

static void end(array *a)
{
    release(a->real);
    free(a->exact);
}

static void compare(const array *a, const char *what, int M)
{
    double *have = calloc((size_t)a->n + 1, sizeof *have);
    for (int64_t i = 0; i < a->n; i++)
        have[i] = get(a->real, a->dtype, i);
    const double d = distance(have, a->exact, (size_t)a->n);
    CHECK(d < (a->dtype == FR_F64 ? 1e-13 : 2e-6), "%s, M %d, type %d: off by %.2g", what, M,
          a->dtype, d);
    free(have);
}

static void check_case(fr_dtype dtype, int64_t B, int64_t T, int64_t S, int64_t M, int ragged,
                       int threads)
{
    array q = make(dtype, B * T * M, 1), k = make(dtype, B * S * M, 1), v = make(dtype, M, 1);
    array e = make(dtype, B * T * S, 0), de = make(dtype, B * T * S, 1);
    array dq = make(dtype, B * T * M, 0), dk = make(dtype, B * S * M, 0),
          dv = make(dtype, B * M, 0);
    int64_t *len = malloc(sizeof *len * (size_t)(B + 1));
    for (int64_t b = 0; b < B; b++)
        len[b] = ragged ? below(S + 1) : S;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t s = 0; s < len[b]; s++) {
                const int64_t at = (b * T + t) * S + s;
                for (int64_t m = 0; m < M; m++) {
                    const int64_t qm = (b * T + t) * M + m, km = (b * S + s) * M + m;
                    const double p = tanh(q.exact[qm] + k.exact[km]);
                    const double w = de.exact[at] * v.exact[m] * (1 - p * p);
                    e.exact[at] += v.exact[m] * p;
                    dv.exact[b * M + m] += de.exact[at] * p;
                    dq.exact[qm] += w;
                    dk.exact[km] += w;
                }
            }
    fr_attention_args g = {.dtype = dtype,
                           .B = B,
                           .T = T,
                           .S = S,
                           .M = M,
                           .e = e.real,
                           .dq = dq.real,
                           .dk = dk.real,
                           .dv = dv.real,
                           .q = q.real,
                           .k = k.real,
                           .v = v.real,
                           .de = de.real,
                           .len = ragged ? len : NULL,
                           .threads = threads};
    CHECK(fr_attention_scores(&g) == FR_OK, "scores");
    CHECK(fr_attention_backward(&g) == FR_OK, "backward");
    const size_t size = real_size(dtype);
    for (int64_t i = 0; i < B * T; i++) {
        const int64_t n = len[i / T];
        CHECK(untouched((char *)e.real + (size_t)(i * S + n) * size, (size_t)(S - n) * size),
              "scores beyond a row's places, M %d", (int)M);
        for (int64_t s = n; s < S; s++)
            put(e.real, dtype, i * S + s, 0);
    }
    compare(&e, "e", (int)M), compare(&dq, "dq", (int)M);
    compare(&dk, "dk", (int)M), compare(&dv, "dv", (int)M);
    end(&q), end(&k), end(&v), end(&e), end(&de), end(&dq), end(&dk), end(&dv);
    free(len);
}

static void scores_and_gradients_of_every_width_are_right(void)
{
    for (size_t m = 0; m < COUNT(sizes_M); m++)
        for (int type = 0; type < FR_DTYPES; type++)
            for (int ragged = 0; ragged < 2; ragged++)
                check_case((fr_dtype)type, 3, 2, 5, sizes_M[m], ragged, 1);
}

static void rows_shared_by_threads_are_right(void)
{
    for (int threads = 2; threads <= 4; threads++)
        for (int type = 0; type < FR_DTYPES; type++)
            check_case((fr_dtype)type, 7, 9, 40, 64, 1, threads);
}

static void empty_sizes_are_allowed(void)
{
    check_case(FR_F32, 0, 2, 3, 4, 0, 1);
    check_case(FR_F32, 2, 0, 3, 4, 0, 1);
    check_case(FR_F64, 2, 3, 0, 4, 0, 1);
}

static void wrong_arguments_are_refused(void)
{
    float x[8] = {0};
    const int64_t wrong[] = {3}, right[] = {2};
    const fr_attention_args good = {.B = 1,
                                    .T = 1,
                                    .S = 2,
                                    .M = 2,
                                    .e = x,
                                    .dq = x,
                                    .dk = x,
                                    .dv = x,
                                    .q = x,
                                    .k = x,
                                    .v = x,
                                    .de = x,
                                    .len = right};
    fr_attention_args g = good;
    CHECK(fr_attention_scores(NULL) == FR_EARG, "no arguments");
    g = good, g.dtype = FR_DTYPES;
    CHECK(fr_attention_scores(&g) == FR_EARG, "type");
    g = good, g.M = 0;
    CHECK(fr_attention_scores(&g) == FR_EDIM, "M 0");
    g = good, g.T = -1;
    CHECK(fr_attention_scores(&g) == FR_EDIM, "T -1");
    g = good, g.S = INT64_MAX / 2;
    CHECK(fr_attention_scores(&g) == FR_EDIM, "a product overflows");
    g = good, g.len = wrong;
    CHECK(fr_attention_backward(&g) == FR_ELENGTH, "a length of 3 of 2");
    g = good, g.q = NULL;
    CHECK(fr_attention_scores(&g) == FR_EARG, "no q");
    g = good, g.e = NULL;
    CHECK(fr_attention_scores(&g) == FR_EARG, "no e");
    g = good, g.dk = NULL;
    CHECK(fr_attention_backward(&g) == FR_EARG, "no dk");
    g = good, g.threads = -1;
    CHECK(fr_attention_backward(&g) == FR_EARG, "threads -1");
}

int main(void)
{
    RUN_ON_EVERY_ISA(scores_and_gradients_of_every_width_are_right);
    RUN_ON_EVERY_ISA(rows_shared_by_threads_are_right);
    RUN(empty_sizes_are_allowed);
    RUN(wrong_arguments_are_refused);
    return summary();
}
