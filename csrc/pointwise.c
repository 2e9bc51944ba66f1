/* pointwise.c: losses, clipping and optimizers, as fastrnn_pointwise.h announces them.
 *
 * The bodies are in kernels/pointwise.h, compiled here for the baseline of the machine: vec.h with
 * one lane is plain C, which the compiler vectorises with what the baseline has. */

#include "fastrnn_pointwise.h"

#include <math.h>
#include <string.h>

/* What every x86-64 and aarch64 has. */
#if defined(__GNUC__) && (defined(__SSE2__) || defined(__ARM_NEON))
#define FR_VBYTES 16
#else
#define FR_VBYTES 0
#endif

#define FR_REAL_IS_DOUBLE 0
#include "kernels/vec.h"
#include "kernels/vmath.h"
#include "kernels/pointwise.h"
#undef FR_REAL_IS_DOUBLE

#define FR_REAL_IS_DOUBLE 1
#include "kernels/vec.h"
#include "kernels/vmath.h"
#include "kernels/pointwise.h"

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

#define FR_EXPORT(real, type)                                                                      \
    double fr_softmax_cross_entropy_##type(real *dlogits, const real *logits,                      \
                                           const int64_t *targets, ptrdiff_t n, ptrdiff_t V,       \
                                           int64_t ignored, double scale)                          \
    {                                                                                              \
        return softmax_cross_entropy_##type(dlogits, logits, targets, n, V, ignored, scale);       \
    }                                                                                              \
    double fr_sum_of_squares_##type(const real *x, ptrdiff_t n)                                    \
    {                                                                                              \
        return sum_of_squares_##type(x, n);                                                        \
    }                                                                                              \
    void fr_scale_##type(real *x, ptrdiff_t n, double factor)                                      \
    {                                                                                              \
        scale_##type(x, n, factor);                                                                \
    }                                                                                              \
    void fr_clip_##type(real *x, ptrdiff_t n, double low, double high)                             \
    {                                                                                              \
        clip_##type(x, n, low, high);                                                              \
    }                                                                                              \
    void fr_scatter_add_##type(real *out, const real *rows, const int64_t *ids, ptrdiff_t n,       \
                               ptrdiff_t D)                                                        \
    {                                                                                              \
        scatter_add_##type(out, rows, ids, n, D);                                                  \
    }                                                                                              \
    void fr_sgd_##type(real *p, real *buf, const real *g, ptrdiff_t n, const fr_sgd_options *o)    \
    {                                                                                              \
        sgd_##type(p, buf, g, n, o);                                                               \
    }                                                                                              \
    void fr_adagrad_##type(real *p, real *sum, const real *g, ptrdiff_t n,                         \
                           const fr_adagrad_options *o)                                            \
    {                                                                                              \
        adagrad_##type(p, sum, g, n, o);                                                           \
    }                                                                                              \
    void fr_rmsprop_##type(real *p, real *v, real *mean, real *buf, const real *g, ptrdiff_t n,    \
                           const fr_rmsprop_options *o)                                            \
    {                                                                                              \
        rmsprop_##type(p, v, mean, buf, g, n, o);                                                  \
    }                                                                                              \
    void fr_adam_##type(real *p, real *m, real *v, const real *g, ptrdiff_t n,                     \
                        const fr_adam_options *o)                                                  \
    {                                                                                              \
        adam_##type(p, m, v, g, n, o);                                                             \
    }

FR_EXPORT(float, f32)
FR_EXPORT(double, f64)
