/* test_sequences.c: every cell, forward and backward, against the scalar reference.
 *
 * Each shape meets each option; element types, instruction sets and ways to split the work over
 * threads and time take turns, so that every pair of them occurs many times. What engine_solve
 * checks on the way (padding, canaries, inputs, a second run) holds for each of these cases. */
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "seams.h"

/* Odd on purpose: around tile heights (6, 10), panels (4 .. 32 units), FR_MC (72 columns of dG). */
static const struct {
    int T, B, I, H;
} shapes[] = {
    {1, 1, 1, 1},
    {1, 5, 3, 17},
    {7, 1, 2, 33},
    {3, 6, 1, 16},
    {4, 7, 5, 9},
    {5, 8, 17, 31},
    {3, 13, 4, 5},
    {2, 2, 33, 66},
    {9, 1, 1, 40},
    {12, 3, 2, 3},
    {2, 3, 2, 75},
    {0, 3, 2, 4},
    {4, 0, 2, 4},
    {6, 2, 1, 8},
    {2, 9, 9, 64},
    {3, 10, 3, 56},
    {1, 10, 5, 40},
    {37, 1, 70, 70},
    {29, 1, 70, 36},
    /* xw of a group of steps is complete between two gates of a panel */
    {37, 1, 5, 96},
};

static const struct {
    const char *name;
    int options;
} cases[] = {
    {"everything given", 0},
    {"no initial state", NO_STATE},
    {"h without c", NO_C},
    {"gradient only through the outputs", NO_DFINAL},
    {"gradient only through the final state", NO_DY},
    {"no gradient comes in", NO_DY | NO_DFINAL},
    {"dx not wanted", NO_DX},
    {"dx added into", ADD_DX},
    {"batch first", BATCH_FIRST},
    {"part of wider arrays", WIDER},
    {"time runs down in memory", DOWNWARD},
    {"reverse", REVERSE},
    {"reverse, no state, batch first", REVERSE | NO_STATE | BATCH_FIRST},
    {"ragged", RAGGED},
    {"ragged, reverse", RAGGED | REVERSE},
    {"ragged, no state, only the final gradient", RAGGED | NO_STATE | NO_DY},
    {"ragged, batch first, added dx", RAGGED | BATCH_FIRST | ADD_DX | WIDER},
    {"resets", RESETS},
    {"resets, ragged, reverse", RESETS | RAGGED | REVERSE},
    {"tokens", TOKENS | NO_DX},
    {"tokens, ragged, reverse, batch first", TOKENS | NO_DX | RAGGED | REVERSE | BATCH_FIRST},
    {"tokens, resets, no weight gradients", TOKENS | NO_DX | RESETS | NO_GRADS},
    {"no bias", NO_BIAS},
    {"no bias gradients", NO_BIAS_GRADS},
    {"no weight gradients", NO_GRADS},
    {"only the gradient of the initial state", NO_GRADS | NO_DX},
    {"only the weight gradients", NO_DX | NO_STATES_OUT},
    {"each step's gradient wanted", LOOK},
    {"each step's gradient wanted, ragged, reverse", LOOK | RAGGED | REVERSE | BATCH_FIRST},
    {"each step's gradient wanted, resets, no dy", LOOK | RESETS | NO_DY | WIDER},
    {"each step's gradient clipped by value", CLIP_VALUE},
    {"each step's gradient clipped by value, ragged, reverse",
     CLIP_VALUE | LOOK | RAGGED | REVERSE},
    {"each step's gradient clipped by norm", CLIP_NORM | LOOK},
    {"each step's gradient clipped by norm, resets, tokens", CLIP_NORM | RESETS | TOKENS | NO_DX},
    {"each step's gradient clipped by norm, ragged", CLIP_NORM | RAGGED | BATCH_FIRST},
    {"weight gradients set", SET_GRADS},
    {"weight gradients set, dx not wanted, no biases", SET_GRADS | NO_DX | NO_BIAS_GRADS},
    {"weight gradients set, ragged, reverse", SET_GRADS | RAGGED | REVERSE},
    {"weight gradients set, resets, no state", SET_GRADS | RESETS | NO_STATE},
    {"weight gradients set, tokens", SET_GRADS | TOKENS | NO_DX},
    {"weight gradients set, tokens, ragged", SET_GRADS | TOKENS | NO_DX | RAGGED},
    {"nothing to set, no gradient comes in", SET_GRADS | NO_DY | NO_DFINAL},
    {"nothing to set, no weight gradients", SET_GRADS | NO_GRADS},
    {"cleared past the ends", CLEAR_PAST | RAGGED},
    {"cleared past the ends, reverse", CLEAR_PAST | RAGGED | REVERSE | BATCH_FIRST | WIDER},
    {"cleared past the ends, downward, tokens", CLEAR_PAST | RAGGED | DOWNWARD | TOKENS | NO_DX},
    {"cleared past the ends but for dx, which is added to", CLEAR_PAST | RAGGED | ADD_DX},
    {"nothing past the ends to clear", CLEAR_PAST | WIDER},
    {"foreign products", FOREIGN},
    {"foreign products, weight gradients set", FOREIGN | SET_GRADS},
    {"foreign products, ragged, added dx", FOREIGN | RAGGED | ADD_DX | REVERSE},
    {"foreign products, cleared past the ends", FOREIGN | RAGGED | CLEAR_PAST},
    {"foreign products, tokens", FOREIGN | TOKENS | NO_DX | RESETS},
};

/* Threads 1 to 4 as rows x units; chunks of time that end within, at, and after the sequence; panels
 * dealt out or taken; x W made ahead, or shared out evenly. */
static const fr_plan plans[] = {
    {.threads = 1, .rows = 1, .units = 1, .chunk = 99},
    {.threads = 1, .rows = 1, .units = 1, .chunk = 2},
    {.threads = 2, .rows = 2, .units = 1, .chunk = 1},
    {.threads = 2, .rows = 1, .units = 2, .chunk = 3},
    {.threads = 3, .rows = 1, .units = 3, .chunk = 2},
    {.threads = 3, .rows = 3, .units = 1, .chunk = 4},
    {.threads = 4, .rows = 2, .units = 2, .chunk = 2},
    {.threads = 2, .rows = 1, .units = 2, .chunk = 1, .takes_over = 1},
    {.threads = 2, .rows = 1, .units = 2, .chunk = 3, .takes_over = 1},
    {.threads = 3, .rows = 1, .units = 3, .chunk = 2, .takes_over = 1},
    {.threads = 4, .rows = 2, .units = 2, .chunk = 2, .takes_over = 1},
    {.threads = 2, .rows = 1, .units = 1, .chunk = 3, .ahead = 1},
    {.threads = 2, .rows = 1, .units = 1, .chunk = 99, .ahead = 1},
    {.threads = 2, .rows = 1, .units = 1, .chunk = 1, .ahead = 1},
    {.threads = 2, .rows = 1, .units = 2, .chunk = 99},
    {.threads = 2, .rows = 1, .units = 2, .chunk = 20},
    {.threads = 3, .rows = 1, .units = 3, .chunk = 99},
    {.threads = 4, .rows = 1, .units = 4, .chunk = 99},
    {.threads = 2, .rows = 1, .units = 1, .chunk = 99, .ahead = 2},
    {.threads = 2, .rows = 1, .units = 1, .chunk = 25, .ahead = 2},
    {.threads = 2, .rows = 2, .units = 1, .chunk = 3, .evenly = 1},
    {.threads = 3, .rows = 3, .units = 1, .chunk = 99, .evenly = 1},
    {.threads = 4, .rows = 2, .units = 2, .chunk = 2, .evenly = 1},
    {.threads = 4, .rows = 2, .units = 2, .chunk = 1, .takes_over = 1, .evenly = 1},
};

#define COUNT(list) (int)(sizeof(list) / sizeof *(list))

static void compare(const problem *p, fr_dtype dtype, const answer *want, const char *name)
{
    const double forward = dtype == FR_F64 ? 1e-13 : 2e-6,
                 backward = dtype == FR_F64 ? 1e-12 : 1e-5;
    answer have = new_answer(p);
    const fr_status status = engine_solve(p, dtype, &have);
    CHECK(status == FR_OK, "%s", fr_status_text(status));
    for (int i = 0; i < ANSWERS; i++) {
        const double d = distance(have.of[i], want->of[i], have.count[i]);
        CHECK(d <= (i < DX ? forward : backward),
              "%s: %s, %s, %s, T %d B %d I %d H %d, plan %d x %d chunk %d: %s is off by %.2g",
              fr_isa(), cell_names[p->layer.cell], dtype == FR_F64 ? "f64" : "f32", name,
              (int)p->seq.T, (int)p->seq.B, (int)p->layer.input_size, (int)p->layer.hidden_size,
              forced_plan.rows, forced_plan.units, (int)forced_plan.chunk, answer_names[i], d);
    }
    free_answer(&have);
}

static void compare_all(fr_cell cell)
{
    int turn = (int)cell;
    for (int c = 0; c < COUNT(cases); c++)
        for (int s = 0; s < COUNT(shapes); s++) {
            problem *p = new_problem(cell, shapes[s].T, shapes[s].B, shapes[s].I, shapes[s].H,
                                     cases[c].options);
            answer want = new_answer(p);
            scalar_solve(p, &want);
            for (int isa = 0; fr_isa_name(isa); isa++) {
                if (fr_isa_select(fr_isa_name(isa)) != FR_OK)
                    continue;
                forced_plan = plans[turn++ % COUNT(plans)];
                compare(p, turn & 1 ? FR_F32 : FR_F64, &want, cases[c].name);
            }
            turn += s % 3 == 0; /* or the turns would go in step with the lists */
            free_answer(&want);
            free_problem(p);
        }
    forced_plan.rows = 0;
}

static void tanh_rnn_agrees_with_the_scalar_reference(void)
{
    compare_all(FR_RNN_TANH);
}

static void relu_rnn_agrees_with_the_scalar_reference(void)
{
    compare_all(FR_RNN_RELU);
}

static void sigmoid_rnn_agrees_with_the_scalar_reference(void)
{
    compare_all(FR_RNN_SIGMOID);
}

static void lstm_agrees_with_the_scalar_reference(void)
{
    compare_all(FR_LSTM);
}

static void gru_agrees_with_the_scalar_reference(void)
{
    compare_all(FR_GRU);
}

static void gru_before_agrees_with_the_scalar_reference(void)
{
    compare_all(FR_GRU_BEFORE);
}

/* Chunks of more than FR_KC rows: their weight gradients are summed block by block. */
static void a_chunk_of_many_rows_agrees_with_the_scalar_reference(void)
{
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int i = 0; i < 4; i++) {
            const int options = (i & 1 ? TOKENS | NO_DX : 0) | (i & 2 ? SET_GRADS : 0);
            problem *p = new_problem((fr_cell)cell, 27, 13, 3, 5, options);
            answer want = new_answer(p);
            scalar_solve(p, &want);
            for (int threads = 1; threads <= 2; threads++) {
                forced_plan =
                    (fr_plan){.threads = threads, .rows = 1, .units = threads, .chunk = 27};
                compare(p, cell & 1 ? FR_F32 : FR_F64, &want, "27 * 13 rows");
            }
            free_answer(&want);
            free_problem(p);
        }
    forced_plan.rows = 0;
}

/* How many blocks of a single row's weights are read side by side depends on what the cache holds. Widths
 * of a last panel: a quarter, half, three quarters of it, all. */
static void a_single_row_agrees_with_the_scalar_reference_whatever_the_cache_holds(void)
{
    const int64_t sizes[] = {36, 72, 100, 112, 120, 128};
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            problem *p = new_problem((fr_cell)cell, 4, 1, 5, sizes[i], 0);
            answer want = new_answer(p);
            scalar_solve(p, &want);
            for (int units = 1; units <= 2; units++)
                for (size_t l1 = 16 << 10; l1 <= 64 << 10; l1 += 16 << 10) {
                    char text[40];
                    snprintf(text, sizeof text, "%d KB", (int)(l1 >> 10));
                    forced_plan =
                        (fr_plan){.threads = units, .rows = 1, .units = units, .chunk = 4};
                    forced_l1_bytes = l1;
                    compare(p, FR_F32, &want, text);
                }
            free_answer(&want);
            free_problem(p);
        }
    forced_plan.rows = 0;
    forced_l1_bytes = 0;
}

static void compare_dealt_with_taken(const problem *p, fr_plan plan)
{
    answer dealt = new_answer(p), taken = new_answer(p);
    forced_plan = plan;
    CHECK(engine_solve(p, FR_F32, &dealt) == FR_OK, "dealt out");
    forced_plan.takes_over = 1;
    CHECK(engine_solve(p, FR_F32, &taken) == FR_OK, "taken");
    for (int i = 0; i < ANSWERS; i++)
        CHECK(!dealt.count[i] || !memcmp(dealt.of[i], taken.of[i], dealt.count[i] * sizeof(double)),
              "%d parts of the batch: %s differs", plan.rows, answer_names[i]);
    free_answer(&dealt), free_answer(&taken);
    forced_plan.rows = 0;
}

/* Four threads on fewer cores take panels in a different order every time. */
static void a_panel_is_the_same_bit_for_bit_whoever_computes_it(void)
{
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int options = 0; options <= RAGGED; options += RAGGED) {
            problem *p = new_problem((fr_cell)cell, 9, 7, 5, 130, options);
            compare_dealt_with_taken(p, (fr_plan){.threads = 4, .rows = 1, .units = 4, .chunk = 2});
            free_problem(p);
        }
}

/* A chunk of 330 rows is added up in two rounds, in several blocks of a gate; dx has two panels and more. */
static void a_gradient_is_the_same_bit_for_bit_whoever_adds_it_up(void)
{
    const int options[] = {0, RAGGED, SET_GRADS, TOKENS};
    /* The parts of the last one add up together. */
    const fr_plan shared[] = {{.threads = 2, .rows = 1, .units = 2, .chunk = 2},
                              {.threads = 4, .rows = 2, .units = 2, .chunk = 2},
                              {.threads = 4, .rows = 2, .units = 2, .chunk = 2, .evenly = 1}};
    for (int cell = 0; cell < FR_CELLS; cell++) { /* large problems: of six cells, each has one */
        problem *p = new_problem((fr_cell)cell, 3, 165, 40, 160, options[cell % COUNT(options)]);
        compare_dealt_with_taken(p, shared[cell % COUNT(shared)]);
        free_problem(p);
    }
}

static void weights_asked_for_early_give_the_same_numbers_bit_for_bit(void)
{
    const fr_plan plans[] = {{.threads = 1, .rows = 1, .units = 1, .chunk = 3},
                             {.threads = 2, .rows = 2, .units = 1, .chunk = 3},
                             {.threads = 2, .rows = 1, .units = 2, .chunk = 3, .takes_over = 1}};
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int64_t B = 1; B <= 26; B += 5) {
            problem *p = new_problem((fr_cell)cell, 5, B, 70, 90, B == 16 ? RAGGED : 0);
            answer near = new_answer(p), far = new_answer(p);
            forced_plan = plans[(cell + B) % 3];
            CHECK(engine_solve(p, FR_F32, &near) == FR_OK, "near");
            forced_plan.far = 1;
            CHECK(engine_solve(p, FR_F32, &far) == FR_OK, "far");
            for (int i = 0; i < ANSWERS; i++)
                CHECK(!near.count[i] ||
                          !memcmp(near.of[i], far.of[i], near.count[i] * sizeof(double)),
                      "%s, B %d: %s differs", cell_names[cell], (int)B, answer_names[i]);
            free_answer(&near), free_answer(&far);
            free_problem(p);
        }
    forced_plan.rows = 0;
}

/* Tiles of x W that take longer than their steps: who walks finds them begun, and makes others meanwhile. */
static void input_products_made_out_of_turn_are_the_same_bit_for_bit(void)
{
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int64_t chunk = 47; chunk <= 300; chunk += 253) {
            problem *p = new_problem((fr_cell)cell, 300, 1, 250, 8, chunk == 47 ? REVERSE : 0);
            answer in_turn = new_answer(p), out_of_turn = new_answer(p);
            forced_plan =
                (fr_plan){.threads = 2, .rows = 1, .units = 1, .chunk = chunk, .ahead = 1};
            CHECK(engine_solve(p, FR_F32, &in_turn) == FR_OK, "in turn");
            forced_plan.ahead = 2;
            CHECK(engine_solve(p, FR_F32, &out_of_turn) == FR_OK, "out of turn");
            CHECK(!memcmp(in_turn.of[0], out_of_turn.of[0], in_turn.count[0] * sizeof(double)),
                  "%s, chunk %d: %s differs", cell_names[cell], (int)chunk, answer_names[0]);
            free_answer(&in_turn), free_answer(&out_of_turn);
            free_problem(p);
        }
    forced_plan.rows = 0;
}

/* The plan that the engine makes by itself, large enough for threads. */
static void a_split_by_the_engine_agrees_with_the_scalar_reference(void)
{
    for (int threads = 1; threads <= 3; threads++) {
        problem *p = new_problem(FR_LSTM, 10, 24, 30, 96, 0);
        answer want = new_answer(p);
        scalar_solve(p, &want);
        fr_set_num_threads(threads);
        compare(p, FR_F32, &want, "large");
        free_answer(&want);
        free_problem(p);
    }
    fr_set_num_threads(1);
}

int main(void)
{
    RUN(tanh_rnn_agrees_with_the_scalar_reference);
    RUN(relu_rnn_agrees_with_the_scalar_reference);
    RUN(sigmoid_rnn_agrees_with_the_scalar_reference);
    RUN(lstm_agrees_with_the_scalar_reference);
    RUN(gru_agrees_with_the_scalar_reference);
    RUN(gru_before_agrees_with_the_scalar_reference);
    RUN_ON_EVERY_ISA(a_chunk_of_many_rows_agrees_with_the_scalar_reference);
    RUN_ON_EVERY_ISA(a_single_row_agrees_with_the_scalar_reference_whatever_the_cache_holds);
    RUN_ON_EVERY_ISA(a_panel_is_the_same_bit_for_bit_whoever_computes_it);
    RUN_ON_EVERY_ISA(a_gradient_is_the_same_bit_for_bit_whoever_adds_it_up);
    RUN_ON_EVERY_ISA(input_products_made_out_of_turn_are_the_same_bit_for_bit);
    RUN_ON_EVERY_ISA(weights_asked_for_early_give_the_same_numbers_bit_for_bit);
    RUN_ON_EVERY_ISA(a_split_by_the_engine_agrees_with_the_scalar_reference);
    return summary();
}
