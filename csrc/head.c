/* head.c: a step of training of a small recurrent layer and its head, of which a thread each makes one.
 *
 * The head is an affine map of the layer's h, with softmax and cross-entropy behind it. To share a step of one
 * row, two threads would meet more often than it is worth; but the head can go along with the layer:
 *
 *     thread 0   [ h, step by step ....... ]   [ dG, step by step ....... ][ dW, dR of some units ]
 *     thread 1     [ logits, loss, by tiles ][ dh, by tiles ][ dW, db of the head ][ dR of others, db ]
 *
 * Only h, dh and dG go from one to the other. Each thread clips what it has made, and takes the optimizer's
 * step with it (fr_note_far). Tiles are those of the whole products, so every number is the one that
 * fr_pack, fr_forward, fr_gemm, fr_softmax_cross_entropy and fr_backward give one after the other; and the
 * same if one thread makes all of it, because the other sleeps or its core is too far away. */
#include <math.h>
#include <string.h>

#include "internal.h"

typedef struct range {
    char *first, *end;
} range;

/* A step, as both threads find it. */
typedef struct head_step {
    const fr_layer *layer;
    const fr_weights *weights;
    const fr_forward_args *forward;
    const fr_backward_args *backward;
    const fr_head_args *head;
    fr_seq seq;
    int use;
    void *packed;
    fr_gemm_call logits, dh, dw;
    fr_entropy_call entropy;
    range grads[2];  /* that each thread makes */
    range scattered; /* that tokens are scattered to, and that must be zero before */
    double clip;
    void *help_scratch;
    fr_help help;
    int alone; /* thread 0 makes all of it */
    fr_status status;
    int failed;      /* before the first step */
    fr_place walked; /* 1: thread 0 has begun; 1 more for every step */
    fr_place judged; /* 1: the loss is known */
    fr_place given;  /* how many of the last steps have their dh */
} head_step;

static size_t real_bytes(const fr_layer *layer)
{
    return layer->dtype == FR_F64 ? 8 : 4;
}

static const struct fr_typed *typed(const head_step *step)
{
    return &fr_current_kernels()->typed[step->layer->dtype];
}

static void clear(const range *r)
{
    memset(r->first, 0, (size_t)(r->end - r->first));
}

static void clip(const head_step *step, int tid)
{
    const range *r = &step->grads[tid];
    const ptrdiff_t n = (r->end - r->first) / (ptrdiff_t)real_bytes(step->layer);
    if (isinf(step->clip) || n == 0)
        return;
    if (step->layer->dtype == FR_F64)
        fr_current_kernels()->pointwise_f64.clip((double *)(void *)r->first, n, -step->clip,
                                                 step->clip);
    else
        fr_current_kernels()->pointwise_f32.clip((float *)(void *)r->first, n, -step->clip,
                                                 step->clip);
}

/* ---- thread 0: the layer --------------------------------------------------------------------- */

static void walk_forward(head_step *step)
{
    const fr_links links = {.leads = &step->walked, .tells = 1};
    step->status = fr_pack(step->layer, step->use, step->packed, step->weights);
    if (step->status == FR_OK)
        step->status = fr_forward_linked(step->layer, &step->seq, step->forward, &links);
    if (step->status == FR_OK)
        return;
    step->failed = 1;
    fr_tell(&step->walked, 1);
}

static void walk_backward(head_step *step)
{
    const fr_links links = {
        .awaits = &step->given, .help = step->alone ? NULL : &step->help, .sets = 1};
    if (step->failed)
        return;
    fr_wait(&step->judged, 1);
    if (!isfinite(step->entropy.loss))
        return;
    clear(&step->scattered);
    step->status = fr_backward_linked(step->layer, &step->seq, step->backward, &links);
    if (step->status != FR_OK) { /* and who helps waits for it */
        fr_tell(&step->help.begun, 1);
        return;
    }
    clip(step, 0);
    if (step->alone)
        clip(step, 1);
}

/* ---- thread 1: the head ---------------------------------------------------------------------- */

/* What the other thread has written is fetched from its cache all at once. */
static void fetch_h(const head_step *step, int64_t first, int64_t end)
{
    const fr_gemm_args *g = &step->logits.args;
    const size_t row = (size_t)g->K * real_bytes(step->layer);
    const char *const last = (const char *)g->A + (size_t)end * row;
    for (const char *line = (const char *)g->A + (size_t)first * row; line < last; line += 64)
        FR_PREFETCH(line);
}

static void follow_forward(head_step *step)
{
    const struct fr_typed *kernels = typed(step);
    const int64_t rows = step->logits.args.M, B = step->seq.B;
    kernels->gemm_pack(&step->logits, 0);
    kernels->gemm_pack(&step->dh, 0);
    fr_begin_entropy(&step->entropy);
    fr_wait(&step->walked, 1);
    if (step->failed)
        return;
    for (int64_t m = 0, end; m < rows; m = end) {
        end = m + kernels->gemm_tile(rows, m);
        fr_wait(&step->walked, (end + B - 1) / B + 1);
        fetch_h(step, m, end);
        kernels->gemm_rows(&step->logits, 0, m, end);
        fr_add_entropy(&step->entropy, m, end);
    }
    fr_tell(&step->judged, 1);
}

static void follow_backward(head_step *step)
{
    const struct fr_typed *kernels = typed(step);
    const fr_gemm_args *dw = &step->dw.args;
    const int64_t rows = step->dh.args.M, B = step->seq.B, T = step->seq.T;
    int64_t first[FR_HEAD_ROWS], tiles = 0;
    if (step->failed || !isfinite(step->entropy.loss))
        return;
    for (int64_t m = 0; m < rows; m += kernels->gemm_tile(rows, m))
        first[tiles++] = m;
    for (int64_t end = rows; tiles-- > 0; end = first[tiles]) {
        kernels->gemm_rows(&step->dh, 0, first[tiles], end);
        fr_tell(&step->given, T - (first[tiles] + B - 1) / B);
    }
    if (dw->sums)
        memset(dw->sums, 0, (size_t)dw->M * real_bytes(step->layer));
    kernels->gemm(&step->dw, 0);
    if (!step->alone && fr_help_backward(&step->help, step->help_scratch))
        clip(step, 1);
}

static void job(void *arg, int tid)
{
    head_step *step = arg;
    if (tid == 0)
        walk_forward(step);
    if (tid == 1 || step->alone) {
        follow_forward(step);
        follow_backward(step);
    }
    if (tid == 0)
        walk_backward(step);
}

/* ---- the step -------------------------------------------------------------------------------- */

_Static_assert(FR_HEAD_ROWS <= FR_KC, "dR is written, not added to, by a single block of rows");

/* Where a thread walks the layer alone, both ways, and has about as much to do as the head; and where one thread
 * would make each of the head's products by itself, too, or they would be cut otherwise. */
int fr_head_at_once(const fr_layer *layer, const fr_seq *seq, int tokens, int64_t V)
{
    enum { LEAST = 13000, MOST_LOGITS = 16384 }; /* of a product's multiply-adds; of softmax */
    fr_plan forward, backward;
    if (fr_plan_of_call(&forward, layer, seq, 0, tokens) != FR_OK ||
        fr_plan_of_call(&backward, layer, seq, 1, tokens) != FR_OK || V < 1)
        return 0;
    const int threads = fr_threads_of_call(seq);
    const double rows = (double)seq->T * (double)seq->B;
    const double product = rows * (double)V * (double)layer->hidden_size;
    return threads > 1 && forward.threads == 1 && backward.threads == 1 && rows > FR_FEW_ROWS &&
           !fr_is_few(layer, seq->T, (int64_t)rows) && rows <= FR_HEAD_ROWS &&
           backward.chunk >= seq->T && !seq->reverse && !seq->lengths && !seq->reset &&
           !fr_blas_serial() && product > LEAST &&
           product < (double)FR_PRODUCT_OF_A_THREAD * threads && rows * (double)V <= MOST_LOGITS;
}

/* Of the head's three products; C, A and B are missing. */
static void products_of(const fr_layer *layer, const fr_seq *seq, int64_t V, fr_gemm_args *logits,
                        fr_gemm_args *dh, fr_gemm_args *dw)
{
    const int64_t n = seq->T * seq->B, H = layer->hidden_size;
    const fr_dtype dtype = layer->dtype;
    *logits = (fr_gemm_args){.dtype = dtype,
                             .M = n,
                             .N = V,
                             .K = H,
                             .ldc = V,
                             .lda = H,
                             .ldb = H,
                             .transpose_b = 1,
                             .threads = 1};
    *dh = (fr_gemm_args){
        .dtype = dtype, .M = n, .N = H, .K = V, .ldc = H, .lda = V, .ldb = H, .threads = 1};
    *dw = (fr_gemm_args){.dtype = dtype,
                         .M = V,
                         .N = H,
                         .K = n,
                         .ldc = H,
                         .lda = V,
                         .ldb = H,
                         .transpose_a = 1,
                         .threads = 1};
}

size_t fr_head_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int64_t V)
{
    fr_gemm_args logits, dh, dw;
    if (!fr_head_at_once(layer, seq, 0, V) && !fr_head_at_once(layer, seq, 1, V))
        return 0;
    products_of(layer, seq, V, &logits, &dh, &dw);
    return fr_gemm_scratch_bytes(&logits) + fr_gemm_scratch_bytes(&dh) +
           fr_gemm_scratch_bytes(&dw) + fr_help_bytes(layer, seq) + FR_ALIGN;
}

const void *fr_head_grads_end(const fr_layer *layer, const fr_weight_grads *g,
                              const fr_head_args *head)
{
    const size_t real = real_bytes(layer), H = (size_t)layer->hidden_size;
    const size_t GH = (size_t)fr_cells[layer->cell].gates * H, V = (size_t)head->V;
    void *const p[] = {g->w_ih, g->w_hh, g->b_ih, g->b_hh, head->dw, head->db};
    const size_t n[] = {GH * (size_t)layer->input_size, GH * H, GH, GH, V * H, V};
    char *next = p[0];
    for (int i = 0; i < 6; i++) {
        if (p[i] && p[i] != next)
            return NULL;
        next += p[i] ? n[i] * real : 0;
    }
    return p[0] && p[1] && p[4] ? next : NULL;
}

/* Thread 0 also scatters tokens or makes dW; dR is divided so that both have as much to do. */
static void divide(head_step *step)
{
    enum { PERCENT = 45 };
    const fr_layer *layer = step->layer;
    const fr_cell_traits *cell = &fr_cells[layer->cell];
    const fr_weight_grads *g = &step->backward->grads;
    const int dense = step->forward->x.p != NULL;
    const int64_t H = layer->hidden_size, I = dense ? layer->input_size : 0;
    const int64_t row = I < H ? (H - I) * cell->dslots * PERCENT / 100 : 0;
    fr_help *help = &step->help;
    help->slot = (int)(row / H);
    while (help->unit < row % H)
        help->unit += typed(step)->gemm_tile(H, help->unit);
    int gate = cell->r_gate[help->slot];
    int64_t unit = help->unit;
    if (gate < 0) { /* a slot that is not in dR: all the next one is thread 1's */
        gate = cell->r_gate[help->slot + 1];
        unit = 0;
    }
    char *const cut = (char *)g->w_hh + (size_t)((gate * H + unit) * H) * real_bytes(layer);
    step->grads[0] = (range){g->w_ih, cut};
    step->grads[1] = (range){cut, (char *)(uintptr_t)fr_head_grads_end(layer, g, step->head)};
    step->scattered = (range){g->w_ih, dense ? g->w_ih : g->w_hh};
}

static void run(head_step *step, fr_pace *pace)
{
    const int64_t start = fr_nanoseconds();
    step->alone = fr_pace_next(pace);
    if (step->alone)
        fr_team_leave(job, step);
    else
        fr_team_offer(2, job, step, sizeof *step, &step->alone);
    if (step->status == FR_OK && isfinite(step->entropy.loss))
        fr_pace_note(pace, step->alone, fr_nanoseconds() - start);
}

fr_status fr_train_with_head(const fr_layer *layer, const fr_seq *seq, int use, void *packed,
                             const fr_weights *weights, const fr_forward_args *forward,
                             const fr_backward_args *backward, fr_head_args *head)
{
    if (!forward || !backward || !head || !packed || !head->w || !head->logits || !head->dlogits ||
        !head->targets || !head->scratch || !(head->clip >= 0))
        return FR_EARG;
    if (forward->packed != packed || backward->packed != packed || !forward->y.p ||
        backward->y.p != forward->y.p || !forward->reserve || backward->reserve != forward->reserve)
        return FR_EARG;
    if (!fr_head_at_once(layer, seq, !forward->x.p && forward->tokens.p, head->V) ||
        !fr_head_grads_end(layer, &backward->grads, head))
        return FR_EARG;
    const ptrdiff_t H = (ptrdiff_t)layer->hidden_size, B = (ptrdiff_t)seq->B;
    const fr_array *const h[] = {&forward->y, &backward->dy};
    for (int i = 0; i < 2; i++)
        if (!h[i]->p || h[i]->st != B * H || (B > 1 && h[i]->sb != H))
            return FR_EARG;

    fr_gemm_args logits, dh, dw;
    products_of(layer, seq, head->V, &logits, &dh, &dw);
    char *scratch = head->scratch;
    logits.A = forward->y.p;
    logits.B = head->w;
    logits.C = head->logits;
    logits.bias = head->b;
    logits.scratch = scratch;
    dh.A = head->dlogits;
    dh.B = head->w;
    dh.C = backward->dy.p;
    dh.scratch = scratch += fr_gemm_scratch_bytes(&logits);
    dw.A = head->dlogits;
    dw.B = forward->y.p;
    dw.C = head->dw;
    dw.sums = head->db;
    dw.scratch = scratch += fr_gemm_scratch_bytes(&dh);
    scratch += fr_gemm_scratch_bytes(&dw);

    head_step step = {.layer = layer,
                      .weights = weights,
                      .forward = forward,
                      .backward = backward,
                      .head = head,
                      .seq = *seq,
                      .use = use | FR_USE_ALONE,
                      .packed = packed,
                      .entropy = {.dtype = layer->dtype,
                                  .dlogits = head->dlogits,
                                  .logits = head->logits,
                                  .targets = head->targets,
                                  .n = (ptrdiff_t)logits.M,
                                  .V = (ptrdiff_t)head->V,
                                  .ignored = head->ignored,
                                  .scale = head->scale},
                      .clip = head->clip,
                      .help_scratch = scratch};
    step.seq.threads = 1;
    fr_gemm_begin(&step.logits, &logits);
    fr_gemm_begin(&step.dh, &dh);
    fr_gemm_begin(&step.dw, &dw);
    divide(&step);
    run(&step, &head->pace);
    head->loss = step.entropy.loss;
    fr_note_far(step.alone ? NULL : step.grads[1].first, step.grads[1].end);
    return step.status;
}
