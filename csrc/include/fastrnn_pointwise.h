/* fastrnn_pointwise.h: losses, gradient clipping and optimizers over flat arrays.
 *
 * One pass over memory each, on plain 1-D or row-major 2-D arrays of float (_f32) or double (_f64).
 * Not here: models, layers, parameter names, which step it is; the caller keeps those.
 *
 * For all functions: arrays are dense and do not overlap (p, m, v ... are updated in place), sizes
 * may be 0, nothing is allocated, there are no globals. Long arrays are shared out over the threads
 * of fr_set_num_threads; the result does not depend on how many there are.
 * Options are double and are rounded to the array's type once a call. NaN and infinity are not
 * looked for: they go through as the formulas say. */
#ifndef FASTRNN_POINTWISE_H
#define FASTRNN_POINTWISE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Targets of a classification, before anything is computed from them.
 *
 *   counted  out     how many of the n targets are not `ignored`
 *   targets  (n)     each must be in [0, V) or equal to `ignored`
 *
 * Returns n if all are, else the position of the first that is not, with counted undefined. */
ptrdiff_t fr_check_targets(ptrdiff_t *counted, const int64_t *targets, ptrdiff_t n, int64_t V,
                           int64_t ignored);

/* How SGD, Adagrad, RMSprop and Adam take a step. Formulas as in PyTorch; equations (O1) to (O9) of
 * docs/math.md, where p is theta. g is the gradient; weight_decay adds weight_decay * p to it. */
typedef struct {
    double lr, momentum, weight_decay;
    int nesterov; /* look ahead: the step is g + momentum * buf instead of buf */
} fr_sgd_options;

typedef struct {
    double lr, eps, weight_decay;
} fr_adagrad_options;

typedef struct {
    double lr, alpha, eps, momentum, weight_decay;
} fr_rmsprop_options;

typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    int decoupled; /* AdamW: weight_decay shrinks p itself and leaves g alone */
    int64_t step;  /* 1 for the first update */
} fr_adam_options;

/* Which elements a dropout drops. A mask is never stored: the same four numbers give it again. Key,
 * call and layer choose a stream of Philox 4x32-10; word i of it decides about element i, whatever
 * the instruction set. */
typedef struct {
    double p;             /* of dropping an element, 0 to 1 */
    uint64_t key;         /* from the caller's seed */
    uint32_t call, layer; /* which of its uses this is */
} fr_dropout_options;

/* Philox 4x32-10 (Salmon et al. 2011): four random words of a counter and a key.      (F10, F11) */
void fr_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* The functions for one element type.
 *
 * softmax_cross_entropy, logits (n, V): row by row
 *
 *     loss    = -log softmax(logits)[target]                                           (X3)
 *     dlogits = scale * (softmax(logits) - onehot(target))                             (X4)
 *
 *   returns the sum of the losses in double; scale is 1/counted for the gradient of the mean. Rows
 *   whose target is `ignored` count nothing and get dlogits = 0. Only targets that
 *   fr_check_targets has accepted may come here: a row can be split off and computed alone.
 *
 * bce_with_logits, all arrays (n), targets in [0, 1]: element by element
 *
 *     loss    = max(logits, 0) - logits * targets + log(1 + exp(-|logits|))            (X6)
 *     dlogits = scale * (sigmoid(logits) - targets)                                    (X7)
 *
 *   returns the sum of the losses, added up in double; scale is 1/n for the gradient of the mean.
 *
 * sum_of_squares: in double and in one fixed order, so the same on every machine for float.
 * clip: NaN stays NaN. clear: zeros.
 *
 * dropout: out = x * mask / (1 - p), all of it 0 * x if p is 1; out may be x.           (F3, F12)
 *
 * scatter_add, out (V, D), rows (n, D): out[ids[i]] += rows[i] in the order of i; ids in [0, V).
 *
 * sgd: buf is the momentum buffer, zeros at first; NULL if momentum is 0.             (O2, O3)
 * adagrad: sum of g^2.                                                                   (O4)
 * rmsprop: v the running mean of g^2; mean that of g, NULL unless centered; buf as in sgd.
 *                                                                                     (O5, O6)
 * adam: m, v running means of g and g^2, zeros at first.                              (O7, O8, O9) */
#define FR_POINTWISE_FUNCTIONS(real, type)                                                         \
    double fr_softmax_cross_entropy_##type(real *dlogits, const real *logits,                      \
                                           const int64_t *targets, ptrdiff_t n, ptrdiff_t V,       \
                                           int64_t ignored, double scale);                         \
    double fr_bce_with_logits_##type(real *dlogits, const real *logits, const real *targets,       \
                                     ptrdiff_t n, double scale);                                   \
    double fr_sum_of_squares_##type(const real *x, ptrdiff_t n);                                   \
    void fr_scale_##type(real *x, ptrdiff_t n, double factor);                                     \
    void fr_clip_##type(real *x, ptrdiff_t n, double low, double high);                            \
    void fr_clear_##type(real *x, ptrdiff_t n);                                                    \
    void fr_dropout_##type(real *out, const real *x, ptrdiff_t n, const fr_dropout_options *o);    \
    void fr_scatter_add_##type(real *out, const real *rows, const int64_t *ids, ptrdiff_t n,       \
                               ptrdiff_t D);                                                       \
    void fr_sgd_##type(real *p, real *buf, const real *g, ptrdiff_t n,                             \
                       const fr_sgd_options *options);                                             \
    void fr_adagrad_##type(real *p, real *sum, const real *g, ptrdiff_t n,                         \
                           const fr_adagrad_options *options);                                     \
    void fr_rmsprop_##type(real *p, real *v, real *mean, real *buf, const real *g, ptrdiff_t n,    \
                           const fr_rmsprop_options *options);                                     \
    void fr_adam_##type(real *p, real *m, real *v, const real *g, ptrdiff_t n,                     \
                        const fr_adam_options *options);

FR_POINTWISE_FUNCTIONS(float, f32)
FR_POINTWISE_FUNCTIONS(double, f64)

#ifdef __cplusplus
}
#endif
#endif
