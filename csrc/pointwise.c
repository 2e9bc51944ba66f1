/* pointwise.c: losses, clipping and optimizers, as fastrnn_pointwise.h announces them.
 *
 * The bodies are in kernels/pointwise.h, compiled for every instruction set; this file hands each
 * call to those in use, with subnormal numbers flushed to zero. A running mean whose gradient has
 * become zero (of a character that is no longer seen) decays into them and would stay there:
 * measured on a Zen 3, Adam on such means took 247 us, on zeros 37 us. */

#include "fastrnn_pointwise.h"

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

#define FR_RUN(type, call)                                                                         \
    const unsigned long saved = fr_flush_on();                                                     \
    fr_current_kernels()->pointwise_##type.call;                                                   \
    fr_flush_restore(saved)

#define FR_ANSWER(type, call)                                                                      \
    const unsigned long saved = fr_flush_on();                                                     \
    const double answer = fr_current_kernels()->pointwise_##type.call;                             \
    fr_flush_restore(saved);                                                                       \
    return answer

#define FR_EXPORT(real, type)                                                                      \
    double fr_softmax_cross_entropy_##type(real *dlogits, const real *logits,                      \
                                           const int64_t *targets, ptrdiff_t n, ptrdiff_t V,       \
                                           int64_t ignored, double scale)                          \
    {                                                                                              \
        FR_ANSWER(type, softmax_cross_entropy(dlogits, logits, targets, n, V, ignored, scale));    \
    }                                                                                              \
    double fr_bce_with_logits_##type(real *dlogits, const real *logits, const real *targets,       \
                                     ptrdiff_t n, double scale)                                    \
    {                                                                                              \
        FR_ANSWER(type, bce_with_logits(dlogits, logits, targets, n, scale));                      \
    }                                                                                              \
    double fr_sum_of_squares_##type(const real *x, ptrdiff_t n)                                    \
    {                                                                                              \
        FR_ANSWER(type, sum_of_squares(x, n));                                                     \
    }                                                                                              \
    void fr_scale_##type(real *x, ptrdiff_t n, double factor)                                      \
    {                                                                                              \
        FR_RUN(type, scale(x, n, factor));                                                         \
    }                                                                                              \
    void fr_clip_##type(real *x, ptrdiff_t n, double low, double high)                             \
    {                                                                                              \
        FR_RUN(type, clip(x, n, low, high));                                                       \
    }                                                                                              \
    void fr_dropout_##type(real *out, const real *x, ptrdiff_t n, const fr_dropout_options *o)     \
    {                                                                                              \
        FR_RUN(type, dropout(out, x, n, o));                                                       \
    }                                                                                              \
    void fr_scatter_add_##type(real *out, const real *rows, const int64_t *ids, ptrdiff_t n,       \
                               ptrdiff_t D)                                                        \
    {                                                                                              \
        FR_RUN(type, scatter_add(out, rows, ids, n, D));                                           \
    }                                                                                              \
    void fr_sgd_##type(real *p, real *buf, const real *g, ptrdiff_t n, const fr_sgd_options *o)    \
    {                                                                                              \
        FR_RUN(type, sgd(p, buf, g, n, o));                                                        \
    }                                                                                              \
    void fr_adagrad_##type(real *p, real *sum, const real *g, ptrdiff_t n,                         \
                           const fr_adagrad_options *o)                                            \
    {                                                                                              \
        FR_RUN(type, adagrad(p, sum, g, n, o));                                                    \
    }                                                                                              \
    void fr_rmsprop_##type(real *p, real *v, real *mean, real *buf, const real *g, ptrdiff_t n,    \
                           const fr_rmsprop_options *o)                                            \
    {                                                                                              \
        FR_RUN(type, rmsprop(p, v, mean, buf, g, n, o));                                           \
    }                                                                                              \
    void fr_adam_##type(real *p, real *m, real *v, const real *g, ptrdiff_t n,                     \
                        const fr_adam_options *o)                                                  \
    {                                                                                              \
        FR_RUN(type, adam(p, m, v, g, n, o));                                                      \
    }

FR_EXPORT(float, f32)
FR_EXPORT(double, f64)
