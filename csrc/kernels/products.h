/* products.h: the products that are batched over time, on rows given by pointers.
 *
 *   forward    xw = x W^T + b                          hoisted out of the loop
 *   backward   dx = dG W                                                      (W4)
 *              dW += dG^T x,  dR += dG^T h_prev                               (W1, W2)
 *              db += column sums of dG                                        (W3)
 *
 * None of them is done per step: over a chunk the weights are read once for many rows, and dG
 * is still in cache when its products are taken. */

FR_INLINE int NAME(panel_is_half)(ptrdiff_t columns, ptrdiff_t p)
{
    return NAME(half_panel)(columns - p * NR);
}

/* Vectors of panel p that hold at least one of `columns` columns. */
FR_INLINE int NAME(panel_vectors)(ptrdiff_t columns, ptrdiff_t p)
{
    return NAME(panel_is_half)(columns, p) ? FR_NV_HALF : FR_NV;
}

/* Of w panels from p on: only the last of a row can be half. */
FR_INLINE int NAME(tile_vectors)(ptrdiff_t columns, ptrdiff_t p, int w)
{
    return (w - 1) * FR_NV + NAME(panel_vectors)(columns, p + w - 1);
}

/* out[r][gate*Hp + unit] = bias + x[r] . W, for n rows and the panels [p0, p1) of every gate. */
static void NAME(input_product)(const fr_call *call, real *out, const real *const *x, ptrdiff_t n,
                                ptrdiff_t p0, ptrdiff_t p1)
{
    const ptrdiff_t I = call->layer.input_size, Hp = call->Hp, G = fr_cells[call->layer.cell].gates;
    const ptrdiff_t ld = call->xw_row;
    const real *W = (const real *)(call->packed + call->at.W);
    const real *bias = (const real *)(call->packed + call->at.bias);
    const real *init[FR_MR];
    for (int m = 0; m < FR_MR; m++)
        init[m] = bias;
    for (ptrdiff_t p = p0; p < p1; p++)
        for (ptrdiff_t g = 0; g < G; g++) {
            const ptrdiff_t columns = call->layer.hidden_size - p * NR;
            const int width = NAME(tile_width)(columns),
                      first = NAME(first_tile_width)(columns, call->plan.far);
            const real *b = W + (p * G + g) * I * NR;
            for (ptrdiff_t r = 0, h; r < n; r += h) {
                h = NAME(tile_height)(n - r);
                NAME(tile)
                [r ? width : first][h - 1](out + r * ld + g * Hp + p * NR, ld, init,
                                           g * Hp + p * NR, x + r, 0, I, b);
            }
        }
}

/* Rows of x of the steps [s0, s1) of a part of the batch, step after step; returns how many. */
static ptrdiff_t NAME(x_rows)(const fr_call *call, const fr_part *part, int64_t s0, int64_t s1,
                              const real **x)
{
    const fr_rows *rows = &call->rows;
    ptrdiff_t n = 0;
    for (int64_t s = s0; s < s1; s++)
        for (int64_t q = 0; q < fr_part_active(part, fr_active(rows, s)); q++) {
            const int64_t j = fr_part_row(part, q);
            x[n++] = NAME(at)(&call->x, fr_time(rows, s, j), fr_batch(rows, j));
        }
    return n;
}

/* x W of the steps [s0, s1) where parts of the batch are not equally large. Three rows are two and one: two
 * rows' steps take hardly longer than one's, but their x W takes twice as long. So all rows, part after part,
 * are cut into as many equal shares, and a thread makes its share, whoever will read it. Where a share begins
 * follows from the sizes: who walks for all makes each part's pieces of the shares, and the same numbers. */
FR_NOINLINE void NAME(input_product_evenly)(const fr_call *call, const fr_part *mine, int tid,
                                            int64_t s0, int64_t s1, const real **x)
{
    const int units = call->plan.units, parts = call->plan.rows, me = tid / units;
    const int first_share = call->alone ? 0 : me, end_share = call->alone ? parts : me + 1;
    const ptrdiff_t all = fr_row(&call->rows, s1, 0) - fr_row(&call->rows, s0, 0);
    ptrdiff_t before = 0, n;
    for (int r = 0; r < parts; r++, before += n) {
        const fr_part part =
            fr_plan_part(&call->plan, &call->rows, call->Hp / NR, r * units + tid % units);
        real *const xw = (real *)call->xw + call->plan.chunk * part.rows_before * call->xw_row;
        n = NAME(rows_in_chunk)(call, &part, s0, s1);
        if (call->alone && r != me)
            continue;
        for (int share = first_share; share < end_share; share++) {
            ptrdiff_t from = all * share / parts - before, to = all * (share + 1) / parts - before;
            from = from < 0 ? 0 : from;
            to = to > n ? n : to;
            if (from >= to)
                continue;
            NAME(x_rows)(call, &part, s0, s1, x);
            NAME(input_product)
            (call, xw + from * call->xw_row, x + from, to - from, mine->p0, mine->p1);
        }
    }
}

/* ---- products made on the way: weave.h ---- */

/* The whole panels of a part. A narrow one, the last of a layer, would take as long as a whole one. */
FR_INLINE ptrdiff_t NAME(whole_panels)(const fr_call *call, const fr_part *part)
{
    const ptrdiff_t whole = call->layer.hidden_size / NR;
    return (part->p1 < whole ? part->p1 : whole) - part->p0;
}

/* Whether products of a part are woven into its steps: where a step's weights come from further away than
 * the first-level cache, and there are steps to come. With 96 KB of them nothing is gained, with 128 2%,
 * with 256 7% and more. Input weights are then read every 16 steps, which is too often if the third level
 * does not keep them: LSTM H = 1024 +25%. */
FR_INLINE int NAME(may_weave)(const fr_call *call, const fr_part *part)
{
    enum { MOST = 10 << 20 };
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, I = call->layer.input_size,
                    unit = cell->gates * (ptrdiff_t)sizeof(real);
    return FR_WEAVES && call->rows.B == 1 && FR_WEAVE_PAYS() && call->plan.rows == 1 &&
           !call->rows.len && !call->rows.reset && !call->blas && cell->phases == 1 &&
           call->rows.T > FR_WEAVE_STEPS && H >= FR_WEAVE_LONG &&
           NAME(whole_panels)(call, part) * NR * H * unit > FR_WEAVE_FAR &&
           call->Hp * (H + I) * unit <= MOST;
}

/* x W, forward. */
FR_NOINLINE int NAME(weaves_xw)(const fr_call *call, const fr_part *part)
{
    const int64_t T = call->rows.T, kept = T < 2 * FR_WEAVE_STEPS ? T : 2 * FR_WEAVE_STEPS;
    return NAME(may_weave)(call, part) && call->x.p && !call->plan.ahead && !call->claims &&
           !call->links.follows && call->plan.chunk >= kept;
}

/* dx, backward: the same for all threads, whose shares of dx do not depend on their panels of h. */
FR_NOINLINE int NAME(weaves_dx)(const fr_call *call)
{
    const fr_part first = fr_plan_part(&call->plan, &call->rows, call->Hp / NR, 0);
    return NAME(may_weave)(call, &first) && call->dx.p && call->layer.input_size >= NR &&
           !call->few && !call->looks && (call->plan.units == 1 || call->early);
}

/* What both have in common; the rest is zeros. */
FR_INLINE void NAME(clear_weave)(const fr_call *call, NAME(weave) * w)
{
    memset(w, 0, offsetof(NAME(weave), sums));
    w->Hp = call->Hp;
    w->gates = fr_cells[call->layer.cell].gates;
}

FR_INLINE void NAME(repeat_rows)(NAME(weave) * w)
{
    for (ptrdiff_t m = w->rows; m < FR_WEAVE_STEPS; m++)
        w->x[m] = w->x[0];
}

/* Steps from s on, whose rows of xw are to be made while those before them are walked. What is not woven
 * is made now. */
FR_NOINLINE void NAME(weave_xw)(const fr_call *call, const fr_part *part, int64_t s, real *xw,
                                NAME(weave) * w)
{
    const int64_t left = call->rows.T - s;
    NAME(clear_weave)(call, w);
    if (left <= 0)
        return;
    w->rows = left < FR_WEAVE_STEPS ? left : FR_WEAVE_STEPS;
    w->out = xw + part->p0 * NR;
    w->ld = call->xw_row;
    w->K = call->layer.input_size;
    w->W = (const real *)(call->packed + call->at.W) + part->p0 * w->gates * w->K * NR;
    w->bias = (const real *)(call->packed + call->at.bias) + part->p0 * NR;
    w->panels = NAME(whole_panels)(call, part);
    NAME(x_rows)(call, part, s, s + w->rows, w->x);
    NAME(repeat_rows)(w);
    NAME(input_product)
    (call, xw, w->x, w->rows, part->p0 + NAME(whole_panels)(call, part), part->p1);
}

/* The 16 steps from s on have been walked, by all threads: the share of thread `one` of `those` in the
 * whole panels of their dx is made while those before them are. dg: their dG, back to back. */
FR_NOINLINE void NAME(weave_dx)(const fr_call *call, int64_t s, const real *dg, int one, int those,
                                NAME(weave) * w)
{
    const ptrdiff_t panels = call->layer.input_size / NR, first = panels * one / those;
    NAME(clear_weave)(call, w);
    w->rows = FR_WEAVE_STEPS;
    for (ptrdiff_t m = 0; m < w->rows; m++)
        w->x[m] = dg + m * call->dg_row;
    w->out = (real *)NAME(at)(&call->dx, fr_time(&call->rows, s, 0), 0) + first * NR;
    w->ld = call->rows.reverse ? -call->dx.st : call->dx.st;
    w->K = call->layer.hidden_size;
    w->W = (const real *)(call->packed + call->at.Wb) + first * w->gates * w->K * NR;
    w->bias = (const real *)call->zeros;
    w->dx = 1;
    w->add = call->dx_add;
    w->panels = panels * (one + 1) / those - first;
}

/* ---- x W made ahead ----
 *
 * The rows of a chunk are cut into tiles. Thread 1 takes one after the other; thread 0 walks the steps
 * and takes a tile when it needs one that nobody has begun. Which of them makes it changes no number. */

/* Tile i of n rows begins with this row; n, if there is none. */
FR_INLINE ptrdiff_t NAME(row_of_tile)(ptrdiff_t n, ptrdiff_t i)
{
    const ptrdiff_t tiles = (n + FR_MR - 1) / FR_MR;
    return i < tiles ? n * i / tiles : n;
}

FR_INLINE void NAME(make_tile)(const fr_call *call, const real *const *x, ptrdiff_t n, ptrdiff_t i)
{
    const ptrdiff_t r = NAME(row_of_tile)(n, i);
    NAME(input_product)
    (call, (real *)call->xw + r * call->xw_row, x + r, NAME(row_of_tile)(n, i + 1) - r, 0,
     call->Hp / NR);
}

/* Thread 1's part of a call. */
static void NAME(work_ahead)(const fr_call *call, const real **x)
{
    const fr_part part = fr_plan_part(&call->plan, &call->rows, call->Hp / NR, 0);
    const int64_t T = call->rows.T, chunk = call->plan.chunk;
    int64_t before = 0; /* tiles of earlier chunks */
    for (int64_t s0 = 0; s0 < T; s0 += chunk) {
        const ptrdiff_t n = NAME(x_rows)(call, &part, s0, T - s0 < chunk ? T : s0 + chunk, x);
        fr_wait(&call->ahead[2], s0 / chunk); /* the rows of the chunk before are no longer read */
        for (ptrdiff_t i = 0; NAME(row_of_tile)(n, i) < n; i++, before++)
            if (fr_take(&call->ahead[0], before)) {
                NAME(make_tile)(call, x, n, i);
                fr_tell(&call->ahead[1], before + 1);
            }
    }
}

/* Thread 0 comes to tile i of a chunk of n rows, number `number` of all. Where x W takes longer than the
 * steps, it makes a later tile while this one is being made: those, from this one on, are the bits of *made.
 * What the other thread has made is fetched from its cache, if it can be a tile early; not while it is being
 * written. Rows below *fetched have been. */
static void NAME(need_tile)(const fr_call *call, const real *const *x, ptrdiff_t n, ptrdiff_t i,
                            int64_t number, ptrdiff_t *fetched, uint64_t *made)
{
    const int mine = *made & 1;
    *made >>= 1;
    if (mine)
        return;
    if (fr_take(&call->ahead[0], number)) {
        NAME(make_tile)(call, x, n, i);
        return;
    }
    if (call->plan.ahead > 1 && !fr_has_come(&call->ahead[1], number + 1))
        for (int k = 1; k <= 64 && NAME(row_of_tile)(n, i + k) < n; k++)
            if (fr_take(&call->ahead[0], number + k)) {
                NAME(make_tile)(call, x, n, i + k);
                *made |= (uint64_t)1 << (k - 1);
                break;
            }
    fr_wait(&call->ahead[1], number + 1);
    const ptrdiff_t first = NAME(row_of_tile)(n, i), from = *fetched > first ? *fetched : first;
    *fetched = NAME(row_of_tile)(n, i + 1 + fr_has_come(&call->ahead[1], number + 2));
    for (ptrdiff_t at = from * call->xw_row; at < *fetched * call->xw_row;
         at += 64 / (int)sizeof(real))
        FR_PREFETCH((const real *)call->xw + at);
}

/* input_product by the foreign provider: x rows gathered, one product per gate. */
static void NAME(input_product_blas)(const fr_call *call, real *out, const real *const *x,
                                     ptrdiff_t n, ptrdiff_t p0, ptrdiff_t p1, real *gathered)
{
    const ptrdiff_t I = call->layer.input_size, Hp = call->Hp, G = fr_cells[call->layer.cell].gates;
    const real *plain = (const real *)(call->packed + call->at.plain);
    const real *bias = (const real *)(call->packed + call->at.bias);
    for (ptrdiff_t r = 0; r < n; r++) {
        memcpy(gathered + r * I, x[r], (size_t)I * sizeof(real));
        for (ptrdiff_t g = 0; g < G; g++)
            memcpy(out + r * call->xw_row + g * Hp + p0 * NR, bias + g * Hp + p0 * NR,
                   (size_t)((p1 - p0) * NR) * sizeof(real));
    }
    for (ptrdiff_t g = 0; g < G; g++)
        fr_blas_gemm(call->layer.dtype, 0, 1, n, (p1 - p0) * NR, I, gathered, I,
                     plain + (g * Hp + p0 * NR) * I, I, 1, out + g * Hp + p0 * NR, call->xw_row);
}

/* The lines of a panel's columns in a row of the caller's, which may begin anywhere in one. */
FR_INLINE void NAME(fetch_columns)(const real *first, ptrdiff_t width)
{
    const ptrdiff_t columns = width < NR ? width : NR;
    for (ptrdiff_t n = 0; n < columns; n += 64 / (ptrdiff_t)sizeof(real))
        FR_PREFETCH(first + n);
    FR_PREFETCH(first + columns - 1);
}

/* dx[r] (+)= dG[r] W for n rows, panels [p0, p1); only the slots that feed the input weights. */
static void NAME(dx_product)(const fr_call *call, real *const *dx, const real *const *dg,
                             ptrdiff_t n, ptrdiff_t p0, ptrdiff_t p1)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t I = call->layer.input_size, H = call->layer.hidden_size, Hp = call->Hp,
                    G = cell->gates;
    const real *Wb = (const real *)(call->packed + call->at.Wb);
    _Alignas(64) real pre[FR_MR * NR];
    const real *init[FR_MR], *pre_row[FR_MR];
    for (int m = 0; m < FR_MR; m++) {
        init[m] = (const real *)call->zeros;
        pre_row[m] = pre + m * NR;
    }
    for (ptrdiff_t p = p0; p < p1; p++) {
        const ptrdiff_t width = I - p * NR;
        const int tile_width = NAME(tile_width)(width), vectors = NAME(panel_vectors)(I, p),
                  first = NAME(first_tile_width)(width, call->plan.far);
        for (ptrdiff_t r = 0, h; r < n; r += h) {
            h = NAME(tile_height)(n - r);
            for (ptrdiff_t m = r; m < r + h; m++) /* dx comes from far away, too */
                NAME(fetch_columns)(dx[m] + p * NR, width);
            for (ptrdiff_t g = 0; g < G; g++) /* slot g < G is input gate g in every cell */
                NAME(tile)
            [r ? tile_width : first][h - 1](pre, NR, g ? pre_row : init, 0, dg + r, g * Hp, H,
                                            Wb + (p * G + g) * H * NR);
            for (ptrdiff_t m = 0; m < h; m++)
                for (int v = 0; v < vectors; v++) {
                    real *to = dx[r + m] + p * NR + v * VL;
                    vr sum = vload(pre + m * NR + v * VL);
                    if (call->dx_add)
                        sum += vload_n(to, width - v * VL);
                    vstore_n(to, sum, width - v * VL);
                }
        }
    }
}

static void NAME(dx_product_blas)(const fr_call *call, real *const *dx, const real *const *dg,
                                  ptrdiff_t n, real *gathered)
{
    const ptrdiff_t I = call->layer.input_size, H = call->layer.hidden_size, Hp = call->Hp;
    const ptrdiff_t G = fr_cells[call->layer.cell].gates;
    const real *plain = (const real *)(call->packed + call->at.plain);
    if (n == 0)
        return;
    for (ptrdiff_t g = 0; g < G; g++) /* rows of a chunk lie back to back: dg[0] is a matrix */
        fr_blas_gemm(call->layer.dtype, 0, 0, n, I, H, dg[0] + g * Hp, call->dg_row,
                     plain + g * Hp * I, I, g != 0, gathered, I);
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t k = 0; k < I; k++)
            dx[r][k] = gathered[r * I + k] + (call->dx_add ? dx[r][k] : 0);
}

/* ---- weight gradients -------------------------------------------------------------------- */

/* Panels of the right-hand sides (h_prev, r*h, x) for K rows: [panel][K][NR], zero-padded. */
static void NAME(pack_operand)(real *dst, const real *const *rows, ptrdiff_t K, ptrdiff_t N)
{
    for (ptrdiff_t p = 0; p * NR < N; p++) {
        const ptrdiff_t width = N - p * NR;
        real *to = dst + p * K * NR;
        if (width >= NR)
            for (ptrdiff_t k = 0; k < K; k++)
                for (int v = 0; v < FR_NV; v++)
                    vstore(to + k * NR + v * VL, vload(rows[k] + p * NR + v * VL));
        else
            for (ptrdiff_t k = 0; k < K; k++)
                for (ptrdiff_t n = 0; n < NR; n += VL)
                    vstore(to + k * NR + n,
                           n < width ? vload_n(rows[k] + p * NR + n, width - n) : vsplat(0));
    }
}

/* C[m][0..N) += sum over k of at[m][k] * operand[k][0..N), m < M; C row-major with ldc. With `zeros`, a row of
 * them, C is written and not added to. */
static void NAME(outer_product)(real *C, ptrdiff_t ldc, const real *at, ptrdiff_t ldt, ptrdiff_t M,
                                ptrdiff_t K, const real *operand, ptrdiff_t N, const real *zeros)
{
    _Alignas(64) real tail[FR_MR * NR];
    const real *a[FR_MC], *c[FR_MC], *tail_row[FR_MR];
    for (ptrdiff_t m = 0; m < M; m++) {
        a[m] = at + m * ldt;
        c[m] = zeros ? zeros : C + m * ldc;
    }
    for (int m = 0; m < FR_MR; m++)
        tail_row[m] = tail + m * NR;
    for (ptrdiff_t p = 0; p * NR < N; p++) {
        const ptrdiff_t width = N - p * NR;
        const int vectors = NAME(panel_vectors)(N, p), tile_width = NAME(tile_width)(width);
        const real *b = operand + p * K * NR;
        for (ptrdiff_t r = 0, h; r < M; r += h) {
            h = NAME(tile_height)(M - r);
            /* The sums come from far away: those of the next tile are asked for now. */
            for (ptrdiff_t m = r + h; m < r + 2 * h && m < M; m++)
                NAME(fetch_columns)(C + m * ldc + p * NR, width);
            if (width >= vectors * VL) {
                NAME(tile)
                [tile_width][h - 1](C + r * ldc + p * NR, ldc, c + r, zeros ? 0 : p * NR, a + r, 0,
                                    K, b);
                continue;
            }
            for (ptrdiff_t m = 0; m < h; m++)
                for (int v = 0; v < vectors; v++)
                    vstore(tail + m * NR + v * VL,
                           zeros ? vsplat(0) : vload_n(c[r + m] + p * NR + v * VL, width - v * VL));
            NAME(tile)[tile_width][h - 1](tail, NR, tail_row, 0, a + r, 0, K, b);
            for (ptrdiff_t m = 0; m < h; m++)
                for (int v = 0; v < vectors; v++)
                    vstore_n(C + (r + m) * ldc + p * NR + v * VL, vload(tail + m * NR + v * VL),
                             width - v * VL);
        }
    }
}

FR_INLINE ptrdiff_t NAME(round_up)(ptrdiff_t n)
{
    return (n + NR - 1) / NR * NR;
}

/* to[n] += sum over k < K of from[k][n], or = , for a few vectors of n, of which `width` numbers count. */
FR_INLINE void NAME(add_column_sums)(real *to, real *too, const real *from, ptrdiff_t ld,
                                     ptrdiff_t K, const int vectors, ptrdiff_t width, int set)
{
    vr sum[4];
    FR_UNROLL
    for (int v = 0; v < vectors; v++)
        sum[v] = vsplat(0);
    for (ptrdiff_t k = 0; k < K; k++) {
        FR_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[v] += vload_n(from + k * ld + v * VL, width - v * VL);
    }
    FR_UNROLL
    for (int v = 0; v < vectors; v++) {
        const ptrdiff_t n = v * VL, left = width - n;
        if (to)
            vstore_n(to + n, set ? sum[v] : vload_n(to + n, left) + sum[v], left);
        if (too)
            vstore_n(too + n, set ? sum[v] : vload_n(too + n, left) + sum[v], left);
    }
}

/* db of the M units from u on: the sums of K rows of dG, which begin with those units. */
static void NAME(bias_gradient)(const fr_call *call, const fr_sums *sums, int slot, ptrdiff_t u,
                                const real *dg, ptrdiff_t M, ptrdiff_t K, int set)
{
    enum { WIDE = 4 }; /* vectors whose sums do not wait for each other */
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, ld = call->dg_row;
    const int wg = cell->w_gate[slot], rg = cell->r_gate[slot];
    real *ih = wg < 0 || !sums->grads.b_ih ? NULL : (real *)sums->grads.b_ih + wg * H + u;
    real *hh = rg < 0 || !sums->grads.b_hh ? NULL : (real *)sums->grads.b_hh + rg * H + u;
    if (!ih && !hh)
        return;
    for (ptrdiff_t m = 0, n; m < M; m += n) {
        real *const to = ih ? ih + m : NULL, *const too = hh ? hh + m : NULL;
        n = M - m >= WIDE * VL ? WIDE * VL : VL;
        if (n == WIDE * VL)
            NAME(add_column_sums)(to, too, dg + m, ld, K, WIDE, WIDE * VL, set);
        else
            NAME(add_column_sums)(to, too, dg + m, ld, K, 1, M - m, set);
    }
}

/* Which of a block's M rows of dR, units from u on, this thread makes: of a pass that is helped, the helper
 * those from a cut on. */
FR_INLINE void NAME(share_of_dR)(const fr_call *call, int slot, ptrdiff_t u, ptrdiff_t M,
                                 ptrdiff_t *first, ptrdiff_t *end)
{
    const fr_help *help = call->links.help;
    *first = 0;
    *end = M;
    if (!help)
        return;
    ptrdiff_t cut = slot < help->slot ? M : slot > help->slot ? 0 : help->unit - u;
    cut = cut < 0 ? 0 : cut > M ? M : cut;
    *(call->helps ? first : end) = cut;
}

/* weight_gradient of a few rows: nothing is packed or transposed. */
static void NAME(weight_gradient_of_few)(const fr_call *call, const real *const *dg,
                                         const real *const *h, const real *const *rh,
                                         const real *const *x, int n, ptrdiff_t u0, ptrdiff_t u1,
                                         const fr_sums *sums, int set)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t I = call->layer.input_size, H = call->layer.hidden_size;
    real *db_ih = sums->grads.b_ih, *db_hh = sums->grads.b_hh;
    const real *dg_live[FR_FEW_ROWS_OF_A_STEP], *h_live[FR_FEW_ROWS_OF_A_STEP],
        *rh_live[FR_FEW_ROWS_OF_A_STEP];
    int live = 0; /* rows that begin with zeros add nothing to dR */
    for (int m = 0; m < n; m++)
        if (h[m] != (const real *)call->zeros) {
            dg_live[live] = dg[m];
            h_live[live] = h[m];
            rh_live[live++] = rh ? rh[m] : NULL;
        }
    for (int slot = 0; slot < cell->dslots; slot++) {
        const int wg = cell->w_gate[slot], rg = cell->r_gate[slot];
        const ptrdiff_t at = slot * call->Hp + u0;
        for (ptrdiff_t u = u0; u < u1; u++) {
            real sum = 0;
            for (int m = 0; m < n; m++)
                sum += dg[m][slot * call->Hp + u];
            if (db_ih && wg >= 0)
                db_ih[wg * H + u] = set ? sum : db_ih[wg * H + u] + sum;
            if (db_hh && rg >= 0)
                db_hh[rg * H + u] = set ? sum : db_hh[rg * H + u] + sum;
        }
        if (rg >= 0 && (live || set))
            NAME(add_multiples)
        ((real *)sums->grads.w_hh + (rg * H + u0) * H, set, u1 - u0, H, dg_live, at,
         cell->r_from_rh[slot] ? rh_live : h_live, live);
        if (x && wg >= 0)
            NAME(add_multiples)
        ((real *)sums->grads.w_ih + (wg * H + u0) * I, set, u1 - u0, I, dg, at, x, n);
    }
}

/* One thread's share of dW, dR and db over n rows of dG, more than FR_FEW_ROWS: some units of every slot.
 *   dg      rows of dG                          h, rh   rows that the recurrent product read
 *   x       rows of x, or NULL for tokens       set     sums are written, not added to */
static void NAME(weight_gradient)(const fr_call *call, const real *const *dg, const real *const *h,
                                  const real *const *rh, const real *const *x, ptrdiff_t n,
                                  NAME(share) * share, const fr_sums *sums, int set, real *work)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t I = call->layer.input_size, H = call->layer.hidden_size, Hp = call->Hp;
    const ptrdiff_t ldt =
        FR_KC + 16; /* not a power of two: rows of a tile fall in different sets */
    real *dw_ih = sums->grads.w_ih, *dw_hh = sums->grads.w_hh;
    real *transposed = work, *h_panels = work + FR_MC * ldt;
    real *rh_panels = h_panels + FR_KC * NAME(round_up)(H);
    real *x_panels = rh_panels + (rh ? FR_KC * NAME(round_up)(H) : 0);

    const ptrdiff_t blocks = ((H + share->those - 1) / share->those + FR_MC - 1) / FR_MC;
    for (ptrdiff_t k0 = 0; k0 < n; k0 += FR_KC) {
        const ptrdiff_t K = n - k0 < FR_KC ? n - k0 : FR_KC;
        const int first_block = set && k0 == 0;
        const real *zeros = first_block ? (const real *)call->zeros : NULL;
        int packed = 0; /* others may have left nothing to do */
        NAME(piece_walk) pieces = NAME(begin_pieces)(share, cell->dslots * blocks, 0);
        while (NAME(next_piece)(&pieces, share)) {
            const int slot = (int)(pieces.piece / blocks);
            const ptrdiff_t u = NAME(share_of)(H, &pieces.of) + pieces.piece % blocks * FR_MC,
                            left = NAME(end_of_share)(H, &pieces.of) - u,
                            M = left < FR_MC ? left : FR_MC;
            const int wg = cell->w_gate[slot], rg = cell->r_gate[slot];
            if (M <= 0)
                continue;
            if (!packed) {
                NAME(pack_operand)(h_panels, h + k0, K, H);
                if (rh)
                    NAME(pack_operand)(rh_panels, rh + k0, K, H);
                if (x)
                    NAME(pack_operand)(x_panels, x + k0, K, I);
                packed = 1;
            }
            /* rows of a chunk lie back to back: they are a matrix */
            const real *block = dg[k0] + slot * Hp + u;
            ptrdiff_t first, end;
            NAME(share_of_dR)(call, slot, u, M, &first, &end);
            NAME(await_sums)(&pieces);
            if (!call->links.help || call->helps)
                NAME(bias_gradient)(call, sums, slot, u, block, M, K, first_block);
            if ((x && wg >= 0) || (rg >= 0 && end > first))
                NAME(transpose)(transposed, ldt, block, call->dg_row, K, M);
            if (rg >= 0)
                NAME(outer_product)
            (dw_hh + (rg * H + u + first) * H, H, transposed + first * ldt, ldt, end - first, K,
             cell->r_from_rh[slot] ? rh_panels : h_panels, H, zeros);
            if (x && wg >= 0)
                NAME(outer_product)
            (dw_ih + (wg * H + u) * I, I, transposed, ldt, M, K, x_panels, I, zeros);
            NAME(tell_sums)(&pieces);
        }
    }
}

/* The same by the foreign provider. Rows are gathered dense; dg[0] is already a matrix. */
static void NAME(weight_gradient_blas)(const fr_call *call, const real *const *dg,
                                       const real *const *h, const real *const *rh,
                                       const real *const *x, ptrdiff_t n, ptrdiff_t u0,
                                       ptrdiff_t u1, const fr_sums *sums, real *work)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t I = call->layer.input_size, H = call->layer.hidden_size, Hp = call->Hp,
                    ld = call->dg_row;
    real *db_ih = sums->grads.b_ih, *db_hh = sums->grads.b_hh;

    for (ptrdiff_t k0 = 0; k0 < n; k0 += FR_KC) {
        const ptrdiff_t K = n - k0 < FR_KC ? n - k0 : FR_KC;
        for (int slot = 0; slot < cell->dslots; slot++) {
            const int wg = cell->w_gate[slot], rg = cell->r_gate[slot];
            const real *from = dg[k0] + slot * Hp + u0;
            for (ptrdiff_t u = u0; u < u1; u++) {
                real sum = 0;
                for (ptrdiff_t k = 0; k < K; k++)
                    sum += from[k * ld + u - u0];
                if (db_ih && wg >= 0)
                    db_ih[wg * H + u] += sum;
                if (db_hh && rg >= 0)
                    db_hh[rg * H + u] += sum;
            }
            if (rg >= 0) {
                const real *const *rows = (cell->r_from_rh[slot] ? rh : h) + k0;
                for (ptrdiff_t k = 0; k < K; k++)
                    memcpy(work + k * H, rows[k], (size_t)H * sizeof(real));
                fr_blas_gemm(call->layer.dtype, 1, 0, u1 - u0, H, K, from, ld, work, H, 1,
                             (real *)sums->grads.w_hh + (rg * H + u0) * H, H);
            }
            if (x && wg >= 0) {
                for (ptrdiff_t k = 0; k < K; k++)
                    memcpy(work + k * I, x[k0 + k], (size_t)I * sizeof(real));
                fr_blas_gemm(call->layer.dtype, 1, 0, u1 - u0, I, K, from, ld, work, I, 1,
                             (real *)sums->grads.w_ih + (wg * H + u0) * I, I);
            }
        }
    }
}

/* (W6): the gradient of the table's row is the sum of dG over the places it was read. With fewer
 * rows than the table has, it goes straight into the columns of dW; else it is collected in a table,
 * where a row is contiguous, and transposed once at the end. */
static void NAME(scatter_tokens)(const fr_call *call, const real *const *dg, const int64_t *tokens,
                                 ptrdiff_t n, ptrdiff_t u0, ptrdiff_t u1, const fr_sums *sums)
{
    const ptrdiff_t Hp = call->Hp, G = fr_cells[call->layer.cell].gates;
    const ptrdiff_t H = call->layer.hidden_size, I = call->layer.input_size;
    real *dtable = sums->dtable, *dw_ih = sums->grads.w_ih;
    if (!dtable) {
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t g = 0; g < G; g++)
                for (ptrdiff_t u = u0; u < u1; u++)
                    dw_ih[(g * H + u) * I + tokens[r]] += dg[r][g * Hp + u];
        return;
    }
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t g = 0; g < G; g++) {
            real *to = dtable + (tokens[r] * G + g) * Hp;
            const real *from = dg[r] + g * Hp;
            for (ptrdiff_t u = u0; u < u1; u++)
                to[u] += from[u];
        }
}

/* The arrays that part r of the batch adds up in, the first part in the caller's. */
static fr_sums NAME(sums_of_part)(const fr_call *call, int r)
{
    fr_sums s = {call->grads, call->dtable};
    if (!call->own || r == 0)
        return s;
    const ptrdiff_t H = call->layer.hidden_size, I = call->layer.input_size;
    const ptrdiff_t GH = fr_cells[call->layer.cell].gates * H;
    real *next = (real *)(call->own + (size_t)(r - 1) * call->own_stride);
    s.grads.w_ih = next;
    s.grads.w_hh = next += GH * I;
    s.grads.b_ih = call->grads.b_ih ? next + GH * H : NULL;
    s.grads.b_hh = call->grads.b_hh ? next + GH * (H + 1) : NULL;
    s.dtable = call->dtable ? next + GH * (H + 2) : NULL;
    return s;
}

/* Whether the caller adds up in them, too. */
FR_INLINE int NAME(are_the_callers)(const fr_call *call, const fr_sums *s)
{
    return s->grads.w_hh == call->grads.w_hh;
}

/* Whether a part of the batch writes its sums with the chunk that is walked first, the last one in time, and
 * only adds to them from the next one on. Then nobody clears them, nor are they read before: 1 to 2% of a
 * training step. */
static int NAME(writes_sums)(const fr_call *call, const fr_sums *s)
{
    if (call->links.sets)
        return 1;
    return (call->set || !NAME(are_the_callers)(call, s)) && call->x.p && !call->blas &&
           !call->rows.len && call->rows.T > 0;
}

/* Units [u0, u1) of every gate to zero: the table, and the sums if they are to be added to but not to what is
 * there. */
static void NAME(clear_sums)(const fr_call *call, const fr_sums *s, int writes, ptrdiff_t u0,
                             ptrdiff_t u1)
{
    const int theirs = NAME(are_the_callers)(call, s);
    const ptrdiff_t H = call->layer.hidden_size, I = call->layer.input_size, Hp = call->Hp;
    const ptrdiff_t G = fr_cells[call->layer.cell].gates;
    const size_t units = (size_t)(u1 - u0) * sizeof(real);
    if (s->dtable)
        for (ptrdiff_t r = 0; r < I * G; r++)
            memset((real *)s->dtable + r * Hp + u0, 0, units);
    if (writes || !s->grads.w_ih || (theirs && !call->set))
        return;
    for (ptrdiff_t g = 0; g < G; g++) {
        const ptrdiff_t row = g * H + u0;
        memset((real *)s->grads.w_hh + row * H, 0, units * (size_t)H);
        if (!s->dtable || theirs)
            memset((real *)s->grads.w_ih + row * I, 0, units * (size_t)I);
        if (s->grads.b_ih)
            memset((real *)s->grads.b_ih + row, 0, units);
        if (s->grads.b_hh)
            memset((real *)s->grads.b_hh + row, 0, units);
    }
}

static void NAME(add_row)(void *to, const void *from, ptrdiff_t at, ptrdiff_t n)
{
    real *restrict sum = to;
    const real *restrict more = from;
    for (ptrdiff_t i = at; i < at + n; i++)
        sum[i] += more[i];
}

/* to[m][n] += from[n][m] for n < N, m < M. */
static void NAME(add_transposed)(real *to, ptrdiff_t ldt, const real *from, ptrdiff_t ldf,
                                 ptrdiff_t N, ptrdiff_t M)
{
    enum { ROWS = 16, COLUMNS = 64 }; /* so that the lines of both are read once */
    _Alignas(64) real block[ROWS * COLUMNS];
    for (ptrdiff_t m0 = 0; m0 < M; m0 += ROWS)
        for (ptrdiff_t n0 = 0; n0 < N; n0 += COLUMNS) {
            const ptrdiff_t rows = M - m0 < ROWS ? M - m0 : ROWS,
                            columns = N - n0 < COLUMNS ? N - n0 : COLUMNS;
            NAME(transpose)(block, COLUMNS, from + n0 * ldf + m0, ldf, columns, rows);
            for (ptrdiff_t m = 0; m < rows; m++) {
                real *sum = to + (m0 + m) * ldt + n0;
                for (ptrdiff_t n = 0; n < columns; n += VL)
                    vstore_n(sum + n,
                             vload_n(sum + n, columns - n) + vload(block + m * COLUMNS + n),
                             columns - n);
            }
        }
}

/* Units [u0, u1) of a part's sums into the caller's arrays. */
static void NAME(add_sums)(const fr_call *call, const fr_sums *s, ptrdiff_t u0, ptrdiff_t u1)
{
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp, I = call->layer.input_size;
    const ptrdiff_t G = fr_cells[call->layer.cell].gates;
    const real *dtable = s->dtable;
    real *dw_ih = call->grads.w_ih;
    if (dtable)
        for (ptrdiff_t g = 0; g < G; g++)
            NAME(add_transposed)
    (dw_ih + (g * H + u0) * I, I, dtable + g * Hp + u0, G * Hp, I, u1 - u0);
    if (NAME(are_the_callers)(call, s))
        return;
    for (ptrdiff_t g = 0; g < G; g++) {
        const ptrdiff_t row = g * H + u0, units = u1 - u0;
        NAME(add_row)(call->grads.w_hh, s->grads.w_hh, row * H, units * H);
        if (!dtable)
            NAME(add_row)(dw_ih, s->grads.w_ih, row * I, units * I);
        if (s->grads.b_ih)
            NAME(add_row)(call->grads.b_ih, s->grads.b_ih, row, units);
        if (s->grads.b_hh)
            NAME(add_row)(call->grads.b_hh, s->grads.b_hh, row, units);
    }
}

/* dx of a few rows by the panels of forward, columns [i0, i1): few.h. */
static void NAME(dx_of_few)(const fr_call *call, real *const *dx, const real *const *dg,
                            ptrdiff_t n, ptrdiff_t i0, ptrdiff_t i1)
{
    const int gates = fr_cells[call->layer.cell].gates;
    NAME(few_weights)
    weights = NAME(few_weights_of)((const real *)(call->packed + call->at.W),
                                   call->layer.input_size, call->layer.hidden_size, gates);
    real *to[FR_FEW_ROWS_OF_A_STEP];
    for (int g = 0; g < gates; g++) /* slot g < G is input gate g in every cell */
        weights.slot[g] = g * call->Hp;
    for (ptrdiff_t m = 0; m < n; m++)
        to[m] = dx[m] + i0;
    NAME(dots)(to, call->dx_add, &weights, dg, n, i0, i1);
}

/* dx of rows [0, woven), and of those from there on the last panel, if it is narrow: the others have been made on
 * the way. */
static void NAME(dx_of_chunk)(const fr_call *call, const NAME(chunk_rows) * c, ptrdiff_t n,
                              ptrdiff_t woven, NAME(share) * share)
{
    const ptrdiff_t I = call->layer.input_size, panels = (I + NR - 1) / NR;
    /* By itself a thread takes all panels of its rows at once. */
    NAME(piece_walk) pieces = NAME(begin_pieces)(share, share->taken ? panels : 1, 1);
    while (NAME(next_piece)(&pieces, share)) {
        const ptrdiff_t p0 = pieces.piece, p1 = share->taken ? p0 + 1 : panels;
        const ptrdiff_t r0 = NAME(share_of)(woven, &pieces.of),
                        r1 = NAME(end_of_share)(woven, &pieces.of);
        NAME(dx_product)(call, c->dx + r0, c->dg + r0, r1 - r0, p0, p1);
    }
    const ptrdiff_t r0 = woven + NAME(share_of)(n - woven, share),
                    r1 = woven + NAME(end_of_share)(n - woven, share);
    NAME(dx_product)(call, c->dx + r0, c->dg + r0, r1 - r0, I / NR, panels);
}

/* A thread's share (pieces.h) in a chunk's products of n rows: weight gradients by units, dx by rows, of a few rows by
 * columns. With `set` the former are written, not added to. The dG of all n rows must be complete. Of the rows
 * from `woven` on, dx has been made on the way, but for a narrow panel. */
static void NAME(chunk_products)(const fr_call *call, const NAME(chunk_rows) * c, ptrdiff_t n,
                                 ptrdiff_t woven, NAME(share) * share, const fr_sums *sums, int set,
                                 real *work)
{
    const real *const *rh = fr_cells[call->layer.cell].rh_slot ? c->rh : NULL;
    const real *const *x = call->x.p ? c->x : NULL;
    const ptrdiff_t H = call->layer.hidden_size, I = call->layer.input_size;
    const ptrdiff_t u0 = NAME(share_of)(H, share), u1 = NAME(end_of_share)(H, share);
    const ptrdiff_t r0 = NAME(share_of)(n, share), r1 = NAME(end_of_share)(n, share);
    if (call->grads.w_ih) {
        if (call->blas) {
            if (u1 > u0)
                NAME(weight_gradient_blas)(call, c->dg, c->h, rh, x, n, u0, u1, sums, work);
        } else if (n <= FR_FEW_ROWS || call->few)
            NAME(weight_gradient_of_few)(call, c->dg, c->h, rh, x, (int)n, u0, u1, sums, set);
        else
            NAME(weight_gradient)(call, c->dg, c->h, rh, x, n, share, sums, set, work);
        if (call->tokens.p)
            NAME(scatter_tokens)(call, c->dg, c->token, n, u0, u1, sums);
    }
    if (call->dx.p) {
        if (call->blas)
            NAME(dx_product_blas)(call, c->dx + r0, c->dg + r0, r1 - r0, work);
        else if (call->few)
            NAME(dx_of_few)
        (call, c->dx, c->dg, n, NAME(share_of)(I, share), NAME(end_of_share)(I, share));
        else NAME(dx_of_chunk)(call, c, n, woven, share);
    }
}
