/* rows.h: from (step, row) to addresses, and the two products a step makes on them.
 *
 * A step works on rows of many buffers at once. Their addresses are computed once per step
 * into small arrays, and every panel of the step then reads them from there. */

typedef struct NAME(row_arrays) {
    /* forward and backward */
    const real **hprev; /* h_{t-1}: a row of y, of h0, or zeros */
    const real **cprev; /* c_{t-1}, likewise */
    real **gates;       /* this step's slots in the reserve */
    /* forward */
    const real **xw; /* x W + b: a row of the chunk, or of the token table */
    real **h;        /* this step's output; backward only reads it */
    real **c;
    /* backward */
    const real **dy;
    const real **dh_init; /* what reaches h_t beside dy and dG_{t+1} R^T */
    const real **dc_in;
    const real **dg_next; /* dG_{t+1} */
    real **dg;
    real **carry_h, **carry_c; /* what this step hands to the one before it */
    int far;      /* its tile is the first of a step to read weights that come from far away */
    int has_step; /* 0: the rows of the initial state, which has no gates of its own */
    int steady;   /* one row, and the next step's addresses follow from this one's */
    /* A single row whose units are shared: this step's products of the units [own0, own1) of h or dG, made
     * while the others' were on their way, of the panels [early0, early1): share.h. NULL: all are still
     * to be made. */
    real *early; /* [gate][Hp]; backward [Hp] */
    ptrdiff_t own0, own1, early0, early1;
    NAME(weave) * weave; /* x W of later steps, or dx of earlier ones, made on the way; or NULL */
    int back;            /* this step takes its weights from the last to the first */
    /* what a single row takes at once: see share_blocks */
    int blocks_at_once;
    ptrdiff_t panels_at_once, groups; /* of panels, in this thread's part */
} NAME(row_arrays);

typedef struct NAME(chunk_rows) {
    const real **dg, **h, **rh, **x;
    real **dx;
    int64_t *token;
} NAME(chunk_rows);

/* The next `count` pointers of a thread's room. */
static void *NAME(take_pointers)(char **room, int64_t count)
{
    void *const taken = *room;
    *room += (size_t)count * sizeof(void *);
    return taken;
}

/* This thread's arrays, FR_ROW_ARRAYS of them; returns the room that is left behind. */
static char *NAME(bind_rows)(const fr_call *call, int tid, NAME(row_arrays) * a)
{
    const int64_t B = call->rows.B;
    char *room = call->pointers + tid * call->pointers_stride;
    a->hprev = NAME(take_pointers)(&room, B);
    a->cprev = NAME(take_pointers)(&room, B);
    a->gates = NAME(take_pointers)(&room, B);
    a->xw = NAME(take_pointers)(&room, B);
    a->h = NAME(take_pointers)(&room, B);
    a->c = NAME(take_pointers)(&room, B);
    a->dy = NAME(take_pointers)(&room, B);
    a->dh_init = NAME(take_pointers)(&room, B);
    a->dc_in = NAME(take_pointers)(&room, B);
    a->dg_next = NAME(take_pointers)(&room, B);
    a->dg = NAME(take_pointers)(&room, B);
    a->carry_h = NAME(take_pointers)(&room, B);
    a->carry_c = NAME(take_pointers)(&room, B);
    a->steady = 0;
    a->far = 0;
    a->early = NULL;
    a->weave = NULL;
    return room;
}

static void NAME(bind_chunk)(const fr_call *call, char *room, NAME(chunk_rows) * c)
{
    const int64_t n = call->plan.chunk * call->rows.B;
    c->dg = NAME(take_pointers)(&room, n);
    c->h = NAME(take_pointers)(&room, n);
    c->rh = NAME(take_pointers)(&room, n);
    c->x = NAME(take_pointers)(&room, n);
    c->dx = NAME(take_pointers)(&room, n);
    c->token = NAME(take_pointers)(&room, n);
}

FR_INLINE const real *NAME(at)(const fr_array *a, int64_t t, int64_t b)
{
    return (const real *)a->p + t * a->st + b * a->sb;
}

/* h that enters step s of row j. */
FR_INLINE const real *NAME(h_before)(const fr_call *call, int64_t s, int64_t j)
{
    const fr_rows *rows = &call->rows;
    const int64_t b = fr_batch(rows, j);
    if (fr_is_reset(rows, s, j) || (s == 0 && !call->h0))
        return (const real *)call->zeros;
    if (s == 0)
        return (const real *)call->h0 + b * call->layer.hidden_size;
    return NAME(at)(&call->y, fr_time(rows, s - 1, j), b);
}

FR_INLINE real *NAME(reserve_row)(const fr_call *call, int64_t s, int64_t j)
{
    return (real *)call->reserve + fr_row(&call->rows, s, j) * call->reserve_row;
}

/* c that enters step s of row j, and where step s leaves its own. c is the last slot of the
 * reserve; before the first step, and in inference always, it is in carry_c. */
FR_INLINE real *NAME(c_of_step)(const fr_call *call, int64_t s, int64_t j)
{
    if (s < 0 || !call->reserve)
        return (real *)call->c_start + j * call->Hp;
    return NAME(reserve_row)(call, s, j) + (fr_cells[call->layer.cell].slots - 1) * call->Hp;
}

/* to[0..n) = from, or zeros where there is none. */
FR_INLINE void NAME(copy_state)(real *to, const real *from, ptrdiff_t n)
{
    if (from)
        memcpy(to, from, (size_t)n * sizeof(real));
    else
        memset(to, 0, (size_t)n * sizeof(real));
}

/* Zeros past the ends of a part's rows, in the columns [c0, c1). Not step by step during the walk: the lines
 * come from far away, and those of the products after them, 3 to 5% of an inference. */
FR_NOINLINE void NAME(clear_past)(const fr_call *call, const fr_array *a, const fr_part *part,
                                  ptrdiff_t c0, ptrdiff_t c1)
{
    const fr_rows *rows = &call->rows;
    for (int64_t t = 0; t < call->clear_to && c1 > c0; t++) {
        const int64_t live = t < rows->T ? fr_part_active(part, fr_active(rows, t)) : 0;
        for (int64_t q = live; q < part->nj; q++) {
            const int64_t b = fr_batch(rows, fr_part_row(part, q));
            memset((real *)NAME(at)(a, t, b) + c0, 0, (size_t)(c1 - c0) * sizeof(real));
        }
    }
}

/* x W + b of step s of row j, by its token. */
FR_INLINE const real *NAME(row_of_table)(const fr_call *call, int64_t s, int64_t j)
{
    const fr_rows *rows = &call->rows;
    const int64_t t = fr_time(rows, s, j), b = fr_batch(rows, j);
    return (const real *)(call->packed + call->at.table) +
           call->tokens.p[t * call->tokens.st + b * call->tokens.sb] *
               fr_cells[call->layer.cell].gates * call->Hp;
}

/* A small single row is through with a step almost before a dozen addresses have been worked out from the
 * beginning: without them one step of RNN H = 32 takes 29% less, 64 15%; LSTM 32 15%, GRU 32 18%. */
FR_INLINE int NAME(is_steady)(const fr_call *call, int64_t n)
{
    return n == 1 && !call->rows.len && !call->rows.reset && !call->looks;
}

static ptrdiff_t NAME(forward_rows)(const fr_call *call, const fr_part *part, int64_t s,
                                    const real *xw, NAME(row_arrays) * a)
{
    const fr_rows *rows = &call->rows;
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const int64_t n = fr_part_active(part, fr_active(rows, s));
    a->back = s & 1;
    for (int64_t q = 0; q < n; q++) {
        const int64_t j = fr_part_row(part, q), b = fr_batch(rows, j);
        const int64_t t = fr_time(rows, s, j);
        a->hprev[q] = NAME(h_before)(call, s, j);
        a->h[q] = (real *)NAME(at)(&call->y, t, b);
        a->xw[q] = call->tokens.p ? NAME(row_of_table)(call, s, j) : xw + q * call->xw_row;
        if (call->reserve)
            a->gates[q] = NAME(reserve_row)(call, s, j);
        else
            a->gates[q] = call->gates ? (real *)call->gates + j * call->reserve_row : NULL;
        if (cell->has_c) {
            a->c[q] = NAME(c_of_step)(call, s, j);
            a->cprev[q] = fr_is_reset(rows, s, j) ? (const real *)call->zeros
                                                  : NAME(c_of_step)(call, s - 1, j);
        }
    }
    a->steady = NAME(is_steady)(call, n);
    return n;
}

/* From one step of a steady row to the next one. */
FR_INLINE void NAME(next_row)(const fr_call *call, const fr_part *part, int64_t s, const real *xw,
                              NAME(row_arrays) * a)
{
    const ptrdiff_t kept = call->reserve ? call->rows.B * call->reserve_row : 0;
    real *h = a->h[0];
    a->back = s & 1;
    a->hprev[0] = h;
    a->h[0] = h + (call->rows.reverse ? -call->y.st : call->y.st);
    a->xw[0] = call->tokens.p ? NAME(row_of_table)(call, s, part->j0) : xw;
    if (kept)
        a->gates[0] += kept;
    if (fr_cells[call->layer.cell].has_c) {
        a->cprev[0] = a->c[0];
        a->c[0] += kept;
    }
}

/* dg, dg_after: this part's rows of dG at step s and s + 1.
 * s = -1 stands for the initial state: it has gradients, but no gates of its own. */
static ptrdiff_t NAME(backward_rows)(const fr_call *call, const fr_part *part, int64_t s, real *dg,
                                     const real *dg_after, int carries_h, NAME(row_arrays) * a)
{
    const fr_rows *rows = &call->rows;
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t Hp = call->Hp, row = call->dg_row;
    const int64_t n = fr_part_active(part, s < 0 ? rows->B : fr_active(rows, s));
    const real *zeros = (const real *)call->zeros;
    a->has_step = s >= 0;
    a->back = s & 1;
    for (int64_t q = 0; q < n; q++) {
        const int64_t j = fr_part_row(part, q), b = fr_batch(rows, j);
        const int last = s + 1 == fr_length(rows, j);
        const int cut = !last && fr_is_reset(rows, s + 1, j); /* no gradient crosses a reset */
        a->carry_h[q] = (real *)call->carry_h + j * Hp;
        a->carry_c[q] = (real *)call->carry_c + j * Hp;
        /* carry_h begins as the final state's gradient; GRU then keeps dh * z in it. */
        a->dh_init[q] = last || (carries_h && !cut) ? a->carry_h[q] : zeros;
        a->dc_in[q] = cut ? zeros : a->carry_c[q];
        a->dg_next[q] = last || cut ? zeros : dg_after + q * row;
        if (s < 0)
            continue;
        const int64_t t = fr_time(rows, s, j);
        a->dg[q] = dg + q * row;
        a->dy[q] = call->dy.p ? NAME(at)(&call->dy, t, b) : NULL;
        a->h[q] = (real *)NAME(at)(&call->y, t, b);
        a->hprev[q] = NAME(h_before)(call, s, j);
        a->gates[q] = NAME(reserve_row)(call, s, j);
        if (cell->has_c)
            a->cprev[q] = fr_is_reset(rows, s, j) ? zeros : NAME(c_of_step)(call, s - 1, j);
    }
    a->steady = NAME(is_steady)(call, n);
    return n;
}

/* From one step of a steady row to the one before it, which is not the first. */
FR_INLINE void NAME(row_before)(const fr_call *call, int64_t s, real *dg, const real *dg_after,
                                int carries_h, NAME(row_arrays) * a)
{
    const ptrdiff_t y_step = call->rows.reverse ? call->y.st : -call->y.st,
                    dy_step = call->rows.reverse ? call->dy.st : -call->dy.st,
                    kept = call->rows.B * call->reserve_row;
    a->back = s & 1;
    a->dh_init[0] = carries_h ? a->carry_h[0] : (const real *)call->zeros;
    a->dg_next[0] = dg_after;
    a->dg[0] = dg;
    if (a->dy[0])
        a->dy[0] += dy_step;
    a->h[0] = (real *)a->hprev[0];
    a->hprev[0] += y_step;
    a->gates[0] -= kept;
    if (fr_cells[call->layer.cell].has_c)
        a->cprev[0] -= kept;
}

/* How many rows part r has in the steps [s0, s1). */
FR_INLINE ptrdiff_t NAME(rows_in_chunk)(const fr_call *call, const fr_part *part, int64_t s0,
                                        int64_t s1)
{
    ptrdiff_t n = 0;
    if (!call->rows.len)
        return (s1 - s0) * part->nj;
    for (int64_t s = s0; s < s1; s++)
        n += fr_part_active(part, fr_active(&call->rows, s));
    return n;
}

/* Every row of the steps [s0, s1) of the parts [r0, r1), for the products over the chunk. dg: their
 * dG, back to back. */
static ptrdiff_t NAME(fill_chunk)(const fr_call *call, int64_t s0, int64_t s1, int r0, int r1,
                                  const real *dg, const NAME(chunk_rows) * c)
{
    const fr_rows *rows = &call->rows;
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    ptrdiff_t n = 0;
    for (int r = r0; r < r1; r++) {
        const fr_part part = fr_plan_part(&call->plan, rows, call->Hp / NR, r * call->plan.units);
        for (int64_t s = s0; s < s1; s++)
            for (int64_t q = 0; q < fr_part_active(&part, fr_active(rows, s)); q++, n++) {
                const int64_t j = fr_part_row(&part, q), b = fr_batch(rows, j);
                const int64_t t = fr_time(rows, s, j);
                c->dg[n] = dg + n * call->dg_row;
                c->h[n] = NAME(h_before)(call, s, j);
                c->rh[n] =
                    cell->rh_slot ? NAME(reserve_row)(call, s, j) + cell->rh_slot * call->Hp : NULL;
                if (call->x.p)
                    c->x[n] = NAME(at)(&call->x, t, b);
                else
                    c->token[n] = call->tokens.p[t * call->tokens.st + b * call->tokens.sb];
                if (call->dx.p)
                    c->dx[n] = (real *)NAME(at)(&call->dx, t, b);
            }
    }
    return n;
}

/* The lines of a panel in a row of our own, which begins with one. */
FR_INLINE void NAME(fetch_panel)(const real *first)
{
    for (int n = 0; n < NR; n += 64 / (int)sizeof(real))
        FR_PREFETCH(first + n);
}

/* A row of the caller's may begin anywhere in a line: then a panel of it takes one more. */
FR_INLINE void NAME(fetch_foreign)(const real *first)
{
    NAME(fetch_panel)(first);
    FR_PREFETCH(first + NR - 1);
}

/* What a tile's gate maths will touch lies a page apart, row by row and gate by gate, which the
 * processor does not foresee. Asked for before the tile's products, it is there after them: worth 10%
 * of a training step of an LSTM with H = 128. Before each of the products only its portion: a hundred
 * lines at once would keep the product's own loads waiting, another 3%. A single row is one stream,
 * which the processor does foresee. */
FR_INLINE void NAME(fetch_forward)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                                   ptrdiff_t h, ptrdiff_t p, int g, int gates)
{
    const int slots = fr_cells[call->layer.cell].slots;
    if (!call->reserve || h == 1)
        return;
    for (ptrdiff_t m = q; m < q + h; m++) {
        if (g == 0)
            NAME(fetch_foreign)(a->h[m] + p * NR);
        for (int slot = slots * g / gates; slot < slots * (g + 1) / gates; slot++)
            NAME(fetch_panel)(a->gates[m] + slot * call->Hp + p * NR);
    }
}

FR_INLINE void NAME(fetch_backward)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                                    ptrdiff_t h, ptrdiff_t p, int g, int gates)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const int read = cell->slots - cell->has_c, dslots = cell->dslots; /* c itself is not read */
    if (h == 1 || !a->has_step)
        return;
    for (ptrdiff_t m = q; m < q + h; m++) {
        if (g == 0 && a->dy[m])
            NAME(fetch_foreign)(a->dy[m] + p * NR);
        if (g == 1 % gates)
            NAME(fetch_foreign)((cell->has_c ? a->h[m] : a->hprev[m]) + p * NR);
        if (g == 2 % gates && cell->has_c)
            NAME(fetch_panel)(a->cprev[m] + p * NR);
        for (int slot = read * g / gates; slot < read * (g + 1) / gates; slot++)
            NAME(fetch_panel)(a->gates[m] + slot * call->Hp + p * NR);
        for (int slot = dslots * g / gates; slot < dslots * (g + 1) / gates; slot++)
            NAME(fetch_panel)(a->dg[m] + slot * call->Hp + p * NR);
    }
}

/* Rows that other cores have just written: asked for all at once, not one line after the other as
 * the product comes to them. Of many rows the product itself hides the way. */
FR_INLINE void NAME(fetch_shared)(const real *const *rows, ptrdiff_t n, ptrdiff_t width)
{
    enum { MOST = 4 };
    for (ptrdiff_t m = 0; m < n && n <= MOST; m++)
        for (ptrdiff_t u = 0; u < width; u += 64 / (ptrdiff_t)sizeof(real))
            FR_PREFETCH(rows[m] + u);
}

/* ---- panels, in the order a step takes them -------------------------------------------------- */

/* A single row takes several panels at once, so that neither its product nor its gates are a chain of
 * waits. */
enum { NAME(most_panels) = 4 };

/* Of one row's weights, how many blocks (a panel of a gate) one call of the micro-kernel reads side by
 * side, at most. All of them, if they fit into the first-level cache or are far too many for it.
 * Between, every other step goes backwards, and finds what the last step read last: so blocks go by
 * themselves, or few at a time. One step of one row, 32 KB (Zen 4): RNN H = 100 -22%, 128 -10%, LSTM and
 * GRU H = 64 -12%, 100 -5%. With 48 KB (Zen 5), where the second level delivers twice as much, that loses
 * 17% for RNN H = 112 (50 KB), 10% for LSTM H = 64, up to 4% for other LSTM and GRU up to 160 (128: 2% either
 * way), and gains 3 to 8% for RNN H = 128 to 200. The same for all parts, of which threads take over panels.
 *
 * Whatever is read at once, the maths of the gates is done for several panels together: a cell with one
 * gate takes as many as a tile has room for. */
static void NAME(share_blocks)(const fr_call *call, const fr_part *part, NAME(row_arrays) * a)
{
    enum { LARGE_BLOCK = 28 << 10, FAR_TOO_MANY = 256 << 10, CALL = 22 << 10, LARGE_L1 = 48 << 10 };
    const int gates = fr_cells[call->layer.cell].gates;
    const size_t block = (size_t)call->layer.hidden_size * NR * sizeof(real);
    const ptrdiff_t panels = (call->Hp / NR + call->plan.units - 1) / call->plan.units;
    const size_t all = block * (size_t)(panels * gates), l1 = fr_l1_bytes();
    const size_t fits = l1 < LARGE_L1 ? l1 / 4 * 3 : gates > 1 ? FAR_TOO_MANY : l1 / 4 * 5;
    a->blocks_at_once = NAME(most_panels);
    if (all > fits && all <= FAR_TOO_MANY && block <= LARGE_BLOCK) {
        const size_t n = CALL / block;
        a->blocks_at_once = n < 1 ? 1 : n > NAME(most_panels) ? NAME(most_panels) : (int)n;
    }
    a->panels_at_once = gates > 1 ? NAME(most_panels) : FR_MR;
    a->groups = (part->p1 - part->p0 + a->panels_at_once - 1) / a->panels_at_once;
}

/* The panels that a thread takes in a step: its own, and then what is left of the others', from the
 * end to which they come last. */
typedef struct NAME(panel_walk) {
    const fr_call *call;
    fr_place *claims; /* of this part of the batch; NULL: only its own */
    unsigned round;
    ptrdiff_t most; /* at once */
    int tid, back, turn;
    ptrdiff_t i, groups; /* of `most` panels */
    fr_part part;
} NAME(panel_walk);

FR_INLINE NAME(panel_walk)
    NAME(begin_panels)(const fr_call *call, const fr_part *part, int tid,
                       const NAME(row_arrays) * a, ptrdiff_t rows, int back, unsigned round)
{
    NAME(panel_walk) w = {.call = call, .most = 1, .tid = tid, .back = back, .part = *part};
    w.groups = part->p1 - part->p0;
    if (rows == 1) {
        w.most = a->panels_at_once;
        w.groups = a->groups;
    }
    if (round) {
        w.claims = call->claims + tid / call->plan.units * (call->Hp / NR);
        w.round = round;
    }
    return w;
}

/* How many panels, `first` and those after it, are next; 0: none are left. */
FR_INLINE ptrdiff_t NAME(next_panels)(NAME(panel_walk) * w, ptrdiff_t *first)
{
    const int units = w->call->plan.units;
    for (;;) {
        const ptrdiff_t p0 = w->part.p0, p1 = w->part.p1;
        while (w->i < w->groups) {
            const ptrdiff_t i = w->i++;
            *first = p0 + w->most * (w->back ^ (w->turn > 0) ? w->groups - 1 - i : i);
            if (!w->claims || fr_claim(&w->claims[*first], w->round))
                return p1 - *first < w->most ? p1 - *first : w->most;
        }
        if (!w->claims || ++w->turn == units)
            return 0;
        const int other = w->tid - w->tid % units + (w->tid + w->turn) % units;
        w->part = fr_plan_part(&w->call->plan, &w->call->rows, w->call->Hp / NR, other);
        w->groups = (w->part.p1 - w->part.p0 + w->most - 1) / w->most;
        w->i = 0;
    }
}

/* ---- the products of one step --------------------------------------------------------------- */

/* 1 if all h rows are the row of zeros: then their product need not be made. Every sequence
 * that starts from nothing has such a step, going forward and going back. */
FR_INLINE int NAME(all_zero)(const fr_call *call, const real *const *rows, int h)
{
    for (int m = 0; m < h; m++)
        if (rows[m] != (const real *)call->zeros)
            return 0;
    return 1;
}

/* row_panels and, below, row_gates, with other products made on the way: weave.h. A narrow panel by itself:
 * nothing is woven into it. */
FR_NOINLINE void NAME(woven_panels)(const NAME(row_arrays) * rows, real *out, const real *first,
                                    const real *a, ptrdiff_t K, const real *b, ptrdiff_t stride,
                                    int w, ptrdiff_t columns)
{
    for (int i = 0; i < w; i++) {
        const int n = rows->back ? w - 1 - i : i;
        const real *init[1] = {first + n * NR}, *R = b + n * stride;
        if (NAME(is_weaving)(rows->weave, K) && columns - n * NR >= NR)
            NAME(woven_product)(rows->weave, out + n * NR, *init, a, K, R);
        else
            NAME(tile)
        [NAME(tile_width)(columns - n * NR)][0](out + n * NR, NR, init, 0, &a, 0, K, R);
    }
}

FR_NOINLINE void NAME(woven_gates)(const NAME(row_arrays) * rows, real *out, ptrdiff_t ldo,
                                   const real *const *first, const real *a, ptrdiff_t K,
                                   const real *R, ptrdiff_t block, int gates)
{
    for (int i = 0; i < gates; i++) {
        const int g = rows->back ? gates - 1 - i : i;
        if (NAME(is_weaving)(rows->weave, K))
            NAME(woven_product)(rows->weave, out + g * ldo, first[g], a, K, R + g * block);
        else
            NAME(tile)
        [NAME(full)][0](out + g * ldo, NR, first + g, 0, &a, 0, K, R + g * block);
    }
}

/* out[0..w*NR) = first + a[0..K) times the blocks of w panels, `stride` apart, for a single row; at most
 * rows->blocks_at_once of them side by side. `columns` are those from the first panel on. */
FR_INLINE void NAME(row_panels)(const NAME(row_arrays) * rows, real *out, const real *first,
                                const real *a, ptrdiff_t K, const real *b, ptrdiff_t stride, int w,
                                ptrdiff_t columns)
{
    const int most = rows->blocks_at_once, groups = (w + most - 1) / most;
    if (NAME(is_weaving)(rows->weave, K)) {
        NAME(woven_panels)(rows, out, first, a, K, b, stride, w, columns);
        return;
    }
    for (int i = 0; i < groups; i++) {
        const int n0 = most * (rows->back ? groups - 1 - i : i);
        const int n = w - n0 < most ? w - n0 : most;
        const real *init[NAME(most_panels)];
        for (int k = 0; k < n; k++)
            init[k] = first + (n0 + k) * NR;
        const int last = NAME(tile_width)(columns - (n0 + n - 1) * NR);
        if (n < 2) /* n == 1, in words that gcc can prove the index below from */
            NAME(tile)[last][0](out + n0 * NR, NR, init, 0, &a, 0, K, b + n0 * stride);
        else
            NAME(row)[last][n - 2](out + n0 * NR, NR, init, a, K, b + n0 * stride, stride);
    }
}

/* Of w panels from p on, those of which a part has been made early: [*n0, *n1), at one of the ends. */
FR_INLINE void NAME(early_among)(const NAME(row_arrays) * rows, ptrdiff_t p, int w, int *n0,
                                 int *n1)
{
    const ptrdiff_t first = rows->early0 - p, last = rows->early1 - p;
    *n0 = first < 0 ? 0 : first > w ? w : (int)first;
    *n1 = last < *n0 ? *n0 : last > w ? w : (int)last;
}

/* out[0..w*NR) += what has been made early of the w panels from p on. */
FR_INLINE void NAME(add_early)(const NAME(row_arrays) * rows, real *out, const real *early,
                               ptrdiff_t p, int w)
{
    int n0, n1;
    NAME(early_among)(rows, p, w, &n0, &n1);
    for (ptrdiff_t n = n0 * NR; n < n1 * NR; n += VL)
        vstore(out + n, vload(out + n) + vload(early + p * NR + n));
}

/* As row_panels, for the K units of a row of h or dG but those whose product has been made early. The w
 * panels are those from p on. */
FR_INLINE void NAME(row_product)(const NAME(row_arrays) * rows, real *out, const real *first,
                                 const real *a, ptrdiff_t K, const real *b, ptrdiff_t stride,
                                 ptrdiff_t p, int w, ptrdiff_t columns)
{
    const ptrdiff_t own0 = rows->own0, own1 = rows->own1;
    int n0 = 0, n1 = 0;
    if (rows->early)
        NAME(early_among)(rows, p, w, &n0, &n1);
    if (n0 < n1) {
        real *to = out + n0 * NR;
        const real *from = first + n0 * NR, *W = b + n0 * stride;
        const ptrdiff_t left = columns - n0 * NR;
        if (own0) {
            NAME(row_panels)(rows, to, from, a, own0, W, stride, n1 - n0, left);
            from = to;
        }
        if (own1 < K)
            NAME(row_panels)
        (rows, to, from, a + own1, K - own1, W + own1 * NR, stride, n1 - n0, left);
    }
    if (n0 > 0)
        NAME(row_panels)(rows, out, first, a, K, b, stride, n0, columns);
    if (n1 < w)
        NAME(row_panels)
    (rows, out + n1 * NR, first + n1 * NR, a, K, b + n1 * stride, stride, w - n1,
     columns - n1 * NR);
}

/* pre[m][0..w*NR) = init[m][ioff..] + a[m] R, for gate g of the w panels from p on; w > 1 only for
 * one row. */
FR_INLINE void NAME(recurrent_tile)(const fr_call *call, const NAME(row_arrays) * rows, real *pre,
                                    const real *const *init, ptrdiff_t ioff, const real *const *a,
                                    int h, ptrdiff_t p, int w, int g)
{
    const ptrdiff_t H = call->layer.hidden_size, G = fr_cells[call->layer.cell].gates;
    const real *R = (const real *)(call->packed + call->at.R) + (p * G + g) * H * NR;
    if (NAME(all_zero)(call, a, h)) {
        for (int m = 0; m < h; m++)
            memcpy(pre + m * NR, init[m] + ioff, (size_t)(w * NR) * sizeof(real));
    } else if (w > 1 || rows->early) {
        NAME(row_product)(rows, pre, init[0] + ioff, a[0], H, R, G * H * NR, p, w, H - p * NR);
        if (rows->early)
            NAME(add_early)(rows, pre, rows->early, p, w);
    } else {
        NAME(tile)
        [NAME(first_tile_width)(H - p * NR, rows->far)][h - 1](pre, NR, init, ioff, a, 0, H, R);
    }
}

/* The gates of panel p for a single row, as many side by side as share_blocks says:
 * out[g * ldo ..] = first[g] + the units [k0, k1) of h times theirs of R_g. */
FR_INLINE void NAME(row_gates)(const fr_call *call, real *out, ptrdiff_t ldo,
                               const real *const *first, const NAME(row_arrays) * rows,
                               const real *h, ptrdiff_t k0, ptrdiff_t k1, ptrdiff_t p,
                               const int gates)
{
    const ptrdiff_t H = call->layer.hidden_size, block = H * NR, K = k1 - k0;
    const real *R = (const real *)(call->packed + call->at.R) +
                    p * fr_cells[call->layer.cell].gates * block + k0 * NR;
    const real *a[1] = {h + k0};
    const int most = rows->blocks_at_once;
    if (NAME(is_weaving)(rows->weave, K) && H - p * NR >= NR) {
        NAME(woven_gates)(rows, out, ldo, first, *a, K, R, block, gates);
        return;
    }
    if (most >= gates && gates > 1) {
        NAME(row)[NAME(row_width)(H - p * NR)][gates - 2](out, ldo, first, *a, K, R, block);
        return;
    }
    const int groups = (gates + most - 1) / most;
    for (int i = 0; i < groups; i++) {
        const int g = most * (rows->back ? groups - 1 - i : i);
        const int n = gates - g < most ? gates - g : most;
        real *to = out + g * ldo;
        if (n < 2)
            NAME(tile)
        [NAME(tile_width)(H - p * NR)][0](to, NR, first + g, 0, a, 0, K, R + g * block);
        else NAME(row)[NAME(row_width)(H - p * NR)][n - 2](to, ldo, first + g, *a, K, R + g * block,
                                                           block);
    }
}

/* The same for all gates, from h_{t-1} in the h rows from q on:
 * pre[g] = init[g][m][ioff[g]..] + h_{t-1}[m] R_g. */
FR_INLINE void NAME(recurrent_gates)(const fr_call *call, real (*pre)[FR_MR * NR],
                                     const real *const *const *init, const ptrdiff_t *ioff,
                                     const NAME(row_arrays) * rows, ptrdiff_t q, int h, ptrdiff_t p,
                                     int w, const int gates)
{
    const real *const *a = rows->hprev + q;
    const ptrdiff_t H = call->layer.hidden_size, ldo = FR_MR * NR;
    if (h == 1 && a[0] != (const real *)call->zeros) {
        for (int n = 0; n < w; n++) {
            const int i = rows->back ? w - 1 - n : n;
            const real *first[4];
            real *out = pre[0] + i * NR;
            for (int g = 0; g < gates; g++)
                first[g] = init[g][0] + ioff[g] + i * NR;
            if (!rows->early || p + i < rows->early0 || p + i >= rows->early1) {
                NAME(row_gates)(call, out, ldo, first, rows, *a, 0, H, p + i, gates);
                continue;
            }
            if (rows->own0) {
                NAME(row_gates)(call, out, ldo, first, rows, *a, 0, rows->own0, p + i, gates);
                for (int g = 0; g < gates; g++)
                    first[g] = out + g * ldo;
            }
            if (rows->own1 < H)
                NAME(row_gates)(call, out, ldo, first, rows, *a, rows->own1, H, p + i, gates);
            for (int g = 0; g < gates; g++)
                NAME(add_early)(rows, out + g * ldo, rows->early + g * call->Hp, p + i, 1);
        }
        return;
    }
    for (int g = 0; g < gates; g++) {
        NAME(fetch_forward)(call, rows, q, h, p, g, gates);
        for (int m = 0; m < h && g + 1 < gates; m++) /* of a long chunk, xw comes from far away */
            NAME(fetch_panel)(init[g + 1][m] + ioff[g + 1]);
        NAME(recurrent_tile)(call, rows, pre[g], init[g], ioff[g], a, h, p, w, g);
    }
}

/* out[m][0..w*NR) = init[m] + sum over the gates [g0, g1) of rows[m][slot of g] R_g, for the w panels
 * of h from p on, by the panels of forward: few.h. */
FR_INLINE void NAME(transposed_few)(const fr_call *call, real *out, const real *const *init,
                                    ptrdiff_t ioff, const real *const *rows, int h, ptrdiff_t p,
                                    int w, int g0, int g1)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, j0 = p * NR,
                    j1 = j0 + w * NR < H ? j0 + w * NR : H;
    NAME(few_weights)
    weights = NAME(few_weights_of)((const real *)(call->packed + call->at.R), H, H, cell->gates);
    real *out_row[FR_MR];
    weights.g0 = g0;
    weights.g1 = g1;
    for (int g = g0; g < g1; g++)
        weights.slot[g] = cell->slot_of_gate_r[g] * call->Hp;
    for (int m = 0; m < h; m++) {
        memcpy(out + m * NR, init[m] + ioff, (size_t)(w * NR) * sizeof(real));
        out_row[m] = out + m * NR;
    }
    NAME(dots)(out_row, 1, &weights, rows, h, j0, j1);
}

/* out[m][0..w*NR) = init[m] + rows[m][slot of g] R_g for gate g and the w panels of h from p on. */
FR_INLINE void NAME(transposed_tile)(const fr_call *call, const NAME(row_arrays) * a, real *out,
                                     const real *const *init, ptrdiff_t ioff,
                                     const real *const *rows, int h, ptrdiff_t p, int w, int g)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, roff = cell->slot_of_gate_r[g] * call->Hp;
    const real *Rb = (const real *)(call->packed + call->at.Rb) + (p * cell->gates + g) * H * NR;
    if (call->few) {
        NAME(transposed_few)(call, out, init, ioff, rows, h, p, w, g, g + 1);
    } else if (w > 1 || a->early || a->weave) {
        NAME(row_product)
        (a, out, init[0] + ioff, rows[0] + roff, H, Rb, cell->gates * H * NR, p, w, H - p * NR);
    } else {
        NAME(tile)
        [NAME(first_tile_width)(H - p * NR, a->far)][h - 1](out, NR, init, ioff, rows, roff, H, Rb);
    }
}

/* out[m][0..w*NR) = dh_init[m] + sum over gates g of dG_{t+1}[slot of g] R_g. */
FR_INLINE void NAME(dh_tile)(const fr_call *call, real *out, const NAME(row_arrays) * a,
                             ptrdiff_t q, int h, ptrdiff_t p, int w, int gates)
{
    const real *out_row[FR_MR];
    if (NAME(all_zero)(call, a->dg_next + q, h)) {
        for (int m = 0; m < h; m++)
            memcpy(out + m * NR, a->dh_init[q + m] + p * NR, (size_t)(w * NR) * sizeof(real));
        return;
    }
    if (call->few) {
        NAME(transposed_few)
        (call, out, a->dh_init + q, p * NR, a->dg_next + q, h, p, w, 0, gates);
        return;
    }
    for (int m = 0; m < h; m++)
        out_row[m] = out + m * NR;
    for (int g = 0; g < gates; g++) {
        NAME(fetch_backward)(call, a, q, h, p, g, gates);
        NAME(transposed_tile)
        (call, a, out, g ? out_row : a->dh_init + q, g ? 0 : p * NR, a->dg_next + q, h, p, w, g);
    }
    if (a->early)
        NAME(add_early)(a, out, a->early, p, w);
}
