/* share.h: a single row, whose units several threads share out among them.
 *
 * They need each other's h (backward: dG) of the step before, and it takes as long as a few hundred
 * multiply-adds until it is there: the other has to be told, and a line has to come from his cache.
 * Meanwhile each multiplies what it has written itself:
 *
 *     me      h_t = ..  | my h x my rows of R  ..........  | others' h x theirs | gates, h_t+1 = ..
 *     others'   ......  on its way  ...  there: sent for .. |
 *
 * which it does for as many panels as take that long, those that the step would take first. How many
 * does not depend on who comes when, nor does any number. */

/* places: where each tells how many steps it is through with. NULL: nothing is shared, or the threads
 * meet after every step. */
typedef struct NAME(sharing) {
    fr_place *places;
    int n, me;        /* n: 0 if one of them walks for all, who has nobody to wait for */
    real *early;      /* see row_arrays */
    ptrdiff_t panels; /* of which a part is made early */
    const real *row;  /* what the others write, `width` numbers */
    ptrdiff_t width;
} NAME(sharing);

/* The panels that this step takes first. */
FR_INLINE void NAME(choose_early)(const fr_part *part, NAME(row_arrays) * a,
                                  const NAME(sharing) * with)
{
    a->early0 = a->back ? part->p1 - with->panels : part->p0;
    a->early1 = a->early0 + with->panels;
}

FR_INLINE int NAME(others_have_come)(const NAME(sharing) * with, int64_t steps)
{
    for (int i = 0; i < with->n; i++)
        if (i != with->me && !fr_has_come(&with->places[i], steps))
            return 0;
    return 1;
}

/* Between two panels: as soon as the others' units are there, they are sent for. */
FR_INLINE int NAME(send_for_others)(const NAME(sharing) * with, int64_t steps, int sent)
{
    if (!sent && NAME(others_have_come)(with, steps)) {
        NAME(fetch_shared)(&with->row, 1, with->width);
        return 1;
    }
    return sent;
}

FR_INLINE void NAME(wait_for_others)(const NAME(sharing) * with, int64_t steps, int sent)
{
    for (int i = 0; i < with->n; i++)
        if (i != with->me)
            fr_wait(&with->places[i], steps);
    if (!sent)
        NAME(fetch_shared)(&with->row, 1, with->width);
}

/* Forward: h_{t-1}, of which the others have written their units in step `steps`, counted from 1. */
FR_INLINE void NAME(early_forward)(const fr_call *call, const fr_part *part, NAME(row_arrays) * a,
                                   NAME(sharing) * with, int64_t steps)
{
    const int gates = fr_cells[call->layer.cell].gates;
    const real *zeros[FR_MAX_GATES];
    int sent = with->n == 0;
    with->row = a->hprev[0];
    with->width = call->layer.hidden_size;
    for (int g = 0; g < gates; g++)
        zeros[g] = (const real *)call->zeros;
    NAME(choose_early)(part, a, with);
    for (ptrdiff_t i = 0; i < with->panels; i++) {
        const ptrdiff_t p = a->back ? a->early1 - 1 - i : a->early0 + i;
        NAME(row_gates)
        (call, with->early + p * NR, call->Hp, zeros, a, *a->hprev, a->own0, a->own1, p, gates);
        sent = NAME(send_for_others)(with, steps, sent);
    }
    NAME(wait_for_others)(with, steps, sent);
    a->early = with->early;
}

/* Backward: dG_{t+1}, and the sum over the `gates` through which it reaches h. */
FR_INLINE void NAME(early_backward)(const fr_call *call, const fr_part *part, NAME(row_arrays) * a,
                                    NAME(sharing) * with, int64_t steps, int gates)
{
    const fr_cell_traits *cell = &fr_cells[call->layer.cell];
    const ptrdiff_t H = call->layer.hidden_size, K = a->own1 - a->own0;
    const real *Rb = (const real *)(call->packed + call->at.Rb) + a->own0 * NR;
    int sent = with->n == 0;
    with->row = a->dg_next[0];
    with->width = call->dg_row;
    NAME(choose_early)(part, a, with);
    for (ptrdiff_t i = 0; i < with->panels; i++) {
        const ptrdiff_t p = a->back ? a->early1 - 1 - i : a->early0 + i;
        const real *init[1] = {(const real *)call->zeros};
        real *out = with->early + p * NR;
        for (int g = 0; g < gates; g++) {
            NAME(tile)
            [NAME(tile_width)(H - p * NR)][0](out, NR, init, 0, a->dg_next,
                                              cell->slot_of_gate_r[g] * call->Hp + a->own0, K,
                                              Rb + (p * cell->gates + g) * H * NR);
            init[0] = out;
        }
        sent = NAME(send_for_others)(with, steps, sent);
    }
    NAME(wait_for_others)(with, steps, sent);
    a->early = with->early;
}

/* Whether this call's threads share the units of a single row like that. */
static NAME(sharing)
    NAME(begin_sharing)(const fr_call *call, const fr_part *part, int tid, NAME(row_arrays) * a)
{
    enum { ENOUGH = 8 << 10 }; /* bytes of weights */
    NAME(sharing) with = {.n = call->alone ? 0 : call->plan.units, .me = tid};
    if (call->early && !call->looks && !call->few) {
        const ptrdiff_t H = call->layer.hidden_size;
        with.places = call->sharers;
        with.early = (real *)(call->early + tid * call->early_stride);
        a->own0 = part->p0 * NR;
        a->own1 = part->p1 * NR < H ? part->p1 * NR : H;
        const ptrdiff_t bytes =
            fr_cells[call->layer.cell].gates * (a->own1 - a->own0) * NR * (ptrdiff_t)sizeof(real);
        with.panels = (ENOUGH + bytes - 1) / bytes;
        if (with.panels > part->p1 - part->p0)
            with.panels = part->p1 - part->p0;
    }
    return with;
}
