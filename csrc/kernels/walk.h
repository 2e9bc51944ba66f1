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
 * for each other at every step; of long steps they take over each other's panels, and of a chunk's gradients
 * pieces (pieces.h), of a single row they do something meanwhile (share.h). One may walk for all of them, if
 * the others sleep or are far away. A single row's xw may be made by another thread while one walks the steps
 * (products.h), or on the way, and so may its dx (weave.h); few rows go another way back (few.h). */

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
    uint64_t made; /* of this tile and later ones, those that this thread has made */
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
            const int64_t j = fr_part_row(&w->part, q), b = fr_batch(rows, j);
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
    w->made = 0;
    w->xw0 = w->xw + odd * FR_WEAVE_STEPS * call->xw_row;
    if (w->weaves)
        NAME(weave_xw)
    (call, &w->part, w->s1, w->xw + (1 - odd) * FR_WEAVE_STEPS * call->xw_row, &w->weave);
    if (call->tokens.p)
        return;
    if (call->links.follows)
        fr_wait(call->links.follows, w->s1 + 1);
    w->xw_rows = NAME(x_rows)(call, &w->part, w->s0, w->s1, w->x);
    if (call->plan.ahead || (w->weaves && s > 0)) {
        /* tile by tile, step by step, or made on the way */
    } else if (call->blas) {
        NAME(input_product_blas)
        (call, w->xw0, w->x, w->xw_rows, w->part.p0, w->part.p1,
         (real *)(call->work + w->tid * call->work_stride));
    } else if (call->plan.evenly) {
        if (s > 0 && !call->alone) /* nobody reads the chunk before any more */
            fr_meet(call->everybody, call->plan.threads, w->tid);
        NAME(input_product_evenly)(call, &w->part, w->tid, w->s0, w->s1, w->x);
        if (!call->alone)
            fr_meet(call->everybody, call->plan.threads, w->tid);
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
    for (; call->plan.ahead && NAME(row_of_tile)(w->xw_rows, w->tile) < w->used; w->tile++) {
        const int64_t number = w->tiles + w->tile;
        NAME(need_tile)(call, w->x, w->xw_rows, w->tile, number, &w->fetched, &w->made);
    }
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
    if (a->steady && w->once) {
        const ptrdiff_t p = w->part.p0;
        CELL_NAME(_forward_tile)(call, a, 0, 1, p, (int)(w->part.p1 - p), phase);
        return;
    }
    NAME(panel_walk)
    walk =
        NAME(begin_panels)(call, &w->part, w->tid, a, w->n, a->back, call->claims ? ++w->round : 0);
    for (ptrdiff_t p, wide; (wide = NAME(next_panels)(&walk, &p));)
        for (ptrdiff_t q = 0, h; q < w->n; q += h) {
            h = NAME(tile_height)(w->n - q);
            a->far = call->plan.far && q == 0;
            CELL_NAME(_forward_tile)(call, a, q, (int)h, p, (int)wide, phase);
        }
}

FR_INLINE void CELL_NAME(_leave_step)(const fr_call *call, int64_t s, CELL_NAME(_walker) * w)
{
    if (w->with.places)
        fr_tell(&w->with.places[w->tid], s + 1);
    if (call->links.leads && ((s + 1) % call->links.tells == 0 || s + 1 == call->rows.T))
        fr_tell(call->links.leads, s + 2);
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
    if (call->clear_to)
        NAME(clear_past)(call, &call->y, &w->part, u0, u1);
    for (int64_t q = 0; q < w->part.nj && u1 > u0; q++) {
        const int64_t j = fr_part_row(&w->part, q), b = fr_batch(rows, j);
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
    const int in_turn = walkers > 1 && CELL_PHASES == 1; /* nobody waits for anybody amid a step */
    for (int i = 0; i < walkers; i++)
        CELL_NAME(_begin)(call, tid + i, &w[i]);
    for (int64_t s = 0; s < call->rows.T; s++) {
        for (int j = 0; j < walkers; j++) {
            const int i = s & 1 ? walkers - 1 - j : j;
            if (s == w[i].s1)
                CELL_NAME(_enter_chunk)(call, s, &w[i]);
            CELL_NAME(_enter_step)(call, s, &w[i]);
            if (in_turn)
                CELL_NAME(_walk_panels)(call, 0, &w[i]);
        }
        for (int phase = 0; phase < CELL_PHASES && !in_turn; phase++) {
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

/* A thread by itself walks for all of them, step by step: each finds what it would have waited
 * for, and makes the same numbers. If steps have one phase, every other one begins with the walker that
 * the last one ended with, whose weights are still in the cache. */
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

/* ---- backward -------------------------------------------------------------------------------- */

/* One thread's share of the walk backward. */
typedef struct CELL_NAME(_back_walker) {
    int tid, unit, me; /* unit: which of those who share these rows; me: which part of the batch */
    fr_part part;
    ptrdiff_t u0, u1; /* its units */
    /* Products over a chunk are shared out among those who have the same part of the batch, or, if parts do
     * not add up on their own, among everybody. */
    NAME(share) share;
    fr_sums sums;
    int writes; /* the first chunk's products are written to the sums */
    NAME(row_arrays) a;
    NAME(chunk_rows) rows_of;
    NAME(sharing) with;
    int once; /* of a single row: nobody is met after a step, and all its panels are one tile */
    int takes_over; /* panels of a step; not where every thread has made its own panels' gradients whole */
    unsigned round;
    /* a chunk of time: its steps, where its dG begin, those of this part, of this step and of the one
     * after it */
    int64_t s0, s1;
    real *buffer, *mine, *dg;
    const real *dg_after;
    ptrdiff_t n;   /* rows of this step */
    int64_t given; /* from this step on, dy has come */
    int weaves;
    int64_t woven; /* from this step on, the whole panels of dx are made on the way */
    NAME(weave) weave;
} CELL_NAME(_back_walker);

FR_NOINLINE void CELL_NAME(_begin_back)(const fr_call *call, int tid, CELL_NAME(_back_walker) * w)
{
    const fr_rows *rows = &call->rows;
    const ptrdiff_t H = call->layer.hidden_size, Hp = call->Hp;
    const int units = call->plan.units;
    w->tid = tid;
    w->unit = tid % units;
    w->me = tid / units;
    w->part = fr_plan_part(&call->plan, rows, Hp / NR, tid);
    w->u0 = w->part.p0 * NR;
    w->u1 = w->part.p1 * NR < H ? w->part.p1 * NR : H;
    w->share = NAME(share_of_thread)(call, tid);
    w->takes_over = call->claims && !call->looks;
    w->round = 0;
    w->sums = NAME(sums_of_part)(call, w->me);
    w->writes = NAME(writes_sums)(call, &w->sums);
    NAME(bind_chunk)(call, NAME(bind_rows)(call, tid, &w->a), &w->rows_of);
    NAME(share_blocks)(call, &w->part, &w->a);
    w->with = NAME(begin_sharing)(call, &w->part, tid, &w->a);
    w->once = CELL_PHASES == 1 && (units == 1 || w->with.places) && w->a.groups == 1;
    w->weaves = NAME(weaves_dx)(call);
    w->dg_after = (const real *)call->zeros;
    w->given = call->links.awaits ? rows->T : 0;
    for (int64_t q = 0; q < w->part.nj && w->u1 > w->u0; q++) {
        const int64_t j = fr_part_row(&w->part, q), at = fr_batch(rows, j) * H + w->u0;
        NAME(copy_state)
        ((real *)call->carry_h + j * Hp + w->u0, call->dhT ? (const real *)call->dhT + at : NULL,
         w->u1 - w->u0);
        if (fr_cells[call->layer.cell].has_c)
            NAME(copy_state)
        ((real *)call->carry_c + j * Hp + w->u0, call->dcT ? (const real *)call->dcT + at : NULL,
         w->u1 - w->u0);
    }
    NAME(clear_sums)
    (call, &w->sums, w->writes, NAME(share_of)(H, &w->share), NAME(end_of_share)(H, &w->share));
    if (w->takes_over) /* who takes over a panel reads what goes on from it */
        fr_meet(call->sharers + (tid - w->unit), units, w->unit);
}

/* Chunk i of time. */
FR_NOINLINE void CELL_NAME(_enter_chunk_back)(const fr_call *call, int64_t i,
                                              CELL_NAME(_back_walker) * w)
{
    const fr_rows *rows = &call->rows;
    const int64_t chunk = call->plan.chunk, s0 = i * chunk;
    const ptrdiff_t row = call->dg_row;
    w->s0 = s0;
    w->s1 = rows->T - s0 < chunk ? rows->T : s0 + chunk;
    /* Two buffers in turn: the next chunk's last step still reads this one's first. */
    w->buffer = (real *)call->dG[i & 1];
    /* Part after part, and in each step after step. Parts on their own do not wait for each
     * other, so each keeps to a place of its own; otherwise all rows lie back to back. */
    w->mine = w->buffer + (call->own ? chunk * w->part.rows_before * row : 0);
    for (int r = 0; r < w->me && !call->own; r++) {
        const fr_part other = fr_plan_part(&call->plan, rows, call->Hp / NR, r * call->plan.units);
        w->mine += NAME(rows_in_chunk)(call, &other, s0, w->s1) * row;
    }
    w->dg = w->mine + NAME(rows_in_chunk)(call, &w->part, s0, w->s1) * row;
    w->woven = w->s1;
}

/* What another thread has written is fetched from its cache as soon as it is there. */
FR_NOINLINE void CELL_NAME(_await_dy)(const fr_call *call, int64_t s, CELL_NAME(_back_walker) * w)
{
    const fr_rows *rows = &call->rows;
    const int64_t come = fr_wait(call->links.awaits, rows->T - s), before = w->given;
    w->given = rows->T - come;
    for (int64_t step = before - 1; step >= w->given; step--)
        for (int64_t j = 0; j < fr_active(rows, step); j++) {
            const real *dy = NAME(at)(&call->dy, fr_time(rows, step, j), fr_batch(rows, j));
            for (ptrdiff_t u = 0; u < call->layer.hidden_size; u += 64 / (int)sizeof(real))
                FR_PREFETCH(dy + u);
        }
}

/* Addresses; what can be done before everybody's dG of the step after is there; then what needs it and is
 * not a panel's. */
FR_INLINE void CELL_NAME(_enter_step_back)(const fr_call *call, int64_t s,
                                           CELL_NAME(_back_walker) * w)
{
    const fr_rows *rows = &call->rows;
    NAME(row_arrays) *const a = &w->a;
    if (s < w->given)
        CELL_NAME(_await_dy)(call, s, w);
    w->dg -= fr_part_active(&w->part, fr_active(rows, s)) * call->dg_row;
    w->n = 1;
    if (a->steady && s > 0)
        NAME(row_before)(call, s, w->dg, w->dg_after, CELL_CARRIES_H, a);
    else
        w->n = NAME(backward_rows)(call, &w->part, s, w->dg, w->dg_after, CELL_CARRIES_H, a);
    a->early = NULL;
    if (w->with.places) {
        if (a->dg_next[0] != (const real *)call->zeros)
            NAME(early_backward)
        (call, &w->part, a, &w->with, rows->T - 1 - s, CELL_DH_GATES);
    } else if (call->plan.units > 1)
        NAME(fetch_shared)(a->dg_next, w->n, call->dg_row);
    if (w->weaves && w->woven - s > FR_WEAVE_STEPS) { /* all threads have walked these 16 steps */
        if (w->woven < w->s1)
            NAME(finish_weave)(&w->weave);
        w->woven = s + 1;
        NAME(weave_dx)(call, w->woven, w->dg_after, w->share.one, w->share.those, &w->weave);
        a->weave = &w->weave;
    }
    if (call->looks)
        NAME(look_at_step)
    (call, &w->part, a, w->tid, s, w->n, CELL_DH_GATES, CELL_WHOLE_DC);
}

FR_NOINLINE void CELL_NAME(_walk_panels_back)(const fr_call *call, int phase,
                                              CELL_NAME(_back_walker) * w)
{
    NAME(panel_walk)
    walk = NAME(begin_panels)(call, &w->part, w->tid, &w->a, w->n, w->a.back,
                              w->takes_over ? ++w->round : 0);
    for (ptrdiff_t p, wide; (wide = NAME(next_panels)(&walk, &p));)
        for (ptrdiff_t q = 0, h; q < w->n; q += h) {
            h = NAME(tile_height)(w->n - q);
            w->a.far = call->plan.far && q == 0;
            CELL_NAME(_backward_tile)(call, &w->a, q, (int)h, p, (int)wide, phase);
        }
}

FR_INLINE void CELL_NAME(_leave_step_back)(const fr_call *call, int64_t s,
                                           CELL_NAME(_back_walker) * w)
{
    w->dg_after = w->dg;
    if (w->with.places)
        fr_tell(&w->with.places[w->tid], call->rows.T - s);
    if (s > w->s0)
        return;
    if (w->woven < w->s1)
        NAME(finish_weave)(&w->weave);
    w->a.weave = NULL;
}

/* A share of the products over a chunk, which all have walked who add up together. */
FR_NOINLINE void CELL_NAME(_leave_chunk_back)(const fr_call *call, CELL_NAME(_back_walker) * w)
{
    const int64_t s0 = w->s0, s1 = w->s1;
    if (call->links.help)
        fr_tell(&call->links.help->walked, 1);
    const ptrdiff_t n =
        call->own ? NAME(fill_chunk)(call, s0, s1, w->me, w->me + 1, w->mine, &w->rows_of)
                  : NAME(fill_chunk)(call, s0, s1, 0, call->plan.rows, w->buffer, &w->rows_of);
    NAME(chunk_products)
    (call, &w->rows_of, n, n - (s1 - w->woven), &w->share, &w->sums,
     w->writes && s1 == call->rows.T, (real *)(call->work + w->tid * call->work_stride));
}

/* A share of the weights' gradients (of all parts, if they have sums of their own, which are there), and
 * what goes on to h0 and c0. */
FR_NOINLINE void CELL_NAME(_end_back)(const fr_call *call, CELL_NAME(_back_walker) * w)
{
    const ptrdiff_t H = call->layer.hidden_size, I = call->layer.input_size;
    const int threads = call->plan.threads, units = call->plan.units;
    NAME(row_arrays) *const a = &w->a;
    for (int r = 0; r < call->plan.rows && call->own; r++) {
        const fr_sums theirs = NAME(sums_of_part)(call, r);
        NAME(add_sums)(call, &theirs, H * w->tid / threads, H * (w->tid + 1) / threads);
    }
    if (!call->own)
        NAME(add_sums)
    (call, &w->sums, NAME(share_of)(H, &w->share), NAME(end_of_share)(H, &w->share));
    if (call->clear_to)
        NAME(clear_past)
    (call, &call->dx, &w->part, I * w->unit / units, I * (w->unit + 1) / units);
    if (!call->dh0 && !call->dc0)
        return;
    a->early = NULL;
    const ptrdiff_t n =
        NAME(backward_rows)(call, &w->part, -1, NULL, w->dg_after, CELL_CARRIES_H, a);
    for (ptrdiff_t p = w->part.p0; p < w->part.p1; p++)
        for (ptrdiff_t q = 0, h; q < n; q += h) {
            _Alignas(64) real dh[FR_MR * NR];
            h = NAME(tile_height)(n - q);
            NAME(dh_tile)(call, dh, a, q, (int)h, p, 1, CELL_DH_GATES);
            for (ptrdiff_t m = 0; m < h; m++)
                for (ptrdiff_t u = p * NR, v = 0; v < NAME(panel_vectors)(H, p); v++, u += VL) {
                    const int64_t j = fr_part_row(&w->part, q + m);
                    const int64_t at = fr_batch(&call->rows, j) * H + u;
                    if (call->dh0)
                        vstore_n((real *)call->dh0 + at, vload(dh + m * NR + v * VL), H - u);
                    if (call->dc0 && fr_cells[call->layer.cell].has_c)
                        vstore_n((real *)call->dc0 + at, vload(a->dc_in[q + m] + u), H - u);
                }
        }
}

FR_INLINE void CELL_NAME(_walk_back)(const fr_call *call, int tid, CELL_NAME(_back_walker) * w,
                                     const int walkers)
{
    const int64_t chunk = call->plan.chunk;
    const int in_turn = walkers > 1 && CELL_PHASES == 1;
    for (int i = 0; i < walkers; i++)
        CELL_NAME(_begin_back)(call, tid + i, &w[i]);
    for (int64_t c = (call->rows.T + chunk - 1) / chunk - 1; c >= 0; c--) {
        for (int i = 0; i < walkers; i++)
            CELL_NAME(_enter_chunk_back)(call, c, &w[i]);
        for (int64_t s = w->s1 - 1; s >= w->s0; s--) {
            for (int j = 0; j < walkers; j++) {
                const int i = s & 1 ? walkers - 1 - j : j;
                CELL_NAME(_enter_step_back)(call, s, &w[i]);
                if (in_turn)
                    CELL_NAME(_walk_panels_back)(call, 0, &w[i]);
            }
            for (int phase = 0; phase < CELL_PHASES && !in_turn; phase++) {
                const int panels = (int)(w->part.p1 - w->part.p0);
                if (walkers == 1 && w->a.steady && w->once) {
                    CELL_NAME(_backward_tile)(call, &w->a, 0, 1, w->part.p0, panels, 0);
                } else {
                    for (int i = 0; i < walkers; i++)
                        CELL_NAME(_walk_panels_back)(call, phase, &w[i]);
                }
                if (walkers == 1 && call->plan.units > 1 && !w->with.places)
                    fr_meet(call->sharers + (tid - w->unit), call->plan.units, w->unit);
            }
            for (int i = 0; i < walkers; i++)
                CELL_NAME(_leave_step_back)(call, s, &w[i]);
        }
        if (walkers == 1 && w->share.those > 1)
            fr_meet(call->own ? call->sharers + (tid - w->unit) : call->everybody, w->share.those,
                    w->share.one);
        for (int i = 0; i < walkers; i++)
            CELL_NAME(_leave_chunk_back)(call, &w[i]);
    }
    if (walkers == 1 && call->own)
        fr_meet(call->everybody, call->plan.threads, tid);
    for (int i = 0; i < walkers; i++)
        CELL_NAME(_end_back)(call, &w[i]);
}

FR_NOINLINE void CELL_NAME(_backward_alone)(const fr_call *call)
{
    CELL_NAME(_back_walker) w[FR_MOST_ALONE];
    CELL_NAME(_walk_back)(call, 0, w, call->plan.threads);
}

/* A thread that makes a share of the products of another's pass, which is of one chunk. */
FR_NOINLINE void CELL_NAME(_help_back)(const fr_call *call)
{
    const fr_rows *rows = &call->rows;
    const real *const dg = (const real *)call->dG[0];
    const fr_sums sums = {call->grads, NULL};
    NAME(share) everything = {.those = 1};
    NAME(row_arrays) a;
    NAME(chunk_rows) c;
    NAME(bind_chunk)(call, NAME(bind_rows)(call, 0, &a), &c);
    const ptrdiff_t n = NAME(fill_chunk)(call, 0, rows->T, 0, 1, dg, &c);
    fr_wait(&call->links.help->walked, 1);
    for (ptrdiff_t i = 0; i < n * call->dg_row; i += 64 / (int)sizeof(real))
        FR_PREFETCH(dg + i);
    NAME(weight_gradient)
    (call, c.dg, c.h, fr_cells[call->layer.cell].rh_slot ? c.rh : NULL, NULL, n, &everything, &sums,
     call->links.sets, (real *)call->work);
}

static void CELL_NAME(_backward)(void *arg, int tid)
{
    const fr_call *call = arg;
    CELL_NAME(_back_walker) w;
    if (call->helps)
        CELL_NAME(_help_back)(call);
    else if (call->alone)
        CELL_NAME(_backward_alone)(call);
    else
        CELL_NAME(_walk_back)(call, tid, &w, 1);
}

#undef CELL_NAME
#undef CELL_WHOLE_DC
#undef CELL_DH_GATES
#undef CELL_CARRIES_H
#undef CELL_PHASES
#undef CELL
