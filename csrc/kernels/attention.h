/* attention.h: additive attention, every query with every place of a memory; attention.c calls it.
 *
 *   p_ts = tanh(q_t + k_s)      e_ts = p_ts . v                                       (E5)
 *
 * p has B T S M numbers and is never stored: it lives in a register, and backward makes it anew.
 * Rows of the batch are shared out over threads and do not touch each other. */

FR_NOINLINE void NAME(attention_scores)(void *arg, int tid)
{
    const fr_attention_call *call = arg;
    const fr_attention_args *g = &call->args;
    const ptrdiff_t T = g->T, S = g->S, M = g->M;
    const real *v = g->v;
    for (ptrdiff_t b = tid; b < g->B; b += call->threads) {
        const ptrdiff_t places = g->len ? g->len[b] : S;
        const real *q = (const real *)g->q + b * T * M, *k = (const real *)g->k + b * S * M;
        real *e = (real *)g->e + b * T * S;
        for (ptrdiff_t t = 0; t < T; t++)
            for (ptrdiff_t s = 0; s < places; s++) {
                const real *qt = q + t * M, *ks = k + s * M;
                vr sum = vsplat(0);
                ptrdiff_t m = 0;
                for (; m + VL <= M; m += VL)
                    sum += vload(v + m) * vtanh(vload(qt + m) + vload(ks + m));
                if (m < M) {
                    const ptrdiff_t n = M - m;
                    sum += vload_n(v + m, n) * vtanh(vload_n(qt + m, n) + vload_n(ks + m, n));
                }
                e[t * S + s] = vsum(sum);
            }
    }
}

/* One vector of units m of one row: forward was e = tanh(q + k) . v, so                 (E12)
 *
 *   dv += sum_ts de p;   dq_t = v sum_s de (1 - p^2);   dk_s = v sum_t de (1 - p^2)
 *
 * n units of the vector exist. Units outermost: dq and dv stay in registers, and of dk one cache
 * line a place is in use. */
FR_INLINE void NAME(attention_units)(const fr_attention_args *g, ptrdiff_t b, ptrdiff_t m,
                                     ptrdiff_t n)
{
    const ptrdiff_t T = g->T, S = g->S, M = g->M, places = g->len ? g->len[b] : S;
    const real *q = (const real *)g->q + b * T * M + m, *k = (const real *)g->k + b * S * M + m;
    const real *de = (const real *)g->de + b * T * S;
    real *dq = (real *)g->dq + b * T * M + m, *dk = (real *)g->dk + b * S * M + m;
    const vr v = vload_n((const real *)g->v + m, n);
    vr dv = vsplat(0);
    for (ptrdiff_t s = 0; s < S; s++)
        vstore_n(dk + s * M, vsplat(0), n);
    for (ptrdiff_t t = 0; t < T; t++) {
        const vr qt = vload_n(q + t * M, n);
        vr sum = vsplat(0);
        for (ptrdiff_t s = 0; s < places; s++) {
            const vr p = vtanh(qt + vload_n(k + s * M, n)), d = vsplat(de[t * S + s]);
            const vr da = d * ((real)1 - p * p);
            dv += d * p;
            sum += da;
            vstore_n(dk + s * M, vload_n(dk + s * M, n) + da, n);
        }
        vstore_n(dq + t * M, v * sum, n);
    }
    for (ptrdiff_t s = 0; s < places; s++)
        vstore_n(dk + s * M, v * vload_n(dk + s * M, n), n);
    vstore_n((real *)g->dv + b * M + m, dv, n);
}

FR_NOINLINE void NAME(attention_backward)(void *arg, int tid)
{
    const fr_attention_call *call = arg;
    const fr_attention_args *g = &call->args;
    for (ptrdiff_t b = tid; b < g->B; b += call->threads) {
        ptrdiff_t m = 0;
        for (; m + VL <= g->M; m += VL)
            NAME(attention_units)(g, b, m, VL); /* a constant: whole vectors are loaded */
        if (m < g->M)
            NAME(attention_units)(g, b, m, g->M - m);
    }
}
