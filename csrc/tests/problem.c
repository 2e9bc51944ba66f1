#include "problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "seams.h"

const char *const answer_names[ANSWERS] = {
    "y",   "hT",  "cT",    "slot 0", "slot 1", "slot 2", "slot 3",     "slot 4",    "dx",
    "dh0", "dc0", "dW_ih", "dW_hh",  "db_ih",  "db_hh",  "dh by step", "dc by step"};
const char *const cell_names[FR_CELLS] = {
    [FR_RNN_TANH] = "rnn tanh", [FR_RNN_RELU] = "rnn relu", [FR_RNN_SIGMOID] = "rnn sigmoid",
    [FR_LSTM] = "lstm",         [FR_GRU] = "gru",           [FR_GRU_BEFORE] = "gru before"};

int cell_gates(fr_cell cell)
{
    return cell == FR_LSTM ? 4 : cell == FR_GRU || cell == FR_GRU_BEFORE ? 3 : 1;
}

int cell_slots(fr_cell cell)
{
    return cell == FR_LSTM ? 5 : cell_gates(cell) == 3 ? 3 : 0;
}

/* ---- problems ----------------------------------------------------------------------------- */

static double *uniform_array(size_t n, double scale, int wanted)
{
    double *p = wanted ? malloc((n + 1) * sizeof *p) : NULL;
    for (size_t i = 0; p && i < n; i++)
        p[i] = (float)(scale * uniform());
    return p;
}

int64_t row_length(const problem *p, int64_t b)
{
    return p->lengths ? p->lengths[b] : p->seq.T;
}

double clip_limit(const problem *p)
{
    return p->options & CLIP_VALUE ? 0.5 : 0.5 * sqrt((double)p->layer.hidden_size);
}

problem *new_problem(fr_cell cell, int64_t T, int64_t B, int64_t I, int64_t H, int options)
{
    problem *p = calloc(1, sizeof *p);
    const size_t G = (size_t)cell_gates(cell), rows = (size_t)(T * B), h = (size_t)H;
    const size_t i = (size_t)I, state = (size_t)B * h;
    const double scale = 1.5 / sqrt((double)H); /* gates reach well into their curves */
    p->layer = (fr_layer){cell, FR_F64, I, H};
    p->options = options;
    p->seq = (fr_seq){.T = T, .B = B, .reverse = (options & REVERSE) != 0};
    p->w_ih = uniform_array(G * h * i, scale, 1);
    p->w_hh = uniform_array(G * h * h, scale, 1);
    p->b_ih = uniform_array(G * h, 0.5, !(options & NO_BIAS));
    p->b_hh = uniform_array(G * h, 0.5, !(options & NO_BIAS));
    p->x = uniform_array(rows * i, 1, 1);
    p->dy = uniform_array(rows * h, 1, !(options & NO_DY));
    p->h0 = uniform_array(state, 1, !(options & NO_STATE));
    p->c0 = uniform_array(state, 1, !(options & (NO_STATE | NO_C)));
    p->dhT = uniform_array(state, 1, !(options & NO_DFINAL));
    p->dcT = uniform_array(state, 1, !(options & (NO_DFINAL | NO_C)));
    if (options & RAGGED) {
        p->seq.lengths = p->lengths = malloc((size_t)(B + 1) * sizeof *p->lengths);
        for (int64_t b = 0; b < B; b++)
            p->lengths[b] = b == 1 ? 0 : below(T + 1);
    }
    if (options & RESETS) {
        p->seq.reset = p->reset = malloc(rows + 1);
        for (size_t r = 0; r < rows; r++)
            p->reset[r] = below(3) == 0;
    }
    if (options & TOKENS) {
        p->tokens = malloc((rows + 1) * sizeof *p->tokens);
        for (size_t r = 0; r < rows; r++) {
            p->tokens[r] = below(I);
            for (size_t k = 0; k < i; k++)
                p->x[r * i + k] = p->tokens[r] == (int64_t)k;
        }
    }
    return p;
}

void free_problem(problem *p)
{
    free(p->w_ih), free(p->w_hh), free(p->b_ih), free(p->b_hh), free(p->x), free(p->dy);
    free(p->h0), free(p->c0), free(p->dhT), free(p->dcT);
    free(p->lengths), free(p->reset), free(p->tokens);
    free(p);
}

answer new_answer(const problem *p)
{
    const size_t T = (size_t)p->seq.T, B = (size_t)p->seq.B, G = (size_t)cell_gates(p->layer.cell);
    const size_t I = (size_t)p->layer.input_size, H = (size_t)p->layer.hidden_size;
    answer a = {{[Y] = T * B * H,
                 B * H,
                 B * H,
                 [DX] = T * B * I,
                 B * H,
                 B * H,
                 G * H * I,
                 G * H * H,
                 G * H,
                 G * H,
                 [STEP_DH] = T * B * H,
                 T * B * H},
                {NULL}};
    for (int k = 0; k < cell_slots(p->layer.cell); k++)
        a.count[SLOT_0 + k] = T * B * H;
    for (int i = 0; i < ANSWERS; i++)
        a.of[i] = calloc(a.count[i] + 1, sizeof(double));
    return a;
}

void free_answer(answer *a)
{
    for (int i = 0; i < ANSWERS; i++)
        free(a->of[i]);
}

/* ---- arrays as a caller of the engine might hold them -------------------------------------- */

/* Element (t,b,k) is number first + t*st + b*sb + k of a block. All blocks begin one element past
 * their alignment, and whatever is not an element of a live step stays 0xff, or, of later steps, is cleared. */
typedef struct spread {
    char *block;
    size_t size; /* of an element */
    int64_t elements, K;
    ptrdiff_t first, st, sb;
} spread;

static spread new_spread(const problem *p, int64_t K, size_t size)
{
    const int64_t T = p->seq.T, B = p->seq.B, width = p->options & WIDER ? 2 * K + 1 : K;
    spread s = {.size = size, .elements = T * B * width + 1, .K = K, .first = width - K + 1};
    s.st = p->options & BATCH_FIRST ? width : B * width;
    s.sb = p->options & BATCH_FIRST ? T * width : width;
    if (p->options & DOWNWARD && T > 0) {
        s.first += (T - 1) * s.st;
        s.st = -s.st;
    }
    s.block = guarded((size_t)s.elements * size);
    return s;
}

static fr_array array_of(const spread *s)
{
    fr_array a = {s->block + s->first * (ptrdiff_t)s->size, s->st, s->sb};
    return a;
}

static ptrdiff_t element(const spread *s, int64_t t, int64_t b, int64_t k)
{
    return s->first + t * s->st + b * s->sb + k;
}

static void fill_spread(const problem *p, const spread *s, fr_dtype dtype, const double *from)
{
    for (int64_t b = 0; b < p->seq.B; b++)
        for (int64_t t = 0; t < row_length(p, b); t++)
            for (int64_t k = 0; k < s->K; k++)
                put(s->block, dtype, element(s, t, b, k),
                    from ? from[(t * p->seq.B + b) * s->K + k] : 0.5);
}

static void read_spread(const problem *p, const spread *s, fr_dtype dtype, double *to, double less)
{
    memset(to, 0, (size_t)(p->seq.T * p->seq.B * s->K) * sizeof *to);
    for (int64_t b = 0; b < p->seq.B; b++)
        for (int64_t t = 0; t < row_length(p, b); t++)
            for (int64_t k = 0; k < s->K; k++)
                to[(t * p->seq.B + b) * s->K + k] =
                    get(s->block, dtype, element(s, t, b, k)) - less;
}

static int all_zeros(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] == 0)
        i++;
    return i == n;
}

static void check_padding(const problem *p, const spread *s, int clears, const char *name)
{
    enum { OUTSIDE, LIVE, CLEARED };
    char *kind = calloc((size_t)s->elements, 1);
    for (int64_t b = 0; b < p->seq.B; b++)
        for (int64_t t = 0; t < (clears ? p->seq.T : row_length(p, b)); t++)
            memset(kind + element(s, t, b, 0), t < row_length(p, b) ? LIVE : CLEARED, (size_t)s->K);
    for (int64_t i = 0; i < s->elements; i++) {
        const char *at = s->block + (size_t)i * s->size;
        if ((kind[i] == OUTSIDE && !untouched(at, s->size)) ||
            (kind[i] == CLEARED && !all_zeros(at, s->size))) {
            CHECK(0, "%s: padding %s at element %d", name,
                  kind[i] == CLEARED ? "not cleared" : "written", (int)i);
            break;
        }
    }
    free(kind);
}

/* Dense arrays, one element past their alignment too. */
static char *new_dense(fr_dtype dtype, size_t n, const double *from)
{
    const size_t size = real_size(dtype);
    char *p = (char *)guarded((n + 1) * size) + size;
    for (size_t i = 0; from && i < n; i++)
        put(p, dtype, (ptrdiff_t)i, from[i]);
    return p;
}

static void release_dense(fr_dtype dtype, char *p)
{
    release(p ? p - real_size(dtype) : NULL);
}

static void read_dense(const char *p, fr_dtype dtype, double *to, size_t n, double less)
{
    for (size_t i = 0; i < n; i++)
        to[i] = get(p, dtype, (ptrdiff_t)i) - less;
}

/* ---- running the engine -------------------------------------------------------------------- */

typedef struct run {
    const problem *p;
    fr_dtype dtype;
    fr_layer layer;
    size_t states; /* B * H */
    void *packed, *reserve;
    spread x, y, dy, dx, tokens, step_dh, step_dc;
    char *h0, *c0, *dhT, *dcT;         /* in */
    char *hT, *cT, *dh0, *dc0, *dw[4]; /* out */
    size_t packed_bytes, reserve_bytes, dw_count[4];
    int has_c;
} run;

static const double before = 0.5; /* what gradients are added to */

static char *dense_if(const run *r, const double *from)
{
    return from ? new_dense(r->dtype, r->states, from) : NULL;
}

static fr_status pack_weights(run *r)
{
    const problem *p = r->p;
    const size_t G = (size_t)cell_gates(p->layer.cell);
    const size_t I = (size_t)p->layer.input_size, H = (size_t)p->layer.hidden_size;
    const size_t count[4] = {G * H * I, G * H * H, G * H, G * H};
    const double *from[4] = {p->w_ih, p->w_hh, p->b_ih, p->b_hh};
    char *w[4];
    for (int i = 0; i < 4; i++) {
        w[i] = from[i] ? new_dense(r->dtype, count[i], from[i]) : NULL;
        r->dw_count[i] = count[i];
    }
    const fr_weights weights = {w[0], w[1], w[2], w[3]};
    const int use = (p->tokens ? FR_USE_TOKENS : FR_USE_DENSE) | FR_USE_BACKWARD |
                    (p->options & NO_DX ? 0 : FR_USE_DX);
    r->packed_bytes = fr_packed_bytes(&r->layer, use);
    r->packed = guarded(r->packed_bytes);
    const fr_status status = fr_pack(&r->layer, use, r->packed, &weights);
    for (int i = 0; i < 4; i++) /* packing copies */
        release_dense(r->dtype, w[i]);
    return status;
}

static fr_status start_run(run *r, const problem *p, fr_dtype dtype)
{
    const size_t size = real_size(dtype);
    memset(r, 0, sizeof *r);
    r->p = p;
    r->dtype = dtype;
    r->layer = p->layer;
    r->layer.dtype = dtype;
    r->has_c = p->layer.cell == FR_LSTM;
    r->states = (size_t)(p->seq.B * p->layer.hidden_size);
    const fr_status status = pack_weights(r);
    if (p->tokens) {
        r->tokens = new_spread(p, 1, sizeof(int64_t));
        for (int64_t b = 0; b < p->seq.B; b++)
            for (int64_t t = 0; t < row_length(p, b); t++)
                ((int64_t *)(void *)r->tokens.block)[element(&r->tokens, t, b, 0)] =
                    p->tokens[t * p->seq.B + b];
    } else {
        r->x = new_spread(p, p->layer.input_size, size);
        fill_spread(p, &r->x, dtype, p->x);
    }
    r->y = new_spread(p, p->layer.hidden_size, size);
    r->h0 = dense_if(r, p->h0);
    r->c0 = r->has_c ? dense_if(r, p->c0) : NULL;
    if (!(p->options & NO_STATES_OUT)) {
        r->hT = new_dense(dtype, r->states, NULL);
        r->cT = r->has_c ? new_dense(dtype, r->states, NULL) : NULL;
    }
    return status;
}

static void end_run(run *r)
{
    char *dense[] = {r->h0, r->c0, r->dhT, r->dcT, r->hT, r->cT, r->dh0, r->dc0};
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++)
        release_dense(r->dtype, dense[i]);
    for (int i = 0; i < 4; i++)
        release_dense(r->dtype, r->dw[i]);
    release(r->x.block), release(r->y.block), release(r->dy.block), release(r->dx.block);
    release(r->tokens.block), release(r->packed), release(r->reserve);
    release(r->step_dh.block), release(r->step_dc.block);
}

static fr_array x_of(const run *r)
{
    const fr_array none = {NULL, 0, 0};
    return r->x.block ? array_of(&r->x) : none;
}

static fr_tokens tokens_of(const run *r)
{
    const fr_array a = r->tokens.block ? array_of(&r->tokens) : (fr_array){NULL, 0, 0};
    const fr_tokens tokens = {a.p, a.st, a.sb};
    return tokens;
}

static uint64_t fold(uint64_t sum, const void *p, size_t bytes)
{
    return p ? (sum ^ fr_fingerprint(p, bytes)) * 0x9e3779b97f4a7c15 + 1 : sum;
}

static uint64_t fold_spread(uint64_t sum, const spread *s)
{
    return fold(sum, s->block, (size_t)s->elements * s->size);
}

/* Of everything that forward and backward only read. */
static uint64_t inputs_of(const run *r, int backward)
{
    const size_t states = r->states * real_size(r->dtype);
    uint64_t sum = fold(0, r->packed, r->packed_bytes);
    sum = fold_spread(fold_spread(fold_spread(sum, &r->x), &r->tokens), &r->dy);
    sum = fold(fold(fold(fold(sum, r->h0, states), r->c0, states), r->dhT, states), r->dcT, states);
    if (backward)
        sum = fold(fold_spread(sum, &r->y), r->reserve, r->reserve_bytes);
    return sum;
}

static uint64_t outputs_of(const run *r, int backward)
{
    const size_t size = real_size(r->dtype), states = r->states * size;
    if (!backward)
        return fold(fold(fold_spread(0, &r->y), r->hT, states), r->cT, states);
    uint64_t sum = fold(fold(fold_spread(0, &r->dx), r->dh0, states), r->dc0, states);
    sum = fold_spread(fold_spread(sum, &r->step_dh), &r->step_dc);
    for (int i = 0; i < 4; i++)
        sum = fold(sum, r->dw[i], r->dw_count[i] * size);
    return sum;
}

static fr_status run_forward(run *r, int training)
{
    const size_t bytes = fr_forward_scratch_bytes(&r->layer, &r->p->seq, training);
    char *scratch = guarded(bytes);
    if (training) {
        r->reserve_bytes = fr_reserve_bytes(&r->layer, &r->p->seq);
        r->reserve = guarded(r->reserve_bytes);
    }
    memset(r->y.block, 0xff, (size_t)r->y.elements * r->y.size);
    const fr_forward_args args = {.y = array_of(&r->y),
                                  .hT = r->hT,
                                  .cT = r->cT,
                                  .reserve = r->reserve,
                                  .x = x_of(r),
                                  .tokens = tokens_of(r),
                                  .h0 = r->h0,
                                  .c0 = r->c0,
                                  .packed = r->packed,
                                  .scratch = scratch,
                                  .clear_past = (r->p->options & CLEAR_PAST) != 0};
    const uint64_t inputs = inputs_of(r, 0);
    const fr_status status = fr_forward(&r->layer, &r->p->seq, &args);
    CHECK(inputs == inputs_of(r, 0), "forward wrote into its inputs");
    check_padding(r->p, &r->y, status == FR_OK && r->p->options & CLEAR_PAST, "y");
    if (status != FR_OK)
        CHECK(untouched(r->y.block, (size_t)r->y.elements * r->y.size), "y written, then refused");
    release(scratch);
    return status;
}

/* Outputs, made when first needed, and as they are before a call. */
static void prepare_gradients(run *r)
{
    const problem *p = r->p;
    const int options = p->options;
    if (!(options & NO_DX)) {
        if (!r->dx.block)
            r->dx = new_spread(p, p->layer.input_size, real_size(r->dtype));
        if (options & ADD_DX)
            fill_spread(p, &r->dx, r->dtype, NULL);
    }
    if (options & LOOK && !r->step_dh.block) {
        r->step_dh = new_spread(p, p->layer.hidden_size, real_size(r->dtype));
        if (r->has_c)
            r->step_dc = new_spread(p, p->layer.hidden_size, real_size(r->dtype));
    }
    if (!(options & NO_STATES_OUT) && !r->dh0) {
        r->dh0 = new_dense(r->dtype, r->states, NULL);
        r->dc0 = r->has_c ? new_dense(r->dtype, r->states, NULL) : NULL;
    }
    for (int i = 0; i < 4 && !(options & NO_GRADS); i++) {
        if (i >= 2 && options & (NO_BIAS_GRADS | NO_BIAS))
            break;
        if (!r->dw[i])
            r->dw[i] = new_dense(r->dtype, r->dw_count[i], NULL);
        for (size_t k = 0; k < r->dw_count[i]; k++)
            put(r->dw[i], r->dtype, (ptrdiff_t)k, options & SET_GRADS ? NAN : before);
    }
}

static fr_status run_backward(run *r, int scratch_byte)
{
    const problem *p = r->p;
    const size_t bytes = fr_backward_scratch_bytes(&r->layer, &p->seq, p->tokens != NULL);
    char *scratch = guarded(bytes);
    memset(scratch, scratch_byte, bytes);
    prepare_gradients(r);
    const fr_array none = {NULL, 0, 0};
    const fr_backward_args args = {
        .dx = r->dx.block ? array_of(&r->dx) : none,
        .dx_add = (p->options & ADD_DX) != 0,
        .dh0 = r->dh0,
        .dc0 = r->dc0,
        .grads = {r->dw[0], r->dw[1], r->dw[2], r->dw[3]},
        .dy = r->dy.block ? array_of(&r->dy) : none,
        .dhT = r->dhT,
        .dcT = r->dcT,
        .y = array_of(&r->y),
        .x = x_of(r),
        .tokens = tokens_of(r),
        .h0 = r->h0,
        .c0 = r->c0,
        .reserve = r->reserve,
        .packed = r->packed,
        .scratch = scratch,
        .step_dh = r->step_dh.block ? array_of(&r->step_dh) : none,
        .step_dc = r->step_dc.block ? array_of(&r->step_dc) : none,
        .clip_step = p->options & CLIP_VALUE  ? FR_CLIP_VALUE
                     : p->options & CLIP_NORM ? FR_CLIP_NORM
                                              : FR_CLIP_NONE,
        .clip_limit = clip_limit(p),
        .set = (p->options & SET_GRADS) != 0,
        .clear_past = (p->options & CLEAR_PAST) != 0,
    };
    const uint64_t inputs = inputs_of(r, 1);
    const fr_status status = fr_backward(&r->layer, &p->seq, &args);
    CHECK(inputs == inputs_of(r, 1), "backward wrote into its inputs");
    if (r->dx.block)
        check_padding(p, &r->dx,
                      status == FR_OK && (p->options & (CLEAR_PAST | ADD_DX)) == CLEAR_PAST, "dx");
    if (r->step_dh.block)
        check_padding(p, &r->step_dh, 0, "dh by step");
    if (r->step_dc.block)
        check_padding(p, &r->step_dc, 0, "dc by step");
    release(scratch);
    return status;
}

/* Not wanted: count 0. */
static void keep_spread(const run *r, answer *a, int i, const spread *s, double less)
{
    if (s->block)
        read_spread(r->p, s, r->dtype, a->of[i], less);
    else
        a->count[i] = 0;
}

static fr_status keep_slots(const run *r, answer *a)
{
    fr_status status = FR_OK;
    for (int k = 0; k < cell_slots(r->layer.cell) && status == FR_OK; k++) {
        const spread s = new_spread(r->p, r->layer.hidden_size, real_size(r->dtype));
        const fr_array out = array_of(&s);
        status = fr_read_reserve(&r->layer, &r->p->seq, k, &out, r->reserve);
        check_padding(r->p, &s, 0, answer_names[SLOT_0 + k]);
        keep_spread(r, a, SLOT_0 + k, &s, 0);
        release(s.block);
    }
    return status;
}

static void keep_dense(const run *r, answer *a, int i, const char *p, double less)
{
    if (p)
        read_dense(p, r->dtype, a->of[i], a->count[i], less);
    else
        a->count[i] = 0;
}

fr_status engine_solve(const problem *p, fr_dtype dtype, answer *a)
{
    run r;
    if (p->options & FOREIGN)
        naive_blas_select((int)p->layer.hidden_size & 1);
    fr_status status = start_run(&r, p, dtype);
    if (status == FR_OK)
        status = run_forward(&r, 0);
    const uint64_t inference = outputs_of(&r, 0);
    if (status == FR_OK)
        status = run_forward(&r, 1);
    CHECK(inference == outputs_of(&r, 0), "training and inference differ in forward");

    if (p->dy) {
        r.dy = new_spread(p, p->layer.hidden_size, real_size(dtype));
        fill_spread(p, &r.dy, dtype, p->dy);
    }
    r.dhT = dense_if(&r, p->dhT);
    r.dcT = r.has_c ? dense_if(&r, p->dcT) : NULL;
    if (status == FR_OK)
        status = run_backward(&r, 0xff);
    const uint64_t gradients = outputs_of(&r, 1);
    if (status == FR_OK)
        status = run_backward(&r, 0);
    CHECK(gradients == outputs_of(&r, 1), "a second backward gives other bits");

    if (status == FR_OK) {
        status = keep_slots(&r, a);
        keep_spread(&r, a, Y, &r.y, 0);
        keep_spread(&r, a, DX, &r.dx, p->options & ADD_DX ? before : 0);
        keep_spread(&r, a, STEP_DH, &r.step_dh, 0);
        keep_spread(&r, a, STEP_DC, &r.step_dc, 0);
        keep_dense(&r, a, HT, r.hT, 0);
        keep_dense(&r, a, CT, r.cT, 0);
        keep_dense(&r, a, DH0, r.dh0, 0);
        keep_dense(&r, a, DC0, r.dc0, 0);
        for (int i = 0; i < 4; i++)
            keep_dense(&r, a, DW_IH + i, r.dw[i], p->options & SET_GRADS ? 0 : before);
    }
    end_run(&r);
    if (p->options & FOREIGN) {
        CHECK(naive_blas_threads() == 7, "the provider's threads are not put back");
        fr_blas_select(NULL);
    }
    return status;
}

double engine_loss(const problem *p)
{
    run r;
    double loss = 0;
    if (start_run(&r, p, FR_F64) != FR_OK || run_forward(&r, 0) != FR_OK)
        return NAN;
    for (int64_t b = 0; p->dy && b < p->seq.B; b++)
        for (int64_t t = 0; t < row_length(p, b); t++)
            for (int64_t k = 0; k < r.y.K; k++)
                loss += get(r.y.block, FR_F64, element(&r.y, t, b, k)) *
                        p->dy[(t * p->seq.B + b) * r.y.K + k];
    for (size_t i = 0; i < r.states; i++) {
        loss += p->dhT ? get(r.hT, FR_F64, (ptrdiff_t)i) * p->dhT[i] : 0;
        loss += p->dcT && r.has_c ? get(r.cT, FR_F64, (ptrdiff_t)i) * p->dcT[i] : 0;
    }
    end_run(&r);
    return loss;
}
