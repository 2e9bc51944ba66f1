/* gru.c: the GRU cell with the reset gate after the recurrent product, one step of one tile.
 *
 *   r, z = sigmoid(x W^T + b_i + h_{t-1} R^T + b_h)                           (G1, G2)
 *   q    = h_{t-1} R_n^T + b_hn                                               (G3)
 *   n    = tanh(x W_n^T + b_in + r * q)                                       (G4)
 *   h_t  = z * h_{t-1} + (1 - z) * n                                          (G5)
 *
 * Cho et al. 2014 in the variant of cuDNN and torch.nn: one product a step is enough. The
 * variant of the paper is in gru_before.c.
 *
 * Not compiled on its own: see lstm.c. The reserve of a row is [r|z|n|q]. A row of dG is
 * [dr|dz|dn|dq] (G11): the candidate's input half (dn) and recurrent half (dq = dn * r) differ. */
#define CELL gru
#define CELL_PHASES 1
#define CELL_CARRIES_H 1
#define CELL_DH_GATES 3

FR_INLINE void NAME(gru_forward_tile)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q0,
                                      int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int vectors = NAME(tile_vectors)(H, p, w), keep = call->reserve != NULL;
    const real *bias = (const real *)(call->packed + call->at.bias);
    const real *bias_row[FR_MR];
    _Alignas(64) real pre[3][FR_MR * NR];
    (void)phase;

    for (int m = 0; m < h; m++)
        bias_row[m] = bias;
    /* (G1, G2) start from x W^T + b_i + b_h, which is in xw; (G3) from b_hn alone. */
    const real *const *const xw = a->xw + q0, *const *const init[3] = {xw, xw, bias_row};
    const ptrdiff_t at_gate[3] = {p * NR, Hp + p * NR, 3 * Hp + p * NR};
    NAME(recurrent_gates)(call, pre, init, at_gate, a, q0, h, p, w, 3);

    for (int m = 0; m < h; m++) {
        const real *x_n = xw[m] + 2 * Hp;
        real *gates = a->gates[q0 + m];
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL, at = m * NR + v * VL;
            const vr r = vsigmoid(vload(pre[0] + at));
            const vr z = vsigmoid(vload(pre[1] + at));
            const vr q = vload(pre[2] + at);
            vstore(pre[1] + at, z);
            vstore(pre[2] + at, vload(x_n + u) + r * q);
            if (keep) {
                vstore(gates + u, r);
                vstore(gates + Hp + u, z);
                vstore(gates + 3 * Hp + u, q);
            }
        }
    }
    /* A loop of its own: tanh waits for r, and only vectors side by side fill the wait. */
    for (int m = 0; m < h; m++) {
        const real *hprev = a->hprev[q0 + m];
        real *h_row = a->h[q0 + m], *gates = a->gates[q0 + m];
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL, at = m * NR + v * VL;
            const vr n = vtanh(vload(pre[2] + at));                                  /* (G4) */
            const vr h_t = n + vload(pre[1] + at) * (vload_n(hprev + u, H - u) - n); /* (G5) */
            vstore_n(h_row + u, h_t, H - u);
            if (keep)
                vstore(gates + 2 * Hp + u, n);
        }
    }
}

FR_INLINE void NAME(gru_backward_tile)(const fr_call *call, const NAME(row_arrays) * a,
                                       ptrdiff_t q0, int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int vectors = NAME(tile_vectors)(H, p, w);
    _Alignas(64) real dh_tile[FR_MR * NR];
    (void)phase;

    NAME(dh_tile)(call, dh_tile, a, q0, h, p, w, 3); /* (G14): dh z of step t+1, and [dr|dz|dq] R */

    for (int m = 0; m < h; m++) {
        const real *gates = a->gates[q0 + m], *dy = a->dy[q0 + m];
        real *dg_row = a->dg[q0 + m];
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            const vr r = vload(gates + u), z = vload(gates + Hp + u);
            const vr n = vload(gates + 2 * Hp + u), q = vload(gates + 3 * Hp + u);
            vr dh = vload(dh_tile + m * NR + v * VL);
            if (dy)
                dh += vload_n(dy + u, H - u);
            /* forward was h = z * h_prev + (1 - z) * n (G7, G8) */
            const vr dz = dh * (vload_n(a->hprev[q0 + m] + u, H - u) - n);
            const vr dn = dh * ((real)1 - z) * ((real)1 - n * n);
            /* forward was n = tanh(xw + r * q); then through the sigmoids (G9, G10) */
            vstore(dg_row + u, dn * q * r * ((real)1 - r));
            vstore(dg_row + Hp + u, dz * z * ((real)1 - z));
            vstore(dg_row + 2 * Hp + u, dn);
            vstore(dg_row + 3 * Hp + u, dn * r);
            vstore(a->carry_h[q0 + m] + u, dh * z);
        }
    }
}

#include "kernels/walk.h"
