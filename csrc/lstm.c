/* lstm.c: the LSTM cell, one step of one tile, forward and backward.
 *
 *   a_t = x_t W^T + h_{t-1} R^T + b          gates [i|f|g|o]                  (L1)
 *   i, f, o = sigmoid(a);   g = tanh(a)                                       (L2)
 *   c_t = f * c_{t-1} + i * g;   h_t = o * tanh(c_t)                          (L3)
 *
 * Hochreiter & Schmidhuber 1997; forget gate from Gers et al. 2000; no peepholes.
 *
 * Not compiled on its own: kernels/kernels.h includes it for each instruction set and element
 * type, after the vectors (vec.h) and the micro-kernel (tile.h). A tile is h rows x NR units;
 * the reserve of a row is [i|f|g|o|c], each Hp long; a row of dG is [di|df|dg|do]. */
#define CELL lstm
#define CELL_PHASES 1
#define CELL_CARRIES_H 0
#define CELL_DH_GATES 4
#define CELL_WHOLE_DC NAME(lstm_whole_dc)

FR_INLINE void NAME(lstm_forward_tile)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                                       int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int vectors = NAME(tile_vectors)(H, p, w), keep = call->reserve != NULL;
    /* x W^T + b, gate by gate, is where the product starts from. */
    _Alignas(64) real pre[4][FR_MR * NR];
    (void)phase;

    const real *const *const xw = a->xw + q, *const *const init[4] = {xw, xw, xw, xw};
    const ptrdiff_t at_gate[4] = {p * NR, Hp + p * NR, 2 * Hp + p * NR, 3 * Hp + p * NR};
    NAME(recurrent_gates)(call, pre, init, at_gate, a, q, h, p, w, 4); /* (L1) */

    for (int m = 0; m < h; m++) {
        const real *cprev = a->cprev[q + m];
        real *c_row = a->c[q + m], *gates = a->gates[q + m];
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL, at = m * NR + v * VL;
            const vr i = vsigmoid(vload(pre[0] + at)); /* (L2) */
            const vr f = vsigmoid(vload(pre[1] + at));
            const vr g = vtanh(vload(pre[2] + at));
            vstore(c_row + u, f * vload(cprev + u) + i * g); /* (L3) */
            if (keep) {
                vstore(gates + u, i);
                vstore(gates + Hp + u, f);
                vstore(gates + 2 * Hp + u, g);
            }
        }
    }
    /* A loop of its own: tanh(c) ends a long chain, and only vectors side by side fill its waits, and
     * the output gate, which nothing has asked for before. */
    for (int m = 0; m < h; m++) {
        real *gates = a->gates[q + m];
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            const vr tanh_c = vtanh(vload(a->c[q + m] + u));
            const vr o = vsigmoid(vload(pre[3] + m * NR + v * VL));
            if (keep)
                vstore(gates + 3 * Hp + u, o);
            vstore_n(a->h[q + m] + u, o * tanh_c, H - u);
        }
    }
}

/* o (1 - tanh^2 c) of (L6) from h = o tanh(c) (L13): a division, where tanh would be an exponential
 * and a division. Through a gate that is shut nothing comes, and 0 / 0 must not be asked. */
FR_INLINE vr NAME(lstm_dh_to_dc)(vr h, vr o)
{
    return o - h * (h / vmax(FR_TINY, o));
}

FR_INLINE void NAME(lstm_backward_tile)(const fr_call *call, const NAME(row_arrays) * a,
                                        ptrdiff_t q, int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int vectors = NAME(tile_vectors)(H, p, w);
    _Alignas(64) real dh_tile[FR_MR * NR];
    (void)phase;

    NAME(dh_tile)(call, dh_tile, a, q, h, p, w, 4); /* (L11): dG_{t+1} R */

    for (int m = 0; m < h; m++) {
        const real *gates = a->gates[q + m], *dy = a->dy[q + m], *h_row = a->h[q + m];
        real *dg_row = a->dg[q + m];
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            const vr i = vload(gates + u), f = vload(gates + Hp + u);
            const vr g = vload(gates + 2 * Hp + u), o = vload(gates + 3 * Hp + u);
            const vr h_t = vload_n(h_row + u, H - u);
            vr dh = vload(dh_tile + m * NR + v * VL);
            if (dy)
                dh += vload_n(dy + u, H - u); /* (L4) */
            /* forward was h = o * tanh(c) (L5, L6) */
            const vr dc_in = vload(a->dc_in[q + m] + u);
            const vr dc = call->looks ? dc_in : dc_in + dh * NAME(lstm_dh_to_dc)(h_t, o);
            /* forward was c = f * c_prev + i * g (L7); then through sigmoid and tanh (L9) */
            vstore(dg_row + u, dc * g * i * ((real)1 - i));
            vstore(dg_row + Hp + u, dc * vload(a->cprev[q + m] + u) * f * ((real)1 - f));
            vstore(dg_row + 2 * Hp + u, dc * i * ((real)1 - g * g));
            vstore(dg_row + 3 * Hp + u, dh * h_t * ((real)1 - o)); /* do * o = dh * h (L13) */
            vstore(a->carry_c[q + m] + u, dc * f);                 /* (L8) */
        }
    }
}

/* (L6) by itself, for one row and panel of a step whose gradients are looked at: steps.h. */
static void NAME(lstm_whole_dc)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                                ptrdiff_t p)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const real *gates = a->gates[q];
    for (ptrdiff_t u = p * NR, v = 0; v < NAME(panel_vectors)(H, p); v++, u += VL) {
        const vr o = vload(gates + 3 * Hp + u), h_t = vload_n(a->h[q] + u, H - u);
        const vr dh = vload(a->dh_init[q] + u);
        vstore(a->carry_c[q] + u, vload(a->dc_in[q] + u) + dh * NAME(lstm_dh_to_dc)(h_t, o));
    }
}

#include "kernels/walk.h"
