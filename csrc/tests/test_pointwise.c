/* test_pointwise.c: losses, clipping and optimizers against their formulas, one number at a time,
 * at sizes around every vector, in memory that is watched at both ends. What the formulas mean for
 * training, and PyTorch's numbers, are the Python tests' business. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fastrnn_pointwise.h"
#include "internal.h"

#define FOR_SIZES(n)                                                                               \
    for (ptrdiff_t n = 0; n <= 70; n += n < 40 ? 1 : 7)                                            \
        for (int type = 0; type < FR_DTYPES; type++)

/* Calls fr_NAME_f32 or fr_NAME_f64; arrays are void *, which C converts. */
#define CALL(type, name, ...)                                                                      \
    ((type) == FR_F64 ? fr_##name##_f64(__VA_ARGS__) : fr_##name##_f32(__VA_ARGS__))

static const double tolerance[FR_DTYPES] = {1e-6, 1e-14};

/* An array of the engine's type and the same numbers in double. */
typedef struct pair {
    fr_dtype dtype;
    ptrdiff_t n;
    void *real;
    double *exact;
} pair;

static pair new_pair(int dtype, ptrdiff_t n, double offset)
{
    pair p = {(fr_dtype)dtype, n, guarded((size_t)n * real_size((fr_dtype)dtype)),
              calloc((size_t)n + 1, sizeof(double))};
    for (ptrdiff_t i = 0; i < n; i++)
        put(p.real, p.dtype, i, p.exact[i] = (float)(offset + uniform()));
    return p;
}

static pair zeros(int dtype, ptrdiff_t n)
{
    pair p = new_pair(dtype, n, 0);
    for (ptrdiff_t i = 0; i < n; i++)
        put(p.real, p.dtype, i, p.exact[i] = 0);
    return p;
}

static void check_pair(pair *p, const char *what)
{
    double *have = calloc((size_t)p->n + 1, sizeof *have);
    for (ptrdiff_t i = 0; i < p->n; i++)
        have[i] = get(p->real, p->dtype, i);
    const double d = distance(have, p->exact, (size_t)p->n);
    CHECK(d <= tolerance[p->dtype], "%s of %d numbers, type %d: off by %.2g", what, (int)p->n,
          p->dtype, d);
    free(have);
}

static void end_pair(pair *p)
{
    release(p->real);
    free(p->exact);
}

static int close_to(double a, double b, double relative)
{
    return fabs(a - b) <= relative * (1 + fabs(b));
}

/* ---- loss ---------------------------------------------------------------------------------- */

static void softmax_cross_entropy_follows_its_formula(void)
{
    const ptrdiff_t widths[] = {1, 2, 3, 4, 7, 15, 16, 17, 33, 65, 2100};
    enum { ROWS = 5, IGNORED = -100 };
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int type = 0; type < FR_DTYPES; type++) {
            const ptrdiff_t V = widths[w];
            pair x = new_pair(type, ROWS * V, 0), dx = zeros(type, ROWS * V);
            int64_t targets[ROWS];
            double loss = 0;
            for (ptrdiff_t r = 0; r < ROWS; r++) {
                double sum = 0;
                targets[r] = r == 2 ? IGNORED : below(V);
                for (ptrdiff_t j = 0; j < V; j++)
                    sum += exp(x.exact[r * V + j]);
                for (ptrdiff_t j = 0; j < V && r != 2; j++)
                    dx.exact[r * V + j] =
                        0.25 * (exp(x.exact[r * V + j]) / sum - (targets[r] == j));
                loss += r == 2 ? 0 : log(sum) - x.exact[r * V + targets[r]];
            }
            const double have =
                CALL(type, softmax_cross_entropy, dx.real, x.real, targets, ROWS, V, IGNORED, 0.25);
            CHECK(close_to(have, loss, 10 * tolerance[type]), "V %d: %.17g, not %.17g", (int)V,
                  have, loss);
            check_pair(&dx, "dlogits");
            end_pair(&x), end_pair(&dx);
        }
}

static void huge_and_infinite_logits_do_not_overflow(void)
{
    const double x[4] = {-INFINITY, 700, -1e30, 699};
    double dx[4];
    const int64_t target = 1;
    const double loss = fr_softmax_cross_entropy_f64(dx, x, &target, 1, 4, -100, 1);
    CHECK(close_to(loss, log1p(exp(-1)), 1e-14), "loss %.17g", loss);
    CHECK(dx[0] == 0 && dx[2] == 0 && close_to(dx[1] + dx[3], 0, 1e-14), "dx %g %g", dx[0], dx[2]);
}

static void targets_are_checked_and_counted(void)
{
    const int64_t good[4] = {0, -100, 6, 3}, bad[4] = {0, -100, 7, -1};
    ptrdiff_t counted = -1;
    CHECK(fr_check_targets(&counted, good, 4, 7, -100) == 4 && counted == 3, "%d", (int)counted);
    CHECK(fr_check_targets(&counted, bad, 4, 7, -100) == 2, "7 of 7 classes");
    CHECK(fr_check_targets(&counted, bad + 3, 1, 7, -100) == 0, "class -1");
    CHECK(fr_check_targets(&counted, good, 0, 7, -100) == 0 && counted == 0, "no targets");
}

static void binary_cross_entropy_follows_its_formula(void)
{
    for (ptrdiff_t n = 0; n <= 1100; n += n < 40 ? 1 : 53) /* around vectors and blocks */
        for (int type = 0; type < FR_DTYPES; type++) {
            pair x = new_pair(type, n, 0), t = new_pair(type, n, 0), dx = zeros(type, n);
            double loss = 0;
            for (ptrdiff_t i = 0; i < n; i++) {
                put(x.real, x.dtype, i, x.exact[i] = (float)(12 * x.exact[i]));
                put(t.real, t.dtype, i, t.exact[i] = fmin(1, fmax(0, t.exact[i])));
                const double u = x.exact[i], p = 1 / (1 + exp(-u));
                loss += fmax(u, 0) - u * t.exact[i] + log1p(exp(-fabs(u)));
                dx.exact[i] = 0.25 * (p - t.exact[i]);
            }
            const double have = CALL(type, bce_with_logits, dx.real, x.real, t.real, n, 0.25);
            CHECK(close_to(have, loss, tolerance[type]), "%d elements: %.17g, not %.17g", (int)n,
                  have, loss);
            check_pair(&dx, "dlogits");
            end_pair(&x), end_pair(&t), end_pair(&dx);
        }
}

static void losses_of_sure_and_right_logits_keep_their_relative_accuracy(void)
{
    const double eps[FR_DTYPES] = {FLT_EPSILON, DBL_EPSILON};
    for (int type = 0; type < FR_DTYPES; type++)
        for (float u = 0; u < (type == FR_F64 ? 700 : 85); u += 0.37f) {
            pair x = zeros(type, 1), t = zeros(type, 1), dx = zeros(type, 1);
            put(x.real, x.dtype, 0, -u);
            const double have = CALL(type, bce_with_logits, dx.real, x.real, t.real, 1, 1.0);
            const double exact = log1p(exp(-(double)u));
            CHECK(fabs(have - exact) <= 5 * eps[type] * exact, "%g: %.17g, not %.17g", u, have,
                  exact);
            end_pair(&x), end_pair(&t), end_pair(&dx);
        }
}

/* ---- norms, clipping, scatter ----------------------------------------------------------------- */

static void sums_scales_and_clips_are_right_at_every_size(void)
{
    FOR_SIZES(n)
    {
        pair x = new_pair(type, n, 0);
        double sum = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            sum += x.exact[i] * x.exact[i];
        const double have = CALL(type, sum_of_squares, x.real, n);
        CHECK(close_to(have, sum, 1e-14), "%d squares: %.17g, not %.17g", (int)n, have, sum);
        for (ptrdiff_t i = 0; i < n; i++)
            x.exact[i] = fmax(-0.25, fmin(0.5, -1.5 * x.exact[i]));
        CALL(type, scale, x.real, n, -1.5);
        CALL(type, clip, x.real, n, -0.25, 0.5);
        check_pair(&x, "scaled and clipped");
        end_pair(&x);
    }
}

/* The vectors that the authors of Philox publish with it (Random123, kat_vectors). */
static void philox_gives_the_published_words(void)
{
    static const uint32_t vectors[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t words[4];
        fr_philox(words, vectors[i], vectors[i] + 4);
        CHECK(!memcmp(words, vectors[i] + 6, sizeof words), "vector %d", i);
    }
}

static void dropout_asks_the_generator_element_by_element(void)
{
    const double ps[] = {0, 0.25, 0.7, 1};
    FOR_SIZES(n)
    for (int k = 0; k < 4; k++) {
        const fr_dropout_options o = {ps[k], 0x123456789abcdef0, 7, 3};
        const uint32_t key[2] = {0x9abcdef0, 0x12345678};
        pair x = new_pair(type, n, 0), out = zeros(type, n);
        for (ptrdiff_t i = 0; i < n; i++) {
            const uint32_t counter[4] = {(uint32_t)i / 4, 0, 7, 3};
            uint32_t words[4];
            fr_philox(words, counter, key);
            if (words[i % 4] >= ps[k] * 4294967296.0)
                out.exact[i] = x.exact[i] / (1 - ps[k]);
        }
        CALL(type, dropout, out.real, x.real, n, &o);
        check_pair(&out, "dropout");
        CALL(type, dropout, x.real, x.real, n, &o);
        CHECK(!memcmp(x.real, out.real, (size_t)n * real_size((fr_dtype)type)), "in place");
        end_pair(&x), end_pair(&out);
    }
}

static void clipping_keeps_nan(void)
{
    double x[2] = {NAN, 9};
    fr_clip_f64(x, 2, -1, 1);
    CHECK(isnan(x[0]) && x[1] == 1, "%g %g", x[0], x[1]);
}

static void rows_scattered_to_one_place_add_up(void)
{
    const int64_t ids[5] = {1, 0, 1, 2, 1};
    for (ptrdiff_t D = 1; D < 20; D++)
        for (int type = 0; type < FR_DTYPES; type++) {
            pair out = new_pair(type, 4 * D, 0), rows = new_pair(type, 5 * D, 0);
            for (ptrdiff_t i = 0; i < 5; i++)
                for (ptrdiff_t j = 0; j < D; j++)
                    out.exact[ids[i] * D + j] += rows.exact[i * D + j];
            CALL(type, scatter_add, out.real, rows.real, ids, 5, D);
            check_pair(&out, "scattered rows");
            end_pair(&out), end_pair(&rows);
        }
}

/* ---- optimizers: three steps each, then parameters and state are compared ----------------------- */

enum { STEPS = 3 };

static void sgd_follows_its_formula(void)
{
    FOR_SIZES(n)
    {
        for (int mode = 0; mode < 3; mode++) { /* plain, momentum, nesterov */
            const fr_sgd_options o = {0.1, mode ? 0.9 : 0, 0.01, mode == 2};
            pair p = new_pair(type, n, 0), g = new_pair(type, n, 0), buf = zeros(type, n);
            for (int step = 0; step < STEPS; step++) {
                CALL(type, sgd, p.real, mode ? buf.real : NULL, g.real, n, &o);
                for (ptrdiff_t i = 0; i < n; i++) {
                    const double d = g.exact[i] + o.weight_decay * p.exact[i];
                    if (mode)
                        buf.exact[i] = o.momentum * buf.exact[i] + d;
                    p.exact[i] -= o.lr * (mode == 0   ? d
                                          : mode == 1 ? buf.exact[i]
                                                      : d + o.momentum * buf.exact[i]);
                }
            }
            check_pair(&p, "sgd"), check_pair(&buf, "sgd's momentum");
            end_pair(&p), end_pair(&g), end_pair(&buf);
        }
    }
}

static void adagrad_follows_its_formula(void)
{
    const fr_adagrad_options o = {0.1, 1e-8, 0.01};
    FOR_SIZES(n)
    {
        pair p = new_pair(type, n, 0), g = new_pair(type, n, 2), sum = zeros(type, n);
        for (int step = 0; step < STEPS; step++) {
            CALL(type, adagrad, p.real, sum.real, g.real, n, &o);
            for (ptrdiff_t i = 0; i < n; i++) {
                const double d = g.exact[i] + o.weight_decay * p.exact[i];
                sum.exact[i] += d * d;
                p.exact[i] -= o.lr * d / (sqrt(sum.exact[i]) + o.eps);
            }
        }
        check_pair(&p, "adagrad"), check_pair(&sum, "adagrad's sum");
        end_pair(&p), end_pair(&g), end_pair(&sum);
    }
}

static void rmsprop_follows_its_formula(void)
{
    FOR_SIZES(n)
    {
        for (int mode = 0; mode < 4; mode++) { /* bit 0: centered, bit 1: momentum */
            const fr_rmsprop_options o = {0.01, 0.5, 1e-2, mode & 2 ? 0.9 : 0, 0.01};
            pair p = new_pair(type, n, 0), g = new_pair(type, n, 2), v = zeros(type, n);
            pair mean = zeros(type, n), buf = zeros(type, n);
            for (int step = 0; step < STEPS; step++) {
                CALL(type, rmsprop, p.real, v.real, mode & 1 ? mean.real : NULL,
                     mode & 2 ? buf.real : NULL, g.real, n, &o);
                for (ptrdiff_t i = 0; i < n; i++) {
                    const double d = g.exact[i] + o.weight_decay * p.exact[i];
                    v.exact[i] = o.alpha * v.exact[i] + (1 - o.alpha) * d * d;
                    double variance = v.exact[i];
                    if (mode & 1) {
                        mean.exact[i] = o.alpha * mean.exact[i] + (1 - o.alpha) * d;
                        variance -= mean.exact[i] * mean.exact[i];
                    }
                    double move = d / (sqrt(variance) + o.eps);
                    if (mode & 2)
                        move = buf.exact[i] = o.momentum * buf.exact[i] + move;
                    p.exact[i] -= o.lr * move;
                }
            }
            check_pair(&p, "rmsprop"), check_pair(&v, "rmsprop's square");
            check_pair(&mean, "rmsprop's mean");
            end_pair(&p), end_pair(&g), end_pair(&v), end_pair(&mean), end_pair(&buf);
        }
    }
}

static void adam_and_adamw_follow_their_formula(void)
{
    FOR_SIZES(n)
    {
        for (int decoupled = 0; decoupled < 2; decoupled++) {
            fr_adam_options o = {0.01, 0.9, 0.99, 1e-8, 0.1, decoupled, 0};
            pair p = new_pair(type, n, 0), g = new_pair(type, n, 2);
            pair m = zeros(type, n), v = zeros(type, n);
            for (o.step = 1; o.step <= STEPS; o.step++) {
                CALL(type, adam, p.real, m.real, v.real, g.real, n, &o);
                for (ptrdiff_t i = 0; i < n; i++) {
                    double d = g.exact[i];
                    if (decoupled)
                        p.exact[i] -= o.lr * o.weight_decay * p.exact[i];
                    else
                        d += o.weight_decay * p.exact[i];
                    m.exact[i] = o.beta1 * m.exact[i] + (1 - o.beta1) * d;
                    v.exact[i] = o.beta2 * v.exact[i] + (1 - o.beta2) * d * d;
                    const double mhat = m.exact[i] / (1 - pow(o.beta1, (double)o.step));
                    const double vhat = v.exact[i] / (1 - pow(o.beta2, (double)o.step));
                    p.exact[i] -= o.lr * mhat / (sqrt(vhat) + o.eps);
                }
            }
            check_pair(&p, "adam"), check_pair(&m, "adam's mean"), check_pair(&v, "adam's square");
            end_pair(&p), end_pair(&g), end_pair(&m), end_pair(&v);
        }
    }
}

/* ---- long arrays ----------------------------------------------------------------------------- */

enum { LONG = 200003, CLASSES = 65, ROWS = LONG / CLASSES };

/* Everything once, over an array long enough for several threads, in pieces of `piece` elements.
 * Returns the sum of all losses and squares. */
static double run_all(int type, pair *a, const int64_t *targets, ptrdiff_t piece)
{
    const size_t real = real_size((fr_dtype)type);
    const fr_sgd_options sgd = {0.01, 0.9, 0.1, 1};
    const fr_adagrad_options adagrad = {0.01, 1e-8, 0.1};
    const fr_rmsprop_options rmsprop = {0.01, 0.9, 1e-8, 0.9, 0.1};
    const fr_adam_options adam = {0.01, 0.9, 0.99, 1e-8, 0.1, 0, 3};
    const ptrdiff_t rows = piece < LONG ? piece / CLASSES : ROWS;
    double sum = 0;
    for (ptrdiff_t r = 0; r < ROWS; r += rows) {
        const size_t at = (size_t)(r * CLASSES) * real;
        void *dx = (char *)a[1].real + at, *x = (char *)a[0].real + at;
        sum += CALL(type, softmax_cross_entropy, dx, x, targets + r,
                    ROWS - r < rows ? ROWS - r : rows, CLASSES, -1, 0.5);
    }
    for (ptrdiff_t i = 0; i < LONG; i += piece) {
        const ptrdiff_t n = LONG - i < piece ? LONG - i : piece;
        void *p[10];
        for (int k = 0; k < 10; k++)
            p[k] = (char *)a[k].real + (size_t)i * real;
        sum += CALL(type, sum_of_squares, p[0], n);
        sum += CALL(type, bce_with_logits, p[2], p[0], p[3], n, 0.5);
        CALL(type, scale, p[2], n, 1.5);
        CALL(type, clip, p[2], n, -0.5, 0.5);
        CALL(type, sgd, p[4], p[5], p[0], n, &sgd);
        CALL(type, adagrad, p[4], p[6], p[0], n, &adagrad);
        CALL(type, rmsprop, p[4], p[6], p[7], p[5], p[0], n, &rmsprop);
        CALL(type, adam, p[4], p[8], p[6], p[0], n, &adam);
        CALL(type, clear, p[9], n);
    }
    return sum;
}

static void long_arrays_give_the_same_bytes_whatever_the_threads(void)
{
    static int64_t targets[ROWS];
    for (int r = 0; r < ROWS; r++)
        targets[r] = r % 7 ? r % CLASSES : -1;
    for (int type = 0; type < FR_DTYPES; type++) {
        const size_t bytes = LONG * real_size((fr_dtype)type);
        pair start[10], alone[10], shared[10];
        for (int k = 0; k < 10; k++) {
            start[k] = new_pair(type, LONG, k == 0 ? 0 : 1);
            alone[k] = zeros(type, LONG);
            shared[k] = zeros(type, LONG);
            memcpy(alone[k].real, start[k].real, bytes);
        }
        const double sum = run_all(type, alone, targets, 13 * CLASSES * 16);
        double first = 0;
        for (int threads = 1; threads <= 4; threads++) {
            fr_set_num_threads(threads);
            for (int k = 0; k < 10; k++)
                memcpy(shared[k].real, start[k].real, bytes);
            const double have = run_all(type, shared, targets, LONG);
            CHECK(close_to(have, sum, 1e-12), "type %d, %d threads: sum %.17g, not %.17g", type,
                  threads, have, sum);
            CHECK(threads == 1 || have == first, "type %d, %d threads: %.17g, alone %.17g", type,
                  threads, have, first);
            first = have;
            for (int k = 0; k < 10; k++)
                CHECK(!memcmp(shared[k].real, alone[k].real, bytes),
                      "type %d, %d threads: array %d differs from what pieces give", type, threads,
                      k);
        }
        fr_set_num_threads(1);
        for (int k = 0; k < 10; k++)
            end_pair(&start[k]), end_pair(&alone[k]), end_pair(&shared[k]);
    }
}

static void nothing(void *arg, int tid)
{
    (void)arg, (void)tid;
}

/* Thread 1 is awake, and has written the gradients from `first` to `end`; or there is no thread 1. */
static void as_if_written(int threads, const char *first, const char *end)
{
    fr_set_num_threads(threads);
    fr_team_run(threads, nothing, NULL, 0);
    fr_note_far(threads > 1 ? first : NULL, end);
}

/* Few gradients, of which thread 1 has written those from some place on, or all, or others'. */
static void optimizers_give_the_same_bytes_whoever_has_written_the_gradients(void)
{
    enum { N = 1000, ARRAYS = 12 };
    static const ptrdiff_t written[][2] = {{1, N},   {500, N}, {930, N},
                                           {999, N}, {0, N},   {500, 900}};
    const fr_sgd_options sgd = {0.1, 0.9, 0.01, 0};
    const fr_adagrad_options adagrad = {0.1, 1e-8, 0.01};
    const fr_rmsprop_options rmsprop = {0.01, 0.5, 1e-2, 0.9, 0.01};
    const fr_adam_options adam = {0.01, 0.9, 0.99, 1e-8, 0.1, 0, 1};
    for (int type = 0; type < FR_DTYPES; type++)
        for (int w = 0; w < 6; w++) {
            const size_t real = real_size((fr_dtype)type);
            pair a[2][ARRAYS];
            for (int threads = 1; threads <= 2; threads++) {
                void *p[ARRAYS];
                seed(9);
                for (int k = 0; k < ARRAYS; k++) {
                    a[threads - 1][k] = new_pair(type, N, 2);
                    p[k] = a[threads - 1][k].real;
                }
                const char *first = (char *)p[0] + (size_t)written[w][0] * real,
                           *end = (char *)p[0] + (size_t)written[w][1] * real;
                for (int i = 0; i < 3; i++) {
                    as_if_written(threads, first, end);
                    CALL(type, sgd, p[1], p[2], p[0], N, &sgd);
                    as_if_written(threads, first, end);
                    CALL(type, adagrad, p[3], p[4], p[0], N, &adagrad);
                    as_if_written(threads, first, end);
                    CALL(type, rmsprop, p[5], p[6], p[7], p[8], p[0], N, &rmsprop);
                    as_if_written(threads, first, end);
                    CALL(type, adam, p[9], p[10], p[11], p[0], N, &adam);
                }
            }
            for (int k = 0; k < ARRAYS; k++) {
                CHECK(!memcmp(a[0][k].real, a[1][k].real, N * real), "type %d, case %d, array %d",
                      type, w, k);
                end_pair(&a[0][k]), end_pair(&a[1][k]);
            }
        }
    fr_set_num_threads(1);
    fr_note_far(NULL, NULL);
}

static void cross_entropy_by_and_by_is_that_of_all_rows(void)
{
    enum { N = 1200, IGNORED = -7 };
    static const ptrdiff_t widths[] = {3, 65, 700};
    for (int w = 0; w < 3; w++)
        for (int type = 0; type < FR_DTYPES; type++) {
            const ptrdiff_t V = widths[w];
            const size_t bytes = (size_t)(N * V) * real_size((fr_dtype)type);
            pair x = new_pair(type, N * V, 0), whole = zeros(type, N * V),
                 parts = zeros(type, N * V);
            int64_t targets[N];
            for (int i = 0; i < N; i++)
                targets[i] = below(9) ? below(V) : IGNORED;
            const double loss =
                CALL(type, softmax_cross_entropy, whole.real, x.real, targets, N, V, IGNORED, 0.25);
            fr_entropy_call call = {.dtype = (fr_dtype)type,
                                    .dlogits = parts.real,
                                    .logits = x.real,
                                    .targets = targets,
                                    .n = N,
                                    .V = V,
                                    .ignored = IGNORED,
                                    .scale = 0.25};
            fr_begin_entropy(&call);
            for (ptrdiff_t first = 0, end; first < N; first = end) {
                end = first + 1 + (ptrdiff_t)below(90);
                end = end < N ? end : N;
                fr_add_entropy(&call, first, end);
            }
            CHECK(call.loss == loss, "V %d, type %d: %.17g, not %.17g", (int)V, type, call.loss,
                  loss);
            CHECK(!memcmp(whole.real, parts.real, bytes), "V %d, type %d", (int)V, type);
            end_pair(&x), end_pair(&whole), end_pair(&parts);
        }
}

int main(void)
{
    RUN_ON_EVERY_ISA(softmax_cross_entropy_follows_its_formula);
    RUN_ON_EVERY_ISA(huge_and_infinite_logits_do_not_overflow);
    RUN(targets_are_checked_and_counted);
    RUN_ON_EVERY_ISA(binary_cross_entropy_follows_its_formula);
    RUN_ON_EVERY_ISA(losses_of_sure_and_right_logits_keep_their_relative_accuracy);
    RUN_ON_EVERY_ISA(sums_scales_and_clips_are_right_at_every_size);
    RUN_ON_EVERY_ISA(clipping_keeps_nan);
    RUN(philox_gives_the_published_words);
    RUN_ON_EVERY_ISA(dropout_asks_the_generator_element_by_element);
    RUN_ON_EVERY_ISA(rows_scattered_to_one_place_add_up);
    RUN_ON_EVERY_ISA(sgd_follows_its_formula);
    RUN_ON_EVERY_ISA(adagrad_follows_its_formula);
    RUN_ON_EVERY_ISA(rmsprop_follows_its_formula);
    RUN_ON_EVERY_ISA(adam_and_adamw_follow_their_formula);
    RUN_ON_EVERY_ISA(long_arrays_give_the_same_bytes_whatever_the_threads);
    RUN_ON_EVERY_ISA(optimizers_give_the_same_bytes_whoever_has_written_the_gradients);
    RUN_ON_EVERY_ISA(cross_entropy_by_and_by_is_that_of_all_rows);
    return summary();
}
