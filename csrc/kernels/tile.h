/* tile.h: the micro-kernel. Every product in the library, recurrent or batched over time,
 * forward or backward, is made of calls to it.
 *
 *   out[m][0..NR)  =  init[m][0..NR)  +  sum over k < K of  a[m][k] * b[k][0..NR)
 *
 * for m < mr rows, with mr x NV accumulators held in registers while k runs:
 *
 *        b: one packed panel            +----------- NR = NV * VL ------------+
 *        [k][NR], contiguous       k -> | vector 0 | vector 1 | ...           |
 *                                       +-------------------------------------+
 *   a[0][k]  broadcast once, times every vector    | accumulators, row 0
 *   a[1][k]                                        | row 1
 *    ...                                           |  ...
 *
 * Rows come as pointers, not as a matrix: they may be the rows of x at any strides, of a
 * shuffled ragged batch, of a reversed sequence, or all the same row of zeros.
 *
 * With few rows there are too few accumulators to hide the latency of the multiply-add (about 8 must be in
 * flight, and with little more some are late: Zen 5, 5 rows of two vectors 233 GFLOP/s, with 20 accumulators
 * 252); then KU consecutive k have accumulators of their own, added at the end. */

#undef NR
#define NR (FR_NV * VL)
#if FR_MR == 10 /* 32 registers, of AVX-512 */
#define FR_TILE_KU(mr, nv) ((mr) * (nv) >= 13 ? 1 : (mr) * (nv) >= 7 ? 2 : (mr) * (nv) >= 2 ? 4 : 8)
/* With half a vector behind the nv whole ones, whose accumulators take two k at a time. */
#define FR_TAIL_KU(mr, nv) ((mr) * (2 * (nv) + 1) >= 7 ? 2 : (mr) * (2 * (nv) + 1) >= 2 ? 4 : 8)
#else
#define FR_TILE_KU(mr, nv) ((mr) * (nv) >= 8 ? 1 : (mr) * (nv) >= 4 ? 2 : (mr) * (nv) >= 2 ? 4 : 8)
#define FR_TAIL_KU(mr, nv) FR_TILE_KU(mr, nv)
#endif

/* FR_NV vectors a panel; its last panel may need only the first half of them. */
#if FR_NV > 1
#define FR_NV_HALF (FR_NV / 2)
#else
#define FR_NV_HALF 1
#endif

/* Widths of a tile, in vectors: nv whole ones, and with `tail` half of one behind them, whose lanes the next k
 * shares. With 200 units and panels of 32 a last tile as wide as a whole vector would take 4% of all products
 * for nothing. full_far makes what full makes, but asks for b by bytes_ahead early: what the second level of
 * cache does not hold comes too late by itself. What it holds comes 1% later than without being asked for. */
enum {
    NAME(full),
    NAME(half),
    NAME(quarter),
    NAME(three_quarters),
    NAME(full_far),
    NAME(tile_widths)
};
#define FR_HALVES (VH < VL && FR_NV == 2)
enum { NAME(bytes_ahead) = 12 << 10 };

/* Two multiply-adds a cycle leave room for others, but not where a core's two hardware threads take turns at
 * issuing instructions and the other one is busy, with somebody else's work: three a cycle (Emerald Rapids).
 * Then what counts is how many there are for each multiply-add. One input of 10 rows took 36 for 20, and takes
 * 30: by itself as fast as before, 164 GFLOP/s, beside a neighbour an eighth faster than 111 (docs/performance.md).
 *
 *   - The loop takes several inputs a turn (one of several rows FR_TURN, one of a single row FR_ROW_TURN).
 *   - Multiply-adds fetch the number of their row themselves. It saves an instruction and costs a load, of which
 *     two a cycle are all there are: so not in four of the rows, and not in low tiles, which are slower with it.
 *   - Each row has a pointer of its own, no index: what fetches by an index may be taken apart again. Where no
 *     multiply-add fetches (a tile of less than a vector), gcc may choose. */
#define FR_TURN(nv, ku)                                                                            \
    (FR_VBYTES == 64 && (nv) > 0 && (ku) < 4 ? 4 : FR_VBYTES == 32 && (ku) < 2 ? 2 : (ku))
#define FR_ROW_TURN(ku) (FR_VBYTES >= 32 ? 4 : (ku))
#define FR_FETCHED(m, mr, nv) (FR_VBYTES == 64 && (nv) == 2 && (mr) > 5 && (m) + 4 < (mr))
/* Tiles most of whose sums keep to their registers: vadd_product. Elsewhere gcc knows better. */
#define FR_PINNED(mr, nv) (FR_VBYTES == 64 && (nv) == 2 && (mr) > 3)

typedef void NAME(tile_fn)(real *restrict out, ptrdiff_t ldo, const real *const *restrict init,
                           ptrdiff_t ioff, const real *const *restrict a, ptrdiff_t aoff,
                           ptrdiff_t K, const real *restrict b);

/* mr rows, one sum after the other. */
FR_INLINE void NAME(short_rows)(int mr, const int nv, int tail, real *restrict out, ptrdiff_t ldo,
                                const real *const *restrict init, ptrdiff_t ioff,
                                const real *const *restrict a, ptrdiff_t aoff, const ptrdiff_t K,
                                const real *restrict b)
{
    for (int m = 0; m < mr; m++) {
        const real *row = a[m] + aoff;
        for (int v = 0; v < nv; v++) {
            vr sum = vload(init[m] + ioff + v * VL);
            for (ptrdiff_t k = 0; k < K; k++)
                sum += vsplat(row[k]) * vload(b + k * NR + v * VL);
            vstore(out + m * ldo + v * VL, sum);
        }
        if (tail) {
            vh rest = vload_h(init[m] + ioff + nv * VL);
            for (ptrdiff_t k = 0; k < K; k++)
                rest += vsplat_h(row[k]) * vload_h(b + k * NR + nv * VL);
            vstore(out + m * ldo + nv * VL, vwiden(rest));
        }
    }
}

/* Fewer inputs than a turn of the loop takes, most often one, two or three, whose weights then stay in registers.
 * A function of its own: where the main loop below may have no step at all, gcc 12 keeps sums, or the places they
 * go to, in a second set of registers, which takes 1 to 3% of a tile of 100 steps. */
FR_NOINLINE void NAME(short_tile)(int mr, int nv, int tail, real *restrict out, ptrdiff_t ldo,
                                  const real *const *restrict init, ptrdiff_t ioff,
                                  const real *const *restrict a, ptrdiff_t aoff, ptrdiff_t K,
                                  const real *restrict b)
{
    const int whole = nv == FR_NV && !tail;
    if (whole && K == 1)
        NAME(short_rows)(mr, FR_NV, 0, out, ldo, init, ioff, a, aoff, 1, b);
    else if (whole && K == 2)
        NAME(short_rows)(mr, FR_NV, 0, out, ldo, init, ioff, a, aoff, 2, b);
    else if (whole && K == 3)
        NAME(short_rows)(mr, FR_NV, 0, out, ldo, init, ioff, a, aoff, 3, b);
    else
        NAME(short_rows)(mr, nv, tail, out, ldo, init, ioff, a, aoff, K, b);
}

/* The next `steps` inputs of a tile, of which input u is added to acc[u % sums], and of the tail, pair u to
 * last[u % lasts]. */
FR_INLINE void NAME(tile_steps)(const int mr, const int nv, const int tail, const int sums,
                                const int steps, const int lasts, const int far,
                                vr (*acc)[FR_MR][FR_NV], vr (*last)[FR_MR], const real *const *row,
                                const real *b)
{
    FR_UNROLL
    for (int u = 0; u < steps; u++) {
        vr w[FR_NV];
        FR_UNROLL
        for (int v = 0; v < nv; v++) {
            w[v] = vload(b + u * NR + v * VL);
            if (mr > 1) /* gcc 12 loads it once a row if there are two or three */
                FR_IN_REGISTER(w[v]);
        }
        FR_UNROLL
        for (int n = 0; far && n < NR; n += 64 / (int)sizeof(real))
            FR_PREFETCH(b + u * NR + n + NAME(bytes_ahead) / (int)sizeof(real));
        FR_UNROLL
        for (int m = 0; m < mr; m++) {
            if (FR_FETCHED(m, mr, nv)) {
                FR_UNROLL
                for (int v = 0; v < nv; v++)
                    acc[u % sums][m][v] = vadd_scaled(acc[u % sums][m][v], row[m] + u, w[v]);
            } else {
                const vr s = vsplat(row[m][u]);
                FR_UNROLL
                for (int v = 0; v < nv; v++)
                    if (FR_PINNED(mr, nv))
                        acc[u % sums][m][v] = vadd_product(acc[u % sums][m][v], s, w[v]);
                    else
                        acc[u % sums][m][v] += s * w[v];
            }
        }
    }
    if (tail) {
        FR_UNROLL
        for (int u = 0; u < steps / 2; u++) {
            const real *w = b + 2 * u * NR + nv * VL;
            const vr pairs = vload_pairs(w, w + NR);
            FR_UNROLL
            for (int m = 0; m < mr; m++)
                last[u % lasts][m] += vsplat_pair(row[m] + 2 * u) * pairs;
        }
    }
}

FR_INLINE void NAME(tile_body)(const int mr, const int nv, const int tail, const int ku,
                               const int far, real *restrict out, ptrdiff_t ldo,
                               const real *const *restrict init, ptrdiff_t ioff,
                               const real *const *restrict a, ptrdiff_t aoff, ptrdiff_t K,
                               const real *restrict b)
{
    vr acc[8][FR_MR][FR_NV];
    vr last[4][FR_MR]; /* the accumulators of the tail, for pairs of k: ku is 2 or more there */
    vh rest[FR_MR];
    const real *row[FR_MR];
    /* Of a tall tile with a tail, two k share the sums of the whole vectors, or there would be 30 in all. */
    const int sums = tail && mr * (2 * nv + 1) > 24 ? 1 : ku, lasts = ku > 1 ? ku / 2 : 1;
    const int turn = FR_TURN(nv, ku);
    const ptrdiff_t left =
        (ptrdiff_t)((size_t)K % (size_t)turn); /* not signed: that takes longer */
    const real *const end = b + (K - left) * NR;

    if (K < turn) {
        NAME(short_tile)(mr, nv, tail, out, ldo, init, ioff, a, aoff, K, b);
        return;
    }
    FR_UNROLL
    for (int m = 0; m < mr; m++) {
        row[m] = a[m] + aoff;
        FR_UNROLL
        for (int v = 0; v < nv; v++) {
            acc[0][m][v] = vload(init[m] + ioff + v * VL);
            FR_UNROLL
            for (int u = 1; u < sums; u++)
                acc[u][m][v] = vsplat(0);
        }
        if (tail) {
            FR_UNROLL
            for (int u = 0; u < ku / 2; u++)
                last[u][m] = vsplat(0);
        }
    }
    do {
        FR_NOT_SEVERAL();
        NAME(tile_steps)(mr, nv, tail, sums, turn, lasts, far, acc, last, row, b);
        b += turn * NR;
        FR_UNROLL
        for (int m = 0; m < mr; m++) {
            row[m] += turn;
            if (nv > 0)
                FR_POINTER(row[m]);
        }
    } while (b != end);
    K = left;
    if (turn > ku) {
        for (; K >= ku; K -= ku) {
            NAME(tile_steps)(mr, nv, tail, sums, ku, lasts, far, acc, last, row, b);
            b += ku * NR;
            FR_UNROLL
            for (int m = 0; m < mr; m++)
                row[m] += ku;
        }
    }
    FR_UNROLL
    for (int m = 0; m < mr && tail; m++)
        rest[m] = vload_h(init[m] + ioff + nv * VL);
    if (ku > 1) {
        for (ptrdiff_t k = 0; k < K; k++) {
            FR_UNROLL
            for (int m = 0; m < mr; m++) {
                FR_UNROLL
                for (int v = 0; v < nv; v++)
                    acc[0][m][v] += vsplat(row[m][k]) * vload(b + k * NR + v * VL);
                if (tail)
                    rest[m] += vsplat_h(row[m][k]) * vload_h(b + k * NR + nv * VL);
            }
        }
        FR_UNROLL
        for (int h = sums / 2; h >= 1; h /= 2) {
            FR_UNROLL
            for (int u = 0; u < h; u++) {
                FR_UNROLL
                for (int m = 0; m < mr; m++) {
                    FR_UNROLL
                    for (int v = 0; v < nv; v++)
                        acc[u][m][v] += acc[u + h][m][v];
                }
            }
        }
    }
    FR_UNROLL
    for (int m = 0; m < mr && tail; m++) {
        if (ku == 8)
            last[0][m] += last[2][m], last[1][m] += last[3][m];
        if (ku >= 4)
            last[0][m] += last[1][m];
    }
    FR_UNROLL
    for (int m = 0; m < mr; m++) {
        FR_UNROLL
        for (int v = 0; v < nv; v++)
            vstore(out + m * ldo + v * VL, acc[0][m][v]);
        if (tail)
            vstore(out + m * ldo + nv * VL, vwiden(rest[m] + vsum_pairs(last[0][m])));
    }
}

/* The next `steps` inputs of a single row: a[0..steps) times those of each block. */
FR_INLINE void NAME(row_steps)(const int blocks, const int nv, const int last_nv, const int tail,
                               const int ku, const int steps, vr (*acc)[4 * FR_NV], vh *last,
                               const real *a, const real *const *block)
{
    const int vectors = (blocks - 1) * nv + last_nv;
    FR_UNROLL
    for (int u = 0; u < steps; u++) {
        const vr s = vsplat(a[u]);
        FR_UNROLL
        for (int i = 0; i < vectors; i++)
            acc[u % ku][i] += s * vload(block[i / nv] + u * NR + i % nv * VL);
        if (tail)
            last[u % ku] += vsplat_h(a[u]) * vload_h(block[blocks - 1] + u * NR + last_nv * VL);
    }
}

/* One row of several blocks at once, `stride` apart: with a batch of one, a block alone has too few
 * accumulators and too little work to be worth a call. Blocks are the gates of a panel, or the panels
 * of a gate. Here the weights are read once and come from L1 or L2: the loads are the limit, so each
 * is the operand of its multiply-add and a[k] is broadcast once for all. */
FR_INLINE void NAME(row_body)(const int blocks, const int nv, const int last_nv, const int tail,
                              real *restrict out, ptrdiff_t ldo, const real *const *restrict init,
                              const real *restrict a, ptrdiff_t K, const real *restrict b,
                              ptrdiff_t stride)
{
    const int vectors = (blocks - 1) * nv + last_nv, ku = vectors + tail >= 8 ? 1 : 2;
    const int turn = FR_ROW_TURN(ku);
    const real *block[4];
    vr acc[2][4 * FR_NV];
    vh last[2];

    FR_UNROLL
    for (int i = 0; i < blocks; i++)
        block[i] = b + i * stride;
    FR_UNROLL
    for (int i = 0; i < vectors; i++) {
        acc[0][i] = vload(init[i / nv] + i % nv * VL);
        acc[1][i] = vsplat(0);
    }
    if (tail) {
        last[0] = vload_h(init[blocks - 1] + last_nv * VL);
        last[1] = vsplat_h(0);
    }
    for (; K >= turn; K -= turn, a += turn) {
        FR_NOT_SEVERAL();
        NAME(row_steps)(blocks, nv, last_nv, tail, ku, turn, acc, last, a, block);
        FR_UNROLL
        for (int i = 0; i < blocks; i++) {
            block[i] += turn * NR;
            FR_POINTER(block[i]);
        }
    }
    if (turn > ku) {
        for (; K >= ku; K -= ku, a += ku) {
            NAME(row_steps)(blocks, nv, last_nv, tail, ku, ku, acc, last, a, block);
            FR_UNROLL
            for (int i = 0; i < blocks; i++)
                block[i] += ku * NR;
        }
    }
    if (ku > 1 && K > 0)
        NAME(row_steps)(blocks, nv, last_nv, tail, 1, 1, acc, last, a, block);
    FR_UNROLL
    for (int i = 0; i < vectors; i++)
        vstore(out + i / nv * ldo + i % nv * VL, ku > 1 ? acc[0][i] + acc[1][i] : acc[0][i]);
    if (tail)
        vstore(out + (blocks - 1) * ldo + last_nv * VL,
               vwiden(ku > 1 ? last[0] + last[1] : last[0]));
}

typedef void NAME(row_fn)(real *restrict out, ptrdiff_t ldo, const real *const *restrict init,
                          const real *restrict a, ptrdiff_t K, const real *restrict b,
                          ptrdiff_t stride);

/* out + g * ldo, init[g]: block g's; g < blocks. The last one may be narrower than the others. */
#define FR_ROW(blocks, nv, last_nv, tail, suffix)                                                  \
    FR_NOINLINE void NAME(row_##blocks##suffix)(                                                   \
        real *restrict out, ptrdiff_t ldo, const real *const *restrict init,                       \
        const real *restrict a, ptrdiff_t K, const real *restrict b, ptrdiff_t stride)             \
    {                                                                                              \
        NAME(row_body)                                                                             \
        (blocks, nv, last_nv, tail, out, ldo, init, a, K, b, stride);                              \
    }
#define FR_ROWS(nv, last_nv, tail, suffix)                                                         \
    FR_ROW(2, nv, last_nv, tail, suffix)                                                           \
    FR_ROW(3, nv, last_nv, tail, suffix)                                                           \
    FR_ROW(4, nv, last_nv, tail, suffix)
#define FR_ROWS_OF(suffix)                                                                         \
    {                                                                                              \
        NAME(row_2##suffix), NAME(row_3##suffix), NAME(row_4##suffix)                              \
    }
FR_ROWS(FR_NV, FR_NV, 0, _full)
FR_ROWS(FR_NV, FR_NV_HALF, 0, _to_half)
FR_ROWS(FR_NV_HALF, FR_NV_HALF, 0, _half)
#if FR_HALVES
FR_ROWS(FR_NV, 0, 1, _to_quarter)
FR_ROWS(FR_NV, 1, 1, _to_three_quarters)
#endif

/* row[width of the last block][blocks - 2]; with all_half, only the first half of each. */
enum { NAME(all_half) = NAME(tile_widths) };
static NAME(row_fn) *const NAME(row)[NAME(tile_widths) + 1][3] = {
    [NAME(full)] = FR_ROWS_OF(_full),
    [NAME(half)] = FR_ROWS_OF(_to_half),
#if FR_HALVES
    [NAME(quarter)] = FR_ROWS_OF(_to_quarter),
    [NAME(three_quarters)] = FR_ROWS_OF(_to_three_quarters),
#endif
    [NAME(all_half)] = FR_ROWS_OF(_half),
};
#undef FR_ROW
#undef FR_ROWS
#undef FR_ROWS_OF

#define FR_TILE(mr, nv, tail, far, suffix)                                                         \
    FR_NOINLINE void NAME(tile_##mr##suffix)(                                                      \
        real *restrict out, ptrdiff_t ldo, const real *const *restrict init, ptrdiff_t ioff,       \
        const real *const *restrict a, ptrdiff_t aoff, ptrdiff_t K, const real *restrict b)        \
    {                                                                                              \
        NAME(tile_body)                                                                            \
        (mr, nv, tail, tail ? FR_TAIL_KU(mr, nv) : FR_TILE_KU(mr, nv), far, out, ldo, init, ioff,  \
         a, aoff, K, b);                                                                           \
    }

#define FR_TILES(suffix, nv, tail, far)                                                            \
    FR_TILE(1, nv, tail, far, suffix)                                                              \
    FR_TILE(2, nv, tail, far, suffix)                                                              \
    FR_TILE(3, nv, tail, far, suffix)                                                              \
    FR_TILE(4, nv, tail, far, suffix)                                                              \
    FR_TILE(5, nv, tail, far, suffix)                                                              \
    FR_TILE(6, nv, tail, far, suffix) FR_TILES_10(suffix, nv, tail, far)
#define FR_TILES_TO_6(suffix)                                                                      \
    NAME(tile_1##suffix), NAME(tile_2##suffix), NAME(tile_3##suffix), NAME(tile_4##suffix),        \
        NAME(tile_5##suffix), NAME(tile_6##suffix)
#if FR_MR == 10
#define FR_TILES_10(suffix, nv, tail, far)                                                         \
    FR_TILE(7, nv, tail, far, suffix)                                                              \
    FR_TILE(8, nv, tail, far, suffix)                                                              \
    FR_TILE(9, nv, tail, far, suffix)                                                              \
    FR_TILE(10, nv, tail, far, suffix)
#define FR_TILES_OF(suffix)                                                                        \
    {                                                                                              \
        FR_TILES_TO_6(suffix), NAME(tile_7##suffix), NAME(tile_8##suffix), NAME(tile_9##suffix),   \
            NAME(tile_10##suffix)                                                                  \
    }
#else
#define FR_TILES_10(suffix, nv, tail, far)
#define FR_TILES_OF(suffix)                                                                        \
    {                                                                                              \
        FR_TILES_TO_6(suffix)                                                                      \
    }
#endif
FR_TILES(_full, FR_NV, 0, 0)
FR_TILES(_full_far, FR_NV, 0, 1)
FR_TILES(_half, FR_NV_HALF, 0, 0)
#if FR_HALVES
FR_TILES(_quarter, 0, 1, 0)
FR_TILES(_three_quarters, 1, 1, 0)
#endif

/* tile[width][rows - 1] */
static NAME(tile_fn) *const NAME(tile)[NAME(tile_widths)][FR_MR] = {
    [NAME(full)] = FR_TILES_OF(_full),       [NAME(full_far)] = FR_TILES_OF(_full_far),
    [NAME(half)] = FR_TILES_OF(_half),
#if FR_HALVES
    [NAME(quarter)] = FR_TILES_OF(_quarter), [NAME(three_quarters)] = FR_TILES_OF(_three_quarters),
#endif
};
#undef FR_TILE
#undef FR_TILES
#undef FR_TILES_10
#undef FR_TILES_TO_6
#undef FR_TILES_OF

/* 1 if only the first half of a panel's vectors is needed for `width` remaining columns. */
FR_INLINE int NAME(half_panel)(ptrdiff_t width)
{
    return width <= FR_NV_HALF * VL && FR_NV_HALF < FR_NV;
}

/* The narrowest tile for `width` remaining columns. It writes the vectors that half_panel says, whole,
 * as if it were no narrower. */
FR_INLINE int NAME(tile_width)(ptrdiff_t width)
{
#if FR_HALVES
    if (width <= VH)
        return NAME(quarter);
    if (width > VL && width <= VL + VH)
        return NAME(three_quarters);
#endif
    return NAME(half_panel)(width) ? NAME(half) : NAME(full);
}

/* The same, where weights come from far away and this tile is the first to read them. */
FR_INLINE int NAME(first_tile_width)(ptrdiff_t width, int far)
{
    const int first = NAME(tile_width)(width);
    return far && first == NAME(full) ? NAME(full_far) : first;
}

/* Of the gates of one panel, all as wide as it is: the index into `row`. */
FR_INLINE int NAME(row_width)(ptrdiff_t width)
{
    return NAME(half_panel)(width) ? NAME(all_half) : NAME(full);
}

/* Rows are cut into tiles of nearly equal height: 12 rows make 6 + 6 where 10 + 2 would leave a
 * tile too low to keep the multipliers busy. */
FR_INLINE ptrdiff_t NAME(tile_height)(ptrdiff_t rows_left)
{
    const ptrdiff_t tiles = (rows_left + FR_MR - 1) / FR_MR;
    return (rows_left + tiles - 1) / tiles;
}
