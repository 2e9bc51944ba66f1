/* pointwise.c: losses, clipping and optimizers, as fastrnn_pointwise.h announces them.
 *
 * The bodies are in kernels/pointwise.h, compiled for every instruction set; this file hands each
 * call to those in use, with subnormal numbers flushed to zero. A running mean whose gradient has
 * become zero (of a character that is no longer seen) decays into them and would stay there:
 * measured on a Zen 3, Adam on such means took 247 us, on zeros 37 us. */

#include "fastrnn_pointwise.h"

#include <math.h>
#include <string.h>

#include "internal.h"
#include "kernels/philox.h"

ptrdiff_t fr_check_targets(ptrdiff_t *counted, const int64_t *targets, ptrdiff_t n, int64_t V,
                           int64_t ignored)
{
    *counted = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        if (targets[i] == ignored)
            continue;
        if (targets[i] < 0 || targets[i] >= V)
            return i;
        ++*counted;
    }
    return n;
}

void fr_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t words[4 * FR_PHILOX];
    fr_philox_blocks(words, counter, key);
    memcpy(out, words, 4 * sizeof *out);
}

/* ---- shares ------------------------------------------------------------------------------- */

/* A long array is cut into shares, and threads of the team take some each. Where the cuts are depends
 * on the sizes alone, and a sum adds up its shares in their order: so no result depends on threads. */
enum {
    MOST_SHARES = 64,
    SHARE =
        4096, /* elements, at least: some us of work, and a multiple of all that a loop unrolls */
    /* Picoseconds an element takes, roughly, and how many make a second thread worth waking. An
     * optimizer's step takes 400, but what it reads and writes was in the cache of the thread that
     * computed the gradients and goes on with the parameters, and half of it makes the way twice. */
    COST_OF_SOFTMAX = 900,
    COST_OF_STEP = 200,
    COST_OF_PASS = 150,
    WORTH_A_THREAD = 8000000
};

typedef struct pointwise_call {
    void (*share)(struct pointwise_call *call, int i, ptrdiff_t first, ptrdiff_t n);
    ptrdiff_t n, length; /* of all, and of every share but the last */
    int shares, threads;
    int alone;           /* thread 0 takes all shares */
    void *a, *b, *c, *d; /* written */
    const void *x, *y;   /* read */
    const void *options;
    double low, high;
    ptrdiff_t V;
    int64_t ignored;
    double answer[MOST_SHARES];
} pointwise_call;

static void take_shares(void *arg, int tid)
{
    pointwise_call *call = arg;
    const int threads = call->alone ? 1 : call->threads;
    for (int i = call->shares * tid / threads; i < call->shares * (tid + 1) / threads; i++) {
        const ptrdiff_t first = i * call->length;
        call->share(call, i, first, i + 1 < call->shares ? call->length : call->n - first);
    }
}

/* Gradients that thread 1 has written, last of all, and what an optimizer then reads and writes with them is
 * in its cache: it goes on with them, however few they are. */
static _Atomic uintptr_t far_first, far_end;

void fr_note_far(const void *first, const void *end)
{
    atomic_store_explicit(&far_first, (uintptr_t)first, memory_order_relaxed);
    atomic_store_explicit(&far_end, (uintptr_t)end, memory_order_relaxed);
}

/* Of n elements from x on, how many come before those; n, if there are none behind them. */
static ptrdiff_t elements_near(const void *x, ptrdiff_t n, size_t real)
{
    enum { TOGETHER = 64 }; /* a multiple of all that a loop unrolls */
    const uintptr_t first = atomic_load_explicit(&far_first, memory_order_relaxed),
                    begin = (uintptr_t)x, end = begin + (size_t)n * real;
    if (first <= begin || first >= end ||
        end != atomic_load_explicit(&far_end, memory_order_relaxed))
        return n;
    atomic_store_explicit(&far_first, 0, memory_order_relaxed); /* once: the next may be others' */
    const ptrdiff_t near =
        ((ptrdiff_t)((first - begin) / real) + TOGETHER - 1) / TOGETHER * TOGETHER;
    return near < n ? near : n;
}

/* Items of a share, if n items have `width` elements each. */
static ptrdiff_t share_length(ptrdiff_t n, ptrdiff_t width)
{
    const ptrdiff_t length = width < SHARE ? SHARE / (width > 0 ? width : 1) : 1;
    return (n - 1) / length < MOST_SHARES ? length : ((n - 1) / MOST_SHARES / SHARE + 1) * SHARE;
}

/* Runs a call on n items of `width` elements that take `cost` each. Returns the sum of its answers. */
static double run(pointwise_call *call, ptrdiff_t n, ptrdiff_t width, double cost)
{
    double sum = 0;
    const double elements = (double)n * (double)width;
    if (n < 1)
        return sum;
    call->n = n;
    call->length = share_length(n, width);
    call->shares = (int)((n - 1) / call->length + 1);
    call->threads = fr_get_num_threads();
    if (call->threads > call->shares)
        call->threads = call->shares;
    if (elements * cost < (double)WORTH_A_THREAD * call->threads / 2)
        call->threads = 1;
    const size_t told = offsetof(pointwise_call, answer);               /* the answers come back */
    if (fr_team_run(call->threads, take_shares, call, told) != FR_OK) { /* no thread to be had */
        call->threads = 1;
        fr_team_run(1, take_shares, call, told);
    }
    for (int i = 0; i < call->shares; i++)
        sum += call->answer[i];
    return sum;
}

/* An optimizer's step on n elements, of which each thread takes those whose gradients it has. */
static void run_step(pointwise_call *call, ptrdiff_t n, size_t real, double cost)
{
    const ptrdiff_t near = elements_near(call->x, n, real);
    if (near == n || (double)n * cost >= WORTH_A_THREAD || fr_get_num_threads() < 2) {
        run(call, n, 1, cost);
        return;
    }
    call->n = n;
    call->length = near;
    call->shares = call->threads = 2;
    fr_team_offer(2, take_shares, call, offsetof(pointwise_call, answer), &call->alone);
}

/* ---- cross-entropy by and by -------------------------------------------------------------- */

static const fr_entropy nothing_yet = {0, 0, 1};

static double sum_of(const fr_entropy *e)
{
    return e->of_logits + (e->of_sums + log(e->product));
}

void fr_begin_entropy(fr_entropy_call *call)
{
    call->loss = 0;
    call->rest = nothing_yet;
}

void fr_add_entropy(fr_entropy_call *call, ptrdiff_t first, ptrdiff_t end)
{
    const fr_kernels *kernels = fr_current_kernels();
    const ptrdiff_t length = share_length(call->n, call->V);
    const size_t real = call->dtype == FR_F64 ? 8 : 4;
    for (ptrdiff_t next; first < end; first = next) {
        next = (first / length + 1) * length < end ? (first / length + 1) * length : end;
        const size_t at = (size_t)(first * call->V) * real;
        void *const dlogits = (char *)call->dlogits + at;
        const void *const logits = (const char *)call->logits + at;
        if (call->dtype == FR_F64)
            kernels->pointwise_f64.softmax_cross_entropy(dlogits, logits, call->targets + first,
                                                         next - first, call->V, call->ignored,
                                                         call->scale, &call->rest);
        else
            kernels->pointwise_f32.softmax_cross_entropy(dlogits, logits, call->targets + first,
                                                         next - first, call->V, call->ignored,
                                                         call->scale, &call->rest);
        if (next % length && next < call->n)
            continue;
        call->loss += sum_of(&call->rest);
        call->rest = nothing_yet;
    }
}

/* ---- the functions ------------------------------------------------------------------------ */

/* A share of a call, with its arrays from its first element on. */
#define FR_SHARE(name, type)                                                                       \
    static void name##_share_##type(pointwise_call *call, int i, ptrdiff_t at, ptrdiff_t n)

#define FR_EXPORT(real, type)                                                                      \
    FR_SHARE(softmax_cross_entropy, type)                                                          \
    {                                                                                              \
        fr_entropy sum = nothing_yet;                                                              \
        fr_current_kernels()->pointwise_##type.softmax_cross_entropy(                              \
            (real *)call->a + at * call->V, (const real *)call->x + at * call->V,                  \
            (const int64_t *)call->y + at, n, call->V, call->ignored, call->low, &sum);            \
        call->answer[i] = sum_of(&sum);                                                            \
    }                                                                                              \
    double fr_softmax_cross_entropy_##type(real *dlogits, const real *logits,                      \
                                           const int64_t *targets, ptrdiff_t n, ptrdiff_t V,       \
                                           int64_t ignored, double scale)                          \
    {                                                                                              \
        pointwise_call call = {.share = softmax_cross_entropy_share_##type,                        \
                               .a = dlogits,                                                       \
                               .x = logits,                                                        \
                               .y = targets,                                                       \
                               .V = V,                                                             \
                               .ignored = ignored,                                                 \
                               .low = scale};                                                      \
        return run(&call, n, V, COST_OF_SOFTMAX);                                                  \
    }                                                                                              \
    FR_SHARE(bce_with_logits, type)                                                                \
    {                                                                                              \
        call->answer[i] = fr_current_kernels()->pointwise_##type.bce_with_logits(                  \
            (real *)call->a + at, (const real *)call->x + at, (const real *)call->y + at, n,       \
            call->low);                                                                            \
    }                                                                                              \
    double fr_bce_with_logits_##type(real *dlogits, const real *logits, const real *targets,       \
                                     ptrdiff_t n, double scale)                                    \
    {                                                                                              \
        pointwise_call call = {.share = bce_with_logits_share_##type,                              \
                               .a = dlogits,                                                       \
                               .x = logits,                                                        \
                               .y = targets,                                                       \
                               .low = scale};                                                      \
        return run(&call, n, 1, COST_OF_SOFTMAX);                                                  \
    }                                                                                              \
    FR_SHARE(sum_of_squares, type)                                                                 \
    {                                                                                              \
        call->answer[i] =                                                                          \
            fr_current_kernels()->pointwise_##type.sum_of_squares((const real *)call->x + at, n);  \
    }                                                                                              \
    double fr_sum_of_squares_##type(const real *x, ptrdiff_t n)                                    \
    {                                                                                              \
        pointwise_call call = {.share = sum_of_squares_share_##type, .x = x};                      \
        return run(&call, n, 1, COST_OF_PASS);                                                     \
    }                                                                                              \
    FR_SHARE(scale, type)                                                                          \
    {                                                                                              \
        (void)i;                                                                                   \
        fr_current_kernels()->pointwise_##type.scale((real *)call->a + at, n, call->low);          \
    }                                                                                              \
    void fr_scale_##type(real *x, ptrdiff_t n, double factor)                                      \
    {                                                                                              \
        pointwise_call call = {.share = scale_share_##type, .a = x, .low = factor};                \
        run(&call, n, 1, COST_OF_PASS);                                                            \
    }                                                                                              \
    FR_SHARE(clip, type)                                                                           \
    {                                                                                              \
        (void)i;                                                                                   \
        fr_current_kernels()->pointwise_##type.clip((real *)call->a + at, n, call->low,            \
                                                    call->high);                                   \
    }                                                                                              \
    void fr_clip_##type(real *x, ptrdiff_t n, double low, double high)                             \
    {                                                                                              \
        pointwise_call call = {.share = clip_share_##type, .a = x, .low = low, .high = high};      \
        run(&call, n, 1, COST_OF_PASS);                                                            \
    }                                                                                              \
    FR_SHARE(clear, type)                                                                          \
    {                                                                                              \
        (void)i;                                                                                   \
        memset((real *)call->a + at, 0, (size_t)n * sizeof(real));                                 \
    }                                                                                              \
    void fr_clear_##type(real *x, ptrdiff_t n)                                                     \
    {                                                                                              \
        pointwise_call call = {.share = clear_share_##type, .a = x};                               \
        run(&call, n, 1, COST_OF_PASS);                                                            \
    }                                                                                              \
    void fr_dropout_##type(real *out, const real *x, ptrdiff_t n, const fr_dropout_options *o)     \
    {                                                                                              \
        const unsigned long saved = fr_flush_on();                                                 \
        fr_current_kernels()->pointwise_##type.dropout(out, x, n, o);                              \
        fr_flush_restore(saved);                                                                   \
    }                                                                                              \
    void fr_scatter_add_##type(real *out, const real *rows, const int64_t *ids, ptrdiff_t n,       \
                               ptrdiff_t D)                                                        \
    {                                                                                              \
        const unsigned long saved = fr_flush_on();                                                 \
        fr_current_kernels()->pointwise_##type.scatter_add(out, rows, ids, n, D);                  \
        fr_flush_restore(saved);                                                                   \
    }                                                                                              \
    FR_SHARE(sgd, type)                                                                            \
    {                                                                                              \
        (void)i;                                                                                   \
        fr_current_kernels()->pointwise_##type.sgd((real *)call->a + at,                           \
                                                   call->b ? (real *)call->b + at : NULL,          \
                                                   (const real *)call->x + at, n, call->options);  \
    }                                                                                              \
    void fr_sgd_##type(real *p, real *buf, const real *g, ptrdiff_t n, const fr_sgd_options *o)    \
    {                                                                                              \
        pointwise_call call = {.share = sgd_share_##type, .a = p, .b = buf, .x = g, .options = o}; \
        run_step(&call, n, sizeof *p, COST_OF_PASS);                                               \
    }                                                                                              \
    FR_SHARE(adagrad, type)                                                                        \
    {                                                                                              \
        (void)i;                                                                                   \
        fr_current_kernels()->pointwise_##type.adagrad((real *)call->a + at, (real *)call->b + at, \
                                                       (const real *)call->x + at, n,              \
                                                       call->options);                             \
    }                                                                                              \
    void fr_adagrad_##type(real *p, real *sum, const real *g, ptrdiff_t n,                         \
                           const fr_adagrad_options *o)                                            \
    {                                                                                              \
        pointwise_call call = {                                                                    \
            .share = adagrad_share_##type, .a = p, .b = sum, .x = g, .options = o};                \
        run_step(&call, n, sizeof *p, COST_OF_STEP);                                               \
    }                                                                                              \
    FR_SHARE(rmsprop, type)                                                                        \
    {                                                                                              \
        (void)i;                                                                                   \
        fr_current_kernels()->pointwise_##type.rmsprop(                                            \
            (real *)call->a + at, (real *)call->b + at, call->c ? (real *)call->c + at : NULL,     \
            call->d ? (real *)call->d + at : NULL, (const real *)call->x + at, n, call->options);  \
    }                                                                                              \
    void fr_rmsprop_##type(real *p, real *v, real *mean, real *buf, const real *g, ptrdiff_t n,    \
                           const fr_rmsprop_options *o)                                            \
    {                                                                                              \
        pointwise_call call = {.share = rmsprop_share_##type,                                      \
                               .a = p,                                                             \
                               .b = v,                                                             \
                               .c = mean,                                                          \
                               .d = buf,                                                           \
                               .x = g,                                                             \
                               .options = o};                                                      \
        run_step(&call, n, sizeof *p, COST_OF_STEP);                                               \
    }                                                                                              \
    FR_SHARE(adam, type)                                                                           \
    {                                                                                              \
        (void)i;                                                                                   \
        fr_current_kernels()->pointwise_##type.adam((real *)call->a + at, (real *)call->b + at,    \
                                                    (real *)call->c + at,                          \
                                                    (const real *)call->x + at, n, call->options); \
    }                                                                                              \
    void fr_adam_##type(real *p, real *m, real *v, const real *g, ptrdiff_t n,                     \
                        const fr_adam_options *o)                                                  \
    {                                                                                              \
        pointwise_call call = {                                                                    \
            .share = adam_share_##type, .a = p, .b = m, .c = v, .x = g, .options = o};             \
        run_step(&call, n, sizeof *p, COST_OF_STEP);                                               \
    }

FR_EXPORT(float, f32)
FR_EXPORT(double, f64)
