/* both.c: the two directions of a layer, or two layers of a stack, one after the other or at the same time.
 *
 *     one after the other      thread 0  [ first .. ][ second .. ]     at every step of a small batch
 *                              thread 1  [ .. first ][ .. second ]     the two meet
 *
 *     at the same time         thread 0  [ forward ............. ]     of two directions nobody waits for
 *                              thread 1  [ reverse ............. ]     anybody,
 *
 *                              thread 0  [ lower layer ........ ]      of two layers the upper one for a
 *                              thread 1     [ upper layer ........ ]   few steps of the lower
 *
 * Neither direction reads what the other writes, but for dx, which is the sum of what both give. */
#include <string.h>

#include "internal.h"

/* Two calls, as both threads find them. */
typedef struct both_calls {
    const fr_layer *layer[2];
    fr_seq seq[2];
    fr_place *steps; /* of the first layer, which the second follows; of directions NULL */
    int use;
    void *const *packed;
    const fr_weights *weights;
    const fr_forward_args *forward[2];
    const fr_backward_args *backward[2];
    fr_status status[2];
    _Atomic int failed; /* the first one, before its first step */
    int alone;          /* thread 0 makes both calls */
} both_calls;

static fr_status make_call(const both_calls *calls, int i)
{
    const fr_layer *layer = calls->layer[i];
    const fr_seq *seq = &calls->seq[i];
    if (calls->weights)
        return fr_pack(layer, calls->use, calls->packed[i], &calls->weights[i]);
    if (calls->backward[i])
        return fr_backward(layer, seq, calls->backward[i]);
    /* Told not more often: the line of who waits for it comes back slower than a small step takes. */
    const fr_links links = {.leads = i == 0 ? calls->steps : NULL,
                            .tells = FR_FOLLOWED_STEPS,
                            .follows = i == 1 ? calls->steps : NULL,
                            .takes = FR_FOLLOWED_STEPS};
    return fr_forward_linked(layer, seq, calls->forward[i], calls->steps ? &links : NULL);
}

/* A layer that follows begins when the first one's arguments have been found good. */
static void job(void *arg, int tid)
{
    both_calls *calls = arg;
    for (int i = tid; i < 2; i += calls->alone ? 1 : 2) {
        if (calls->steps && i == 1) {
            fr_wait(calls->steps, 1);
            if (atomic_load(&calls->failed))
                continue;
        }
        calls->status[i] = make_call(calls, i);
        if (calls->steps && i == 0 && calls->status[0] != FR_OK) {
            atomic_store(&calls->failed, 1);
            fr_tell(calls->steps, 1);
        }
    }
}

/* Calls of one thread each, since the team is taken meanwhile. */
static fr_status run_at_once(both_calls *calls, int together)
{
    fr_status status = FR_OK;
    const int blas = fr_blas_serial() != 0;
    if (blas) /* here already: who sets its threads must be who puts them back */
        fr_blas_enter();
    if (together == 1)
        fr_team_offer(2, job, calls, sizeof *calls, &calls->alone);
    else
        status = fr_team_run(2, job, calls, sizeof *calls);
    if (blas)
        fr_blas_leave();
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = calls->status[i];
    return status;
}

/* On the threads of their plans. */
static fr_status run_in_turn(both_calls *calls)
{
    fr_status status = FR_OK;
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = make_call(calls, i);
    return status;
}

static both_calls directions_of(const fr_layer *layer, const fr_seq *seq, int threads)
{
    both_calls calls = {.layer = {layer, layer}, .seq = {*seq, *seq}};
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
    fr_status status = packed && weights ? fr_plan_of_call(&plan, layer, seq, 0, tokens) : FR_EARG;
    if (status != FR_OK)
        return status;
    both_calls calls = directions_of(layer, seq, 1);
    calls.packed = packed;
    calls.weights = weights;
    calls.use = use;
    if (plan.together) { /* each by the thread that will read it */
        calls.use |= FR_USE_ALONE;
        return run_at_once(&calls, plan.together);
    }
    return run_in_turn(&calls);
}

/* ---- forward ------------------------------------------------------------------------------ */

/* One direction's part of the scratch when both are walked at the same time. */
static size_t forward_part(const fr_layer *layer, const fr_seq *seq, int training)
{
    const both_calls calls = directions_of(layer, seq, 1);
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
    if (!args || !args[0].scratch || !args[0].reserve != !args[1].reserve)
        return FR_EARG;
    const int tokens = !args[0].x.p && args[0].tokens.p;
    fr_status status = fr_plan_of_call(&plan, layer, seq, 0, tokens);
    if (status != FR_OK)
        return status;
    both_calls calls = directions_of(layer, seq, plan.together ? 1 : seq->threads);
    fr_forward_args own[2] = {args[0], args[1]};
    calls.forward[0] = &own[0];
    calls.forward[1] = &own[1];
    own[1].scratch = own[0].scratch;
    if (plan.together) {
        own[1].scratch = (char *)own[0].scratch + forward_part(layer, seq, args[0].reserve != NULL);
        return run_at_once(&calls, plan.together);
    }
    return run_in_turn(&calls);
}

/* ---- two layers --------------------------------------------------------------------------- */

/* As fr_plan.together; seq and layers have been checked. */
static int layers_at_once(const fr_layer layers[2], const fr_seq *seq, int tokens)
{
    const fr_pass passes[2] = {fr_pass_of_call(0, tokens), fr_pass_of_call(0, 0)};
    const int nr = fr_current_kernels()->typed[layers[0].dtype].nr;
    return fr_layers_at_once(layers, fr_longest(seq), seq->B, fr_threads_of_call(seq), nr, passes);
}

static fr_status check_layers(const fr_layer layers[2], const fr_seq *seq)
{
    fr_plan plan;
    fr_status status = layers ? FR_OK : FR_EARG;
    for (int i = 0; i < 2 && status == FR_OK; i++)
        status = fr_plan_of_call(&plan, &layers[i], seq, 0, 0);
    if (status == FR_OK && (layers[0].dtype != layers[1].dtype || seq->reverse))
        status = FR_EARG;
    if (status == FR_OK && layers[0].hidden_size != layers[1].input_size)
        status = FR_EDIM;
    return status;
}

size_t fr_forward_two_scratch_bytes(const fr_layer layers[2], const fr_seq *seq, int training)
{
    if (check_layers(layers, seq) != FR_OK)
        return 0;
    const size_t first = fr_forward_scratch_bytes(&layers[0], seq, training),
                 second = fr_forward_scratch_bytes(&layers[1], seq, training);
    const size_t most = first > second ? first : second;
    if (!first || !second)
        return 0;
    if (!layers_at_once(layers, seq, 0) && !layers_at_once(layers, seq, 1))
        return most;
    const size_t parts =
        forward_part(&layers[0], seq, training) + forward_part(&layers[1], seq, training);
    return parts > most ? parts : most;
}

int fr_forward_two_together(const fr_layer layers[2], const fr_seq *seq, int tokens)
{
    return check_layers(layers, seq) == FR_OK ? layers_at_once(layers, seq, tokens) : 0;
}

fr_status fr_forward_two(const fr_layer layers[2], const fr_seq *seq, const fr_forward_args args[2])
{
    const fr_status status = check_layers(layers, seq);
    if (status != FR_OK)
        return status;
    if (!args || !args[0].scratch || !args[0].reserve != !args[1].reserve)
        return FR_EARG;
    const int together = layers_at_once(layers, seq, !args[0].x.p && args[0].tokens.p);
    fr_place steps[1] = {{0}};
    fr_forward_args own[2] = {args[0], args[1]};
    both_calls calls = {
        .layer = {&layers[0], &layers[1]}, .seq = {*seq, *seq}, .forward = {&own[0], &own[1]}};
    own[1].scratch = own[0].scratch;
    if (!together)
        return run_in_turn(&calls);
    own[1].scratch =
        (char *)own[0].scratch + forward_part(&layers[0], seq, args[0].reserve != NULL);
    calls.steps = steps;
    calls.seq[0].threads = calls.seq[1].threads = 1;
    return run_at_once(&calls, together);
}

/* ---- backward ----------------------------------------------------------------------------- */

static size_t backward_part(const fr_layer *layer, const fr_seq *seq, int tokens)
{
    const both_calls calls = directions_of(layer, seq, 1);
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
    both_calls calls = directions_of(layer, seq, plan.together ? 1 : seq->threads);
    fr_backward_args own[2] = {args[0], args[1]};
    calls.backward[0] = &own[0];
    calls.backward[1] = &own[1];
    own[1].scratch = own[0].scratch;
    own[1].dx = own[0].dx;
    own[1].dx_add = 1;
    own[1].clear_past = 0;
    if (plan.together) {
        const size_t part = backward_part(layer, seq, tokens);
        char *const second = (char *)own[0].scratch + 2 * part;
        own[1].scratch = (char *)own[0].scratch + part;
        if (own[1].dx.p) {
            own[1].dx = (fr_array){second, seq->B * layer->input_size, layer->input_size};
            own[1].dx_add = 0;
        }
        status = run_at_once(&calls, plan.together);
        if (status == FR_OK && own[0].dx.p)
            add_dx(layer, seq, &own[0].dx, second);
        return status;
    }
    return run_in_turn(&calls);
}
