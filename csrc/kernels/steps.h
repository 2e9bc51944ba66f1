/* steps.h: the gradient that reaches each step's state, made whole before it goes through the cell.
 *
 * A cell's backward tile adds up dh_t = dy_t + dh+_t in registers and never writes it down. When it
 * is to be clipped (C3, C4) or somebody wants to see it (fr_call.looks), the walk comes here first.
 * The step's rows of carry_h get the whole of dh_t (R3, L4, G6), and for LSTM those of carry_c the
 * whole of dc_t (L6); the cell then finds everything there and adds nothing: its dy is gone, its
 * dG_{t+1} are zeros.
 *
 * In place, because a tile reads of carry_h and carry_c only what it is about to write. */

typedef void NAME(whole_dc)(const fr_call *call, const NAME(row_arrays) * a, ptrdiff_t q,
                            ptrdiff_t p);

static void NAME(copy_step)(const fr_call *call, const fr_array *out, real *const *rows,
                            const fr_part *part, int64_t s, ptrdiff_t n, ptrdiff_t u0, ptrdiff_t u1)
{
    for (ptrdiff_t q = 0; q < n && out->p && u1 > u0; q++) {
        const int64_t j = fr_part_row(part, q), b = fr_batch(&call->rows, j);
        NAME(copy_state)
        ((real *)NAME(at)(out, fr_time(&call->rows, s, j), b) + u0, rows[q] + u0, u1 - u0);
    }
}

/* (C3) and (C4) on the units [u0, u1) of n rows. A norm is of all units, so those who share rows
 * wait for each other; each takes some of the rows, and sums one in an order that depends on no
 * plan. */
static void NAME(clip_step)(const fr_call *call, const fr_part *part, int tid, real *const *rows,
                            ptrdiff_t n, ptrdiff_t u0, ptrdiff_t u1)
{
    const double limit = call->clip_limit;
    const int units = call->plan.units, unit = tid % units;
    fr_place *const sharers = call->sharers + (tid - unit);
    if (call->clip_step == FR_CLIP_VALUE)
        for (ptrdiff_t q = 0; q < n; q++)
            NAME(clip)(rows[q] + u0, u1 - u0, -limit, limit);
    if (call->clip_step != FR_CLIP_NORM)
        return;
    if (units > 1)
        fr_meet(sharers, units, unit);
    for (ptrdiff_t q = unit; q < n; q += units) {
        const double norm = sqrt(NAME(sum_of_squares)(rows[q], call->layer.hidden_size));
        call->step_scale[fr_part_row(part, q)] = norm > limit ? limit / norm : 1;
    }
    if (units > 1)
        fr_meet(sharers, units, unit);
    for (ptrdiff_t q = 0; q < n; q++)
        NAME(scale)(rows[q] + u0, u1 - u0, call->step_scale[fr_part_row(part, q)]);
}

/* Step s of n rows; gates: those through which dG_{t+1} reaches h_t. */
static void NAME(look_at_step)(const fr_call *call, const fr_part *part, const NAME(row_arrays) * a,
                               int tid, int64_t s, ptrdiff_t n, int gates,
                               NAME(whole_dc) * whole_dc)
{
    const ptrdiff_t H = call->layer.hidden_size;
    const ptrdiff_t u0 = part->p0 * NR, u1 = part->p1 * NR < H ? part->p1 * NR : H;
    for (ptrdiff_t p = part->p0; p < part->p1; p++)
        for (ptrdiff_t q = 0, h; q < n; q += h) {
            _Alignas(64) real tile[FR_MR * NR];
            h = NAME(tile_height)(n - q);
            NAME(dh_tile)(call, tile, a, q, (int)h, p, 1, gates);
            for (ptrdiff_t m = 0; m < h; m++)
                for (ptrdiff_t u = p * NR, v = 0; v < NAME(panel_vectors)(H, p); v++, u += VL) {
                    const vr dh = vload(tile + m * NR + v * VL);
                    const real *dy = a->dy[q + m];
                    vstore(a->carry_h[q + m] + u, dy ? dh + vload_n(dy + u, H - u) : dh);
                }
        }
    for (ptrdiff_t q = 0; q < n; q++) {
        a->dh_init[q] = a->carry_h[q];
        a->dg_next[q] = (const real *)call->zeros;
        a->dy[q] = NULL;
    }
    NAME(clip_step)(call, part, tid, a->carry_h, n, u0, u1);
    NAME(copy_step)(call, &call->step_dh, a->carry_h, part, s, n, u0, u1);
    if (!whole_dc)
        return;
    for (ptrdiff_t q = 0; q < n; q++) {
        for (ptrdiff_t p = part->p0; p < part->p1; p++)
            whole_dc(call, a, q, p);
        a->dc_in[q] = a->carry_c[q];
    }
    NAME(clip_step)(call, part, tid, a->carry_c, n, u0, u1);
    NAME(copy_step)(call, &call->step_dc, a->carry_c, part, s, n, u0, u1);
}
