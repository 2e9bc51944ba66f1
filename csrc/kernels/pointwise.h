/* pointwise.h: bodies of fastrnn_pointwise.h, for one element type and one instruction set.
 *
 * Included after vec.h and vmath.h, which set `real`, NAME and the vectors. Plain loops over arrays,
 * shaped so that compilers vectorise them: no call, no branch on data, and wherever a sum or a
 * maximum is taken, FR_LANES independent ones side by side, joined at the end in a fixed order. A
 * compiler may not reorder a floating-point sum by itself.
 *
 * Everything is static, for the same reason as in vec.h. */

#ifndef FR_LANES
#define FR_LANES 16 /* four SSE, two AVX, one AVX-512 register of floats */
/* Elements of whole rows that softmax works on at a time: logits and dlogits stay in L1. */
#define FR_SOFTMAX_BLOCK 2048
/* Elements whose losses wait in L1 to be added up in double. */
#define FR_BCE_BLOCK 512
#endif

#undef FR_SQRT
#if FR_REAL_IS_DOUBLE
#define FR_SQRT sqrt
#else
#define FR_SQRT sqrtf
#endif

/* Lane by lane, the larger of a and b, or a where either is NaN. */
FR_INLINE vr NAME(larger)(vr a, vr b)
{
#if FR_VBYTES == 0
    return b > a ? b : a;
#else
    const vi m = b > a;
    return vfrombits((vbits(b) & m) | (vbits(a) & ~m));
#endif
}

/* Sum of FR_LANES lanes: upper half onto lower half until one is left, on every ISA alike. */
FR_INLINE real NAME(lane_sum)(vr *v)
{
    real lane[VL];
    FR_UNROLL
    for (int half = FR_LANES / VL / 2; half; half /= 2) {
        FR_UNROLL
        for (int k = 0; k < half; k++)
            v[k] += v[k + half];
    }
    vstore(lane, v[0]);
    FR_UNROLL
    for (int half = VL / 2; half; half /= 2) {
        FR_UNROLL
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    }
    return lane[0];
}

/* Largest of x, ignoring NaN; -infinity if there is none. */
FR_INLINE real NAME(row_max)(const real *x, ptrdiff_t n)
{
    real m = -(real)INFINITY;
    ptrdiff_t i = 0;
    if (n >= FR_LANES) {
        vr v[FR_LANES / VL];
        FR_UNROLL
        for (int k = 0; k < FR_LANES / VL; k++)
            v[k] = vload(x + k * VL);
        for (i = FR_LANES; i + FR_LANES <= n; i += FR_LANES) {
            FR_UNROLL
            for (int k = 0; k < FR_LANES / VL; k++)
                v[k] = NAME(larger)(v[k], vload(x + i + k * VL));
        }
        real lane[FR_LANES];
        FR_UNROLL
        for (int k = 0; k < FR_LANES / VL; k++)
            vstore(lane + k * VL, v[k]);
        for (int l = 0; l < FR_LANES; l++)
            m = lane[l] > m ? lane[l] : m;
    }
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

FR_INLINE real NAME(row_sum)(const real *x, ptrdiff_t n)
{
    real s = 0;
    ptrdiff_t i = 0;
    if (n >= FR_LANES) {
        vr v[FR_LANES / VL];
        FR_UNROLL
        for (int k = 0; k < FR_LANES / VL; k++)
            v[k] = vload(x + k * VL);
        for (i = FR_LANES; i + FR_LANES <= n; i += FR_LANES) {
            FR_UNROLL
            for (int k = 0; k < FR_LANES / VL; k++)
                v[k] += vload(x + i + k * VL);
        }
        s = NAME(lane_sum)(v);
    }
    for (; i < n; i++)
        s += x[i];
    return s;
}

/* x = e^x for x <= 0 (or NaN), exactly 0 where e^x would be subnormal: -infinity is a way to say
 * "never this class". */
FR_INLINE void NAME(exp_in_place)(real *x, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        const vr z = vload(x + i);
        vstore(x + i, vless(z, FR_EXP_MIN, vsplat(0), vexp(z)));
    }
    if (i < n) {
        const vr z = vload_n(x + i, n - i);
        vstore_n(x + i, vless(z, FR_EXP_MIN, vsplat(0), vexp(z)), n - i);
    }
}

/* Rows with targets in range, see fastrnn_pointwise.h. With z = x - max(x), so that nothing
 * overflows:
 *
 *   p = e^z / sum(e^z);  loss = log(sum(e^z)) - z[target];  dx = scale * (p - onehot)   (X1-X4)
 *
 * Rows are short (65 characters) and exp is most of the work, so exp runs over a block of whole rows
 * at once: one incomplete vector a block instead of one a row. */
FR_NOINLINE void NAME(softmax_cross_entropy)(real *restrict dx, const real *restrict x,
                                             const int64_t *restrict targets, ptrdiff_t n,
                                             ptrdiff_t V, int64_t ignored, double scale,
                                             fr_entropy *entropy)
{
    double loss = entropy->of_logits, product = entropy->product;
    if (V < 1)
        return;
    const ptrdiff_t block = V < FR_SOFTMAX_BLOCK ? FR_SOFTMAX_BLOCK / V : 1;
    for (ptrdiff_t first = 0; first < n; first += block) {
        const ptrdiff_t end = n - first < block ? n : first + block;
        for (ptrdiff_t r = first; r < end; r++) {
            const real *xr = x + r * V;
            real *z = dx + r * V;
            const real top = NAME(row_max)(xr, V);
            for (ptrdiff_t j = 0; j < V; j++)
                z[j] = xr[j] - top;
            if (targets[r] != ignored)
                loss -= z[targets[r]];
        }
        NAME(exp_in_place)(dx + first * V, (end - first) * V);
        for (ptrdiff_t r = first; r < end; r++) {
            real *e = dx + r * V;
            if (targets[r] == ignored) {
                memset(e, 0, (size_t)V * sizeof *e);
                continue;
            }
            const real sum = NAME(row_sum)(e, V);
            const real to_dx = (real)scale / sum;
            product *= sum; /* sum is in [1, V], so one log serves a hundred rows */
            if (!(product < 1e200)) {
                entropy->of_sums += log(product);
                product = 1;
            }
            for (ptrdiff_t j = 0; j < V; j++)
                e[j] *= to_dx;
            e[targets[r]] -= (real)scale;
        }
    }
    entropy->of_logits = loss;
    entropy->product = product;
}

/* With e = e^-|x|, which never overflows:
 *
 *   loss = max(x, 0) - x t + log(1 + e)                                                    (X6)
 *   dx = scale * ((x < 0 ? e : 1) / (1 + e) - t)                                     (A13, X7) */
FR_INLINE vr NAME(bce)(vr *dx, vr x, vr t, real scale)
{
    const vr z = -vabs(x), e = vless(z, FR_EXP_MIN, vsplat(0), vexp(z));
    *dx = (vless(x, 0, e, vsplat(1)) / (e + (real)1) - t) * scale;
    return vmax(0, x) - x * t + vlog1p(e);
}

FR_NOINLINE double NAME(bce_with_logits)(real *restrict dx, const real *restrict x,
                                         const real *restrict t, ptrdiff_t n, double scale)
{
    double lane[FR_LANES] = {0}, sum = 0;
    for (ptrdiff_t first = 0; first < n; first += FR_BCE_BLOCK) {
        const ptrdiff_t rest = n - first < FR_BCE_BLOCK ? n - first : FR_BCE_BLOCK;
        real loss[FR_BCE_BLOCK];
        vr d;
        ptrdiff_t i = 0;
        for (; i + VL <= rest; i += VL) {
            const ptrdiff_t k = first + i;
            vstore(loss + i, NAME(bce)(&d, vload(x + k), vload(t + k), (real)scale));
            vstore(dx + k, d);
        }
        if (i < rest) {
            const ptrdiff_t k = first + i, tail = rest - i;
            vstore_n(loss + i,
                     NAME(bce)(&d, vload_n(x + k, tail), vload_n(t + k, tail), (real)scale), tail);
            vstore_n(dx + k, d, tail);
        }
        for (i = 0; i + FR_LANES <= rest; i += FR_LANES)
            for (int l = 0; l < FR_LANES; l++)
                lane[l] += (double)loss[i + l];
        for (; i < rest; i++)
            sum += (double)loss[i];
    }
    for (int l = 0; l < FR_LANES; l++)
        sum += lane[l];
    return sum;
}

FR_NOINLINE double NAME(sum_of_squares)(const real *restrict x, ptrdiff_t n)
{
    double lane[FR_LANES] = {0}, s = 0;
    ptrdiff_t i = 0;
    for (; i + FR_LANES <= n; i += FR_LANES)
        for (int l = 0; l < FR_LANES; l++)
            lane[l] += (double)x[i + l] * x[i + l];
    for (; i < n; i++)
        s += (double)x[i] * x[i];
    for (int l = 0; l < FR_LANES; l++)
        s += lane[l];
    return s;
}

FR_NOINLINE void NAME(scale)(real *x, ptrdiff_t n, double factor)
{
    const real f = (real)factor;
    for (ptrdiff_t i = 0; i < n; i++)
        x[i] *= f;
}

FR_NOINLINE void NAME(clip)(real *x, ptrdiff_t n, double low, double high)
{
    const real lo = (real)low, hi = (real)high;
    for (ptrdiff_t i = 0; i < n; i++) { /* a comparison with NaN is false, so NaN stays */
        const real v = x[i] < lo ? lo : x[i];
        x[i] = v > hi ? hi : v;
    }
}

/* A word of the generator below p * 2^32 drops its element. */
FR_NOINLINE void NAME(dropout)(real *out, const real *x, ptrdiff_t n, const fr_dropout_options *o)
{
    enum { WORDS = 4 * FR_PHILOX };
    const uint32_t key[2] = {(uint32_t)o->key, (uint32_t)(o->key >> 32)};
    const uint32_t limit = o->p < 1 ? (uint32_t)(o->p * 4294967296.0) : 0;
    const real kept = o->p < 1 ? (real)(1 / (1 - o->p)) : 0;
    for (ptrdiff_t first = 0; first < n; first += WORDS) {
        const uint64_t block = (uint64_t)first / 4;
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), o->call, o->layer};
        const ptrdiff_t rest = n - first < WORDS ? n - first : WORDS;
        uint32_t words[WORDS];
        fr_philox_blocks(words, counter, key);
        for (ptrdiff_t i = 0; i < rest; i++) /* a product, so that NaN stays NaN */
            out[first + i] = x[first + i] * (words[i] < limit ? 0 : kept);
    }
}

FR_NOINLINE void NAME(scatter_add)(real *restrict out, const real *restrict rows,
                                   const int64_t *restrict ids, ptrdiff_t n, ptrdiff_t D)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        real *to = out + ids[i] * D;
        const real *from = rows + i * D;
        for (ptrdiff_t j = 0; j < D; j++)
            to[j] += from[j];
    }
}

/* Optimizers. Weight decay 0 costs nothing here, since p is loaded anyway; what decides about an
 * array that may be NULL is a constant in each inlined copy of a body. */

FR_INLINE void NAME(sgd_body)(real *restrict p, real *restrict buf, const real *restrict g_,
                              ptrdiff_t n, const fr_sgd_options *o, int momentum, int nesterov)
{
    const real lr = (real)o->lr, mu = (real)o->momentum, decay = (real)o->weight_decay;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real g = g_[i] + decay * p[i];
        real step = g;
        if (momentum) {
            buf[i] = mu * buf[i] + g;
            step = nesterov ? g + mu * buf[i] : buf[i];
        }
        p[i] -= lr * step;
    }
}

FR_NOINLINE void NAME(sgd)(real *p, real *buf, const real *g, ptrdiff_t n, const fr_sgd_options *o)
{
    if (!buf)
        NAME(sgd_body)(p, buf, g, n, o, 0, 0);
    else if (o->nesterov)
        NAME(sgd_body)(p, buf, g, n, o, 1, 1);
    else
        NAME(sgd_body)(p, buf, g, n, o, 1, 0);
}

FR_NOINLINE void NAME(adagrad)(real *restrict p, real *restrict sum, const real *restrict g_,
                               ptrdiff_t n, const fr_adagrad_options *o)
{
    const real lr = (real)o->lr, eps = (real)o->eps, decay = (real)o->weight_decay;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real g = g_[i] + decay * p[i];
        sum[i] += g * g;
        p[i] -= lr * g / (FR_SQRT(sum[i]) + eps);
    }
}

FR_INLINE void NAME(rmsprop_body)(real *restrict p, real *restrict v, real *restrict mean,
                                  real *restrict buf, const real *restrict g_, ptrdiff_t n,
                                  const fr_rmsprop_options *o, int centered, int momentum)
{
    const real lr = (real)o->lr, eps = (real)o->eps, decay = (real)o->weight_decay;
    const real keep = (real)o->alpha, take = (real)(1 - o->alpha), mu = (real)o->momentum;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real g = g_[i] + decay * p[i];
        v[i] = keep * v[i] + take * (g * g);
        real variance = v[i];
        if (centered) {
            mean[i] = keep * mean[i] + take * g;
            variance -= mean[i] * mean[i];
            variance = variance < 0 ? 0 : variance; /* rounding, when g hardly changes */
        }
        real step = g / (FR_SQRT(variance) + eps);
        if (momentum)
            step = buf[i] = mu * buf[i] + step;
        p[i] -= lr * step;
    }
}

FR_NOINLINE void NAME(rmsprop)(real *p, real *v, real *mean, real *buf, const real *g, ptrdiff_t n,
                               const fr_rmsprop_options *o)
{
    if (mean && buf)
        NAME(rmsprop_body)(p, v, mean, buf, g, n, o, 1, 1);
    else if (mean)
        NAME(rmsprop_body)(p, v, mean, buf, g, n, o, 1, 0);
    else if (buf)
        NAME(rmsprop_body)(p, v, mean, buf, g, n, o, 0, 1);
    else
        NAME(rmsprop_body)(p, v, mean, buf, g, n, o, 0, 0);
}

FR_NOINLINE void NAME(adam)(real *restrict p, real *restrict m, real *restrict v,
                            const real *restrict g_, ptrdiff_t n, const fr_adam_options *o)
{
    const double steps = (double)o->step;
    const real lr = (real)(o->lr / (1 - pow(o->beta1, steps)));
    const real unbias = (real)(1 / sqrt(1 - pow(o->beta2, steps)));
    const real keep1 = (real)o->beta1, take1 = (real)(1 - o->beta1);
    const real keep2 = (real)o->beta2, take2 = (real)(1 - o->beta2), eps = (real)o->eps;
    const real decay = o->decoupled ? 0 : (real)o->weight_decay;
    const real shrink = o->decoupled ? (real)(1 - o->lr * o->weight_decay) : 1;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real g = g_[i] + decay * p[i];
        m[i] = keep1 * m[i] + take1 * g;
        v[i] = keep2 * v[i] + take2 * (g * g);
        p[i] = shrink * p[i] - lr * m[i] / (FR_SQRT(v[i]) * unbias + eps);
    }
}
