/* weave.h: products of many rows, made while the recurrent product of a single row waits for its weights.
 *
 * A single row reads every recurrent weight once a step, from the second-level cache if they are many:
 * 32 bytes a cycle, which keeps the multipliers half busy. x W (backward: dG W) of many rows is made from
 * registers and keeps them busy all the time. Done in turn they take the sum of both; done side by side,
 * one input of x W between every eight of the recurrent product, little more than the longer one (Zen 4, a
 * step, 512 KB of each kind of weights, H = I = 256: 24,800 cycles in turn, 19,800 woven, 16,600 the
 * recurrent product alone; Zen 5, 384 KB: 11,400, 9,300 and 8,200).
 *
 *     for each panel and gate of the step:      R  |--- read, from the first unit of h to the last ---|
 *                                               W  |------ the next K / 8 inputs of a block ----------|
 *
 * Steps go in groups of 16. Forward, the rows of xw for the next group are made during one; backward, the
 * rows of dx of the group that has just been walked. Block (a panel of a gate) comes after block, and of a
 * block 64 inputs for the rows 0 to 7, the same ones for 8 to 15, the next 64. Sums wait in `sums` for the
 * next call: to fetch and to put them away takes as long as two or three inputs, so a call goes on with one
 * tile as long as it can. What is left at the end of a group is made at once. The sums are added up in the
 * same order as those of a tile of 8 rows.
 *
 * Only where there are registers for it: 16 accumulators beside those of the recurrent product. */

#define FR_WEAVES (FR_MR == 10)
/* Not where the second level gives 50 bytes a cycle, as those of Intel's servers do: a recurrent product waits
 * little for it there, and both together want more loads than there are. Emerald Rapids, nothing woven: LSTM
 * H = 128 -5%, 180 -9%, 256 -7%, training -4 to -6%. */
#ifndef FR_WEAVE_PAYS
#define FR_WEAVE_PAYS() (fr_near_bytes() >= FR_NEAR_BYTES)
#endif
#ifndef FR_WEAVE_FAR
#define FR_WEAVE_FAR (112 << 10) /* bytes of a step's weights from which it pays: products.h */
#endif
/* Units of a product from which it pays. LSTM H = 128 with two threads, half of whose products are cut in
 * two (share.h): 117 us where those of 64 units are woven, too, 103 where they are not. */
#ifndef FR_WEAVE_LONG
#define FR_WEAVE_LONG 96
#endif
#ifndef FR_WEAVE_PIECE
#define FR_WEAVE_PIECE 64 /* inputs that every tile takes before the next ones */
#endif
enum { NAME(woven_rows) = FR_WEAVE_STEPS / 2 }; /* of a tile */

typedef struct NAME(weave) {
    const real *x[FR_WEAVE_STEPS]; /* the rows; if there are fewer, one of them again */
    ptrdiff_t rows;                /* how many there are */
    real *out;                     /* where their products belong, `ld` apart */
    ptrdiff_t ld;
    const real *W;    /* of this thread: [panel][gate][K][NR] */
    const real *bias; /* [gate][Hp]; backward, zeros */
    ptrdiff_t K, Hp;
    int gates;
    int dx;  /* one sum over all gates, which lie side by side, Hp apart, in the rows of x */
    int add; /* out += , not = */
    /* The block in `sums`, a gate of a panel; of dx they have one sum. Its inputs come piece by piece, and a
     * piece for one tile of the rows after the other, the second with the weights that the first has brought. */
    ptrdiff_t panel, panels; /* counted from this thread's first; panel == panels: all is done */
    int gate;
    ptrdiff_t k, row, n; /* where the piece begins; its tile, and inputs that this has */
    _Alignas(64) real sums[FR_WEAVE_STEPS * NR];
} NAME(weave);

/* Whether something is to be woven into a recurrent product of K units. */
FR_INLINE int NAME(is_weaving)(const NAME(weave) * w, ptrdiff_t K)
{
    return FR_WEAVES && w && w->panel < w->panels && K >= FR_WEAVE_LONG;
}

/* Inputs of the piece that its tile still lacks. */
FR_INLINE ptrdiff_t NAME(woven_left)(const NAME(weave) * w)
{
    const ptrdiff_t left = w->K - w->k;
    return (left < FR_WEAVE_PIECE ? left : FR_WEAVE_PIECE) - w->n;
}

/* The first column of the block in a row of out. */
FR_INLINE ptrdiff_t NAME(woven_column)(const NAME(weave) * w)
{
    return (w->dx ? 0 : w->gate * w->Hp) + w->panel * NR;
}

FR_INLINE const real *NAME(woven_weights)(const NAME(weave) * w)
{
    return w->W + ((w->panel * w->gates + w->gate) * w->K + w->k + w->n) * NR;
}

FR_INLINE ptrdiff_t NAME(woven_inputs)(const NAME(weave) * w)
{
    return (w->dx ? w->gate * w->Hp : 0) + w->k + w->n;
}

/* Does something only before the first inputs of a block. */
FR_INLINE void NAME(begin_block)(NAME(weave) * w)
{
    if (w->k > 0 || w->row > 0 || w->n > 0 || (w->dx && w->gate > 0))
        return;
    for (int m = 0; m < FR_WEAVE_STEPS; m++)
        memcpy(w->sums + m * NR, w->bias + (w->dx ? 0 : NAME(woven_column)(w)), NR * sizeof(real));
}

FR_INLINE void NAME(end_block)(NAME(weave) * w)
{
    const ptrdiff_t at = NAME(woven_column)(w);
    const int last = w->gate + 1 == w->gates;
    for (ptrdiff_t m = 0; m < w->rows && (last || !w->dx); m++)
        for (int v = 0; v < FR_NV; v++) {
            real *to = w->out + m * w->ld + at + v * VL;
            const vr sum = vload(w->sums + m * NR + v * VL);
            vstore(to, w->add ? sum + vload(to) : sum);
        }
    w->k = 0;
    w->gate = last ? 0 : w->gate + 1;
    w->panel += last;
}

/* n more inputs have been added to this tile. */
FR_INLINE void NAME(have_woven)(NAME(weave) * w, ptrdiff_t n)
{
    w->n += n;
    if (NAME(woven_left)(w) > 0)
        return;
    w->row += NAME(woven_rows);
    if (w->row >= w->rows) {
        w->row = 0;
        w->k += w->n;
    }
    w->n = 0;
    if (w->k == w->K)
        NAME(end_block)(w);
}

#if FR_WEAVES

/* acc += a[0..8 n) times b[0..8 n), and meanwhile sums += n inputs of the rows x times W. */
FR_INLINE void NAME(woven_tile)(vr (*acc)[FR_NV], const real *a, const real *b, real *sums,
                                const real *const *x, ptrdiff_t k0, ptrdiff_t n, const real *W)
{
    enum { ROWS = NAME(woven_rows) };
    vr sum[ROWS][FR_NV];
    const real *row[ROWS];
    FR_UNROLL
    for (int m = 0; m < ROWS; m++) {
        row[m] = x[m] + k0;
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++)
            sum[m][v] = vload(sums + m * NR + v * VL);
    }
    for (ptrdiff_t i = 0; i < n; i++, a += ROWS, b += ROWS * NR) {
        vr w[FR_NV];
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++) {
            w[v] = vload(W + i * NR + v * VL);
            FR_IN_REGISTER(w[v]);
        }
        FR_UNROLL
        for (int m = 0; m < ROWS; m++) {
            const vr s = vsplat(row[m][i]), h = vsplat(a[m]);
            FR_UNROLL
            for (int v = 0; v < FR_NV; v++) {
                sum[m][v] += s * w[v];
                acc[m & 1][v] += h * vload(b + m * NR + v * VL);
            }
        }
    }
    FR_UNROLL
    for (int m = 0; m < ROWS; m++) {
        FR_UNROLL
        for (int v = 0; v < FR_NV; v++)
            vstore(sums + m * NR + v * VL, sum[m][v]);
    }
}

/* out[0..NR) = first + a[0..K) times b: one block of the recurrent product, and the next inputs of the
 * rows. */
FR_NOINLINE void NAME(woven_product)(NAME(weave) * w, real *out, const real *first, const real *a,
                                     ptrdiff_t K, const real *b)
{
    enum { ROWS = NAME(woven_rows) };
    vr acc[2][FR_NV];
    ptrdiff_t k = 0;
    FR_UNROLL
    for (int v = 0; v < FR_NV; v++) {
        acc[0][v] = vload(first + v * VL);
        acc[1][v] = vsplat(0);
    }
    while (K - k >= ROWS && w->panel < w->panels) {
        const ptrdiff_t left = NAME(woven_left)(w), most = (K - k) / ROWS;
        const ptrdiff_t n = left < most ? left : most;
        NAME(begin_block)(w);
        NAME(woven_tile)
        (acc, a + k, b + k * NR, w->sums + w->row * NR, w->x + w->row, NAME(woven_inputs)(w), n,
         NAME(woven_weights)(w));
        NAME(have_woven)(w, n);
        k += n * ROWS;
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
    FR_UNROLL
    for (int v = 0; v < FR_NV; v++)
        vstore(out + v * VL, acc[0][v] + acc[1][v]);
}

/* What the group has left to do. */
FR_NOINLINE void NAME(finish_weave)(NAME(weave) * w)
{
    while (w->panel < w->panels) {
        real *sums = w->sums + w->row * NR;
        const real *init[NAME(woven_rows)];
        const ptrdiff_t n = NAME(woven_left)(w);
        for (int m = 0; m < NAME(woven_rows); m++)
            init[m] = sums + m * NR;
        NAME(begin_block)(w);
        NAME(tile)
        [NAME(full)][NAME(woven_rows) - 1](sums, NR, init, 0, w->x + w->row, NAME(woven_inputs)(w),
                                           n, NAME(woven_weights)(w));
        NAME(have_woven)(w, n);
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
