/* weave.h: products of many rows, made while the recurrent product of a single row waits for its weights.
 *
 * A single row reads every recurrent weight once a step, from the second-level cache if they are many:
 * 32 bytes a cycle, which keeps the multipliers half busy. x W (backward: dG W) of many rows is made from
 * registers and keeps them busy all the time. Done in turn they take the sum of both; done side by side,
 * one input of x W between every eight of the recurrent product, little more than the longer one (a step,
 * 512 KB of each kind of weights, H = I = 256: 24,800 cycles in turn, 19,800 woven, 16,600 the recurrent
 * product alone).
 *
 *     for each panel and gate of the step:      R  |--- read, from the first unit of h to the last ---|
 *                                               W  |-- some inputs of a block: rows 0..7 |-- 8..15 --|
 *
 * Steps go in groups of 16. Forward, the rows of xw for the next group are made during one; backward, the
 * rows of dx of the group that has just been walked. Block (a panel of a gate) comes after block. Their
 * sums wait in `sums` for the next call. What is left at the end of a group is made at once. The sums are
 * added up in the same order as those of a tile.
 *
 * Only where there are registers for it: 16 accumulators beside those of the recurrent product. */

#define FR_WEAVES (FR_MR >= 8)
#ifndef FR_WEAVE_FAR
#define FR_WEAVE_FAR (112 << 10) /* bytes of a step's weights from which it pays: products.h */
#endif
enum { NAME(woven_rows) = FR_WEAVE_STEPS / 2 }; /* of a tile */

typedef struct NAME(weave) {
    const real *x[FR_WEAVE_STEPS]; /* the rows; if there are fewer, one of them again */
    ptrdiff_t rows;                /* how many there are */
    real *out;                     /* where their products belong, `ld` apart */
    ptrdiff_t ld;
    const real *W;    /* [panel][gate][K][NR] */
    const real *bias; /* [gate][Hp]; backward, zeros */
    ptrdiff_t K, Hp, gates;
    ptrdiff_t p; /* this thread's first panel */
    int dx;      /* one sum over all gates, which lie side by side, Hp apart, in the rows of x */
    int add;     /* out += , not = */
    ptrdiff_t block, blocks; /* the one in `sums`, and how many there are */
    ptrdiff_t k;             /* its inputs that have been added */
    _Alignas(64) real sums[FR_WEAVE_STEPS * NR];
} NAME(weave);

FR_INLINE int NAME(is_weaving)(const NAME(weave) * w)
{
    return FR_WEAVES && w && w->block < w->blocks;
}

/* Of the block in `sums`: its gate, its columns in a row of out, its weights and inputs. */
FR_INLINE ptrdiff_t NAME(woven_gate)(const NAME(weave) * w)
{
    return w->block % w->gates;
}

FR_INLINE ptrdiff_t NAME(woven_column)(const NAME(weave) * w)
{
    return (w->dx ? 0 : NAME(woven_gate)(w) * w->Hp) + (w->p + w->block / w->gates) * NR;
}

FR_INLINE const real *NAME(woven_weights)(const NAME(weave) * w)
{
    return w->W + ((w->p * w->gates + w->block) * w->K + w->k) * NR;
}

FR_INLINE ptrdiff_t NAME(woven_inputs)(const NAME(weave) * w)
{
    return (w->dx ? NAME(woven_gate)(w) * w->Hp : 0) + w->k;
}

/* Before the first inputs of a block, and after the last. */
FR_INLINE void NAME(begin_block)(NAME(weave) * w)
{
    if (w->dx && NAME(woven_gate)(w) > 0)
        return;
    for (int m = 0; m < FR_WEAVE_STEPS; m++)
        memcpy(w->sums + m * NR, w->bias + (w->dx ? 0 : NAME(woven_column)(w)), NR * sizeof(real));
}

FR_INLINE void NAME(end_block)(NAME(weave) * w)
{
    const ptrdiff_t at = NAME(woven_column)(w),
                    last = !w->dx || NAME(woven_gate)(w) == w->gates - 1;
    for (ptrdiff_t m = 0; m < w->rows && last; m++)
        for (int v = 0; v < FR_NV; v++) {
            real *to = w->out + m * w->ld + at + v * VL;
            const vr sum = vload(w->sums + m * NR + v * VL);
            vstore(to, w->add ? sum + vload(to) : sum);
        }
    w->block++;
    w->k = 0;
}

#if FR_WEAVES

/* acc += a[0..K) times b[0..K), and meanwhile sums += n inputs of the rows x times W. */
FR_INLINE void NAME(woven_tile)(vr (*acc)[FR_NV], const real *a, ptrdiff_t K, const real *b,
                                real *sums, const real *const *x, ptrdiff_t k0, ptrdiff_t n,
                                const real *W)
{
    enum { ROWS = NAME(woven_rows) };
    vr sum[ROWS][FR_NV];
    const real *row[ROWS];
    ptrdiff_t k = 0;
    FR_UNROLL
    for (int m = 0; m < ROWS; m++) {
        row[m] = x[m] + k0;
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++)
            sum[m][v] = vload(sums + m * NR + v * VL);
    }
    for (ptrdiff_t i = 0; i < n; i++, k += ROWS) {
        vr w[FR_NV];
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++) {
            w[v] = vload(W + i * NR + v * VL);
            FR_IN_REGISTER(w[v]);
        }
        FR_UNROLL
        for (int m = 0; m < ROWS; m++) {
            const vr s = vsplat(row[m][i]), h = vsplat(a[k + m]);
            FR_UNROLL
            for (int v = 0; v < FR_NV; v++) {
                sum[m][v] += s * w[v];
                acc[m & 1][v] += h * vload(b + (k + m) * NR + v * VL);
            }
        }
    }
    FR_UNROLL
    for (int m = 0; m < ROWS; m++) {
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++)
            vstore(sums + m * NR + v * VL, sum[m][v]);
    }
    for (; k + 2 <= K; k += 2) {
        FR_UNROLL
        for (int m = 0; m < 2; m++) {
            const vr h = vsplat(a[k + m]);
            FR_UNROLL
            for (int v = 0; v < FR_NV; v++)
                acc[m][v] += h * vload(b + (k + m) * NR + v * VL);
        }
    }
    if (k < K) {
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++)
            acc[0][v] += vsplat(a[k]) * vload(b + k * NR + v * VL);
    }
}

/* out[0..NR) = first + a[0..K) times b: one block of the recurrent product, and the next inputs of the rows: a
 * tile of them in each half, the second with the weights that the first has brought. */
FR_NOINLINE void NAME(woven_product)(NAME(weave) * w, real *out, const real *first, const real *a,
                                     ptrdiff_t K, const real *b)
{
    enum { ROWS = NAME(woven_rows) };
    const ptrdiff_t half = w->rows > ROWS ? K / 2 : K, left = w->K - w->k, most = half / ROWS;
    const ptrdiff_t n = left < most ? left : most, k = NAME(woven_inputs)(w);
    const real *W = NAME(woven_weights)(w);
    vr acc[2][FR_NV];
    FR_UNROLL
    for (int v = 0; v < FR_NV; v++) {
        acc[0][v] = vload(first + v * VL);
        acc[1][v] = vsplat(0);
    }
    if (w->k == 0)
        NAME(begin_block)(w);
    NAME(woven_tile)(acc, a, half, b, w->sums, w->x, k, n, W);
    if (half < K)
        NAME(woven_tile)
    (acc, a + half, K - half, b + half * NR, w->sums + ROWS * NR, w->x + ROWS, k, n, W);
    FR_UNROLL
    for (int v = 0; v < FR_NV; v++)
        vstore(out + v * VL, acc[0][v] + acc[1][v]);
    w->k += n;
    if (w->k == w->K)
        NAME(end_block)(w);
}

/* What the group has left to do. */
FR_NOINLINE void NAME(finish_weave)(NAME(weave) * w)
{
    for (; w->block < w->blocks; NAME(end_block)(w)) {
        if (w->k == 0)
            NAME(begin_block)(w);
        for (ptrdiff_t r = 0; r < w->rows; r += NAME(woven_rows)) {
            real *sums = w->sums + r * NR;
            const real *init[NAME(woven_rows)];
            for (int m = 0; m < NAME(woven_rows); m++)
                init[m] = sums + m * NR;
            NAME(tile)
            [NAME(full)][NAME(woven_rows) - 1](sums, NR, init, 0, w->x + r, NAME(woven_inputs)(w),
                                               w->K - w->k, NAME(woven_weights)(w));
        }
    }
}

#else

FR_INLINE void NAME(woven_product)(NAME(weave) * w, real *out, const real *first, const real *a,
                                   ptrdiff_t K, const real *b)
{
    (void)w, (void)out, (void)first, (void)a, (void)K, (void)b;
}

FR_INLINE void NAME(finish_weave)(NAME(weave) * w)
{
    (void)w;
}

#endif
