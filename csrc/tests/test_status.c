/* test_status.c: what the entry points refuse. Every fr_status occurs here (FR_ETHREAD:
 * test_team.c), and whenever a call is refused, nothing has been written. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "problem.h"
#include "seams.h"

enum { T = 5, B = 2, I = 4, H = 5, G = 4 };

/* A call that would succeed, for a test to spoil. */
typedef struct call {
    fr_layer layer;
    fr_seq seq;
    float x[T * B * I], dy[T * B * H], w[G * H * (I > H ? I : H)];
    int64_t tokens[T * B], lengths[B];
    fr_weights weights;
    fr_forward_args forward;
    fr_backward_args backward;
    void *packed, *reserve, *scratch;
    float *out[10]; /* y hT cT dx dh0 dc0 dW_ih dW_hh db_ih db_hh, in guarded memory */
} call;

static const size_t out_bytes[10] = {4 * T * B * H, 4 * B *H, 4 * B *H,    4 * T *B *I,
                                     4 * B *H,      4 * B *H, 4 * G *H *I, 4 * G *H *H,
                                     4 * G *H,      4 * G *H};

enum { ALL_USES = FR_USE_DENSE | FR_USE_TOKENS | FR_USE_BACKWARD | FR_USE_DX };

static void *scratch_for(const call *c)
{
    const size_t forward = fr_forward_scratch_bytes(&c->layer, &c->seq, 1);
    const size_t backward = fr_backward_scratch_bytes(&c->layer, &c->seq, 0);
    return guarded(forward > backward ? forward : backward);
}

static void *pack(const call *c, fr_layer layer, int use)
{
    void *packed = guarded(fr_packed_bytes(&layer, use));
    const fr_status status = fr_pack(&layer, use, packed, &c->weights);
    CHECK(status == FR_OK, "%s", fr_status_text(status));
    return packed;
}

static call *new_call(void)
{
    call *c = calloc(1, sizeof *c);
    c->layer = (fr_layer){FR_LSTM, FR_F32, I, H};
    c->seq = (fr_seq){.T = T, .B = B};
    for (size_t i = 0; i < sizeof c->w / sizeof *c->w; i++)
        c->w[i] = (float)uniform();
    for (int i = 0; i < T * B; i++)
        c->tokens[i] = i % I;
    for (int i = 0; i < B; i++)
        c->lengths[i] = T - i;
    c->weights = (fr_weights){c->w, c->w, c->w, c->w};
    c->packed = pack(c, c->layer, ALL_USES);
    c->reserve = guarded(fr_reserve_bytes(&c->layer, &c->seq));
    c->scratch = scratch_for(c);
    for (int i = 0; i < 10; i++)
        c->out[i] = guarded(out_bytes[i]);
    c->forward = (fr_forward_args){.y = {c->out[0], B * H, H},
                                   .hT = c->out[1],
                                   .cT = c->out[2],
                                   .reserve = c->reserve,
                                   .x = {c->x, B * I, I},
                                   .packed = c->packed,
                                   .scratch = c->scratch};
    c->backward = (fr_backward_args){.dx = {c->out[3], B * I, I},
                                     .dh0 = c->out[4],
                                     .dc0 = c->out[5],
                                     .grads = {c->out[6], c->out[7], c->out[8], c->out[9]},
                                     .dy = {c->dy, B * H, H},
                                     .y = {c->out[0], B * H, H},
                                     .x = {c->x, B * I, I},
                                     .reserve = c->reserve,
                                     .packed = c->packed,
                                     .scratch = c->scratch};
    return c;
}

static void free_call(call *c)
{
    for (int i = 0; i < 10; i++)
        release(c->out[i]);
    release(c->packed), release(c->reserve), release(c->scratch);
    free(c);
}

static void check_refused(const call *c, fr_status status, fr_status want, const char *what)
{
    static const char *const names[10] = {"y",   "hT",    "cT",    "dx",    "dh0",
                                          "dc0", "dW_ih", "dW_hh", "db_ih", "db_hh"};
    CHECK(status == want, "%s: %s", what, fr_status_text(status));
    for (int i = 0; i < 10; i++)
        CHECK(untouched(c->out[i], out_bytes[i]), "%s: %s written", what, names[i]);
}

/* `spoil` is one statement about `c`. */
#define FORWARD_REFUSES(want, spoil)                                                               \
    do {                                                                                           \
        call *c = new_call();                                                                      \
        spoil;                                                                                     \
        check_refused(c, fr_forward(&c->layer, &c->seq, &c->forward), want, "forward, " #spoil);   \
        free_call(c);                                                                              \
    } while (0)
#define BACKWARD_REFUSES(want, spoil)                                                              \
    do {                                                                                           \
        call *c = new_call();                                                                      \
        spoil;                                                                                     \
        check_refused(c, fr_backward(&c->layer, &c->seq, &c->backward), want,                      \
                      "backward, " #spoil);                                                        \
        free_call(c);                                                                              \
    } while (0)
#define BOTH_REFUSE(want, spoil)                                                                   \
    FORWARD_REFUSES(want, spoil);                                                                  \
    BACKWARD_REFUSES(want, spoil)

static void the_call_that_the_others_spoil_is_accepted(void)
{
    call *c = new_call();
    CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
    CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward");
    free_call(c);
}

static void sizes_out_of_range_are_refused(void)
{
    BOTH_REFUSE(FR_EDIM, c->layer.input_size = 0);
    BOTH_REFUSE(FR_EDIM, c->layer.hidden_size = 0);
    BOTH_REFUSE(FR_EDIM, c->layer.hidden_size = -1);
    BOTH_REFUSE(FR_EDIM, c->layer.input_size = INT64_MAX);
    BOTH_REFUSE(FR_EDIM, c->seq.T = -1);
    BOTH_REFUSE(FR_EDIM, c->seq.B = -1);
    BOTH_REFUSE(FR_EDIM, c->seq.T = INT64_MAX);
    BOTH_REFUSE(FR_EDIM, c->seq.B = INT64_MAX);
}

static void unknown_options_and_missing_pointers_are_refused(void)
{
    BOTH_REFUSE(FR_EARG, c->layer.cell = FR_CELLS);
    BOTH_REFUSE(FR_EARG, c->layer.cell = (fr_cell)-1);
    BOTH_REFUSE(FR_EARG, c->layer.dtype = FR_DTYPES);
    BOTH_REFUSE(FR_EARG, c->seq.threads = -1);
    BOTH_REFUSE(FR_EARG, c->seq.threads = FR_MAX_THREADS + 1);
    FORWARD_REFUSES(FR_EARG, c->forward.packed = NULL);
    FORWARD_REFUSES(FR_EARG, c->forward.scratch = NULL);
    FORWARD_REFUSES(FR_EARG, c->forward.x.p = NULL);
    FORWARD_REFUSES(FR_EARG, c->forward.y.p = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.packed = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.scratch = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.x.p = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.y.p = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.reserve = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.grads.w_hh = NULL);
    BACKWARD_REFUSES(FR_EARG, c->backward.clip_step = FR_CLIP_VALUE); /* the limit is 0 */
    BACKWARD_REFUSES(FR_EARG, (c->backward.clip_step = FR_CLIP_NORM, c->backward.clip_limit = NAN));
    BACKWARD_REFUSES(FR_EARG, (c->backward.clip_step = (fr_clip)3, c->backward.clip_limit = 1));

    call *c = new_call();
    check_refused(c, fr_forward(NULL, &c->seq, &c->forward), FR_EARG, "no layer");
    check_refused(c, fr_forward(&c->layer, NULL, &c->forward), FR_EARG, "no sequence");
    check_refused(c, fr_forward(&c->layer, &c->seq, NULL), FR_EARG, "no arguments");
    check_refused(c, fr_backward(NULL, &c->seq, &c->backward), FR_EARG, "no layer");
    check_refused(c, fr_backward(&c->layer, NULL, &c->backward), FR_EARG, "no sequence");
    check_refused(c, fr_backward(&c->layer, &c->seq, NULL), FR_EARG, "no arguments");
    free_call(c);
}

static void lengths_outside_the_sequence_are_refused(void)
{
    BOTH_REFUSE(FR_ELENGTH, c->lengths[1] = -1; c->seq.lengths = c->lengths);
    BOTH_REFUSE(FR_ELENGTH, c->lengths[0] = T + 1; c->seq.lengths = c->lengths);
}

static void use_tokens(call *c)
{
    c->forward.x.p = c->backward.x.p = c->backward.dx.p = NULL;
    c->forward.tokens = c->backward.tokens = (fr_tokens){c->tokens, B, 1};
}

static void tokens_outside_the_table_are_refused(void)
{
    BOTH_REFUSE(FR_ETOKEN, use_tokens(c); c->tokens[0] = -1);
    BOTH_REFUSE(FR_ETOKEN, use_tokens(c); c->tokens[T * B - 1] = I);
    BOTH_REFUSE(FR_ETOKEN, use_tokens(c); c->tokens[3] = INT64_MIN);
}

static void tokens_in_padding_may_be_anything(void)
{
    call *c = new_call();
    use_tokens(c);
    c->seq.lengths = c->lengths; /* 5, 4 */
    c->tokens[(T - 1) * B + 1] = INT64_MAX;
    CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
    c->backward.scratch = guarded(fr_backward_scratch_bytes(&c->layer, &c->seq, 1));
    CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward");
    release(c->backward.scratch);
    free_call(c);
}

/* ---- packed weights ----------------------------------------------------------------------- */

static void refuse_packed(void *packed, const char *what)
{
    call *c = new_call();
    c->forward.packed = c->backward.packed = packed;
    check_refused(c, fr_forward(&c->layer, &c->seq, &c->forward), FR_EPACK, what);
    check_refused(c, fr_backward(&c->layer, &c->seq, &c->backward), FR_EPACK, what);
    free_call(c);
    release(packed);
}

static void weights_packed_for_something_else_are_refused(void)
{
    call *c = new_call();
    double w[G * H * H * 2] = {0}; /* read as either type */
    c->weights = (fr_weights){w, w, w, w};
    refuse_packed(pack(c, (fr_layer){FR_LSTM, FR_F32, I, H - 1}, ALL_USES), "another H");
    refuse_packed(pack(c, (fr_layer){FR_LSTM, FR_F32, I - 1, H}, ALL_USES), "another I");
    refuse_packed(pack(c, (fr_layer){FR_GRU, FR_F32, I, H}, ALL_USES), "another cell");
    refuse_packed(pack(c, (fr_layer){FR_LSTM, FR_F64, I, H}, ALL_USES), "another type");
    refuse_packed(guarded(4096), "never packed");
    naive_blas_select(0);
    void *foreign = pack(c, c->layer, ALL_USES);
    fr_blas_select(NULL);
    refuse_packed(foreign, "packed for another provider");
    free_call(c);
}

static void weights_packed_for_another_instruction_set_are_refused(void)
{
    call *c = new_call();
    fr_isa_select("portable");
    void *packed = pack(c, c->layer, ALL_USES);
    fr_isa_select("narrow");
    refuse_packed(packed, "another instruction set");
    fr_isa_select(NULL);
    free_call(c);
}

static void weights_not_packed_for_this_use_are_refused(void)
{
    call *c = new_call();
    void *tokens = pack(c, c->layer, FR_USE_TOKENS | FR_USE_BACKWARD);
    void *dense = pack(c, c->layer, FR_USE_DENSE);
    c->forward.packed = tokens;
    check_refused(c, fr_forward(&c->layer, &c->seq, &c->forward), FR_EPACK, "x, but for tokens");
    c->backward.packed = tokens;
    check_refused(c, fr_backward(&c->layer, &c->seq, &c->backward), FR_EPACK, "dx, but without");
    c->backward.packed = dense;
    check_refused(c, fr_backward(&c->layer, &c->seq, &c->backward), FR_EPACK, "forward only");
    use_tokens(c);
    c->forward.packed = dense;
    check_refused(c, fr_forward(&c->layer, &c->seq, &c->forward), FR_EPACK, "tokens, but for x");
    release(tokens), release(dense);
    free_call(c);
}

static void a_training_call_says_whether_one_thread_makes_it(void)
{
    const fr_layer layer = {FR_LSTM, FR_F32, 64, 64};
    const fr_seq large = {.T = 50, .B = 50, .threads = 2}, one = {.T = 50, .B = 50, .threads = 1},
                 small = {.T = 1, .B = 1, .threads = 2};
    CHECK(!(fr_training_use(&layer, &large, 0, 1) & FR_USE_ALONE), "two threads");
    CHECK(fr_training_use(&layer, &one, 0, 1) & FR_USE_ALONE, "one thread");
    CHECK(fr_training_use(&layer, &small, 0, 1) & FR_USE_ALONE, "not worth a second one");

    call *c = new_call();
    void *packed = pack(c, c->layer, ALL_USES | FR_USE_ALONE);
    c->forward.packed = c->backward.packed = packed;
    CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
    CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward");
    release(packed);
    free_call(c);
}

static void a_training_call_of_a_few_rows_needs_only_what_forward_reads(void)
{
    const fr_layer layer = {FR_RNN_TANH, FR_F32, 100,
                            124}; /* as many weights a unit as 16 steps cost */
    const fr_layer narrow = {FR_RNN_TANH, FR_F32, 100, 123};
    const int64_t lengths[4] = {T, 1, T, T};
    const int all = FR_USE_DENSE | FR_USE_BACKWARD | FR_USE_DX;
    const struct {
        const char *what;
        const fr_layer *layer;
        fr_seq seq;
        int tokens, dx, want;
    } cases[] = {
        {"16 rows", &layer, {.T = 2, .B = FR_FEW_ROWS / 2}, 0, 1, FR_USE_DENSE},
        {"32 rows of a step", &layer, {.T = 1, .B = FR_FEW_ROWS_OF_A_STEP}, 0, 1, FR_USE_DENSE},
        {"16 steps", &layer, {.T = FR_FEW_ROWS, .B = 1}, 1, 0, FR_USE_TOKENS},
        {"16 steps, fewer units", &narrow, {.T = FR_FEW_ROWS, .B = 1}, 0, 1, all},
        {"16 steps of 4 rows", &layer, {.T = T, .B = 4, .lengths = lengths}, 0, 1, FR_USE_DENSE},
        {"none", &layer, {.T = 0, .B = 1 << 30}, 0, 1, FR_USE_DENSE},
        {"18 rows", &layer, {.T = 6, .B = 3}, 0, 1, all},
        {"17 steps", &layer, {.T = FR_FEW_ROWS + 1, .B = 1}, 0, 1, all},
        {"33 rows of a step, no dx",
         &layer,
         {.T = 1, .B = FR_FEW_ROWS_OF_A_STEP + 1},
         0,
         0,
         all & ~FR_USE_DX},
        {"16 steps of tokens, dx",
         &layer,
         {.T = FR_FEW_ROWS, .B = 1},
         1,
         1,
         FR_USE_TOKENS | FR_USE_DENSE},
        {"very many", &layer, {.T = 1ll << 28, .B = 1ll << 28}, 0, 1, all},
        {"beyond memory", &layer, {.T = 1ll << 39, .B = 1ll << 39}, 0, 1, 0},
        {"no sequence", &layer, {.T = -1, .B = 1}, 0, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int use =
            fr_training_use(cases[i].layer, &cases[i].seq, cases[i].tokens, cases[i].dx);
        CHECK((use & ~FR_USE_ALONE) == cases[i].want, "%s: %d", cases[i].what, use);
    }
    CHECK(fr_training_use(NULL, &cases[0].seq, 0, 1) == 0, "no layer");

    call *c = new_call();
    c->seq.T = 2;
    void *dense = pack(c, c->layer, FR_USE_DENSE);
    c->forward.packed = c->backward.packed = dense;
    CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
    CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward");
    release(dense);
    free_call(c);
}

/* The gradient of one-hot rows, which no few rows are too few for. */
static void a_gradient_of_tokens_is_that_of_their_one_hot_rows(void)
{
    const int all = FR_USE_TOKENS | FR_USE_DENSE | FR_USE_BACKWARD | FR_USE_DX;
    for (int steps = 2; steps <= T; steps += T - 2) { /* few rows and more, of a layer so small */
        float expected[T * B * I];
        call *c = new_call();
        c->seq.T = steps;
        for (int i = 0; i < steps * B; i++)
            for (int k = 0; k < I; k++)
                c->x[i * I + k] = c->tokens[i] == k;
        CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
        CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward");
        memcpy(expected, c->out[3], sizeof expected);
        memset(c->out[3], 0, sizeof expected);
        const fr_array dx = c->backward.dx;
        use_tokens(c);
        c->backward.dx = dx;
        const int use = fr_training_use(&c->layer, &c->seq, 1, 1) & all;
        void *packed = pack(c, c->layer, use);
        c->forward.packed = c->backward.packed = packed;
        CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward of tokens");
        CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward of tokens");
        for (int i = 0; i < steps * B * I; i++)
            CHECK(fabsf(c->out[3][i] - expected[i]) < 1e-5f, "%d steps, dx[%d] is %g, not %g",
                  steps, i, c->out[3][i], expected[i]);
        release(packed);
        packed = pack(c, c->layer, use & ~(FR_USE_DENSE | FR_USE_DX));
        c->backward.packed = packed;
        CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_EPACK,
              "weights without those of dx");
        release(packed);
        free_call(c);
    }
}

static void packing_refuses_what_it_cannot_pack(void)
{
    call *c = new_call();
    const fr_layer huge = {FR_LSTM, FR_F32, 1ll << 39, 1ll << 39};
    fr_weights w = c->weights;
    CHECK(fr_pack(NULL, ALL_USES, c->out[0], &w) == FR_EARG, "no layer");
    CHECK(fr_pack(&c->layer, ALL_USES, NULL, &w) == FR_EARG, "no memory");
    CHECK(fr_pack(&c->layer, ALL_USES, c->out[0], NULL) == FR_EARG, "no weights");
    CHECK(fr_pack(&c->layer, 0, c->out[0], &w) == FR_EARG, "use 0");
    CHECK(fr_pack(&c->layer, FR_USE_ALONE, c->out[0], &w) == FR_EARG, "use for nothing");
    CHECK(fr_pack(&c->layer, 32, c->out[0], &w) == FR_EARG, "use 32");
    CHECK(fr_pack(&huge, FR_USE_DENSE, c->out[0], &w) == FR_EDIM, "huge");
    w.w_hh = NULL;
    CHECK(fr_pack(&c->layer, ALL_USES, c->out[0], &w) == FR_EARG, "no recurrent weights");
    check_refused(c, FR_OK, FR_OK, "pack");
    free_call(c);
}

/* ---- sizes -------------------------------------------------------------------------------- */

static void sizes_that_overflow_are_answered_by_0(void)
{
    const fr_layer wide = {FR_GRU, FR_F64, 1ll << 39, 1ll << 39}, none = {FR_GRU, FR_F64, 0, 1};
    const fr_layer small = {FR_GRU, FR_F64, 1, 1};
    const fr_seq seq = {.T = T, .B = B}, many = {.T = T, .B = 1ll << 39};
    const fr_seq negative = {.T = -1, .B = B};
    CHECK(fr_packed_bytes(&wide, ALL_USES) == 0, "H 2^39");
    CHECK(fr_packed_bytes(&none, ALL_USES) == 0, "I 0");
    CHECK(fr_reserve_bytes(&wide, &many) == 0, "B and H 2^39");
    CHECK(fr_forward_scratch_bytes(&wide, &many, 1) == 0, "B and H 2^39");
    CHECK(fr_backward_scratch_bytes(&wide, &many, 1) == 0, "B and H 2^39");
    CHECK(fr_reserve_bytes(&small, &negative) == 0, "T -1");
    const fr_layer narrow = {FR_RNN_TANH, FR_F32, 1, 1};
    for (int bits = 28; bits < 40; bits++) { /* of which 32 made a product of 2^64 rows */
        const fr_seq square = {.T = 1ll << bits, .B = 1ll << bits};
        const size_t bytes = fr_reserve_bytes(&small, &square);
        CHECK(bytes == 0 || bits == 28, "T and B 2^%d", bits);
        CHECK(fr_backward_scratch_bytes(&narrow, &square, 0) == 0 || bits == 28, "2^%d rows",
              2 * bits);
    }
    const fr_seq two = {.T = 1ll << 39, .B = 2, .threads = 2}; /* gradients of each part's own */
    const fr_layer broad = {FR_LSTM, FR_F32, 1ll << 38, 1ll << 20};
    CHECK(fr_backward_scratch_bytes(&broad, &two, 1) == 0, "I 2^38, H 2^20");
    const fr_gemm_args product = {.dtype = FR_F32,
                                  .M = 1,
                                  .N = INT64_MAX - 1,
                                  .K = 1,
                                  .lda = 1,
                                  .ldb = INT64_MAX,
                                  .ldc = INT64_MAX};
    CHECK(fr_gemm_scratch_bytes(&product) == 0, "N 2^63 - 2");
    CHECK(fr_forward_scratch_bytes(&none, &seq, 0) == 0, "I 0");
    CHECK(fr_backward_scratch_bytes(&small, &negative, 0) == 0, "T -1");
}

static void scratch_asked_for_with_threads_does_not_change_with_the_setting(void)
{
    const fr_layer layer = {FR_LSTM, FR_F32, 256, 256};
    const fr_seq seq = {.T = 20, .B = 64, .threads = 2};
    const fr_gemm_args g = {.dtype = FR_F32,
                            .M = 500,
                            .N = 500,
                            .K = 500,
                            .lda = 500,
                            .ldb = 500,
                            .ldc = 500,
                            .threads = 2};
    size_t bytes[2][3];
    for (int i = 0; i < 2; i++) {
        fr_set_num_threads(i ? 8 : 2);
        bytes[i][0] = fr_forward_scratch_bytes(&layer, &seq, 1);
        bytes[i][1] = fr_backward_scratch_bytes(&layer, &seq, 0);
        bytes[i][2] = fr_gemm_scratch_bytes(&g);
    }
    fr_plan plan;
    fr_plan_describe(&plan, &layer, &seq, 0);
    fr_set_num_threads(1);
    CHECK(plan.threads == 2, "%d threads", plan.threads);
    for (int k = 0; k < 3; k++)
        CHECK(bytes[0][k] == bytes[1][k], "%d: %zu, %zu bytes", k, bytes[0][k], bytes[1][k]);
}

/* ---- the rest of the interface -------------------------------------------------------------- */

static void a_product_with_wrong_arguments_is_refused(void)
{
    float C[4], scratch[1];
    memset(C, 0xff, sizeof C);
    const fr_gemm_args good = {.dtype = FR_F32,
                               .M = 2,
                               .N = 2,
                               .K = 2,
                               .C = C,
                               .ldc = 2,
                               .A = C,
                               .lda = 2,
                               .B = C,
                               .ldb = 2,
                               .scratch = scratch};
    const struct {
        fr_status want;
        size_t field;
        int64_t value;
        const char *what;
    } bad[] = {
        {FR_EDIM, offsetof(fr_gemm_args, M), -1, "M -1"},
        {FR_EDIM, offsetof(fr_gemm_args, N), -1, "N -1"},
        {FR_EDIM, offsetof(fr_gemm_args, K), -1, "K -1"},
        {FR_EDIM, offsetof(fr_gemm_args, M), INT64_MAX, "M huge"},
        {FR_EDIM, offsetof(fr_gemm_args, lda), 1, "lda 1"},
        {FR_EDIM, offsetof(fr_gemm_args, ldb), 1, "ldb 1"},
        {FR_EDIM, offsetof(fr_gemm_args, ldc), 1, "ldc 1"},
        {FR_EARG, offsetof(fr_gemm_args, A), 0, "no A"},
        {FR_EARG, offsetof(fr_gemm_args, B), 0, "no B"},
        {FR_EARG, offsetof(fr_gemm_args, C), 0, "no C"},
        {FR_EARG, offsetof(fr_gemm_args, scratch), 0, "no scratch"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fr_gemm_args g = good;
        memcpy((char *)&g + bad[i].field, &bad[i].value, sizeof bad[i].value);
        const fr_status status = fr_gemm(&g);
        CHECK(status == bad[i].want, "%s: %s", bad[i].what, fr_status_text(status));
    }
    fr_gemm_args g = good;
    g.threads = FR_MAX_THREADS + 1;
    CHECK(fr_gemm(&g) == FR_EARG, "too many threads");
    g = good;
    g.dtype = FR_DTYPES;
    CHECK(fr_gemm(&g) == FR_EARG, "unknown type");
    CHECK(fr_gemm_scratch_bytes(&g) == 0, "unknown type");
    CHECK(fr_gemm(NULL) == FR_EARG, "no arguments");
    CHECK(untouched(C, sizeof C), "C written");
}

static void unknown_activations_are_refused(void)
{
    double x = 0.25;
    CHECK(fr_activation(FR_DTYPES, 0, &x, &x, 1) == FR_EARG, "type");
    CHECK(fr_activation(FR_F64, 3, &x, &x, 1) == FR_EARG, "kind 3");
    CHECK(fr_activation(FR_F64, -1, &x, &x, 1) == FR_EARG, "kind -1");
    CHECK(fr_activation(FR_F64, 0, &x, &x, -1) == FR_EARG, "n -1");
    CHECK(fr_activation(FR_F64, 0, NULL, &x, 1) == FR_EARG, "no output");
    CHECK(fr_activation(FR_F64, 0, &x, NULL, 1) == FR_EARG, "no input");
    CHECK(x == 0.25, "written");
}

static void an_unknown_instruction_set_is_refused_and_changes_nothing(void)
{
    fr_isa_select("portable");
    CHECK(fr_isa_select("mmx") == FR_EISA, "mmx");
    CHECK(fr_isa_select("") == FR_EISA, "the empty name");
    CHECK(!fr_isa_available("mmx") && !fr_isa_available(NULL), "mmx is not there");
    for (int i = 0; fr_isa_name(i); i++)
        if (!fr_isa_available(fr_isa_name(i)))
            CHECK(fr_isa_select(fr_isa_name(i)) == FR_EISA, "%s", fr_isa_name(i));
    CHECK(!strcmp(fr_isa(), "portable"), "now %s", fr_isa());
    CHECK(fr_isa_select(NULL) == FR_OK, "the best");
}

static void instruction_sets_are_listed_best_first_and_end_with_null(void)
{
    int i = 0;
    fr_isa_select(NULL);
    while (!fr_isa_available(fr_isa_name(i)))
        i++;
    CHECK(!strcmp(fr_isa(), fr_isa_name(i)), "%s, not %s", fr_isa(), fr_isa_name(i));
    while (fr_isa_name(i))
        i++;
    CHECK(!fr_isa_name(i + 1) && !fr_isa_name(-1), "%d names", i);
    CHECK(fr_isa_available("portable"), "portable runs everywhere");
}

static void the_first_level_cache_is_as_large_as_the_system_says(void)
{
    const size_t bytes = shipped_l1_bytes();
    CHECK(bytes >= 16 << 10 && bytes <= 1 << 20 && bytes % 1024 == 0, "%zu", bytes);
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const long told = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    const long want = cores_differ() ? 32 << 10 : told;
    CHECK(told <= 0 || bytes == (size_t)want, "%zu, not %ld", bytes, want);
    CHECK(bytes == shipped_l1_bytes(), "another answer");
#endif
}

/* Half of a server's second-level cache, or what is assumed of the rest. */
static void what_is_near_is_at_most_what_is_assumed(void)
{
    const size_t bytes = shipped_near_bytes();
    CHECK(bytes >= 512 << 10 && bytes <= FR_NEAR_BYTES, "%zu", bytes);
    CHECK(bytes == FR_NEAR_BYTES || !cores_differ(), "%zu, of cores of two kinds", bytes);
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long told = sysconf(_SC_LEVEL2_CACHE_SIZE);
    CHECK(bytes == FR_NEAR_BYTES || told <= 0 || bytes == (size_t)told / 2, "%zu of %ld", bytes,
          told);
#endif
    CHECK(bytes == shipped_near_bytes(), "another answer");
}

static void a_provider_is_tried_before_it_is_accepted(void)
{
    const fr_blas nothing = {.name = "nothing"};
    CHECK(naive_blas_select(0) == FR_OK && !strcmp(fr_blas_name(), "naive"), "%s", fr_blas_name());
    CHECK(wrong_blas_select() == FR_EBLAS, "wrong answers");
    if (sizeof(void *) == 8)
        CHECK(too_wide_blas_select() == FR_EBLAS, "64-bit integers declared as 32");
    CHECK(fr_blas_select(&nothing) == FR_EARG, "no functions");
    CHECK(!strcmp(fr_blas_name(), "naive"), "now %s", fr_blas_name());
    CHECK(fr_blas_select(NULL) == FR_OK && !strcmp(fr_blas_name(), "own"), "%s", fr_blas_name());
}

static void impossible_numbers_of_threads_are_refused(void)
{
    CHECK(fr_set_num_threads(2) == FR_OK, "2");
    CHECK(fr_set_num_threads(0) == FR_EARG, "0");
    CHECK(fr_set_num_threads(FR_MAX_THREADS + 1) == FR_EARG, "too many");
    CHECK(fr_get_num_threads() == 2, "now %d", fr_get_num_threads());
    fr_set_num_threads(1);
}

static void a_plan_of_something_impossible_is_refused(void)
{
    const fr_layer layer = {FR_LSTM, FR_F32, I, H}, none = {FR_LSTM, FR_F32, I, 0};
    const fr_seq seq = {.T = T, .B = B}, negative = {.T = T, .B = -1};
    fr_plan plan;
    memset(&plan, 0xff, sizeof plan);
    CHECK(fr_plan_describe(NULL, &layer, &seq, 0) == FR_EARG, "no plan");
    CHECK(fr_plan_describe(&plan, NULL, &seq, 0) == FR_EARG, "no layer");
    CHECK(fr_plan_describe(&plan, &layer, NULL, 0) == FR_EARG, "no sequence");
    CHECK(fr_plan_describe(&plan, &none, &seq, 0) == FR_EDIM, "H 0");
    CHECK(fr_plan_describe(&plan, &layer, &negative, 0) == FR_EDIM, "B -1");
    CHECK(untouched(&plan, sizeof plan), "written");
}

static void every_status_has_a_text_of_its_own(void)
{
    for (int i = FR_OK; i <= FR_EBLAS + 1; i++)
        for (int k = FR_OK; k < i; k++)
            CHECK(strcmp(fr_status_text((fr_status)i), fr_status_text((fr_status)k)), "%d and %d",
                  i, k);
}

/* ---- floating-point mode ------------------------------------------------------------------- */

/* Calls flush subnormals to zero inside; the caller's arithmetic must keep them. */
static int keeps_subnormals(void)
{
    volatile double tiny = DBL_MIN;
    volatile float small = FLT_MIN;
    return tiny / 2 > 0 && small / 2 > 0;
}

static void the_callers_subnormals_survive_a_call(void)
{
    for (int threads = 1; threads <= 2; threads++) {
        forced_plan = (fr_plan){.threads = threads, .rows = threads, .units = 1, .chunk = 1};
        call *c = new_call();
        CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
        CHECK(keeps_subnormals(), "after forward, %d threads", threads);
        CHECK(fr_backward(&c->layer, &c->seq, &c->backward) == FR_OK, "backward");
        CHECK(keeps_subnormals(), "after backward, %d threads", threads);
        c->forward.scratch = NULL;
        CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_EARG, "refused");
        CHECK(keeps_subnormals(), "after a refused call");
        free_call(c);
    }
    forced_plan.rows = 0;
}

static void the_callers_flushing_survives_a_call(void)
{
    const unsigned long saved = fr_flush_on();
    const int flushing = !keeps_subnormals(); /* not every machine can */
    call *c = new_call();
    CHECK(fr_forward(&c->layer, &c->seq, &c->forward) == FR_OK, "forward");
    CHECK(keeps_subnormals() == !flushing, "after forward");
    free_call(c);
    fr_flush_restore(saved);
    CHECK(keeps_subnormals(), "restored");
}

static void reading_the_reserve_checks_its_arguments(void)
{
    call *c = new_call();
    const fr_array out = {c->out[0], B * H, H}, none = {NULL, 0, 0};
    const int slots = c->layer.cell == FR_LSTM ? 5 : 4;
    fr_layer wrong = c->layer;
    wrong.hidden_size = 0;
    CHECK(fr_read_reserve(NULL, &c->seq, 0, &out, c->reserve) == FR_EARG, "no layer");
    CHECK(fr_read_reserve(&wrong, &c->seq, 0, &out, c->reserve) == FR_EDIM, "H 0");
    CHECK(fr_read_reserve(&c->layer, NULL, 0, &out, c->reserve) == FR_EARG, "no sequence");
    CHECK(fr_read_reserve(&c->layer, &c->seq, -1, &out, c->reserve) == FR_EARG, "slot -1");
    CHECK(fr_read_reserve(&c->layer, &c->seq, slots, &out, c->reserve) == FR_EARG, "past the last");
    CHECK(fr_read_reserve(&c->layer, &c->seq, 0, NULL, c->reserve) == FR_EARG, "no out");
    CHECK(fr_read_reserve(&c->layer, &c->seq, 0, &none, c->reserve) == FR_EARG, "out NULL");
    CHECK(fr_read_reserve(&c->layer, &c->seq, 0, &out, NULL) == FR_EARG, "no reserve");
    CHECK(untouched(c->out[0], out_bytes[0]), "written");
    free_call(c);
}

static void products_of_sizes_that_overflow_are_refused(void)
{
    const int64_t q = (int64_t)1 << 31;
    const fr_gemm_args wide = {.M = 1, .N = q, .K = q, .lda = q, .ldb = q, .ldc = q, .threads = 1};
    const fr_gemm_args tall = {.M = q, .N = 1, .K = q, .lda = q, .ldb = 1, .ldc = 1, .threads = 1};
    const fr_attention_args queries = {.T = q, .S = 1, .M = q};
    CHECK(fr_gemm_scratch_bytes(&wide) == 0, "N x K");
    CHECK(fr_gemm_scratch_bytes(&tall) == 0, "M x K");
    CHECK(fr_attention_scores(&queries) == FR_EDIM, "T x M");
}

int main(void)
{
    RUN(reading_the_reserve_checks_its_arguments);
    RUN(the_call_that_the_others_spoil_is_accepted);
    RUN(sizes_out_of_range_are_refused);
    RUN(unknown_options_and_missing_pointers_are_refused);
    RUN(lengths_outside_the_sequence_are_refused);
    RUN(tokens_outside_the_table_are_refused);
    RUN(tokens_in_padding_may_be_anything);
    RUN_ON_EVERY_ISA(weights_packed_for_something_else_are_refused);
    RUN(weights_packed_for_another_instruction_set_are_refused);
    RUN(weights_not_packed_for_this_use_are_refused);
    RUN(a_training_call_of_a_few_rows_needs_only_what_forward_reads);
    RUN(a_gradient_of_tokens_is_that_of_their_one_hot_rows);
    RUN(a_training_call_says_whether_one_thread_makes_it);
    RUN(packing_refuses_what_it_cannot_pack);
    RUN(sizes_that_overflow_are_answered_by_0);
    RUN(scratch_asked_for_with_threads_does_not_change_with_the_setting);
    RUN(a_product_with_wrong_arguments_is_refused);
    RUN(unknown_activations_are_refused);
    RUN(an_unknown_instruction_set_is_refused_and_changes_nothing);
    RUN(instruction_sets_are_listed_best_first_and_end_with_null);
    RUN(the_first_level_cache_is_as_large_as_the_system_says);
    RUN(what_is_near_is_at_most_what_is_assumed);
    RUN(a_provider_is_tried_before_it_is_accepted);
    RUN(impossible_numbers_of_threads_are_refused);
    RUN(a_plan_of_something_impossible_is_refused);
    RUN(every_status_has_a_text_of_its_own);
    RUN(the_callers_subnormals_survive_a_call);
    RUN(the_callers_flushing_survives_a_call);
    RUN(products_of_sizes_that_overflow_are_refused);
    return summary();
}
