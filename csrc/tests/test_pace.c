/* test_pace.c: two threads or one, by what calls have taken. The times of the first tests are made up. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "seams.h"

/* Of `calls` calls, which take so long with two threads and with one, how many were one thread's. */
static int calls_alone(fr_pace *pace, int calls, int64_t together_ns, int64_t alone_ns)
{
    int n = 0;
    for (int i = 0; i < calls; i++) {
        const int alone = fr_pace_next(pace);
        fr_pace_note(pace, alone, alone ? alone_ns : together_ns);
        n += alone;
    }
    return n;
}

static void the_slower_way_is_taken_for_one_call_in_a_hundred(void)
{
    fr_pace pace = {0};
    calls_alone(&pace, 100, 10, 15);
    const int alone = calls_alone(&pace, 10000, 10, 15);
    CHECK(alone > 0 && alone <= 100, "two threads are faster: %d", alone);
    pace = (fr_pace){0};
    calls_alone(&pace, 100, 15, 10);
    const int together = 10000 - calls_alone(&pace, 10000, 15, 10);
    CHECK(together > 0 && together <= 100, "one is faster: %d", together);
}

static void one_thread_is_tried_within_a_hundred_calls(void)
{
    fr_pace pace = {0};
    const int alone = calls_alone(&pace, 100, 10, 15);
    CHECK(alone > 0 && alone < 50, "%d", alone);
}

static void the_other_way_is_taken_when_it_has_become_faster(void)
{
    fr_pace pace = {0};
    calls_alone(&pace, 5000, 10, 15);
    calls_alone(&pace, 200, 30, 15); /* the cores are apart now */
    CHECK(calls_alone(&pace, 200, 30, 15) > 180, "two threads have become slower");
    calls_alone(&pace, 2200, 10, 15); /* and side by side again, which a try must find out */
    CHECK(calls_alone(&pace, 200, 10, 15) < 20, "they have become faster");
}

static void a_slow_call_now_and_then_changes_nothing(void)
{
    fr_pace pace = {0};
    int alone = 0;
    calls_alone(&pace, 100, 10, 15);
    for (int i = 0; i < 200; i++) {
        alone += calls_alone(&pace, 1, 10000, 15);
        alone += calls_alone(&pace, 49, 10, 15);
    }
    CHECK(alone <= 100, "%d of 10,000", alone);
}

static fr_call call_of(const fr_layer *layer, int64_t T, int64_t B)
{
    return (fr_call){.layer = *layer, .rows = {.T = T, .B = B}, .plan = {.threads = 2}};
}

static void a_job(void *arg, int tid)
{
    (void)arg, (void)tid;
}

static void another_job(void *arg, int tid)
{
    (void)arg, (void)tid;
}

static void calls_of_a_kind_have_one_pace(void)
{
    const fr_layer layer = {FR_RNN_TANH, FR_F32, 10, 25};
    const fr_call call = call_of(&layer, 5, 32);
    fr_pace_of(&call, a_job)->ns[0] = 7;
    CHECK(fr_pace_of(&call, a_job)->ns[0] == 7, "forgotten");
    CHECK(fr_pace_of(&call, another_job)->ns[0] == 0, "of another job");
    for (int i = 0; i < 6; i++) {
        fr_call other = call;
        fr_pace_of(&call, a_job)->ns[0] = 7;
        int64_t *const fields[] = {&other.layer.input_size, &other.layer.hidden_size, &other.rows.T,
                                   &other.rows.B};
        const int64_t token = 0;
        if (i < 4)
            ++*fields[i];
        else if (i == 4)
            other.plan.threads = 3;
        else
            other.tokens.p = &token;
        CHECK(fr_pace_of(&other, a_job)->ns[0] == 0, "of other calls, %d", i);
    }
}

static void calls_that_are_timed_by_the_step_have_one_pace(void)
{
    const fr_layer layer = {FR_RNN_TANH, FR_F32, 10, 25};
    for (int offered = 1; offered <= 2; offered++) {
        fr_call first = call_of(&layer, 500, 1), longer = call_of(&layer, 501, 1);
        first.plan.offered = longer.plan.offered = offered;
        fr_pace_of(&first, a_job)->ns[0] = 7;
        CHECK((fr_pace_of(&longer, a_job)->ns[0] == 7) == (offered == 2), "offered %d", offered);
    }
}

/* A few may have to share a place, which is chosen by the job's address, too. */
static void calls_that_take_turns_keep_their_pace(void)
{
    enum { KINDS = 8 };
    const fr_layer layer = {FR_RNN_TANH, FR_F32, 10, 25};
    static double dx, grads;
    const fr_array places[2] = {{0}, {&dx, 0, 0}};
    int kept = 0;
    for (int i = 1; i < KINDS; i++) {
        fr_call first = call_of(&layer, 5, 32), other = first;
        other.dx = places[i & 1];
        other.reserve = i & 2 ? (char *)&dx : NULL;
        other.grads.w_ih = i & 4 ? &grads : NULL;
        fr_pace_of(&first, a_job)->ns[0] = 7;
        fr_pace_of(&other, a_job)->ns[0] = 8;
        kept += fr_pace_of(&first, a_job)->ns[0] == 7;
    }
    CHECK(kept >= 4, "%d of %d", kept, KINDS - 1);
}

static void nothing(void *arg, int tid)
{
    (void)arg, (void)tid;
}

/* Forward, whose plan is two threads' and which is offered (1: only to who is awake), until one more call has
 * been timed. Parts are not equally large; x W is made by whom it is for, or evenly. */
static void a_layer_is_walked_the_way_that_is_faster(int offered, int evenly)
{
    enum { T = 5, B = 29, I = 10, H = 25, CALLS = 20000 };
    const fr_layer layer = {FR_GRU, FR_F32, I, H};
    const fr_seq seq = {.T = T, .B = B, .threads = 2};
    static float w_ih[3 * H * I], w_hh[3 * H * H], x[T * B * I], y[2][T * B * H];
    for (size_t i = 0; i < sizeof w_ih / sizeof *w_ih; i++)
        w_ih[i] = (float)uniform();
    for (size_t i = 0; i < sizeof w_hh / sizeof *w_hh; i++)
        w_hh[i] = (float)uniform();
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = (float)uniform();
    void *packed = guarded(fr_packed_bytes(&layer, FR_USE_DENSE));
    const fr_weights weights = {w_ih, w_hh, NULL, NULL};
    CHECK(fr_pack(&layer, FR_USE_DENSE, packed, &weights) == FR_OK, "pack");
    forced_plan = (fr_plan){
        .threads = 2, .rows = 2, .units = 1, .chunk = 2, .offered = offered, .evenly = evenly};
    void *scratch = guarded(fr_forward_scratch_bytes(&layer, &seq, 0));

    fr_call call = call_of(&layer, T, B);
    call.plan.offered = offered;
    fr_job *const job = fr_current_kernels()->typed[FR_F32].forward[FR_GRU];
    for (int alone = 0; alone < 2; alone++) {
        const fr_forward_args args = {
            .packed = packed, .x = {x, B * I, I}, .y = {y[alone], B * H, H}, .scratch = scratch};
        fr_pace *const pace = fr_pace_of(&call, job);
        *pace = (fr_pace){.alone = alone, .calls = 100};
        pace->ns[alone] = 1e9;
        pace->ns[!alone] = 1e12;
        int calls = 0;
        for (; pace->ns[alone] == 1e9 && calls < CALLS; calls++) {
            fr_team_run(2, nothing, NULL, 0); /* who sleeps would not be woken for a single call */
            CHECK(fr_forward(&layer, &seq, &args) == FR_OK, "forward");
            if (!alone)
                pace->ns[1] = 1e12; /* it may have been alone: the other had fallen asleep */
        }
        CHECK(calls < CALLS, "never, alone %d", alone);
        CHECK(pace->ns[!alone] == 1e12, "the other way, alone %d", alone);
    }
    CHECK(!memcmp(y[0], y[1], sizeof y[0]), "other numbers");
    forced_plan.rows = 0;
    release(packed), release(scratch);
}

static void a_short_call_is_walked_the_way_that_is_faster(void)
{
    a_layer_is_walked_the_way_that_is_faster(1, 0);
    a_layer_is_walked_the_way_that_is_faster(1, 1);
}

static void a_call_of_short_steps_is_walked_the_way_that_is_faster(void)
{
    a_layer_is_walked_the_way_that_is_faster(2, 0);
    a_layer_is_walked_the_way_that_is_faster(2, 1);
}

int main(void)
{
    RUN(the_slower_way_is_taken_for_one_call_in_a_hundred);
    RUN(one_thread_is_tried_within_a_hundred_calls);
    RUN(the_other_way_is_taken_when_it_has_become_faster);
    RUN(a_slow_call_now_and_then_changes_nothing);
    RUN(calls_of_a_kind_have_one_pace);
    RUN(calls_that_are_timed_by_the_step_have_one_pace);
    RUN(calls_that_take_turns_keep_their_pace);
    RUN(a_short_call_is_walked_the_way_that_is_faster);
    RUN(a_call_of_short_steps_is_walked_the_way_that_is_faster);
    return summary();
}
