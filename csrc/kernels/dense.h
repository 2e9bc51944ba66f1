/* dense.h: the plain matrix product of fr_gemm, and element-wise functions for tests.
 *
 * op(B) is packed once into panels that all threads share; rows of C are split over threads.
 * op(A) is read where it lies, or, when A is transposed, block by block through a small buffer. */

static real NAME(sum_of)(const real *x, ptrdiff_t n)
{
    vr sum[4] = {vsplat(0), vsplat(0), vsplat(0), vsplat(0)};
    ptrdiff_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int k = 0; k < 4; k++)
            sum[k] += vload(x + i + k * VL);
    for (; i < n; i += VL)
        sum[0] += vload_n(x + i, n - i);
    return vsum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* The panels of op(B) that are thread tid's to pack. */
static void NAME(gemm_pack)(const fr_gemm_call *call, int tid)
{
    const fr_gemm_args *g = &call->args;
    const ptrdiff_t N = g->N, K = g->K, P = (N + NR - 1) / NR;
    const real *B = g->B;
    real *panels = (real *)call->panels;
    for (ptrdiff_t p = P * tid / call->threads; p < P * (tid + 1) / call->threads; p++) {
        const ptrdiff_t width = N - p * NR;
        if (g->transpose_b)
            NAME(pack_transposed)(panels + p * K * NR, B + p * NR * g->ldb, g->ldb, K, width);
        else
            NAME(pack_rows)(panels + p * K * NR, B + p * NR, g->ldb, K, width);
    }
}

/* Rows [m0, m1) of C, which is all panels' when this begins. */
static void NAME(gemm_rows)(const fr_gemm_call *call, int tid, int64_t m0, int64_t m1)
{
    static const real zeros[NR];
    const fr_gemm_args *g = &call->args;
    const ptrdiff_t N = g->N, K = g->K, P = (N + NR - 1) / NR;
    const real *A = g->A, *bias = g->bias;
    const real *panels = (const real *)call->panels;
    real *C = g->C;
    real *transposed = (real *)(call->work + tid * call->work_stride);
    _Alignas(64) real out[FR_MR * NR];
    const real *a[FR_MC], *init[FR_MR], *from[FR_MR];

    for (int m = 0; m < FR_MR; m++)
        init[m] = out + m * NR;
    for (ptrdiff_t r0 = m0; r0 < m1; r0 += FR_MC)
        for (ptrdiff_t k0 = 0; k0 < K || k0 == 0; k0 += FR_KC) {
            const ptrdiff_t M_block = m1 - r0 < FR_MC ? m1 - r0 : FR_MC;
            const ptrdiff_t K_block = K - k0 < FR_KC ? K - k0 : FR_KC;
            const int add = g->accumulate || k0 > 0;
            if (g->transpose_a)
                NAME(transpose)
            (transposed, FR_KC + 16, A + k0 * g->lda + r0, g->lda, K_block, M_block);
            for (ptrdiff_t m = 0; m < M_block; m++)
                a[m] = g->transpose_a ? transposed + m * (FR_KC + 16) : A + (r0 + m) * g->lda + k0;
            if (g->sums)
                for (ptrdiff_t m = 0; m < M_block; m++)
                    ((real *)g->sums)[r0 + m] += NAME(sum_of)(a[m], K_block);
            for (ptrdiff_t p = 0; p < P; p++) {
                const ptrdiff_t width = N - p * NR;
                const int vectors = NAME(panel_vectors)(N, p), tile_width = NAME(tile_width)(width);
                const real *b = panels + (p * K + k0) * NR;
                const int plain = width >= vectors * VL && !(bias && add && k0 == 0);
                for (ptrdiff_t r = 0, h; r < M_block; r += h) {
                    real *c = C + (r0 + r) * g->ldc + p * NR;
                    h = NAME(tile_height)(M_block - r);
                    if (plain) { /* from memory to memory */
                        for (ptrdiff_t m = 0; m < h; m++)
                            from[m] = add               ? c + m * g->ldc
                                      : bias && k0 == 0 ? bias + p * NR
                                                        : zeros;
                        NAME(tile)[tile_width][h - 1](c, g->ldc, from, 0, a + r, 0, K_block, b);
                        continue;
                    }
                    for (ptrdiff_t m = 0; m < h; m++)
                        for (int v = 0; v < vectors; v++) {
                            const ptrdiff_t n = v * VL, left = width - n;
                            vr first = add ? vload_n(c + m * g->ldc + n, left) : vsplat(0);
                            if (bias && k0 == 0)
                                first += vload_n(bias + p * NR + n, left);
                            vstore(out + m * NR + n, first);
                        }
                    NAME(tile)[tile_width][h - 1](out, NR, init, 0, a + r, 0, K_block, b);
                    for (ptrdiff_t m = 0; m < h; m++)
                        for (int v = 0; v < vectors; v++)
                            vstore_n(c + m * g->ldc + v * VL, vload(out + m * NR + v * VL),
                                     width - v * VL);
                }
            }
        }
}

static void NAME(gemm)(void *arg, int tid)
{
    const fr_gemm_call *call = arg;
    const int64_t M = call->args.M;
    NAME(gemm_pack)(call, tid);
    if (call->threads > 1)
        fr_meet(call->places, call->threads, tid);
    NAME(gemm_rows)(call, tid, M * tid / call->threads, M * (tid + 1) / call->threads);
}

/* Of M rows whose product is made tile by tile: how high the tile is that begins with row m. The tiles are
 * those of gemm_rows of all M, since how high one is decides how its sums are added up. */
static int64_t NAME(gemm_tile)(int64_t M, int64_t m)
{
    const int64_t block = m / FR_MC * FR_MC;
    return NAME(tile_height)((M - block < FR_MC ? M : block + FR_MC) - m);
}

static void NAME(activation)(int kind, void *out, const void *in, int64_t n)
{
    const real *x = in;
    real *y = out;
    for (int64_t i = 0; i < n; i += VL) {
        const vr v = vload_n(x + i, n - i);
        vstore_n(y + i, kind == 0 ? vexp(v) : kind == 1 ? vsigmoid(v) : vtanh(v), n - i);
    }
}
