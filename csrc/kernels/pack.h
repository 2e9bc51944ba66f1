/* pack.h: from torch's weight layout to the order in which the kernels read.
 *
 * A panel is NR hidden units wide. Within it k is the outer index, so a product walks it
 * from first byte to last. Units past H are zeros: they compute h = 0 and harm nothing. */

/* dst[k][0..NR) = src[(row0 + lane) * K + k], zeros for lanes past `width`. */
FR_INLINE void NAME(pack_transposed)(real *dst, const real *src, ptrdiff_t ld, ptrdiff_t K,
                                     ptrdiff_t width)
{
    if (width < NR)
        memset(dst, 0, (size_t)(K * NR) * sizeof(real));
    NAME(transpose)(dst, NR, src, ld, width < NR ? width : NR, K);
}

/* dst[k][0..NR) = src[k][0..width), zeros behind. */
FR_INLINE void NAME(pack_rows)(real *dst, const real *src, ptrdiff_t ld, ptrdiff_t K,
                               ptrdiff_t width)
{
    if (width >= NR) {
        for (ptrdiff_t k = 0; k < K; k++)
            for (int v = 0; v < FR_NV; v++)
                vstore(dst + k * NR + v * VL, vload(src + k * ld + v * VL));
        return;
    }
    for (ptrdiff_t k = 0; k < K; k++)
        for (int v = 0; v < FR_NV; v++)
            vstore(dst + k * NR + v * VL,
                   width > v * VL ? vload_n(src + k * ld + v * VL, width - v * VL) : vsplat(0));
}

/* Row k of the table: column k of the input weights, gate after gate, and the bias. */
static void NAME(pack_table)(real *table, const real *w_ih, const real *bias, const fr_layer *layer,
                             ptrdiff_t Hp, ptrdiff_t u0, ptrdiff_t u1)
{
    const ptrdiff_t H = layer->hidden_size, I = layer->input_size, G = fr_cells[layer->cell].gates;
    const ptrdiff_t last = u1 < H ? u1 : H;
    enum { FEW = 8 }; /* rows at a time: their lines are still at hand when the next units come */
    for (ptrdiff_t g = 0; g < G; g++)
        for (ptrdiff_t k0 = 0; k0 < I; k0 += FEW) {
            const ptrdiff_t k1 = k0 + FEW < I ? k0 + FEW : I;
            real *to = table + k0 * G * Hp + g * Hp;
            NAME(transpose)(to + u0, G * Hp, w_ih + (g * H + u0) * I + k0, I, last - u0, k1 - k0);
            for (ptrdiff_t k = k0; k < k1; k++, to += G * Hp) {
                for (ptrdiff_t u = u0; u < last; u += VL)
                    vstore_n(to + u, vload_n(to + u, last - u) + vload(bias + g * Hp + u),
                             last - u);
                for (ptrdiff_t u = last; u < u1; u++)
                    to[u] = 0;
            }
        }
}

/* One thread's share: its panels of everything. In calls that deal panels out in the same way, a
 * thread then finds in its own cache what it reads. */
static void NAME(pack)(void *arg, int tid)
{
    const fr_pack_call *call = arg;
    const fr_layer *layer = call->layer;
    const fr_packed_layout *at = &call->at;
    const ptrdiff_t H = layer->hidden_size, I = layer->input_size, G = fr_cells[layer->cell].gates;
    const ptrdiff_t P = (H + NR - 1) / NR, Hp = P * NR, PI = (I + NR - 1) / NR;
    const ptrdiff_t p0 = P * tid / call->threads, p1 = P * (tid + 1) / call->threads;
    const ptrdiff_t u0 = p0 * NR, u1 = p1 * NR < H ? p1 * NR : H;
    const real *w_ih = call->weights->w_ih, *w_hh = call->weights->w_hh;
    const real *b_ih = call->weights->b_ih, *b_hh = call->weights->b_hh;
    const int use = call->use, splits = fr_cells[layer->cell].splits_bias;
    char *packed = call->packed;

    if (p1 > p0 && use & (FR_USE_DENSE | FR_USE_TOKENS)) {
        real *bias = (real *)(packed + at->bias), *R = (real *)(packed + at->R);
        for (ptrdiff_t g = 0; g < 4; g++)
            memset(bias + g * Hp + u0, 0, (size_t)((p1 - p0) * NR) * sizeof(real));
        for (ptrdiff_t g = 0; g < G; g++)
            for (ptrdiff_t u = u0; u < u1; u++) {
                const real bi = b_ih ? b_ih[g * H + u] : 0, bh = b_hh ? b_hh[g * H + u] : 0;
                const int apart = splits && g == G - 1;
                bias[g * Hp + u] = apart ? bi : bi + bh;
                if (apart)
                    bias[G * Hp + u] = bh;
            }
        for (ptrdiff_t p = p0; p < p1; p++)
            for (ptrdiff_t g = 0; g < G; g++) {
                const ptrdiff_t row = g * H + p * NR;
                NAME(pack_transposed)(R + (p * G + g) * H * NR, w_hh + row * H, H, H, H - p * NR);
                if (use & FR_USE_DENSE)
                    NAME(pack_transposed)
                ((real *)(packed + at->W) + (p * G + g) * I * NR, w_ih + row * I, I, I, H - p * NR);
            }
        if (use & FR_USE_TOKENS)
            NAME(pack_table)((real *)(packed + at->table), w_ih, bias, layer, Hp, u0, p1 * NR);
    }
    if (use & FR_USE_BACKWARD)
        for (ptrdiff_t p = p0; p < p1; p++)
            NAME(pack_rows)
    ((real *)(packed + at->Rb) + p * G * H * NR, w_hh + p * NR, H, G * H, H - p * NR);
    if (use & FR_USE_DX)
        for (ptrdiff_t p = PI * tid / call->threads; p < PI * (tid + 1) / call->threads; p++)
            NAME(pack_rows)
    ((real *)(packed + at->Wb) + p * G * H * NR, w_ih + p * NR, I, G * H, I - p * NR);
    if (at->plain) {
        real *plain = (real *)(packed + at->plain);
        for (ptrdiff_t g = 0; g < G && p1 > p0; g++) {
            const size_t width = (size_t)I * sizeof(real);
            memcpy(plain + (g * Hp + u0) * I, w_ih + (g * H + u0) * I, (size_t)(u1 - u0) * width);
            memset(plain + (g * Hp + u1) * I, 0, (size_t)(p1 * NR - u1) * width);
        }
    }
}
