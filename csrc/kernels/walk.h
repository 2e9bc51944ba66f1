/* walk.h: the sequence loops, forward and backward, of one cell.
 *
 * A cell file (lstm.c, gru.c, gru_before.c, rnn.c) defines
 *
 *   CELL              its name
 *   CELL_PHASES       products a step must make one after the other (1; GRU reset-before: 2)
 *   CELL_CARRIES_H    1 if part of dh_{t-1} comes past the product (GRU: dh * z)
 *   CELL_DH_GATES     recurrent gates through which dG_{t+1} reaches h_t
 *   CELL_WHOLE_DC     only a cell with c: see steps.h
 *   <cell>_forward_tile, <cell>_backward_tile    h rows x w panels of units, one step;
 *                     w > 1 only for a single row
 *
 * and includes this file, which walks time, panels and tiles and calls them:
 *
 *   forward                                    backward
 *   for each chunk of time:                    for each chunk, last one first:
 *       xw = x W + b   (all its rows)              for each step, last one first:
 *       for each step:                                 for each of my panels, each tile:
 *           for each of my panels, each tile:              dh = dG_{t+1} R^T, then dG_t
 *               h_{t-1} R + xw, then the gates             (barrier)
 *           (barrier)                              dW, dR, db, dx of the chunk
 *
 * A thread owns some rows of the batch and some panels of units (fr_part). Only threads that share rows wait
 * for each other at every step; those that share a single one do something meanwhile (share.h). Forward,
 * one may walk for all of them, if the others sleep. A single row's xw may be made by another thread while
 * one walks the steps (products.h), or on the way, and so may its dx (weave.h); few rows go another way
 * back (few.h). */

#define CELL_NAME(x) NAME(FR_CAT(CELL, x))
#ifndef CELL_WHOLE_DC
#define CELL_WHOLE_DC NULL
#endif

/* One thread's share of the walk forward. */
typedef struct CELL_NAME(_walker) {
    int tid, unit; /* unit: which of those who share these rows */
    fr_part part;
    ptrdiff_t u0, u1; /* its units */
    NAME(row_arrays) a;
    NAME(sharing) with;
    int once; /* of a single row: nobody is met after a step, and all its panels are one tile */
    /* a chunk of time: its steps, and the rows of x and x W of this part */
    int64_t chunk, s0, s1;
    const real **x;
    real *xw, *xw0;
    ptrdiff_t xw_rows, used; /* how many there are, and how many the recurrence has consumed */
    /* x W made ahead: of this chunk, and in chunks that are done */
    ptrdiff_t tile, fetched;
    int64_t tiles;
    unsigned round;
    ptrdiff_t n; /* rows of this step */
    int weaves;
    NAME(weave) weave;
} CELL_NAME(_walker);

FR_NOINLINE void CELL_NAME(_begin)(const fr_call *call, int tid, CELL_NAME(_walker) * w)
{
    const fr_rows *rows = &call->rows;
    const ptrdiff_t H = call->layer.hidden_size;
    const int units = call->plan.units;
    w->tid = tid;
    w->unit = tid % units;
    w->part = fr_plan_part(&call->plan, rows, call->Hp / NR, tid);
    w->u0 = w->part.p0 * NR;
    w->u1 = w->part.p1 * NR < H ? w->part.p1 * NR : H;
    w->x = (void *)NAME(bind_rows)(call, tid, &w->a);
    NAME(share_blocks)(call, &w->part, &w->a);
    w->with = NAME(begin_sharing)(call, &w->part, tid, &w->a);
    w->once =
        CELL_PHASES == 1 && (units == 1 || w->with.places) && w->a.groups == 1 && !call->claims;
    /* Rows packed tightly, part after part; a thread writes only the panels it will read. */
    w->xw = (real *)call->xw + call->plan.chunk * w->part.rows_before * call->xw_row;
    w->round = 0;
    w->tiles = 0;
    w->weaves = NAME(weaves_xw)(call, &w->part);
    w->chunk = w->weaves ? FR_WEAVE_STEPS : call->plan.chunk;
    w->s1 = 0;
    if (w->weaves)
        w->a.weave = &w->weave;
    if (fr_cells[call->layer.cell].has_c && w->u1 > w->u0)
        for (int64_t q = 0; q < w->part.nj; q++) {
            const int64_t j = w->part.j0 + q * w->part.jstep, b = fr_batch(rows, j);
            NAME(copy_state)
            (NAME(c_of_step)(call, -1, j) + w->u0,
             call->c0 ? (const real *)call->c0 + b * H + w->u0 : NULL, w->u1 - w->u0);
        }
    if (call->claims) /* who takes over a panel reads its c */
        fr_meet(call->sharers + (tid - w->unit), units, w->unit);
}

/* The chunk of time that begins with step s. */
FR_NOINLINE void CELL_NAME(_enter_chunk)(const fr_call *call, int64_t s, CELL_NAME(_walker) * w)
{
    const fr_rows *rows = &call->rows;
    const ptrdiff_t odd = w->weaves ? s / FR_WEAVE_STEPS & 1 : 0; /* two groups of rows in turn */
    w->s0 = s;
    w->s1 = rows->T - s < w->chunk ? rows->T : s + w->chunk;
    w->used = w->xw_rows = w->tile = w->fetched = 0;
    w->xw0 = w->xw + odd * FR_WEAVE_STEPS * call->xw_row;
    if (w->weaves)
        NAME(weave_xw)
    (call, &w->part, w->s1, w->xw + (1 - odd) * FR_WEAVE_STEPS * call->xw_row, &w->weave);
    if (call->tokens.p)
        return;
    w->xw_rows = NAME(x_rows)(call, &w->part, w->s0, w->s1, w->x);
    if (call->plan.ahead || (w->weaves && s > 0)) {
        /* tile by tile, step by step, or made on the way */
    } else if (call->blas) {
        NAME(input_product_blas)
        (call, w->xw0, w->x, w->xw_rows, w->part.p0, w->part.p1,
         (real *)(call->work + w->tid * call->work_stride));
    } else {
        NAME(panel_walk)
        walk = NAME(begin_panels)(call, &w->part, w->tid, &w->a, w->xw_rows, 0,
                                  call->claims ? ++w->round : 0);
        for (ptrdiff_t p, wide; (wide = NAME(next_panels)(&walk, &p));)
            NAME(input_product)(call, w->xw0, w->x, w->xw_rows, p, p + wide);
    }
    if (call->claims) /* and its xw */
        fr_meet(call->sharers + (w->tid - w->unit), call->plan.units, w->unit);
}

/* Addresses, and what can be done before everybody's h of the step before is there. */
FR_INLINE void CELL_NAME(_enter_step)(const fr_call *call, int64_t s, CELL_NAME(_walker) * w)
{
    NAME(row_arrays) *const a = &w->a;
    real *const xw = w->xw0 + w->used * call->xw_row;
    if (a->steady) {
        NAME(next_row)(call, &w->part, s, xw, a);
        w->n = 1;
    } else {
        w->n = NAME(forward_rows)(call, &w->part, s, xw, a);
    }
    w->used += w->n;
    if (call->plan.ahead)
        for (; NAME(row_of_tile)(w->xw_rows, w->tile) < w->used; w->tile++)
            NAME(need_tile)(call, w->x, w->xw_rows, w->tile, w->tiles + w->tile, &w->fetched);
    a->early = NULL;
    if (w->with.places) {
        if (s > 0 && a->hprev[0] != (const real *)call->zeros)
            NAME(early_forward)(call, &w->part, a, &w->with, s);
    } else if (call->plan.units > 1)
        NAME(fetch_shared)(a->hprev, w->n, call->layer.hidden_size);
}

/* Not inline: it is a third of this file's code, and of a batch takes far longer than to call. */
FR_NOINLINE void CELL_NAME(_walk_panels)(const fr_call *call, int phase, CELL_NAME(_walker) * w)
{
    NAME(row_arrays) *const a = &w->a;
    const int at_once = a->steady && w->once;
    NAME(panel_walk)
    walk =
        NAME(begin_panels)(call, &w->part, w->tid, a, w->n, a->back, call->claims ? ++w->round : 0);
    for (ptrdiff_t p = w->part.p0, wide = w->part.p1 - p;
         at_once || (wide = NAME(next_panels)(&walk, &p));) {
        for (ptrdiff_t q = 0, h; q < w->n; q += h) {
            h = NAME(tile_height)(w->n - q);
            CELL_NAME(_forward_tile)(call, a, q, (int)h, p, (int)wide, phase);
        }
        if (at_once)
            break;
    }
}

FR_INLINE void CELL_NAME(_leave_step)(const fr_call *call, int64_t s, CELL_NAME(_walker) * w)
{
    if (w->with.places)
        fr_tell(&w->with.places[w->tid], s + 1);
    if (s + 1 < w->s1)
        return;
    if (w->weaves)
        NAME(finish_weave)(&w->weave);
    w->tiles += w->tile;
    if (call->plan.ahead)
        fr_tell(&call->ahead[2], w->s0 / call->plan.chunk + 1);
}

/* Each row's own last state. */
FR_NOINLINE void CELL_NAME(_end)(const fr_call *call, CELL_NAME(_walker) * w)
{
    const fr_rows *rows = &call->rows;
    const ptrdiff_t H = call->layer.hidden_size, u0 = w->u0, u1 = w->u1;
    if (w->with.places && call->hT) /* which may be h0, and others still amid their last step */
        NAME(wait_for_others)(&w->with, rows->T, 1);
    for (int64_t q = 0; q < w->part.nj && u1 > u0; q++) {
        const int64_t j = w->part.j0 + q * w->part.jstep, b = fr_batch(rows, j);
        const int64_t n = fr_length(rows, j);
        const real *h = n          ? NAME(at)(&call->y, fr_time(rows, n - 1, j), b)
                        : call->h0 ? (const real *)call->h0 + b * H
                                   : (const real *)call->zeros;
        if (call->hT)
            NAME(copy_state)((real *)call->hT + b * H + u0, h + u0, u1 - u0);
        if (call->cT && fr_cells[call->layer.cell].has_c)
            NAME(copy_state)
        ((real *)call->cT + b * H + u0, NAME(c_of_step)(call, n - 1, j) + u0, u1 - u0);
    }
}

FR_INLINE void CELL_NAME(_walk)(const fr_call *call, int tid, CELL_NAME(_walker) * w,
                                const int walkers)
{
    for (int i = 0; i < walkers; i++)
        CELL_NAME(_begin)(call, tid + i, &w[i]);
    for (int64_t s = 0; s < call->rows.T; s++) {
        for (int i = 0; i < walkers; i++) {
            if (s == w[i].s1)
                CELL_NAME(_enter_chunk)(call, s, &w[i]);
            CELL_NAME(_enter_step)(call, s, &w[i]);
        }
        for (int phase = 0; phase < CELL_PHASES; phase++) {
            const int panels = (int)(w->part.p1 - w->part.p0);
            if (walkers == 1 && w->a.steady && w->once) { /* a step may take 50 ns */
                CELL_NAME(_forward_tile)(call, &w->a, 0, 1, w->part.p0, panels, 0);
            } else {
                for (int i = 0; i < walkers; i++)
                    CELL_NAME(_walk_panels)(call, phase, &w[i]);
            }
            if (walkers == 1 && call->plan.units > 1 && !w->with.places)
                fr_meet(call->sharers + (tid - w->unit), call->plan.units, w->unit);
        }
        for (int i = 0; i < walkers; i++)
            CELL_NAME(_leave_step)(call, s, &w[i]);
    }
    for (int i = 0; i < walkers; i++)
        CELL_NAME(_end)(call, &w[i]);
}

/* A thread whose others sleep walks for all of them, step by step: each finds what it would have waited
 * for, and makes the same numbers. */
FR_NOINLINE void CELL_NAME(_forward_alone)(const fr_call *call)
{
    CELL_NAME(_walker) w[FR_MOST_ALONE];
    CELL_NAME(_walk)(call, 0, w, call->plan.threads);
}

static void CELL_NAME(_forward)(void *arg, int tid)
{
    const fr_call *call = arg;
    CELL_NAME(_walker) w;
    if (call->plan.ahead && tid == 1)
        NAME(work_ahead)(call, (void *)NAME(bind_rows)(call, tid, &w.a));
    else if (call->alone && !call->plan.ahead)
        CELL_NAME(_forward_alone)(call);
    else
        CELL_NAME(_walk)(call, tid, &w, 1);
}

static void CELL_NAME(_backward)(void *arg, int tid)
{
    const fr_call *call = arg;
    const fr_rows *rows = &call->rows;
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp, row = call->dg_row;
    const int threads = call->plan.threads;
    const fr_part part = fr_plan_part(&call->plan, rows, Hp / NR, tid);
    const ptrdiff_t u0 = part.p0 * NR, u1 = part.p1 * NR < H ? part.p1 * NR : H;
    const int units = call->plan.units, unit = tid % units, me = tid / units;
    /* Products over a chunk are shared out by units (dW, dR, db) or rows (dx), among those who have
     * the same part of the batch, or, if parts do not add up on their own, among everybody. */
    const int those = call->own ? units : threads, one = call->own ? unit : tid;
    const ptrdiff_t w0 = H * one / those, w1 = H * (one + 1) / those;
    const fr_sums sums = NAME(sums_of_part)(call, me);
    fr_place *const sharers = call->sharers + (tid - unit);
    NAME(row_arrays) a;
    NAME(chunk_rows) rows_of;
    NAME(bind_chunk)(call, NAME(bind_rows)(call, tid, &a), &rows_of);
    NAME(share_blocks)(call, &part, &a);
    NAME(sharing) with = NAME(begin_sharing)(call, &part, tid, &a);
    const int alone = CELL_PHASES == 1 && (units == 1 || with.places) && a.groups == 1;
    NAME(weave) weave;
    const int weaves = NAME(weaves_dx)(call);

    for (int64_t q = 0; q < part.nj && u1 > u0; q++) {
        const int64_t j = part.j0 + q * part.jstep, at = fr_batch(rows, j) * H + u0;
        NAME(copy_state)
        ((real *)call->carry_h + j * Hp + u0, call->dhT ? (const real *)call->dhT + at : NULL,
         u1 - u0);
        if (cell->has_c)
            NAME(copy_state)
        ((real *)call->carry_c + j * Hp + u0, call->dcT ? (const real *)call->dcT + at : NULL,
         u1 - u0);
    }
    NAME(clear_sums)(call, &sums, w0, w1);

    const int64_t chunk = call->plan.chunk, chunks = (rows->T + chunk - 1) / chunk;
    const real *dg_after = (const real *)call->zeros;
    for (int64_t i = chunks - 1; i >= 0; i--) {
        const int64_t s0 = i * chunk, s1 = rows->T - s0 < chunk ? rows->T : s0 + chunk;
        /* Two buffers in turn: the next chunk's last step still reads this one's first. */
        real *const buffer = (real *)call->dG[i & 1];
        /* Part after part, and in each step after step. Parts on their own do not wait for each
         * other, so each keeps to a place of its own; otherwise all rows lie back to back. */
        real *mine = buffer + (call->own ? chunk * part.rows_before * row : 0);
        for (int r = 0; r < me && !call->own; r++) {
            const fr_part other = fr_plan_part(&call->plan, rows, Hp / NR, r * units);
            mine += NAME(rows_in_chunk)(call, &other, s0, s1) * row;
        }
        real *dg = mine + NAME(rows_in_chunk)(call, &part, s0, s1) * row;
        int64_t woven = s1; /* from this step on, the whole panels of dx are made on the way */
        for (int64_t s = s1 - 1; s >= s0; s--) {
            dg -= fr_part_active(&part, fr_active(rows, s)) * row;
            ptrdiff_t n = 1;
            if (a.steady && s > 0)
                NAME(row_before)(call, s, dg, dg_after, CELL_CARRIES_H, &a);
            else
                n = NAME(backward_rows)(call, &part, s, dg, dg_after, CELL_CARRIES_H, &a);
            a.early = NULL;
            if (with.places) {
                const int64_t steps = rows->T - 1 - s;
                if (a.dg_next[0] != (const real *)call->zeros)
                    NAME(early_backward)(call, &part, &a, &with, steps, CELL_DH_GATES);
            } else if (units > 1)
                NAME(fetch_shared)(a.dg_next, n, row);
            if (weaves && woven - s > FR_WEAVE_STEPS) { /* all threads have walked these 16 steps */
                if (woven < s1)
                    NAME(finish_weave)(&weave);
                woven = s + 1;
                NAME(weave_dx)(call, woven, dg_after, one, those, &weave);
                a.weave = &weave;
            }
            if (call->looks)
                NAME(look_at_step)(call, &part, &a, tid, s, n, CELL_DH_GATES, CELL_WHOLE_DC);
            const int at_once = a.steady && alone;
            if (at_once)
                CELL_NAME(_backward_tile)(call, &a, 0, 1, part.p0, (int)(part.p1 - part.p0), 0);
            for (int phase = 0; phase < CELL_PHASES && !at_once; phase++) {
                NAME(panel_walk)
                walk = NAME(begin_panels)(call, &part, tid, &a, n, a.back, 0);
                for (ptrdiff_t p, w; (w = NAME(next_panels)(&walk, &p));) {
                    for (ptrdiff_t q = 0, h; q < n; q += h) {
                        h = NAME(tile_height)(n - q);
                        CELL_NAME(_backward_tile)(call, &a, q, (int)h, p, (int)w, phase);
                    }
                }
                if (units > 1 && !with.places)
                    fr_meet(sharers, units, unit);
            }
            dg_after = dg;
            if (with.places)
                fr_tell(&with.places[tid], rows->T - s);
        }
        if (woven < s1)
            NAME(finish_weave)(&weave);
        a.weave = NULL;
        if (those > 1)
            fr_meet(call->own ? sharers : call->everybody, those, one);
        const ptrdiff_t n =
            call->own ? NAME(fill_chunk)(call, s0, s1, me, me + 1, mine, &rows_of)
                      : NAME(fill_chunk)(call, s0, s1, 0, call->plan.rows, buffer, &rows_of);
        NAME(chunk_products)
        (call, &rows_of, n, n - (s1 - woven), one, those, &sums,
         (real *)(call->work + tid * call->work_stride));
    }
    if (call->own) {
        fr_meet(call->everybody, threads, tid);
        for (int r = 0; r < call->plan.rows; r++) {
            const fr_sums theirs = NAME(sums_of_part)(call, r);
            NAME(add_sums)(call, &theirs, H * tid / threads, H * (tid + 1) / threads);
        }
    } else {
        NAME(add_sums)(call, &sums, w0, w1);
    }
    if (!call->dh0 && !call->dc0)
        return;
    a.early = NULL;
    const ptrdiff_t n = NAME(backward_rows)(call, &part, -1, NULL, dg_after, CELL_CARRIES_H, &a);
    for (ptrdiff_t p = part.p0; p < part.p1; p++)
        for (ptrdiff_t q = 0, h; q < n; q += h) {
            _Alignas(64) real dh[FR_MR * NR];
            h = NAME(tile_height)(n - q);
            NAME(dh_tile)(call, dh, &a, q, (int)h, p, 1, CELL_DH_GATES);
            for (ptrdiff_t m = 0; m < h; m++)
                for (ptrdiff_t u = p * NR, v = 0; v < NAME(panel_vectors)(H, p); v++, u += VL) {
                    const int64_t at = fr_batch(rows, part.j0 + (q + m) * part.jstep) * H + u;
                    if (call->dh0)
                        vstore_n((real *)call->dh0 + at, vload(dh + m * NR + v * VL), H - u);
                    if (call->dc0 && cell->has_c)
                        vstore_n((real *)call->dc0 + at, vload(a.dc_in[q + m] + u), H - u);
                }
        }
}

#undef CELL_NAME
#undef CELL_WHOLE_DC
#undef CELL_DH_GATES
#undef CELL_CARRIES_H
#undef CELL_PHASES
#undef CELL
