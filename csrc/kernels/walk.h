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
 * A thread owns some rows of the batch and some panels of units (fr_part). Only threads that
 * share rows wait for each other at every step; those that share a single one do something
 * meanwhile (share.h). A single row's xw may be made by another thread while one walks the steps
 * (products.h), or on the way, and so may its dx (weave.h); few rows go another way back (few.h). */

#define CELL_NAME(x) NAME(FR_CAT(CELL, x))
#ifndef CELL_WHOLE_DC
#define CELL_WHOLE_DC NULL
#endif

static void CELL_NAME(_forward)(void *arg, int tid)
{
    const fr_call *call = arg;
    const fr_rows *rows = &call->rows;
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const fr_part part = fr_plan_part(&call->plan, rows, Hp / NR, tid);
    const ptrdiff_t u0 = part.p0 * NR, u1 = part.p1 * NR < H ? part.p1 * NR : H;
    const int units = call->plan.units, unit = tid % units;
    fr_place *const sharers = call->sharers + (tid - unit);
    NAME(row_arrays) a;
    const real **x = (void *)NAME(bind_rows)(call, tid, &a); /* a chunk's rows of x, forward */
    if (call->plan.ahead && tid == 1) {
        NAME(work_ahead)(call, x);
        return;
    }
    NAME(share_blocks)(call, &part, &a);
    NAME(sharing) with = NAME(begin_sharing)(call, &part, tid, &a);
    /* Of a single row: nobody is met after a step, and all its panels are one tile. */
    const int alone =
        CELL_PHASES == 1 && (units == 1 || with.places) && a.groups == 1 && !call->claims;
    /* Rows packed tightly, part after part; a thread writes only the panels it will read. */
    real *xw = (real *)call->xw + call->plan.chunk * part.rows_before * call->xw_row;
    unsigned round = 0;
    int64_t tiles = 0; /* of x W made ahead, in chunks that are done */
    NAME(weave) weave;
    const int weaves = NAME(weaves_xw)(call, &part);
    const int64_t chunk = weaves ? FR_WEAVE_STEPS : call->plan.chunk;
    if (weaves)
        a.weave = &weave;

    if (cell->has_c && u1 > u0)
        for (int64_t q = 0; q < part.nj; q++) {
            const int64_t j = part.j0 + q * part.jstep, b = fr_batch(rows, j);
            NAME(copy_state)
            (NAME(c_of_step)(call, -1, j) + u0,
             call->c0 ? (const real *)call->c0 + b * H + u0 : NULL, u1 - u0);
        }
    if (call->claims) /* who takes over a panel reads its c */
        fr_meet(sharers, units, unit);
    for (int64_t s0 = 0; s0 < rows->T; s0 += chunk) {
        const int64_t s1 = rows->T - s0 < chunk ? rows->T : s0 + chunk;
        ptrdiff_t used = 0; /* rows of xw that the recurrence has consumed */
        ptrdiff_t xw_rows = 0, tile = 0, fetched = 0;
        const ptrdiff_t odd = weaves ? s0 / FR_WEAVE_STEPS & 1 : 0; /* two groups of rows in turn */
        real *const xw0 = xw + odd * FR_WEAVE_STEPS * call->xw_row;
        if (weaves)
            NAME(weave_xw)
        (call, &part, s1, xw + (1 - odd) * FR_WEAVE_STEPS * call->xw_row, &weave);
        if (!call->tokens.p) {
            const ptrdiff_t n = NAME(x_rows)(call, &part, s0, s1, x);
            xw_rows = n;
            if (call->plan.ahead || (weaves && s0 > 0)) {
                /* tile by tile, below, or made on the way */
            } else if (call->blas) {
                NAME(input_product_blas)
                (call, xw0, x, n, part.p0, part.p1, (real *)(call->work + tid * call->work_stride));
            } else {
                NAME(panel_walk)
                walk = NAME(begin_panels)(call, &part, tid, &a, n, 0, call->claims ? ++round : 0);
                for (ptrdiff_t p, w; (w = NAME(next_panels)(&walk, &p));)
                    NAME(input_product)(call, xw0, x, n, p, p + w);
            }
            if (call->claims) /* and its xw */
                fr_meet(sharers, units, unit);
        }
        for (int64_t s = s0; s < s1; s++) {
            ptrdiff_t n = 1;
            if (a.steady)
                NAME(next_row)(call, &part, s, xw0 + used * call->xw_row, &a);
            else
                n = NAME(forward_rows)(call, &part, s, xw0 + used * call->xw_row, &a);
            used += n;
            if (call->plan.ahead)
                for (; NAME(row_of_tile)(xw_rows, tile) < used; tile++)
                    NAME(need_tile)(call, x, xw_rows, tile, tiles + tile, &fetched);
            a.early = NULL;
            if (with.places) {
                if (s > 0 && a.hprev[0] != (const real *)call->zeros)
                    NAME(early_forward)(call, &part, &a, &with, s);
            } else if (units > 1)
                NAME(fetch_shared)(a.hprev, n, H);
            const int at_once = a.steady && alone;
            if (at_once)
                CELL_NAME(_forward_tile)(call, &a, 0, 1, part.p0, (int)(part.p1 - part.p0), 0);
            for (int phase = 0; phase < CELL_PHASES && !at_once; phase++) {
                NAME(panel_walk)
                walk =
                    NAME(begin_panels)(call, &part, tid, &a, n, a.back, call->claims ? ++round : 0);
                for (ptrdiff_t p, w; (w = NAME(next_panels)(&walk, &p));) {
                    for (ptrdiff_t q = 0, h; q < n; q += h) {
                        h = NAME(tile_height)(n - q);
                        CELL_NAME(_forward_tile)(call, &a, q, (int)h, p, (int)w, phase);
                    }
                }
                if (units > 1 && !with.places)
                    fr_meet(sharers, units, unit);
            }
            if (with.places)
                fr_tell(&with.places[tid], s + 1);
        }
        if (weaves)
            NAME(finish_weave)(&weave);
        tiles += tile;
        if (call->plan.ahead)
            fr_tell(&call->ahead[2], s0 / call->plan.chunk + 1);
    }
    if (with.places && call->hT) /* which may be h0, and others still amid their last step */
        NAME(wait_for_others)(&with, rows->T, 1);
    for (int64_t q = 0; q < part.nj && u1 > u0; q++) { /* each row's own last state */
        const int64_t j = part.j0 + q * part.jstep, b = fr_batch(rows, j), n = fr_length(rows, j);
        const real *h = n          ? NAME(at)(&call->y, fr_time(rows, n - 1, j), b)
                        : call->h0 ? (const real *)call->h0 + b * H
                                   : (const real *)call->zeros;
        if (call->hT)
            NAME(copy_state)((real *)call->hT + b * H + u0, h + u0, u1 - u0);
        if (call->cT && cell->has_c)
            NAME(copy_state)
        ((real *)call->cT + b * H + u0, NAME(c_of_step)(call, n - 1, j) + u0, u1 - u0);
    }
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
