/* both.c: the two directions of a bidirectional layer, one after the other or at the same time.
 *
 *     one after the other      thread 0  [ forward .. ][ reverse .. ]     at every step of a small batch
 *                              thread 1  [ .. forward ][ .. reverse ]     the two meet
 *
 *     at the same time         thread 0  [ forward ............... ]      nobody waits for anybody
 *                              thread 1  [ reverse ............... ]
 *
 * Neither direction reads what the other writes, but for dx, which is the sum of what both give. */
#include <string.h>

#include "internal.h"

/* A call for each direction, as both threads find it. */
typedef struct both_calls {
    const fr_layer *layer;
    fr_seq seq[2];
    int use;
    void *const *packed;
    const fr_weights *weights;
    const fr_forward_args *forward[2];
    const fr_backward_args *backward[2];
    fr_status status[2];
    int alone; /* thread 0 makes both calls */
} both_calls;

static fr_status call_direction(const both_calls *calls, int i)
{
    if (calls->weights)
        return fr_pack(calls->layer, calls->use, calls->packed[i], &calls->weights[i]);
    if (calls->backward[i])
        return fr_backward(calls->layer, &calls->seq[i], calls->backward[i]);
    return fr_forward(calls->layer, &calls->seq[i], calls->forward[i]);
}

static void job(void *arg, int tid)
{
    both_calls *calls = arg;
    for (int i = tid; i < 2; i += calls->alone ? 1 : 2)
        calls->status[i] = call_direction(calls, i);
}

/* Calls of one thread each, since the team is taken meanwhile. */
static fr_status run(both_calls *calls, const fr_plan *plan)
{
    fr_status status = FR_OK;
    if (plan->together == 1)
        fr_team_offer(2, job, calls, sizeof *calls, &calls->alone);
    else
        status = fr_team_run(2, job, calls, sizeof *calls);
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = calls->status[i];
    return status;
}

static both_calls calls_of(const fr_layer *layer, const fr_seq *seq, int threads)
{
    both_calls calls = {.layer = layer, .seq = {*seq, *seq}};
    for (int i = 0; i < 2; i++) {
        calls.seq[i].reverse = i;
        calls.seq[i].threads = threads;
    }
    return calls;
}

static size_t align_up(size_t n)
{
    return (n + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN;
}

/* ---- packing ------------------------------------------------------------------------------ */

fr_status fr_pack_both(const fr_layer *layer, const fr_seq *seq, int use, void *const packed[2],
                       const fr_weights weights[2])
{
    fr_plan plan;
    const int tokens = use & FR_USE_TOKENS && !(use & FR_USE_DENSE);
    fr_status status =
        packed && weights ? fr_plan_of_call(&plan, layer, seq, 0, tokens) : FR_EARG;
    if (status != FR_OK)
        return status;
    both_calls calls = calls_of(layer, seq, 1);
    calls.packed = packed;
    calls.weights = weights;
    calls.use = use;
    if (plan.together) { /* each by the thread that will read it */
        calls.use |= FR_USE_ALONE;
        return run(&calls, &plan);
    }
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = call_direction(&calls, i);
    return status;
}

/* ---- forward ------------------------------------------------------------------------------ */

/* One direction's part of the scratch when both are walked at the same time. */
static size_t forward_part(const fr_layer *layer, const fr_seq *seq, int training)
{
    const both_calls calls = calls_of(layer, seq, 1);
    return align_up(fr_forward_scratch_bytes(layer, &calls.seq[0], training));
}

size_t fr_forward_both_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int training)
{
    fr_plan dense, tokens;
    if (fr_plan_of_call(&dense, layer, seq, 0, 0) != FR_OK ||
        fr_plan_of_call(&tokens, layer, seq, 0, 1) != FR_OK)
        return 0;
    const size_t bytes = fr_forward_scratch_bytes(layer, seq, training);
    const size_t part = forward_part(layer, seq, training);
    if (!bytes || !part || part > SIZE_MAX / 2)
        return 0;
    const size_t parts = dense.together || tokens.together ? 2 * part : 0;
    return parts > bytes ? parts : bytes;
}

fr_status fr_forward_both(const fr_layer *layer, const fr_seq *seq, const fr_forward_args args[2])
{
    fr_plan plan;
    if (!args || !args[0].scratch)
        return FR_EARG;
    const int tokens = !args[0].x.p && args[0].tokens.p;
    fr_status status = fr_plan_of_call(&plan, layer, seq, 0, tokens);
    if (status != FR_OK)
        return status;
    both_calls calls = calls_of(layer, seq, plan.together ? 1 : seq->threads);
    fr_forward_args own[2] = {args[0], args[1]};
    calls.forward[0] = &own[0];
    calls.forward[1] = &own[1];
    own[1].scratch = own[0].scratch;
    if (plan.together) {
        own[1].scratch = (char *)own[0].scratch + forward_part(layer, seq, args[0].reserve != NULL);
        return run(&calls, &plan);
    }
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = call_direction(&calls, i);
    return status;
}

/* ---- backward ----------------------------------------------------------------------------- */

static size_t backward_part(const fr_layer *layer, const fr_seq *seq, int tokens)
{
    const both_calls calls = calls_of(layer, seq, 1);
    return align_up(fr_backward_scratch_bytes(layer, &calls.seq[0], tokens));
}

size_t fr_backward_both_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int tokens)
{
    fr_plan plan;
    if (fr_plan_of_call(&plan, layer, seq, 1, tokens) != FR_OK)
        return 0;
    const size_t bytes = fr_backward_scratch_bytes(layer, seq, tokens);
    if (!bytes || !plan.together)
        return bytes;
    const size_t part = backward_part(layer, seq, tokens);
    const size_t real = layer->dtype == FR_F64 ? 8 : 4, most = SIZE_MAX / 8;
    const size_t rows = (size_t)seq->T * (size_t)seq->B, I = (size_t)layer->input_size;
    if (!part || part > most || (rows && I > most / real / rows))
        return 0;
    return 2 * part + rows * I * real; /* the second direction's dx */
}

/* dx of the first direction += that of the second, which lies dense (T,B,I); of each row its own steps. */
static void add_dx(const fr_layer *layer, const fr_seq *seq, const fr_array *dx, const void *second)
{
    const int64_t I = layer->input_size;
    for (int64_t b = 0; b < seq->B; b++)
        for (int64_t t = 0; t < (seq->lengths ? seq->lengths[b] : seq->T); t++) {
            const ptrdiff_t to = t * dx->st + b * dx->sb, from = (t * seq->B + b) * I;
            if (layer->dtype == FR_F64) {
                double *restrict sum = (double *)dx->p + to;
                const double *restrict more = (const double *)second + from;
                for (int64_t k = 0; k < I; k++)
                    sum[k] += more[k];
            } else {
                float *restrict sum = (float *)dx->p + to;
                const float *restrict more = (const float *)second + from;
                for (int64_t k = 0; k < I; k++)
                    sum[k] += more[k];
            }
        }
}

fr_status fr_backward_both(const fr_layer *layer, const fr_seq *seq, const fr_backward_args args[2])
{
    fr_plan plan;
    if (!args || !args[0].scratch)
        return FR_EARG;
    const int tokens = !args[0].x.p && args[0].tokens.p;
    fr_status status = fr_plan_of_call(&plan, layer, seq, 1, tokens);
    if (status != FR_OK)
        return status;
    both_calls calls = calls_of(layer, seq, plan.together ? 1 : seq->threads);
    fr_backward_args own[2] = {args[0], args[1]};
    calls.backward[0] = &own[0];
    calls.backward[1] = &own[1];
    own[1].scratch = own[0].scratch;
    own[1].dx = own[0].dx;
    own[1].dx_add = 1;
    if (plan.together) {
        const size_t part = backward_part(layer, seq, tokens);
        char *const second = (char *)own[0].scratch + 2 * part;
        own[1].scratch = (char *)own[0].scratch + part;
        if (own[1].dx.p) {
            own[1].dx = (fr_array){second, seq->B * layer->input_size, layer->input_size};
            own[1].dx_add = 0;
        }
        status = run(&calls, &plan);
        if (status == FR_OK && own[0].dx.p)
            add_dx(layer, seq, &own[0].dx, second);
        return status;
    }
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = call_direction(&calls, i);
    return status;
}
