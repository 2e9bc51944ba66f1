/* test_plan.c: how work is split. Whatever the plan, every row and every panel of units must have
 * exactly one owner at every step. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "problem.h"
#include "seams.h"

static const int64_t sizes_T[] = {0, 1, 2, 50, 1000}, sizes_B[] = {0, 1, 2, 3, 7, 64, 500};
static const int64_t sizes_I[] = {1, 65, 1024}, sizes_H[] = {1, 8, 33, 256, 1000};
static const int panels[] = {4, 8, 16, 32};

enum { MOST_THREADS = 9 };

#define FOR(i, list) for (size_t i = 0; i < sizeof(list) / sizeof *(list); i++)

typedef void plan_fn(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                     fr_pass pass);

static void for_many_sizes(plan_fn *check)
{
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int dtype = 0; dtype < FR_DTYPES; dtype++)
            FOR(t, sizes_T)
    FOR(b, sizes_B)
    FOR(i, sizes_I)
    FOR(h, sizes_H)
    FOR(p, panels)
    {
        const fr_layer layer = {(fr_cell)cell, (fr_dtype)dtype, sizes_I[i], sizes_H[h]};
        const int threads = 1 + (int)((t + b + i + h + p) % MOST_THREADS);
        check(&layer, sizes_T[t], sizes_B[b], threads, panels[p], (fr_pass)((cell + (int)h) % 3));
    }
}

static int is_same(const fr_plan *a, const fr_plan *b)
{
    return a->threads == b->threads && a->rows == b->rows && a->units == b->units &&
           a->chunk == b->chunk && a->far == b->far && a->evenly == b->evenly &&
           a->takes_over == b->takes_over && a->ahead == b->ahead && a->offered == b->offered &&
           a->together == b->together;
}

static void check_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                       fr_pass pass)
{
    const int64_t P = (layer->hidden_size + panel - 1) / panel;
    const fr_plan plan = shipped_make_plan(layer, T, B, threads, panel, pass);
    const fr_plan again = shipped_make_plan(layer, T, B, threads, panel, pass);
    CHECK(plan.rows >= 1 && plan.units >= 1 &&
              plan.threads == plan.rows * plan.units + (plan.ahead > 0) && plan.threads <= threads,
          "%d x %d = %d of %d threads", plan.rows, plan.units, plan.threads, threads);
    CHECK(plan.ahead == 0 || (pass == FR_PASS_FORWARD && plan.threads == 2),
          "ahead in pass %d with %d threads", (int)pass, plan.threads);
    CHECK(plan.rows <= (B ? B : 1), "%d parts of %d rows", plan.rows, (int)B);
    CHECK(plan.units <= P, "%d parts of %d panels", plan.units, (int)P);
    CHECK(!plan.together || threads > 1, "directions at the same time on %d threads", threads);
    CHECK(plan.chunk >= 1 && plan.chunk <= (T ? T : 1), "chunk %d of %d steps", (int)plan.chunk,
          (int)T);
    CHECK(is_same(&plan, &again), "T %d B %d", (int)T, (int)B);
}

static void a_plan_fits_the_sizes_and_is_the_same_when_asked_again(void)
{
    for_many_sizes(check_plan);
}

/* The newest plans are remembered. Each size that differs from those asked for before in one respect is a
 * trap for a memory that looks at all the others. */
static void a_plan_is_never_that_of_other_sizes(void)
{
    static const int first[8] = {0, 0, 1, 1, 1, 1, 1, 1}, step[8] = {1, 1, 40, 40, 10, 7, 1, 1};
    static const int count[8] = {FR_CELLS, FR_DTYPES, 4000, 4000, 4000, 4000, 9, 64};
    for (int field = 0; field < 8; field++)
        for (int value = 0; value < 80; value++) {
            int of[8] = {FR_RNN_TANH, FR_F32, 64, 128, 50, 8, 2, 16};
            of[field] = first[field] + value * step[field] % count[field];
            const fr_layer layer = {(fr_cell)of[0], (fr_dtype)of[1], of[2], of[3]};
            for (int ask = 0; ask < 6; ask++) {
                const fr_pass pass = (fr_pass)(ask % 3);
                const fr_plan fresh = fresh_plan(&layer, of[4], of[5], of[6], of[7], pass);
                const fr_plan plan = shipped_make_plan(&layer, of[4], of[5], of[6], of[7], pass);
                CHECK(is_same(&plan, &fresh), "field %d at %d, pass %d: %d x %d, chunk %d", field,
                      of[field], (int)pass, plan.rows, plan.units, (int)plan.chunk);
            }
        }
}

static void a_large_problem_uses_every_thread_and_a_tiny_one_only_one(void)
{
    const fr_layer large = {FR_LSTM, FR_F32, 512, 512}, tiny = {FR_LSTM, FR_F32, 2, 4};
    for (int threads = 1; threads <= 8; threads *= 2)
        for (int backward = 0; backward < 2; backward++) {
            const fr_plan much = shipped_make_plan(&large, 50, 64, threads, 16, (fr_pass)backward);
            const fr_plan little = shipped_make_plan(&tiny, 1, 1, threads, 16, (fr_pass)backward);
            CHECK(much.threads == threads, "%d of %d threads", much.threads, threads);
            CHECK(little.threads == 1, "%d threads for 4 units", little.threads);
        }
}

/* Only threads that share rows can take over each other's panels, and only if a step is worth it. */
static void threads_take_over_panels_where_a_step_is_long(void)
{
    const fr_layer large = {FR_LSTM, FR_F32, 512, 512}, small = {FR_LSTM, FR_F32, 128, 128};
    for (int threads = 1; threads <= 4; threads++) {
        const fr_plan much = shipped_make_plan(&large, 50, 64, threads, 16, 0);
        const fr_plan little = shipped_make_plan(&small, 50, 64, threads, 16, 0);
        const fr_plan one_row = shipped_make_plan(&large, 50, 1, threads, 16, 0);
        const fr_plan back = shipped_make_plan(&large, 50, 64, threads, 16, 1);
        const fr_plan tall = shipped_make_plan(&small, 50, 2048, threads, 16, 1);
        CHECK(much.takes_over == (threads > 1), "%d threads, a long step", threads);
        CHECK(!much.takes_over || much.units > 1, "%d threads, but nobody shares rows", threads);
        CHECK(!little.takes_over, "%d threads, a short step", threads);
        CHECK(!one_row.takes_over, "%d threads, a single row", threads);
        CHECK(back.takes_over == (threads > 1), "%d threads, backward", threads);
        CHECK(!tall.takes_over, "%d threads, backward of few units and many rows", threads);
    }
}

/* Of what the third level of cache keeps for us alone, too, asking early would cost 1%, unless that level is a
 * slow one. */
static void weights_are_asked_for_early_where_they_come_from_far_away(void)
{
    const struct {
        fr_layer layer;
        int forward, backward;           /* with FR_NEAR_BYTES */
        int slow_forward, slow_backward; /* with a megabyte */
    } cases[] = {{{FR_LSTM, FR_F32, 650, 650}, 1, 1, 1, 1},
                 {{FR_LSTM, FR_F64, 650, 650}, 1, 1, 1, 1},
                 {{FR_LSTM, FR_F32, 512, 512}, 0, 1, 1, 1},
                 {{FR_GRU, FR_F32, 1024, 1024}, 1, 1, 1, 1},
                 {{FR_RNN_TANH, FR_F32, 650, 650}, 0, 1, 1, 1},
                 {{FR_LSTM, FR_F32, 256, 256}, 0, 0, 1, 1},
                 {{FR_LSTM, FR_F64, 400, 400}, 1, 1, 1, 1},
                 {{FR_RNN_TANH, FR_F32, 512, 512}, 0, 0, 1, 1},
                 {{FR_LSTM, FR_F32, 128, 128}, 0, 0, 0, 1},
                 {{FR_RNN_TANH, FR_F32, 128, 128}, 0, 0, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int threads = 1; threads <= 2; threads++)
            for (int slow = 0; slow < 2; slow++) {
                const fr_layer *layer = &cases[i].layer;
                forced_near_bytes = slow ? 1 << 20 : FR_NEAR_BYTES;
                CHECK(fresh_plan(layer, 35, 20, threads, 32, FR_PASS_FORWARD).far ==
                          (slow ? cases[i].slow_forward : cases[i].forward),
                      "case %d forward", (int)i);
                CHECK(fresh_plan(layer, 35, 20, threads, 32, FR_PASS_BACKWARD).far ==
                          (slow ? cases[i].slow_backward : cases[i].backward),
                      "case %d backward", (int)i);
            }
    forced_near_bytes = FR_NEAR_BYTES;
}

/* Of three rows one thread has two, but its x W, and the sums of its gradients, need not take twice as long. */
static void uneven_parts_share_out_what_is_summed_over_time(void)
{
    const fr_layer wide = {FR_LSTM, FR_F32, 649, 56}, narrow = {FR_LSTM, FR_F32, 2, 56};
    for (int64_t B = 3; B <= 11; B++)
        for (int threads = 1; threads <= 3; threads++) {
            const fr_plan there = shipped_make_plan(&wide, 22, B, threads, 32, FR_PASS_FORWARD);
            const fr_plan little = shipped_make_plan(&narrow, 22, B, threads, 32, FR_PASS_FORWARD);
            const fr_plan tokens = shipped_make_plan(&wide, 22, B, threads, 32, FR_PASS_STEPS);
            const fr_plan back = shipped_make_plan(&wide, 22, B, threads, 32, FR_PASS_BACKWARD);
            CHECK(there.evenly == (B % there.rows > 0), "B %d on %d", (int)B, there.rows);
            CHECK(back.evenly == (B % back.rows > 0), "B %d on %d, back", (int)B, back.rows);
            CHECK(!little.evenly, "B %d: to meet would take longer", (int)B);
            CHECK(!tokens.evenly, "B %d: no x W", (int)B);
        }
    const fr_plan nearly = shipped_make_plan(&wide, 22, 65, 2, 32, FR_PASS_BACKWARD);
    CHECK(nearly.rows == 2 && !nearly.evenly, "33 and 32 rows add up on their own");
}

/* A service's threads sleep between two calls: of a short one, they go on sleeping. */
static void short_calls_wake_nobody(void)
{
    const fr_layer small = {FR_LSTM, FR_F32, 10, 25}, large = {FR_LSTM, FR_F32, 512, 512};
    for (int pass = FR_PASS_FORWARD; pass <= FR_PASS_STEPS; pass++) {
        const fr_plan brief = shipped_make_plan(&small, 5, 32, 2, 32, (fr_pass)pass);
        const fr_plan lengthy = shipped_make_plan(&large, 50, 64, 2, 32, (fr_pass)pass);
        const fr_plan one = shipped_make_plan(&small, 5, 32, 1, 32, (fr_pass)pass);
        CHECK(brief.threads == 1 || brief.offered == 1, "pass %d", pass);
        CHECK(lengthy.threads == 2 && !lengthy.offered, "pass %d", pass);
        CHECK(!one.offered, "pass %d", pass);
    }
    CHECK(shipped_make_plan(&small, 5, 32, 2, 32, FR_PASS_FORWARD).offered == 1, "two threads");
}

/* Threads that meet at every step are slower than one where their cores are far apart, however many steps
 * there are, unless a step gains more than that costs. */
static void long_calls_of_short_steps_are_timed(void)
{
    const fr_layer small = {FR_GRU, FR_F32, 64, 64}, large = {FR_LSTM, FR_F32, 256, 256};
    for (int pass = FR_PASS_FORWARD; pass <= FR_PASS_STEPS; pass++) {
        const fr_plan many = shipped_make_plan(&small, 5000, 1, 2, 32, (fr_pass)pass);
        const fr_plan rows = shipped_make_plan(&small, 500, 64, 2, 32, (fr_pass)pass);
        const fr_plan wide = shipped_make_plan(&large, 5000, 1, 2, 32, (fr_pass)pass);
        CHECK(many.units == 2 && many.offered == 2, "pass %d: %d", pass, many.offered);
        CHECK(rows.rows == 2 && !rows.offered, "parts of the batch, pass %d", pass);
        CHECK(wide.units == 2 && !wide.offered, "long steps, pass %d", pass);
    }
}

/* A single row of a small layer: nothing to share but x W. */
static void a_thread_works_ahead_of_a_single_row(void)
{
    const fr_layer small = {FR_LSTM, FR_F32, 32, 32}, wide = {FR_LSTM, FR_F32, 1000, 32};
    const fr_plan one = shipped_make_plan(&small, 50, 1, 1, 32, FR_PASS_FORWARD);
    const fr_plan two = shipped_make_plan(&small, 50, 1, 4, 32, FR_PASS_FORWARD);
    const fr_plan inputs = shipped_make_plan(&wide, 50, 1, 4, 32, FR_PASS_FORWARD);
    const fr_plan brief = shipped_make_plan(&small, 5, 1, 4, 32, FR_PASS_FORWARD);
    const fr_plan tokens = shipped_make_plan(&small, 50, 1, 4, 32, FR_PASS_STEPS);
    CHECK(!one.ahead, "one thread");
    CHECK(two.ahead == 1 && two.threads == 2, "50 steps: %d threads", two.threads);
    CHECK(inputs.ahead == 2, "x W longest");
    CHECK(!brief.ahead, "5 steps");
    CHECK(!tokens.ahead, "tokens");
}

/* A thread for each direction where two would meet at every step, or have too little to share; not where
 * one is too few, nor of a single row whose weights one core cannot keep. */
static void directions_are_walked_at_the_same_time_where_that_is_faster(void)
{
    const fr_layer small = {FR_LSTM, FR_F32, 32, 32}, middle = {FR_GRU, FR_F32, 128, 128},
                   large = {FR_LSTM, FR_F32, 512, 512};
    for (int backward = 0; backward < 2; backward++) {
        const fr_pass pass = (fr_pass)backward;
        CHECK(shipped_make_plan(&small, 50, 1, 2, 32, pass).together == 1, "pass %d", backward);
        CHECK(shipped_make_plan(&middle, 100, 1, 2, 32, pass).together, "pass %d", backward);
        CHECK(!shipped_make_plan(&small, 50, 1, 1, 32, pass).together, "one thread");
        CHECK(!shipped_make_plan(&small, 1, 1, 2, 32, pass).together, "a single step");
        CHECK(!shipped_make_plan(&large, 50, 1, 2, 32, pass).together, "4 MB a step");
        CHECK(!shipped_make_plan(&middle, 500, 64, 8, 32, pass).together, "eight threads");
    }
    CHECK(shipped_make_plan(&large, 50, 64, 2, 32, FR_PASS_FORWARD).takes_over &&
              !shipped_make_plan(&large, 50, 64, 2, 32, FR_PASS_FORWARD).together,
          "long steps");
    CHECK(shipped_make_plan(&middle, 500, 64, 2, 32, FR_PASS_BACKWARD).together == 2,
          "long calls wake the other thread");
}

/* Who walks for all the others has room for so many walkers. */
static void no_thread_walks_for_more_than_it_has_room_for(void)
{
    for (int64_t H = 16; H <= 256; H *= 2)
        for (int64_t B = 8; B <= 64; B *= 2)
            for (int64_t T = 1; T <= 64; T *= 2)
                for (int pass = FR_PASS_FORWARD; pass <= FR_PASS_BACKWARD; pass++) {
                    const fr_layer layer = {FR_LSTM, FR_F32, H, H};
                    const fr_plan plan = shipped_make_plan(&layer, T, B, 64, 16, (fr_pass)pass);
                    CHECK(!plan.offered || plan.threads <= FR_MOST_ALONE,
                          "T %d, B %d, H %d: %d threads", (int)T, (int)B, (int)H, plan.threads);
                }
}

/* A thread for each of two layers where a call of one alone could not use two, or they would meet often. */
static void layers_are_walked_at_the_same_time_where_that_is_faster(void)
{
    const fr_layer small[2] = {{FR_LSTM, FR_F32, 65, 32}, {FR_LSTM, FR_F32, 32, 32}};
    const fr_layer large[2] = {{FR_LSTM, FR_F32, 256, 256}, {FR_LSTM, FR_F32, 256, 256}};
    for (int pass = FR_PASS_FORWARD; pass <= FR_PASS_STEPS;
         pass += FR_PASS_STEPS - FR_PASS_FORWARD) {
        const fr_pass passes[2] = {(fr_pass)pass, FR_PASS_FORWARD};
        CHECK(shipped_layers_at_once(small, 50, 1, 2, 32, passes) == 1, "pass %d", pass);
        CHECK(shipped_layers_at_once(small, 100000, 1, 2, 32, passes) == 2, "pass %d", pass);
        CHECK(!shipped_layers_at_once(small, 50, 1, 1, 32, passes), "one thread");
        CHECK(!shipped_layers_at_once(small, 8, 1, 2, 32, passes), "8 steps");
        CHECK(!shipped_layers_at_once(small, 50, 0, 2, 32, passes), "no rows");
        CHECK(!shipped_layers_at_once(large, 50, 1, 2, 32, passes), "x W is woven");
    }
}

static void a_plan_is_told_for_the_threads_and_lengths_that_are_set(void)
{
    const fr_layer layer = {FR_GRU, FR_F32, 64, 200};
    const int64_t lengths[3] = {4, 9, 1};
    const fr_seq ragged = {.T = 20, .B = 3, .lengths = lengths};
    fr_plan told;
    fr_set_num_threads(3);
    const fr_status status = fr_plan_describe(&told, &layer, &ragged, 1);
    const fr_plan want =
        shipped_make_plan(&layer, 9, 3, 3, fr_current_kernels()->typed[FR_F32].nr, 1);
    fr_set_num_threads(1);
    CHECK(status == FR_OK, "%s", fr_status_text(status));
    CHECK(told.rows == want.rows && told.units == want.units && told.chunk == want.chunk,
          "told %d x %d, chunk %d", told.rows, told.units, (int)told.chunk);
}

/* ---- parts -------------------------------------------------------------------------------- */

/* Every (row, panel) has one owner; rows_before counts the rows of the parts before; and when only
 * the first `active` rows still run, the parts' active rows are those. */
static void check_parts(int rows, int units, int64_t B, int64_t P, int ragged)
{
    const fr_plan plan = {.threads = rows * units, .rows = rows, .units = units, .chunk = 1};
    int64_t lengths[64] = {0};
    fr_rows of = {.T = 1, .B = B, .len = ragged ? lengths : NULL};
    char *owners = calloc((size_t)(B * P + 1), 1);
    int64_t rows_seen = 0;
    for (int tid = 0; tid < plan.threads; tid++) {
        const fr_part part = fr_plan_part(&plan, &of, P, tid);
        if (tid % units == 0) {
            CHECK(part.rows_before == rows_seen, "thread %d of %d x %d, B %d", tid, rows, units,
                  (int)B);
            rows_seen += part.nj;
        }
        for (int64_t q = 0; q < part.nj; q++)
            for (int64_t panel = part.p0; panel < part.p1; panel++) {
                const int64_t j = fr_part_row(&part, q);
                CHECK(j < B && panel < P, "row %d panel %d", (int)j, (int)panel);
                if (j < B && panel < P)
                    owners[j * P + panel]++;
            }
    }
    for (int64_t i = 0; i < B * P; i++)
        CHECK(owners[i] == 1, "%d x %d, B %d P %d, %s: row %d panel %d has %d owners", rows, units,
              (int)B, (int)P, ragged ? "ragged" : "full", (int)(i / P), (int)(i % P), owners[i]);
    for (int64_t active = 0; active <= B; active++) {
        int64_t sum = 0;
        for (int r = 0; r < rows; r++) {
            const fr_part part = fr_plan_part(&plan, &of, P, r * units);
            const int64_t n = fr_part_active(&part, active);
            CHECK(n == 0 || fr_part_row(&part, n - 1) < active, "active %d", (int)active);
            sum += n;
        }
        CHECK(sum == active, "%d rows active, parts have %d", (int)active, (int)sum);
    }
    free(owners);
}

static void every_row_and_panel_has_one_owner(void)
{
    for (int ragged = 0; ragged < 2; ragged++)
        for (int rows = 1; rows <= 5; rows++)
            for (int units = 1; units <= 4; units++)
                for (int64_t B = 0; B <= 17; B++)
                    for (int64_t P = 1; P <= 9; P++)
                        check_parts(rows, units, B, P, ragged);
}

/* Always in the same order, the first part would have the longest row of every round. */
static void ragged_rows_are_dealt_out_to_and_fro(void)
{
    enum { B = 32 };
    int64_t lengths[B]; /* longest first, as the engine sorts them */
    for (int j = 0; j < B; j++)
        lengths[j] = 100 - 3 * j;
    for (int rows = 2; rows <= 5; rows++) {
        const fr_plan plan = {.threads = rows, .rows = rows, .units = 1, .chunk = 1};
        int64_t least = 100 * B, most = 0, all = 0;
        const int64_t n = B / rows / 2 * rows * 2; /* as many times to as fro */
        const fr_rows of = {.T = 100, .B = n, .len = lengths};
        for (int tid = 0; tid < rows; tid++) {
            const fr_part part = fr_plan_part(&plan, &of, 1, tid);
            int64_t steps = 0;
            for (int64_t q = 0; q < part.nj; q++)
                steps += lengths[fr_part_row(&part, q)];
            least = steps < least ? steps : least;
            most = steps > most ? steps : most;
            all += part.nj;
        }
        CHECK(least == most && all == n, "%d parts: %d to %d steps", rows, (int)least, (int)most);
    }
}

/* What goes from core to core goes the way of what comes from a slow third level of cache. */
static void threads_meet_less_often_where_the_third_level_of_cache_is_slow(void)
{
    const fr_layer small = {FR_RNN_TANH, FR_F32, 64, 64}, large = {FR_LSTM, FR_F32, 256, 256};
    for (int slow = 0; slow < 2; slow++) {
        forced_near_bytes = slow ? 1 << 20 : FR_NEAR_BYTES;
        CHECK(fresh_plan(&small, 5000, 1, 2, 32, FR_PASS_BACKWARD).units == 2 - slow, "%d", slow);
        CHECK(fresh_plan(&large, 5000, 1, 2, 32, FR_PASS_BACKWARD).units == 2, "%d", slow);
    }
    forced_near_bytes = FR_NEAR_BYTES;
}

int main(void)
{
    forced_near_bytes = FR_NEAR_BYTES; /* plans of one kind of machine, wherever this is */
    RUN(a_plan_fits_the_sizes_and_is_the_same_when_asked_again);
    RUN(a_plan_is_never_that_of_other_sizes);
    RUN(a_large_problem_uses_every_thread_and_a_tiny_one_only_one);
    RUN(weights_are_asked_for_early_where_they_come_from_far_away);
    RUN(threads_meet_less_often_where_the_third_level_of_cache_is_slow);
    RUN(uneven_parts_share_out_what_is_summed_over_time);
    RUN(threads_take_over_panels_where_a_step_is_long);
    RUN(short_calls_wake_nobody);
    RUN(long_calls_of_short_steps_are_timed);
    RUN(no_thread_walks_for_more_than_it_has_room_for);
    RUN(a_thread_works_ahead_of_a_single_row);
    RUN(directions_are_walked_at_the_same_time_where_that_is_faster);
    RUN(layers_are_walked_at_the_same_time_where_that_is_faster);
    RUN(a_plan_is_told_for_the_threads_and_lengths_that_are_set);
    RUN(every_row_and_panel_has_one_owner);
    RUN(ragged_rows_are_dealt_out_to_and_fro);
    return summary();
}
