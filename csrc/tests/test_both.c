/* test_both.c: both directions of a layer in one call. Whether they are walked one after the other or at
 * the same time, all numbers are those of a call for each, bit for bit. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "seams.h"

enum { T = 7, B = 3, I = 5, H = 20 };
enum { RAGGED = 1, RESETS = 2, TOKENS = 4, ADD_DX = 8, BATCH_FIRST = 16, NO_DX = 32 };

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
    s.y = zeros(T * B * 2 * H * s.real);
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
        b[d].grads = (fr_weight_grads){s->grads[d][0], s->grads[d][1], s->grads[d][2], s->grads[d][3]};
        if (!(s->options & NO_DX))
            b[d].dx = array_of(s, s->dx, I, 0);
        b[d].dx_add = (s->options & ADD_DX) != 0;
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
            w[d] = (fr_weights){s->weights[d][0], s->weights[d][1], s->weights[d][2], s->weights[d][3]};
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
        const fr_weights w = {s->weights[d][0], s->weights[d][1], s->weights[d][2], s->weights[d][3]};
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

static const int cases[] = {0,
                            ADD_DX,
                            NO_DX,
                            BATCH_FIRST,
                            RESETS,
                            RAGGED | ADD_DX,
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
            free_sides(&both), free_sides(&one_by_one);
        }
    forced_plan.rows = 0;
}

static void at_the_same_time_they_give_what_a_call_for_each_gives(void)
{
    for (int chunk = 2; chunk <= 7; chunk += 5) {
        compare_all((fr_plan){1, 1, 1, chunk, 0, 0, 0, 1}, 2, "at the same time if both are awake");
        compare_all((fr_plan){1, 1, 1, chunk, 0, 0, 0, 2}, 2, "at the same time");
    }
}

static void one_after_the_other_they_give_what_a_call_for_each_gives(void)
{
    compare_all((fr_plan){2, 2, 1, 3, 0, 0, 0, 0}, 2, "one after the other, rows shared out");
    compare_all((fr_plan){2, 1, 2, 3, 0, 0, 0, 0}, 2, "one after the other, units shared out");
}

static void a_bad_token_leaves_everything_as_it_was(void)
{
    for (int together = 0; together < 3; together++) {
        fr_forward_args f[2];
        fr_backward_args b[2];
        sides s = new_sides(FR_GRU, FR_F32, TOKENS | NO_DX);
        forced_plan = (fr_plan){1, 1, 1, 7, 0, 0, 0, together};
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
    CHECK(fr_forward_both(&layer, &bad, f) == FR_EDIM, "T = -1");
    CHECK(fr_backward_both(&layer, &bad, b) == FR_EDIM, "T = -1");
    CHECK(fr_forward_both(NULL, &seq, f) == FR_EARG, "no layer");
    CHECK(fr_forward_both_scratch_bytes(&layer, &bad, 0) == 0, "T = -1");
    CHECK(fr_backward_both_scratch_bytes(&layer, &bad, 0) == 0, "T = -1");
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
    RUN(a_bad_token_leaves_everything_as_it_was);
    RUN(what_is_missing_is_told);
    RUN(sizes_that_no_memory_holds_have_no_scratch);
    return summary();
}
