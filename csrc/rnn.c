/* rnn.c: the vanilla recurrent cell, one step of one tile, forward and backward.
 *
 *   h_t = act(x_t W^T + h_{t-1} R^T + b)      act = tanh, relu or sigmoid     (R1, R2)
 *
 * Elman 1990. All three derivatives can be written with h alone
 *   tanh: 1 - h^2      relu: 1 where h > 0      sigmoid: h (1 - h)            (R4)
 * so nothing but the output is kept for backward.
 *
 * Not compiled on its own: see lstm.c. A row of dG is [da]. */
#define CELL rnn
#define CELL_PHASES 1
#define CELL_CARRIES_H 0
#define CELL_DH_GATES 1

FR_INLINE void NAME(rnn_forward_tile)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                                      int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size;
    const int vectors = NAME(tile_vectors)(H, p, w);
    const fr_cell cell = call->layer.cell;
    _Alignas(64) real pre[FR_MR * NR];
    (void)phase;

    NAME(fetch_forward)(call, a, q, h, p, 0, 1);
    NAME(recurrent_tile)(call, a, pre, a->xw + q, p * NR, a->hprev + q, h, p, w, 0);

    for (int m = 0; m < h; m++)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            const vr s = vload(pre + m * NR + v * VL);
            const vr h_t = cell == FR_RNN_TANH   ? vtanh(s)
                           : cell == FR_RNN_RELU ? vmax(0, s)
                                                 : vsigmoid(s);
            vstore_n(a->h[q + m] + u, h_t, H - u);
        }
}

FR_INLINE void NAME(rnn_backward_tile)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                                       int h, ptrdiff_t p, int w, int phase)
{
    const ptrdiff_t H = call->layer.hidden_size;
    const int vectors = NAME(tile_vectors)(H, p, w);
    const fr_cell cell = call->layer.cell;
    _Alignas(64) real dh_tile[FR_MR * NR];
    (void)phase;

    NAME(dh_tile)(call, dh_tile, a, q, h, p, w, 1); /* (R5): dG_{t+1} R */

    for (int m = 0; m < h; m++)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t u = p * NR + v * VL;
            const vr h_t = vload_n(a->h[q + m] + u, H - u);
            vr dh = vload(dh_tile + m * NR + v * VL);
            if (a->dy[q + m])
                dh += vload_n(a->dy[q + m] + u, H - u);
            const vr slope = cell == FR_RNN_TANH   ? (real)1 - h_t * h_t
                             : cell == FR_RNN_RELU ? vpositive(h_t)
                                                   : h_t * ((real)1 - h_t);
            vstore(a->dg[q + m] + u, dh * slope); /* (R4) */
        }
}

#include "kernels/walk.h"
