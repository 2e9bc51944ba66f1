/* test_both.c: both directions of a layer, or two layers of a stack, in one call. Whether they are walked one
 * after the other or at the same time, all numbers are those of a call for each, bit for bit. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "seams.h"

enum { T = 19, B = 3, I = 5, H = 20 };
enum {
    RAGGED = 1,
    RESETS = 2,
    TOKENS = 4,
    ADD_DX = 8,
    BATCH_FIRST = 16,
    NO_DX = 32,
    CLEAR_PAST = 64
};

/* What two directions are made of, and what comes out of them. [2]: one for each. */
typedef struct sides {
    fr_layer layer;
    fr_seq seq;
    int options;
    size_t real;
    int64_t lengths[B];
    uint8_t reset[T * B];
    int64_t tokens[T * B];
    void *weights[2][4], *packed[2], *reserve[2];
    void *x, *dy, *state[2][4]; /* h0, c0, dhT, dcT */
    void *y, *dx, *out[2][4];   /* hT, cT, dh0, dc0 */
    void *grads[2][4];
    size_t y_bytes, dx_bytes, state_bytes, weight_bytes[4];
} sides;

static void *drawn(const sides *s, size_t n)
{
    void *p = guarded(n * s->real);
    for (size_t i = 0; i < n; i++)
        put(p, s->layer.dtype, (ptrdiff_t)i, uniform());
    return p;
}

static void *zeros(size_t bytes)
{
    return memset(guarded(bytes), 0, bytes);
}

static sides new_sides(fr_cell cell, fr_dtype dtype, int options)
{
    sides s = {.layer = {cell, dtype, I, H}, .options = options, .real = real_size(dtype)};
    const size_t G = (size_t)fr_cells[cell].gates;
    const size_t counts[4] = {G * H * I, G * H * H, G * H, G * H};
    seed(1);
    s.seq = (fr_seq){.T = T, .B = B};
    for (int b = 0; b < B; b++)
        s.lengths[b] = b == 1 ? T : below(T + 1);
    for (int i = 0; i < T * B; i++) {
        s.reset[i] = below(4) == 0;
        s.tokens[i] = below(I);
    }
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 4; i++) {
            s.weight_bytes[i] = counts[i] * s.real;
            s.weights[d][i] = drawn(&s, counts[i]);
            s.grads[d][i] = drawn(&s, counts[i]);
            s.state[d][i] = drawn(&s, B * H);
            s.out[d][i] = zeros(B * H * s.real);
        }
    s.x = drawn(&s, T * B * I);
    s.dy = drawn(&s, T * B * 2 * H);
    s.dx = drawn(&s, T * B * I);
    s.y = options & CLEAR_PAST ? drawn(&s, T * B * 2 * H) : zeros(T * B * 2 * H * s.real);
    s.y_bytes = T * B * 2 * H * s.real;
    s.dx_bytes = T * B * I * s.real;
    s.state_bytes = B * H * s.real;
    return s;
}

static void free_sides(sides *s)
{
    for (int d = 0; d < 2; d++) {
        for (int i = 0; i < 4; i++)
            release(s->weights[d][i]), release(s->grads[d][i]), release(s->state[d][i]),
                release(s->out[d][i]);
        release(s->packed[d]), release(s->reserve[d]);
    }
    release(s->x), release(s->dy), release(s->dx), release(s->y);
}

static fr_array array_of(const sides *s, void *p, int width, int first)
{
    const fr_array a = {(char *)p + (size_t)first * s->real, B * width, width};
    const fr_array by_row = {a.p, width, T * width};
    return s->options & BATCH_FIRST ? by_row : a;
}

static void arguments(sides *s, fr_forward_args f[2], fr_backward_args b[2])
{
    memset(f, 0, 2 * sizeof *f);
    memset(b, 0, 2 * sizeof *b);
    s->seq.lengths = s->options & RAGGED ? s->lengths : NULL;
    s->seq.reset = s->options & RESETS ? s->reset : NULL;
    for (int d = 0; d < 2; d++) {
        f[d].y = array_of(s, s->y, 2 * H, d * H);
        f[d].hT = s->out[d][0], f[d].cT = s->out[d][1];
        f[d].h0 = s->state[d][0], f[d].c0 = s->state[d][1];
        if (s->options & TOKENS)
            f[d].tokens = (fr_tokens){s->tokens, B, 1};
        else
            f[d].x = array_of(s, s->x, I, 0);
        f[d].reserve = s->reserve[d];
        f[d].packed = s->packed[d];
        b[d].y = f[d].y, b[d].x = f[d].x, b[d].tokens = f[d].tokens;
        b[d].h0 = f[d].h0, b[d].c0 = f[d].c0;
        b[d].reserve = f[d].reserve, b[d].packed = f[d].packed;
        b[d].dy = array_of(s, s->dy, 2 * H, d * H);
        b[d].dhT = s->state[d][2], b[d].dcT = s->state[d][3];
        b[d].dh0 = s->out[d][2], b[d].dc0 = s->out[d][3];
        b[d].grads =
            (fr_weight_grads){s->grads[d][0], s->grads[d][1], s->grads[d][2], s->grads[d][3]};
        if (!(s->options & NO_DX))
            b[d].dx = array_of(s, s->dx, I, 0);
        b[d].dx_add = (s->options & ADD_DX) != 0;
        f[d].clear_past = b[d].clear_past = (s->options & CLEAR_PAST) != 0;
    }
}

/* A call for each direction, on so many threads; or both in one. */
static void solve(sides *s, int both, int threads)
{
    fr_forward_args f[2];
    fr_backward_args b[2];
    fr_status status = FR_OK;
    const int tokens = (s->options & TOKENS) != 0, dx = !(s->options & NO_DX);
    s->seq.threads = threads;
    arguments(s, f, b);
    const int use = fr_training_use(&s->layer, &s->seq, tokens, dx);
    for (int d = 0; d < 2; d++) {
        s->packed[d] = guarded(fr_packed_bytes(&s->layer, use));
        s->reserve[d] = guarded(fr_reserve_bytes(&s->layer, &s->seq));
    }
    arguments(s, f, b);
    if (both) {
        fr_weights w[2];
        for (int d = 0; d < 2; d++)
            w[d] = (fr_weights){s->weights[d][0], s->weights[d][1], s->weights[d][2],
                                s->weights[d][3]};
        status = fr_pack_both(&s->layer, &s->seq, use, s->packed, w);
        f[0].scratch = guarded(fr_forward_both_scratch_bytes(&s->layer, &s->seq, 1));
        b[0].scratch = guarded(fr_backward_both_scratch_bytes(&s->layer, &s->seq, tokens));
        if (status == FR_OK)
            status = fr_forward_both(&s->layer, &s->seq, f);
        if (status == FR_OK)
            status = fr_backward_both(&s->layer, &s->seq, b);
        release(f[0].scratch), release(b[0].scratch);
    }
    for (int d = 0; d < 2 && !both && status == FR_OK; d++) {
        const fr_weights w = {s->weights[d][0], s->weights[d][1], s->weights[d][2],
                              s->weights[d][3]};
        s->seq.reverse = d;
        b[d].dx_add |= d;
        f[d].scratch = guarded(fr_forward_scratch_bytes(&s->layer, &s->seq, 1));
        b[d].scratch = guarded(fr_backward_scratch_bytes(&s->layer, &s->seq, tokens));
        status = fr_pack(&s->layer, use, s->packed[d], &w);
        if (status == FR_OK)
            status = fr_forward(&s->layer, &s->seq, &f[d]);
        if (status == FR_OK)
            status = fr_backward(&s->layer, &s->seq, &b[d]);
        release(f[d].scratch), release(b[d].scratch);
    }
    CHECK(status == FR_OK, "%s", fr_status_text(status));
}

static void check_same(const sides *a, const sides *b, const char *how)
{
    const char *cell = fr_cells[a->layer.cell].name;
    CHECK(!memcmp(a->y, b->y, a->y_bytes), "%s, options %d, %s: y", cell, a->options, how);
    CHECK(!memcmp(a->dx, b->dx, a->dx_bytes), "%s, options %d, %s: dx", cell, a->options, how);
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 4; i++) {
            CHECK(!memcmp(a->out[d][i], b->out[d][i], a->state_bytes),
                  "%s, options %d, %s: state %d of direction %d", cell, a->options, how, i, d);
            CHECK(!memcmp(a->grads[d][i], b->grads[d][i], a->weight_bytes[i]),
                  "%s, options %d, %s: gradient %d of direction %d", cell, a->options, how, i, d);
        }
}

/* Rows of an array (T, B, width), or (B, T, width). */
static void check_cleared(const sides *s, const void *array, int width, const char *name)
{
    for (int b = 0; b < B; b++)
        for (int64_t t = s->lengths[b]; t < T; t++)
            for (int i = 0; i < width; i++) {
                const int64_t row = s->options & BATCH_FIRST ? b * T + t : t * B + b;
                if (get(array, s->layer.dtype, row * width + i) != 0) {
                    CHECK(0, "%s, options %d: %s of row %d is not cleared at %d",
                          fr_cells[s->layer.cell].name, s->options, name, b, (int)t);
                    return;
                }
            }
}

static const int cases[] = {0,
                            ADD_DX,
                            NO_DX,
                            BATCH_FIRST,
                            RESETS,
                            RAGGED | ADD_DX,
                            RAGGED | CLEAR_PAST,
                            RAGGED | CLEAR_PAST | BATCH_FIRST | RESETS,
                            RAGGED | RESETS | ADD_DX | BATCH_FIRST,
                            TOKENS | NO_DX,
                            TOKENS | NO_DX | RAGGED};

static void compare_all(fr_plan plan, int threads, const char *how)
{
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const fr_dtype dtype = (fr_dtype)((cell + (int)i) % 2);
            sides one_by_one = new_sides((fr_cell)cell, dtype, cases[i]);
            sides both = new_sides((fr_cell)cell, dtype, cases[i]);
            forced_plan = plan;
            solve(&both, 1, threads);
            forced_plan.together = 0;
            solve(&one_by_one, 0, plan.together ? 1 : threads);
            check_same(&both, &one_by_one, how);
            if (cases[i] & CLEAR_PAST) {
                check_cleared(&both, both.y, 2 * H, "y");
                check_cleared(&both, both.dx, I, "dx");
            }
            free_sides(&both), free_sides(&one_by_one);
        }
    forced_plan.rows = 0;
}

static void at_the_same_time_they_give_what_a_call_for_each_gives(void)
{
    for (int chunk = 2; chunk <= 19; chunk += 17) {
        compare_all((fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = chunk, .together = 1},
                    2, "at the same time if both are awake");
        compare_all((fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = chunk, .together = 2},
                    2, "at the same time");
    }
}

static void one_after_the_other_they_give_what_a_call_for_each_gives(void)
{
    compare_all((fr_plan){.threads = 2, .rows = 2, .units = 1, .chunk = 3}, 2,
                "one after the other, rows shared out");
    compare_all((fr_plan){.threads = 2, .rows = 1, .units = 2, .chunk = 3}, 2,
                "one after the other, units shared out");
    compare_all((fr_plan){.threads = 2, .rows = 1, .units = 2, .chunk = 9, .takes_over = 1}, 2,
                "one after the other, units taken over");
}

static void a_bad_token_leaves_everything_as_it_was(void)
{
    for (int together = 0; together < 3; together++) {
        fr_forward_args f[2];
        fr_backward_args b[2];
        sides s = new_sides(FR_GRU, FR_F32, TOKENS | NO_DX);
        forced_plan =
            (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 7, .together = together};
        solve(&s, 1, 2);
        s.tokens[T * B - 1] = I;
        memset(s.y, 0, s.y_bytes);
        arguments(&s, f, b);
        f[0].scratch = guarded(fr_forward_both_scratch_bytes(&s.layer, &s.seq, 1));
        const fr_status status = fr_forward_both(&s.layer, &s.seq, f);
        CHECK(status == FR_ETOKEN, "together %d: %s", together, fr_status_text(status));
        for (size_t i = 0; i < s.y_bytes; i++)
            CHECK(!((char *)s.y)[i], "together %d: y is written", together);
        release(f[0].scratch);
        free_sides(&s);
    }
    forced_plan.rows = 0;
}

/* ---- two layers ---------------------------------------------------------------------------- */

/* The upper one reads y of the lower; the weights of a side are those of a layer. */
typedef struct stack {
    fr_layer layers[2];
    fr_seq seq;
    fr_forward_args args[2];
    void *x, *tokens, *weights[2], *packed[2], *reserve[2], *y[2], *state[2][4];
    int64_t lengths[B];
    size_t y_bytes, state_bytes;
} stack;

static stack new_stack(fr_cell cell, fr_dtype dtype, int options, int training)
{
    stack s = {.layers = {{cell, dtype, I, H}, {cell, dtype, H, H}}};
    const size_t real = real_size(dtype), G = (size_t)fr_cells[cell].gates;
    int64_t *tokens = guarded(T * B * sizeof *tokens);
    seed(2);
    s.seq = (fr_seq){.T = T, .B = B};
    for (int b = 0; b < B; b++)
        s.lengths[b] = b == 1 ? T : below(T + 1);
    for (int i = 0; i < T * B; i++)
        tokens[i] = below(I);
    s.tokens = tokens;
    s.x = guarded(T * B * I * real);
    for (int i = 0; i < T * B * I; i++)
        put(s.x, dtype, i, uniform());
    s.y_bytes = T * B * H * real;
    s.state_bytes = B * H * real;
    for (int k = 0; k < 2; k++) {
        const int64_t inputs = s.layers[k].input_size;
        const size_t weights = G * H * (size_t)(inputs + H + 2);
        const int by_token = options & TOKENS && k == 0;
        s.weights[k] = guarded(weights * real);
        for (size_t i = 0; i < weights; i++)
            put(s.weights[k], dtype, (ptrdiff_t)i, uniform());
        char *w = s.weights[k], *w_hh = w + G * H * (size_t)inputs * real,
             *b = w_hh + G * H * H * real;
        const fr_weights of = {w, w_hh, b, b + G * H * real};
        const int use = by_token ? FR_USE_TOKENS : FR_USE_DENSE;
        s.packed[k] = guarded(fr_packed_bytes(&s.layers[k], use));
        CHECK(fr_pack(&s.layers[k], use, s.packed[k], &of) == FR_OK, "layer %d", k);
        s.reserve[k] = training ? guarded(fr_reserve_bytes(&s.layers[k], &s.seq)) : NULL;
        s.y[k] = zeros(s.y_bytes);
        for (int i = 0; i < 4; i++) {
            s.state[k][i] = zeros(s.state_bytes);
            for (int n = 0; n < B * H && i > 1; n++)
                put(s.state[k][i], dtype, n, uniform());
        }
        fr_forward_args *a = &s.args[k];
        a->y = (fr_array){s.y[k], B * H, H};
        if (by_token)
            a->tokens = (fr_tokens){tokens, B, 1};
        else
            a->x = k == 0 ? (fr_array){s.x, B * I, I} : s.args[0].y;
        a->hT = s.state[k][0], a->cT = s.state[k][1];
        a->h0 = s.state[k][2], a->c0 = s.state[k][3];
        a->packed = s.packed[k];
        a->reserve = s.reserve[k];
    }
    return s;
}

static void free_stack(stack *s)
{
    for (int k = 0; k < 2; k++) {
        release(s->weights[k]), release(s->packed[k]), release(s->reserve[k]), release(s->y[k]);
        for (int i = 0; i < 4; i++)
            release(s->state[k][i]);
    }
    release(s->x), release(s->tokens);
}

static fr_status walk_two(stack *s, int options, int training)
{
    s->seq.lengths = options & RAGGED ? s->lengths : NULL;
    s->seq.threads = 2;
    s->args[0].scratch = guarded(fr_forward_two_scratch_bytes(s->layers, &s->seq, training));
    const fr_status status = fr_forward_two(s->layers, &s->seq, s->args);
    release(s->args[0].scratch);
    return status;
}

static void walk_one_by_one(stack *s, int options, int training)
{
    s->seq.lengths = options & RAGGED ? s->lengths : NULL;
    s->seq.threads = 1;
    for (int k = 0; k < 2; k++) {
        s->args[k].scratch = guarded(fr_forward_scratch_bytes(&s->layers[k], &s->seq, training));
        CHECK(fr_forward(&s->layers[k], &s->seq, &s->args[k]) == FR_OK, "layer %d", k);
        release(s->args[k].scratch);
    }
}

static void a_layer_that_follows_gives_what_a_call_of_its_own_gives(void)
{
    static const int wishes[] = {0, RAGGED, TOKENS, TOKENS | RAGGED};
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int i = 0; i < 4; i++)
            for (int together = 0; together < 3; together++)
                for (int training = 0; training < 2; training++) {
                    const fr_dtype dtype = (fr_dtype)((cell + i) % 2);
                    stack one_by_one = new_stack((fr_cell)cell, dtype, wishes[i], training);
                    stack two = new_stack((fr_cell)cell, dtype, wishes[i], training);
                    forced_plan = (fr_plan){.threads = 1,
                                            .rows = 1,
                                            .units = 1,
                                            .chunk = together ? 99 : FR_FOLLOWED_STEPS,
                                            .together = together};
                    CHECK(walk_two(&two, wishes[i], training) == FR_OK, "together %d", together);
                    forced_plan =
                        (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = FR_FOLLOWED_STEPS};
                    walk_one_by_one(&one_by_one, wishes[i], training);
                    for (int k = 0; k < 2; k++) {
                        CHECK(!memcmp(two.y[k], one_by_one.y[k], two.y_bytes),
                              "%s, options %d, together %d: y of layer %d", fr_cells[cell].name,
                              wishes[i], together, k);
                        for (int n = 0; n < 2; n++)
                            CHECK(!memcmp(two.state[k][n], one_by_one.state[k][n], two.state_bytes),
                                  "%s, options %d, together %d: state %d of layer %d",
                                  fr_cells[cell].name, wishes[i], together, n, k);
                    }
                    free_stack(&one_by_one), free_stack(&two);
                }
    forced_plan.rows = 0;
}

static void a_layer_does_not_follow_one_that_could_not_begin(void)
{
    for (int together = 0; together < 3; together++) {
        stack s = new_stack(FR_LSTM, FR_F32, TOKENS, 0);
        forced_plan =
            (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 99, .together = together};
        ((int64_t *)s.tokens)[T * B - 1] = -1;
        CHECK(walk_two(&s, TOKENS, 0) == FR_ETOKEN, "together %d", together);
        for (int k = 0; k < 2; k++)
            for (size_t i = 0; i < s.y_bytes; i++)
                CHECK(!((char *)s.y[k])[i], "together %d: y of layer %d is written", together, k);
        free_stack(&s);
    }
    forced_plan.rows = 0;
}

static void layers_that_do_not_fit_each_other_are_refused(void)
{
    const fr_seq seq = {.T = T, .B = B}, back = {.T = T, .B = B, .reverse = 1};
    fr_forward_args args[2];
    fr_layer layers[2] = {{FR_GRU, FR_F32, I, H}, {FR_GRU, FR_F32, H, H}};
    memset(args, 0, sizeof args);
    CHECK(fr_forward_two(NULL, &seq, args) == FR_EARG, "no layers");
    CHECK(fr_forward_two(layers, &seq, NULL) == FR_EARG, "no arguments");
    CHECK(fr_forward_two(layers, &seq, args) == FR_EARG, "no scratch");
    CHECK(fr_forward_two(layers, &back, args) == FR_EARG, "the other direction");
    CHECK(fr_forward_two_scratch_bytes(layers, &seq, 0) > 0, "they fit");
    CHECK(fr_forward_two_scratch_bytes(layers, &back, 0) == 0, "the other direction");
    layers[1].input_size = H + 1;
    CHECK(fr_forward_two(layers, &seq, args) == FR_EDIM, "more inputs than outputs");
    CHECK(fr_forward_two_scratch_bytes(layers, &seq, 0) == 0, "more inputs than outputs");
    CHECK(fr_forward_two_together(layers, &seq, 0) == 0, "more inputs than outputs");
    layers[1] = (fr_layer){FR_GRU, FR_F64, H, H};
    CHECK(fr_forward_two(layers, &seq, args) == FR_EARG, "float and double");
    CHECK(fr_forward_two_scratch_bytes(layers, &seq, 0) == 0, "float and double");
}

static void scratch_is_enough_for_two_layers_of_which_the_first_reads_tokens(void)
{
    const fr_layer layers[2] = {{FR_RNN_TANH, FR_F32, 256, 64}, {FR_RNN_TANH, FR_F32, 64, 64}};
    const fr_seq seq = {.T = 64, .B = 1, .threads = 2}, alone = {.T = 64, .B = 1, .threads = 1};
    size_t parts = 0;
    for (int i = 0; i < 2; i++)
        parts += fr_forward_scratch_bytes(&layers[i], &alone, 0);
    CHECK(fr_forward_two_together(layers, &seq, 1), "they are walked at the same time");
    CHECK(fr_forward_two_scratch_bytes(layers, &seq, 0) >= parts, "%zu bytes", parts);
}

/* ---- arguments ------------------------------------------------------------------------------ */

static void what_is_missing_is_told(void)
{
    const fr_layer layer = {FR_LSTM, FR_F32, I, H};
    const fr_seq seq = {.T = T, .B = B, .threads = 2}, bad = {.T = -1, .B = B};
    fr_forward_args f[2];
    fr_backward_args b[2];
    memset(f, 0, sizeof f);
    memset(b, 0, sizeof b);
    CHECK(fr_forward_both(&layer, &seq, NULL) == FR_EARG, "no arguments");
    CHECK(fr_backward_both(&layer, &seq, NULL) == FR_EARG, "no arguments");
    CHECK(fr_forward_both(&layer, &seq, f) == FR_EARG, "no scratch");
    CHECK(fr_backward_both(&layer, &seq, b) == FR_EARG, "no scratch");
    CHECK(fr_pack_both(&layer, &seq, FR_USE_DENSE, NULL, NULL) == FR_EARG, "nothing to pack");
    f[0].scratch = b[0].scratch = f;
    f[1].reserve = f;
    CHECK(fr_forward_both(&layer, &seq, f) == FR_EARG, "a reserve for one of them");
    f[1].reserve = NULL;
    CHECK(fr_forward_both(&layer, &bad, f) == FR_EDIM, "T = -1");
    CHECK(fr_backward_both(&layer, &bad, b) == FR_EDIM, "T = -1");
    CHECK(fr_forward_both(NULL, &seq, f) == FR_EARG, "no layer");
    CHECK(fr_forward_both_scratch_bytes(&layer, &bad, 0) == 0, "T = -1");
    CHECK(fr_backward_both_scratch_bytes(&layer, &bad, 0) == 0, "T = -1");
}

/* In turn, at the same time, and at the same time whoever sleeps. */
static void a_direction_that_cannot_begin_is_told_whichever_it_is(void)
{
    for (int together = 0; together < 3; together++)
        for (int bad = 0; bad < 2; bad++) {
            fr_forward_args f[2];
            fr_backward_args b[2];
            sides s = new_sides(FR_LSTM, FR_F32, NO_DX);
            forced_plan =
                (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 7, .together = together};
            solve(&s, 1, 2);
            arguments(&s, f, b);
            f[0].scratch = guarded(fr_forward_both_scratch_bytes(&s.layer, &s.seq, 1));
            b[0].scratch = guarded(fr_backward_both_scratch_bytes(&s.layer, &s.seq, 0));
            void *const reserve = f[bad].reserve;
            f[bad].reserve = NULL;
            CHECK(fr_forward_both(&s.layer, &s.seq, f) == FR_EARG, "%d, %d", together, bad);
            f[bad].reserve = reserve;
            f[bad].packed = b[bad].packed = NULL;
            CHECK(fr_forward_both(&s.layer, &s.seq, f) == FR_EARG, "%d, %d", together, bad);
            CHECK(fr_backward_both(&s.layer, &s.seq, b) == FR_EARG, "%d, %d", together, bad);
            release(f[0].scratch);
            release(b[0].scratch);
            free_sides(&s);
        }
    forced_plan.rows = 0;
}

static void sizes_that_no_memory_holds_have_no_scratch(void)
{
    const fr_layer layer = {FR_GRU, FR_F64, (int64_t)1 << 38, 64};
    const fr_seq seq = {.T = (int64_t)1 << 36, .B = 1 << 10, .threads = 2};
    CHECK(fr_backward_both_scratch_bytes(&layer, &seq, 0) == 0, "2^84 numbers");
}

int main(void)
{
    RUN_ON_EVERY_ISA(at_the_same_time_they_give_what_a_call_for_each_gives);
    RUN_ON_EVERY_ISA(one_after_the_other_they_give_what_a_call_for_each_gives);
    RUN_ON_EVERY_ISA(a_layer_that_follows_gives_what_a_call_of_its_own_gives);
    RUN(a_layer_does_not_follow_one_that_could_not_begin);
    RUN(layers_that_do_not_fit_each_other_are_refused);
    RUN(scratch_is_enough_for_two_layers_of_which_the_first_reads_tokens);
    RUN(a_bad_token_leaves_everything_as_it_was);
    RUN(what_is_missing_is_told);
    RUN(a_direction_that_cannot_begin_is_told_whichever_it_is);
    RUN(sizes_that_no_memory_holds_have_no_scratch);
    return summary();
}
