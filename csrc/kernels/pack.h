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
    for (ptrdiff_t k = 0; k < K; k++)
        for (int v = 0; v < FR_NV; v++)
            vstore(dst + k * NR + v * VL,
                   width > v * VL ? vload_n(src + k * ld + v * VL, width - v * VL) : vsplat(0));
}

static void NAME(pack)(const fr_layer *layer, int use, char *packed, const fr_packed_layout *at,
                       const fr_weights *weights)
{
    const ptrdiff_t H = layer->hidden_size, I = layer->input_size, G = fr_cells[layer->cell].gates;
    const ptrdiff_t P = (H + NR - 1) / NR, Hp = P * NR;
    const real *w_ih = weights->w_ih, *w_hh = weights->w_hh;
    const real *b_ih = weights->b_ih, *b_hh = weights->b_hh;
    const int splits = fr_cells[layer->cell].splits_bias;

    if (use & (FR_USE_DENSE | FR_USE_TOKENS)) {
        real *bias = (real *)(packed + at->bias), *R = (real *)(packed + at->R);
        memset(bias, 0, 4 * (size_t)Hp * sizeof(real));
        for (ptrdiff_t g = 0; g < G; g++)
            for (ptrdiff_t u = 0; u < H; u++) {
                const real bi = b_ih ? b_ih[g * H + u] : 0, bh = b_hh ? b_hh[g * H + u] : 0;
                const int apart = splits && g == G - 1;
                bias[g * Hp + u] = apart ? bi : bi + bh;
                if (apart)
                    bias[G * Hp + u] = bh;
            }
        for (ptrdiff_t p = 0; p < P; p++)
            for (ptrdiff_t g = 0; g < G; g++)
                NAME(pack_transposed)
        (R + (p * G + g) * H * NR, w_hh + (g * H + p * NR) * H, H, H, H - p * NR);
        if (use & FR_USE_DENSE) {
            real *W = (real *)(packed + at->W);
            for (ptrdiff_t p = 0; p < P; p++)
                for (ptrdiff_t g = 0; g < G; g++)
                    NAME(pack_transposed)
            (W + (p * G + g) * I * NR, w_ih + (g * H + p * NR) * I, I, I, H - p * NR);
        }
        if (use & FR_USE_TOKENS) {
            real *table = (real *)(packed + at->table);
            memset(table, 0, (size_t)(I * G * Hp) * sizeof(real));
            for (ptrdiff_t g = 0; g < G; g++) {
                NAME(transpose)(table + g * Hp, G * Hp, w_ih + g * H * I, I, H, I);
                for (ptrdiff_t k = 0; k < I; k++)
                    for (ptrdiff_t u = 0; u < H; u++)
                        table[(k * G + g) * Hp + u] += bias[g * Hp + u];
            }
        }
    }
    if (use & FR_USE_BACKWARD)
        for (ptrdiff_t p = 0; p < P; p++)
            NAME(pack_rows)
    ((real *)(packed + at->Rb) + p * G * H * NR, w_hh + p * NR, H, G * H, H - p * NR);
    if (use & FR_USE_DX)
        for (ptrdiff_t p = 0; p * NR < I; p++)
            NAME(pack_rows)
    ((real *)(packed + at->Wb) + p * G * H * NR, w_ih + p * NR, I, G * H, I - p * NR);
    if (at->plain) {
        real *plain = (real *)(packed + at->plain);
        memset(plain, 0, (size_t)(G * Hp * I) * sizeof(real));
        for (ptrdiff_t g = 0; g < G; g++)
            memcpy(plain + g * Hp * I, w_ih + g * H * I, (size_t)(H * I) * sizeof(real));
    }
}
