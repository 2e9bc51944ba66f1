/* gru_before.c: the GRU cell as published, with the reset gate before the recurrent product.
 *
 *   r, z = sigmoid(x W^T + h_{t-1} R^T + b)                                   (GB1)
 *   p    = r * h_{t-1}                                                        (GB2)
 *   n    = tanh(x W_n^T + p R_n^T + b)                                        (GB3)
 *   h_t  = z * h_{t-1} + (1 - z) * n                                          (GB4)
 *
 * Cho et al. 2014. The candidate's product needs every unit of r * h, so a step has two phases
 * with a barrier between them, forward and backward; that is what the variant of gru.c saves.
 *
 * Not compiled on its own: see lstm.c. The reserve of a row is [r|z|n|r*h]; a row of dG is
 * [dr|dz|dn] (GB8). */
#define CELL gru_before
#define CELL_PHASES 2
#define CELL_CARRIES_H 1
#define CELL_DH_GATES 2 /* n reaches h through r * h, which phase 1 takes care of */

FR_INLINE void NAME(gru_before_forward_tile)(const fr_call *call, const NAME(row_arrays) * a,
                                             ptrdiff_t q, int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int vectors = NAME(tile_vectors)(H, p, w);
    const real *rh[FR_MR];
    _Alignas(64) real pre[2][FR_MR * NR];

    if (phase == 0) {
        const real *const *const xw = a->xw + q, *const *const init[2] = {xw, xw};
        const ptrdiff_t at_gate[2] = {p * NR, Hp + p * NR};
        NAME(recurrent_gates)(call, pre, init, at_gate, a, q, h, p, w, 2); /* (GB1) */
        for (int m = 0; m < h; m++)
            for (int v = 0; v < vectors; v++) {
                const ptrdiff_t u = p * NR + v * VL, at = m * NR + v * VL;
                real *gates = a->gates[q + m];
                const vr r = vsigmoid(vload(pre[0] + at));
                vstore(gates + u, r);
                vstore(gates + Hp + u, vsigmoid(vload(pre[1] + at)));
                vstore(gates + 3 * Hp + u, r * vload_n(a->hprev[q + m] + u, H - u));
            }
        return;
    }
    for (int m = 0; m < h; m++)
        rh[m] = a->gates[q + m] + 3 * Hp;
    NAME(recurrent_tile)(call, a, pre[0], a->xw + q, 2 * Hp + p * NR, rh, h, p, w, 2); /* (GB3) */
    for (int m = 0; m < h; m++)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            real *gates = a->gates[q + m];
            const vr z = vload(gates + Hp + u), n = vtanh(vload(pre[0] + m * NR + v * VL));
            vstore(gates + 2 * Hp + u, n);
            vstore_n(a->h[q + m] + u, n + z * (vload_n(a->hprev[q + m] + u, H - u) - n), H - u);
        }
}

FR_INLINE void NAME(gru_before_backward_tile)(const fr_call *call, const NAME(row_arrays) * a,
                                              ptrdiff_t q, int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int vectors = NAME(tile_vectors)(H, p, w);
    const real *zeros[FR_MR], *dg[FR_MR];
    _Alignas(64) real tile[FR_MR * NR];

    if (phase == 0) {
        NAME(dh_tile)(call, tile, a, q, h, p, w, 2); /* (GB7), but for dp * r */
        for (int m = 0; m < h; m++)
            for (int v = 0; v < vectors; v++) {
                const ptrdiff_t u = p * NR + v * VL;
                const real *gates = a->gates[q + m], *dy = a->dy[q + m];
                const vr z = vload(gates + Hp + u), n = vload(gates + 2 * Hp + u);
                vr dh = vload(tile + m * NR + v * VL);
                if (dy)
                    dh += vload_n(dy + u, H - u);
                /* forward was h = z * h_prev + (1 - z) * n (G7, G8, G10) */
                const vr dz = dh * (vload_n(a->hprev[q + m] + u, H - u) - n);
                vstore(a->dg[q + m] + Hp + u, dz * z * ((real)1 - z));
                vstore(a->dg[q + m] + 2 * Hp + u, dh * ((real)1 - z) * ((real)1 - n * n));
                vstore(a->carry_h[q + m] + u, dh * z);
            }
        return;
    }
    for (int m = 0; m < h; m++) {
        zeros[m] = (const real *)call->zeros;
        dg[m] = a->dg[q + m];
    }
    /* forward was n = tanh(... + (r * h_prev) R_n^T): d(r * h_prev) = dn R_n (GB5, GB6) */
    NAME(transposed_tile)(call, a, tile, zeros, 0, dg, h, p, w, 2);
    for (int m = 0; m < h; m++)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            const vr r = vload(a->gates[q + m] + u), drh = vload(tile + m * NR + v * VL);
            real *carry = a->carry_h[q + m] + u;
            const vr dr = drh * vload_n(a->hprev[q + m] + u, H - u);
            vstore(a->dg[q + m] + u, dr * r * ((real)1 - r));
            vstore(carry, vload(carry) + drh * r); /* (GB7) */
        }
}

#include "kernels/walk.h"
