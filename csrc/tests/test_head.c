/* test_head.c: a step of training of a layer and its head. Whether two threads make it or one, all numbers are
 * those of the calls one after the other, bit for bit. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "seams.h"

enum { TOKENS = 1, NO_BIAS = 2, STATES = 4, DX = 8 };
enum { MOST = 12 };

/* A step's arrays, which all lie in one list to be compared. */
typedef struct step {
    fr_layer layer;
    fr_seq seq;
    int64_t V;
    int options;
    double clip;
    fr_weights weights;
    void *packed;
    fr_forward_args forward;
    fr_backward_args backward;
    fr_head_args head;
    int64_t *ids;
    void *grads;
    struct {
        const char *name;
        void *p;
        size_t bytes;
    } all[MOST];
    void *given[8]; /* what is read */
    size_t count;
} step;

static void *drawn(const step *s, int64_t n)
{
    void *p = guarded((size_t)n * real_size(s->layer.dtype));
    for (int64_t i = 0; i < n; i++)
        put(p, s->layer.dtype, (ptrdiff_t)i, 0.3 * uniform());
    return p;
}

static void *made(step *s, const char *name, int64_t n)
{
    const size_t bytes = (size_t)n * real_size(s->layer.dtype);
    void *p = guarded(bytes);
    s->all[s->count].name = name;
    s->all[s->count].p = p;
    s->all[s->count++].bytes = bytes;
    return p;
}

static step new_step(fr_cell cell, fr_dtype dtype, int64_t T, int64_t B, int64_t I, int64_t H,
                     int64_t V, int options)
{
    step s = {.layer = {cell, dtype, I, H},
              .seq = {.T = T, .B = B, .threads = 2},
              .V = V,
              .options = options,
              .clip = INFINITY};
    const int64_t GH = fr_cells[cell].gates * H, n = T * B;
    const size_t real = real_size(dtype);
    const int tokens = (options & TOKENS) != 0, bias = !(options & NO_BIAS);
    seed(3);
    s.given[0] = drawn(&s, GH * I), s.given[1] = drawn(&s, GH * H), s.given[2] = drawn(&s, GH);
    s.given[3] = drawn(&s, GH), s.given[4] = drawn(&s, n * I), s.given[5] = drawn(&s, 2 * B * H);
    s.given[6] = drawn(&s, V * H), s.given[7] = drawn(&s, V);
    s.weights =
        (fr_weights){s.given[0], s.given[1], bias ? s.given[2] : NULL, bias ? s.given[3] : NULL};
    s.ids = guarded((size_t)(2 * n) * sizeof *s.ids);
    for (int64_t i = 0; i < n; i++) {
        s.ids[i] = below(I);
        s.ids[n + i] = i == 4 ? -100 : below(V);
    }
    s.grads = made(&s, "gradients", GH * (I + H + 2 * bias) + V * (H + bias));
    char *g = s.grads;
    s.backward.grads.w_ih = g;
    s.backward.grads.w_hh = g += (size_t)(GH * I) * real;
    g += (size_t)(GH * H) * real;
    if (bias) {
        s.backward.grads.b_ih = g;
        s.backward.grads.b_hh = g += (size_t)GH * real;
        g += (size_t)GH * real;
    }
    s.head = (fr_head_args){.V = V,
                            .w = s.given[6],
                            .b = bias ? s.given[7] : NULL,
                            .dw = g,
                            .db = bias ? g + (size_t)(V * H) * real : NULL,
                            .logits = made(&s, "logits", n * V),
                            .dlogits = made(&s, "dlogits", n * V),
                            .targets = s.ids + n,
                            .ignored = -100,
                            .scale = 1.0 / (double)(n - 1),
                            .clip = s.clip};
    s.forward.y = (fr_array){made(&s, "y", n * H), B * H, H};
    s.forward.hT = made(&s, "hT", B * H);
    if (fr_cells[cell].has_c)
        s.forward.cT = made(&s, "cT", B * H);
    if (options & STATES) {
        s.forward.h0 = s.given[5];
        if (fr_cells[cell].has_c)
            s.forward.c0 = (char *)s.given[5] + (size_t)(B * H) * real;
        s.backward.dh0 = made(&s, "dh0", B * H);
    }
    if (tokens)
        s.forward.tokens = (fr_tokens){s.ids, B, 1};
    else
        s.forward.x = (fr_array){s.given[4], B * I, I};
    if (options & DX)
        s.backward.dx = (fr_array){made(&s, "dx", n * I), B * I, I};
    s.backward.dy = (fr_array){made(&s, "dy", n * H), B * H, H};
    s.backward.y = s.forward.y;
    s.backward.x = s.forward.x;
    s.backward.tokens = s.forward.tokens;
    s.backward.h0 = s.forward.h0;
    s.backward.c0 = s.forward.c0;
    return s;
}

static int use_of(const step *s)
{
    return fr_training_use(&s->layer, &s->seq, s->options & TOKENS, s->options & DX);
}

/* What lives from call to call. */
static void take_memory(step *s)
{
    const int tokens = s->options & TOKENS;
    const size_t forward = fr_forward_scratch_bytes(&s->layer, &s->seq, 1),
                 backward = fr_backward_scratch_bytes(&s->layer, &s->seq, tokens);
    s->packed = guarded(fr_packed_bytes(&s->layer, use_of(s)));
    s->forward.packed = s->backward.packed = s->packed;
    s->forward.reserve = guarded(fr_reserve_bytes(&s->layer, &s->seq));
    s->backward.reserve = s->forward.reserve;
    s->forward.scratch = guarded(forward > backward ? forward : backward);
    s->backward.scratch = s->forward.scratch;
    s->head.scratch = guarded(fr_head_scratch_bytes(&s->layer, &s->seq, s->V));
}

static void free_step(step *s)
{
    for (size_t i = 0; i < s->count; i++)
        release(s->all[i].p);
    for (int i = 0; i < 8; i++)
        release(s->given[i]);
    release(s->ids), release(s->packed), release((void *)(uintptr_t)s->backward.reserve);
    release(s->forward.scratch), release(s->head.scratch);
}

static fr_status train(step *s)
{
    return fr_train_with_head(&s->layer, &s->seq, use_of(s), s->packed, &s->weights, &s->forward,
                              &s->backward, &s->head);
}

/* Both ways are known to be so fast, and the better one is taken. */
static void prefer(step *s, int together)
{
    s->head.pace = (fr_pace){
        .ns = {together ? 1 : 1e12, together ? 1e12 : 1}, .alone = !together, .calls = 100};
}

static void nothing(void *arg, int tid)
{
    (void)arg, (void)tid;
}

/* By two threads: one that sleeps would not be woken for a single call. */
static fr_status train_together(step *s, int use)
{
    fr_status status = FR_OK;
    for (int i = 0; i < 10000; i++) {
        prefer(s, 1);
        fr_team_run(2, nothing, NULL, 0);
        status = fr_train_with_head(&s->layer, &s->seq, use, s->packed, &s->weights, &s->forward,
                                    &s->backward, &s->head);
        if (s->head.pace.ns[0] != 1 || status != FR_OK || !isfinite(s->head.loss))
            return status; /* what ends early is not timed */
    }
    CHECK(0, "never together");
    return status;
}

static double step_of_f32(step *s, int64_t n, int64_t grads)
{
    const double loss =
        fr_softmax_cross_entropy_f32(s->head.dlogits, s->head.logits, s->head.targets, (ptrdiff_t)n,
                                     (ptrdiff_t)s->V, s->head.ignored, s->head.scale);
    fr_clear_f32(s->grads, (ptrdiff_t)grads);
    return loss;
}

static double step_of_f64(step *s, int64_t n, int64_t grads)
{
    const double loss =
        fr_softmax_cross_entropy_f64(s->head.dlogits, s->head.logits, s->head.targets, (ptrdiff_t)n,
                                     (ptrdiff_t)s->V, s->head.ignored, s->head.scale);
    fr_clear_f64(s->grads, (ptrdiff_t)grads);
    return loss;
}

/* The calls that a step is made of, by one thread. */
static void one_by_one(step *s)
{
    const int64_t n = s->seq.T * s->seq.B, H = s->layer.hidden_size, V = s->V;
    const int64_t grads = (int64_t)(s->all[0].bytes / real_size(s->layer.dtype));
    fr_seq seq = s->seq;
    seq.threads = 1;
    fr_gemm_args y = {.dtype = s->layer.dtype,
                      .M = n,
                      .N = V,
                      .K = H,
                      .C = s->head.logits,
                      .ldc = V,
                      .A = s->forward.y.p,
                      .lda = H,
                      .B = s->head.w,
                      .ldb = H,
                      .transpose_b = 1,
                      .bias = s->head.b,
                      .threads = 1};
    fr_gemm_args dx = {.dtype = s->layer.dtype,
                       .M = n,
                       .N = H,
                       .K = V,
                       .C = s->backward.dy.p,
                       .ldc = H,
                       .A = s->head.dlogits,
                       .lda = V,
                       .B = s->head.w,
                       .ldb = H,
                       .threads = 1};
    fr_gemm_args dw = {.dtype = s->layer.dtype,
                       .M = V,
                       .N = H,
                       .K = n,
                       .C = s->head.dw,
                       .ldc = H,
                       .A = s->head.dlogits,
                       .lda = V,
                       .transpose_a = 1,
                       .B = s->forward.y.p,
                       .ldb = H,
                       .accumulate = 1,
                       .sums = s->head.db,
                       .threads = 1};
    y.scratch = guarded(fr_gemm_scratch_bytes(&y));
    dx.scratch = guarded(fr_gemm_scratch_bytes(&dx));
    dw.scratch = guarded(fr_gemm_scratch_bytes(&dw));
    fr_status status = fr_pack(&s->layer, use_of(s), s->packed, &s->weights);
    status = status ? status : fr_forward(&s->layer, &seq, &s->forward);
    status = status ? status : fr_gemm(&y);
    s->head.loss = (s->layer.dtype == FR_F64 ? step_of_f64 : step_of_f32)(s, n, grads);
    status = status ? status : fr_gemm(&dx);
    status = status ? status : fr_gemm(&dw);
    status = status ? status : fr_backward(&s->layer, &seq, &s->backward);
    CHECK(status == FR_OK, "%s", fr_status_text(status));
    if (isfinite(s->head.clip) && s->layer.dtype == FR_F64)
        fr_clip_f64(s->grads, (ptrdiff_t)grads, -s->head.clip, s->head.clip);
    else if (isfinite(s->head.clip))
        fr_clip_f32(s->grads, (ptrdiff_t)grads, -s->head.clip, s->head.clip);
    release(y.scratch), release(dx.scratch), release(dw.scratch);
}

static void check_same(const step *a, const step *b, const char *how)
{
    for (size_t i = 0; i < a->count; i++)
        CHECK(!memcmp(a->all[i].p, b->all[i].p, a->all[i].bytes),
              "%s, %s: cell %d, dtype %d, T %d, B %d, I %d, H %d, V %d, options %d", a->all[i].name,
              how, a->layer.cell, a->layer.dtype, (int)a->seq.T, (int)a->seq.B,
              (int)a->layer.input_size, (int)a->layer.hidden_size, (int)a->V, a->options);
    CHECK(a->head.loss == b->head.loss, "loss %.17g, %.17g, %s", a->head.loss, b->head.loss, how);
}

static void compare(fr_cell cell, fr_dtype dtype, const int64_t sizes[5], int options, double clip)
{
    step s[3];
    for (int i = 0; i < 3; i++) {
        s[i] = new_step(cell, dtype, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], options);
        s[i].head.clip = clip;
        take_memory(&s[i]);
    }
    one_by_one(&s[0]);
    prefer(&s[1], 0);
    CHECK(train(&s[1]) == FR_OK, "alone");
    CHECK(s[1].head.pace.ns[0] == 1e12, "not alone");
    CHECK(train_together(&s[2], use_of(&s[2])) == FR_OK, "together");
    check_same(&s[1], &s[0], "alone");
    check_same(&s[2], &s[0], "together");
    for (int i = 0; i < 3; i++)
        free_step(&s[i]);
}

static void a_step_gives_what_the_calls_give_one_after_the_other(void)
{
    /* T B I H V: H a panel and less, several blocks of rows of dR, not a multiple of anything; rows at
     * both ends of what is taken; a tile of rows that ends amid a step; fewer rows than tokens, and more */
    static const int64_t sizes[][5] = {
        {25, 1, 65, 100, 65}, {17, 1, 5, 33, 130}, {13, 2, 30, 53, 67}, {64, 4, 7, 9, 40},
        {9, 3, 40, 80, 40},   {50, 1, 3, 16, 90},  {20, 1, 90, 150, 31}};
    static const int options[] = {TOKENS, TOKENS | STATES | NO_BIAS, STATES, DX | NO_BIAS};
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int dtype = 0; dtype < FR_DTYPES; dtype++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int o = 0; o < 4; o++) {
                    forced_plan = (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 256};
                    compare((fr_cell)cell, (fr_dtype)dtype, sizes[i], options[o],
                            o == 0 ? 0.002 : INFINITY);
                }
    forced_plan.rows = 0;
}

static void so_it_does_by_the_plan_of_a_small_layer(void)
{
    static const int64_t sizes[5] = {40, 1, 65, 8, 65};
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int dtype = 0; dtype < FR_DTYPES; dtype++)
            compare((fr_cell)cell, (fr_dtype)dtype, sizes, TOKENS, 0.002);
}

static step small_step(int options)
{
    step s = new_step(FR_RNN_TANH, FR_F32, 25, 1, 65, 60, 65, options);
    take_memory(&s);
    return s;
}

static void a_loss_that_is_not_finite_leaves_the_gradients(void)
{
    for (int together = 0; together < 2; together++) {
        step s = small_step(TOKENS);
        put(s.given[6], FR_F32, 77, NAN);
        prefer(&s, 0);
        CHECK((together ? train_together(&s, use_of(&s)) : train(&s)) == FR_OK, "status");
        CHECK(isnan(s.head.loss), "loss %g", s.head.loss);
        CHECK(untouched(s.grads, s.all[0].bytes), "together %d", together);
        free_step(&s);
    }
}

static void a_bad_token_leaves_everything_as_it_was(void)
{
    for (int together = 0; together < 2; together++) {
        step s = small_step(TOKENS);
        s.ids[24] = 65;
        prefer(&s, 0);
        CHECK((together ? train_together(&s, use_of(&s)) : train(&s)) == FR_ETOKEN, "status");
        for (size_t i = 0; i < s.count; i++)
            CHECK(untouched(s.all[i].p, s.all[i].bytes), "%s, together %d", s.all[i].name,
                  together);
        free_step(&s);
    }
}

static void what_is_missing_or_lies_elsewhere_is_refused(void)
{
    step good = small_step(TOKENS), s;
    float elsewhere[65];
#define REFUSED(change)                                                                            \
    s = good;                                                                                      \
    change;                                                                                        \
    CHECK(train(&s) == FR_EARG, #change)
    REFUSED(s.head.w = NULL);
    REFUSED(s.head.dw = NULL);
    REFUSED(s.head.logits = NULL);
    REFUSED(s.head.dlogits = NULL);
    REFUSED(s.head.targets = NULL);
    REFUSED(s.head.scratch = NULL);
    REFUSED(s.head.clip = NAN);
    REFUSED(s.head.clip = -1);
    REFUSED(s.head.db = elsewhere);
    REFUSED(s.backward.grads.w_ih = NULL);
    REFUSED(s.backward.grads.b_hh = NULL);
    REFUSED(s.backward.grads.w_hh = (char *)s.backward.grads.w_hh + 4);
    REFUSED(s.backward.dy.p = NULL);
    REFUSED(s.backward.dy.st++);
    REFUSED(s.backward.reserve = NULL);
    REFUSED(s.backward.y.p = elsewhere);
    REFUSED(s.forward.packed = elsewhere);
    REFUSED(s.backward.packed = elsewhere);
    REFUSED(s.forward.y.p = NULL);
    REFUSED(s.forward.y.st++);
    REFUSED(s.seq.threads = 1);
#undef REFUSED
    for (size_t i = 0; i < good.count; i++)
        CHECK(untouched(good.all[i].p, good.all[i].bytes), "%s", good.all[i].name);
    CHECK(train(&good) == FR_OK, "as it was");
    free_step(&good);
}

static void a_pass_that_cannot_begin_is_told_to_both_threads(void)
{
    for (int together = 0; together < 2; together++)
        for (int back = 0; back < 2; back++) {
            step s = small_step(TOKENS);
            const int use = back ? FR_USE_TOKENS : FR_USE_DENSE;
            prefer(&s, 0);
            for (int i = 0; i < 20; i++) {
                const fr_status status =
                    together ? train_together(&s, use)
                             : fr_train_with_head(&s.layer, &s.seq, use, s.packed, &s.weights,
                                                  &s.forward, &s.backward, &s.head);
                CHECK(status == FR_EPACK, "%s, backward %d", fr_status_text(status), back);
            }
            CHECK(untouched(s.backward.grads.w_hh, 60 * 60 * sizeof(float)), "dR, backward %d",
                  back);
            free_step(&s);
        }
}

static void a_head_goes_along_with_a_layer_that_one_thread_walks(void)
{
    const uint8_t reset[25] = {0};
    const int64_t lengths[1] = {25};
    const fr_layer layer = {FR_RNN_TANH, FR_F32, 65, 100};
    const fr_seq seq = {.T = 25, .B = 1, .threads = 2};
    fr_seq other = seq;
    CHECK(fr_head_at_once(&layer, &seq, 1, 65), "min-char-rnn");
    CHECK(!fr_head_at_once(&layer, &seq, 1, 0), "no classes");
    CHECK(!fr_head_at_once(&layer, &seq, 1, 3), "hardly any work");
    CHECK(!fr_head_at_once(&layer, &seq, 1, 700), "a softmax of 17,500 logits");
    CHECK(!fr_head_at_once(&layer, &seq, 1, INT64_MAX), "more classes than memory");
    CHECK(!fr_head_scratch_bytes(&layer, &seq, 3), "memory for it");
#define APART(change)                                                                              \
    other = seq;                                                                                   \
    change;                                                                                        \
    CHECK(!fr_head_at_once(&layer, &other, 1, 65), #change)
    APART(other.threads = 1);
    APART(other.reverse = 1);
    APART(other.reset = reset);
    APART(other.lengths = lengths);
    APART(other.T = 8);
    APART(other.T = 300);
    APART(other.B = 64);
    APART(other.T = -1);
#undef APART
    const fr_layer large = {FR_RNN_TANH, FR_F32, 65, 200};
    forced_plan = (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 256};
    CHECK(fr_head_at_once(&large, &seq, 1, 300), "products of 1.5 million multiply-adds");
    CHECK(!fr_head_at_once(&large, &seq, 1, 500), "of 2.5 million, by two threads");
    other = (fr_seq){.T = 1, .B = FR_FEW_ROWS_OF_A_STEP, .threads = 2};
    CHECK(!fr_head_at_once(&large, &other, 1, 200),
          "few rows of a step: there is nothing to help with");
    other.B++;
    CHECK(fr_head_at_once(&large, &other, 1, 200), "a row more");
    forced_plan = (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 24};
    CHECK(!fr_head_at_once(&layer, &seq, 1, 65), "two chunks");
    forced_plan = (fr_plan){.threads = 2, .rows = 1, .units = 2, .chunk = 25};
    CHECK(!fr_head_at_once(&layer, &seq, 1, 65), "two threads walk");
    forced_plan.rows = 0;
}

static void the_way_that_turns_out_faster_is_taken(void)
{
    enum { CALLS = 20000 };
    for (int alone = 0; alone < 2; alone++) {
        step s = small_step(TOKENS);
        int calls = 0;
        s.head.pace.ns[alone] = 1e9;
        s.head.pace.ns[!alone] = 1e12;
        s.head.pace.alone = alone;
        while (s.head.pace.ns[!alone] == 1e12 && calls < CALLS) {
            fr_team_run(2, nothing, NULL, 0);
            CHECK(train(&s) == FR_OK, "status");
            calls++;
        }
        CHECK(calls < CALLS, "the other way was never tried, alone %d", alone);
        CHECK(calls > 10, "the slower way after %d calls, alone %d", calls, alone);
        CHECK(s.head.pace.ns[alone] < 1e9, "this way was not timed, alone %d", alone);
        s.head.pace = (fr_pace){.ns = {alone ? 1 : 1e12, alone ? 1e12 : 1}, .alone = alone};
        for (calls = 0; s.head.pace.alone == alone && calls < CALLS; calls++) {
            fr_team_run(2, nothing, NULL, 0);
            train(&s);
        }
        CHECK(calls < CALLS, "the faster way was not taken, alone %d", alone);
        free_step(&s);
    }
}

/* Though it begins with two, and nobody knows how long one takes. */
static void one_thread_is_tried_soon(void)
{
    step s = small_step(TOKENS);
    int calls = 0;
    for (; s.head.pace.ns[1] == 0 && calls < 500; calls++) {
        fr_team_run(2, nothing, NULL, 0);
        train(&s);
    }
    CHECK(calls < 500, "never");
    free_step(&s);
}

int main(void)
{
    RUN_ON_EVERY_ISA(a_step_gives_what_the_calls_give_one_after_the_other);
    RUN_ON_EVERY_ISA(so_it_does_by_the_plan_of_a_small_layer);
    RUN(a_loss_that_is_not_finite_leaves_the_gradients);
    RUN(a_bad_token_leaves_everything_as_it_was);
    RUN(what_is_missing_or_lies_elsewhere_is_refused);
    RUN(a_pass_that_cannot_begin_is_told_to_both_threads);
    RUN(a_head_goes_along_with_a_layer_that_one_thread_walks);
    RUN(the_way_that_turns_out_faster_is_taken);
    RUN(one_thread_is_tried_soon);
    return summary();
}
