/* test_team.c: the threads. Jobs run once on each, from any caller, after a fork, after a nap;
 * and a thread that will not start is an error, not a hang.
 *
 * team.c is included, so that this program can make pthread_create fail. */
#define _POSIX_C_SOURCE 200809L
#define _GNU_SOURCE /* before any header, as team.c has it */
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int refuse_threads;

static int create_unless_refused(pthread_t *thread, const pthread_attr_t *attributes,
                                 void *(*start)(void *), void *arg)
{
    return refuse_threads ? 1 : pthread_create(thread, attributes, start, arg);
}

#define pthread_create create_unless_refused
#include "../team.c"
#undef pthread_create
#undef yield

#include <stdlib.h>

#include "check.h"
#include "problem.h"
#include "seams.h"

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif

static void nap(long milliseconds)
{
    const struct timespec t = {0, milliseconds * 1000000};
    nanosleep(&t, NULL);
}

static void count_run(void *arg, int tid)
{
    ((int *)arg)[tid]++;
}

/* Every thread below `threads` ran once, no other did. */
static int runs_once_each(int threads)
{
    int runs[FR_MAX_THREADS] = {0},
        right = fr_team_run(threads, count_run, runs, sizeof runs) == FR_OK;
    for (int i = 0; i < FR_MAX_THREADS; i++)
        right = right && runs[i] == (i < threads);
    return right;
}

static void a_thread_that_cannot_start_is_an_error_and_nothing_is_written(void)
{
    int runs[FR_MAX_THREADS] = {0};
    refuse_threads = 1;
    CHECK(fr_team_run(2, count_run, runs, sizeof runs) == FR_ETHREAD, "no second thread");
    CHECK(runs[0] == 0 && runs[1] == 0, "the job ran");

    problem *p = new_problem(FR_GRU, 3, 4, 2, 5, 0);
    answer a = new_answer(p);
    forced_plan = (fr_plan){.threads = 2, .rows = 2, .units = 1, .chunk = 3};
    const fr_status status = engine_solve(p, FR_F32, &a); /* checks padding, inputs, canaries */
    CHECK(status == FR_ETHREAD, "%s", fr_status_text(status));
    for (size_t i = 0; i < a.count[Y]; i++)
        CHECK(a.of[Y][i] == 0, "answer %d", (int)i);
    forced_plan.rows = 0;
    refuse_threads = 0;
    free_answer(&a);
    free_problem(p);
    CHECK(runs_once_each(3), "afterwards, with threads to be had");
}

static void an_offered_job_runs_alone_where_no_thread_can_start(void)
{
    int runs[FR_MAX_THREADS] = {0};
    refuse_threads = 1;
    int alone = 0;
    fr_team_offer(5, count_run, runs, sizeof runs, &alone); /* 3 are there */
    CHECK(runs[0] == 1 && runs[1] == 0 && alone, "%d and %d runs", runs[0], runs[1]);
    refuse_threads = 0;
}

/* Not even the header, with which a call would take them for packed weights. */
static void weights_that_no_thread_packs_are_not_written(void)
{
    enum { many = 200 };
    static const float w[4 * many * many];
    const fr_layer layer = {FR_LSTM, FR_F32, many, many};
    const size_t bytes = fr_packed_bytes(&layer, FR_USE_DENSE);
    void *packed = guarded(bytes);
    refuse_threads = 1;
    fr_set_num_threads(5);
    CHECK(fr_pack(&layer, FR_USE_DENSE, packed, &(fr_weights){w, w, w, w}) == FR_ETHREAD, "pack");
    CHECK(untouched(packed, bytes), "written");
    fr_set_num_threads(1);
    refuse_threads = 0;
    release(packed);
}

static void a_job_runs_once_on_each_thread(void)
{
    for (int threads = 1; threads <= 9; threads++)
        CHECK(runs_once_each(threads), "%d threads", threads);
    CHECK(runs_once_each(FR_MAX_THREADS), "%d threads", FR_MAX_THREADS);
}

static void thousands_of_jobs_follow_each_other(void)
{
    for (int i = 0; i < 3000; i++)
        CHECK(runs_once_each(1 + i % 4), "job %d", i);
}

static void parked_threads_wake_up(void)
{
    for (int i = 0; i < 10; i++) {
        nap(i < 5 ? 10 : 1); /* long enough to park; and about when they do */
        CHECK(runs_once_each(3), "job %d", i);
    }
}

/* ---- barriers ------------------------------------------------------------------------------ */

enum { MEETING = 4, PHASES = 200 };

typedef struct meeting {
    fr_place places[MEETING];
    int phase[MEETING], ahead[MEETING];
} meeting;

/* How many threads of 3 took part in an offered job; -1: some twice, or not the first. */
static int taking_part(void)
{
    int runs[FR_MAX_THREADS] = {0};
    int alone = -1;
    fr_team_offer(3, count_run, runs, sizeof runs, &alone);
    if (runs[0] != 1 || runs[1] > 1 || runs[2] > 1 || alone != (runs[1] + runs[2] == 0))
        return -1;
    return runs[0] + runs[1] + runs[2];
}

/* Which of an offer's threads are awake is for the scheduler to say; who has slept for long is not. */
static void an_offered_job_wakes_nobody_but_for_calls_close_together(void)
{
    runs_once_each(3);
    nap(200); /* all are parked */
    CHECK(taking_part() == 1, "the first call after a nap");
    nap(5);
    CHECK(taking_part() == 1, "calls far apart");
    int most = 0;
    for (int call = 0; call < 100000 && most < 3; call++) {
        const int n = taking_part();
        CHECK(n == 1 || n == 3, "%d threads", n);
        most = n > most ? n : most;
    }
    CHECK(most == 3, "calls close together");
}

static void work_for_a_millisecond(void *arg, int tid)
{
    const int64_t end = microseconds() + 1000;
    (void)arg, (void)tid;
    while (microseconds() < end)
        continue;
}

/* A call that is better made by one thread must not keep the next one's asleep. */
static void what_one_thread_did_alone_counts_for_waking(void)
{
    int most = 0;
    for (int i = 0; i < 100 && most < 3;
         i++) { /* once more if this thread has lost its core between */
        runs_once_each(3);
        nap(200);
        fr_team_leave(work_for_a_millisecond, NULL);
        most = taking_part();
    }
    CHECK(most == 3, "%d threads", most);
}

static void an_offered_job_does_not_wait_for_other_callers(void)
{
    runs_once_each(3);
    lock_take(&team); /* somebody else's job */
    CHECK(taking_part() == 1, "while the team is busy");
    lock_drop(&team);
    CHECK(runs_once_each(3), "afterwards");
}

/* Between two barriers nobody may be a phase behind, and what others wrote is visible. */
static void meet(void *arg, int tid)
{
    meeting *m = arg;
    for (int phase = 1; phase <= PHASES; phase++) {
        m->phase[tid] = phase;
        fr_meet(m->places, MEETING, tid);
        for (int other = 0; other < MEETING; other++)
            m->ahead[tid] += m->phase[other] != phase;
        fr_meet(m->places, MEETING, tid);
    }
}

static void nobody_leaves_a_barrier_before_all_have_come(void)
{
    static meeting m;
    memset(&m, 0, sizeof m);
    CHECK(fr_team_run(MEETING, meet, &m, sizeof m) == FR_OK, "%d threads", MEETING);
    for (int i = 0; i < MEETING; i++)
        CHECK(m.phase[i] == PHASES && m.ahead[i] == 0, "thread %d: phase %d, %d too early or late",
              i, m.phase[i], m.ahead[i]);
}

/* ---- several callers ------------------------------------------------------------------------ */

enum { CALLERS = 4 };

static void *call_often(void *wrong)
{
    for (int i = 0; i < 200; i++)
        *(int *)wrong += !runs_once_each(1 + i % 3);
    return NULL;
}

static void callers_at_once_take_turns(void)
{
    pthread_t thread[CALLERS];
    int wrong[CALLERS] = {0};
    for (int i = 0; i < CALLERS; i++)
        CHECK(pthread_create(&thread[i], NULL, call_often, &wrong[i]) == 0, "caller %d", i);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(wrong[i] == 0, "caller %d: %d jobs went wrong", i, wrong[i]);
    }
}

/* One layer, one packed buffer, one x; outputs and scratch of each caller's own. */
typedef struct shared {
    fr_layer layer;
    fr_seq seq;
    fr_array x;
    void *packed;
} shared;

typedef struct caller {
    const shared *s;
    float *y;
    int failures;
} caller;

enum { T = 6, B = 5, I = 7, H = 40 };

static void *infer_often(void *arg)
{
    caller *c = arg;
    const size_t bytes = fr_forward_scratch_bytes(&c->s->layer, &c->s->seq, 0);
    for (int i = 0; i < 20; i++) {
        void *scratch = guarded(bytes);
        const fr_forward_args args = {
            .y = {c->y, B * H, H}, .x = c->s->x, .packed = c->s->packed, .scratch = scratch};
        c->failures += fr_forward(&c->s->layer, &c->s->seq, &args) != FR_OK;
        release(scratch);
    }
    return NULL;
}

static void callers_may_share_weights_and_inputs(void)
{
    static float x[T * B * I], w[4 * H * H], y[1 + CALLERS][T * B * H];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = (float)uniform();
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        w[i] = (float)uniform() / 8;
    shared s = {{FR_LSTM, FR_F32, I, H}, {.T = T, .B = B}, {x, B * I, I}, NULL};
    for (int split = 0; split < 3; split++) { /* 2: with a foreign provider */
        forced_plan =
            split ? (fr_plan){.threads = 2, .rows = 1, .units = 2, .chunk = 2, .takes_over = 1}
                  : (fr_plan){.threads = 1, .rows = 1, .units = 1, .chunk = 2};
        if (split == 2)
            naive_blas_select(0);
        s.packed = guarded(fr_packed_bytes(&s.layer, FR_USE_DENSE));
        fr_pack(&s.layer, FR_USE_DENSE, s.packed, &(fr_weights){w, w, w, w});
        pthread_t thread[CALLERS];
        caller callers[1 + CALLERS];
        for (int i = 0; i <= CALLERS; i++)
            callers[i] = (caller){&s, y[i], 0};
        infer_often(&callers[CALLERS]);
        for (int i = 0; i < CALLERS; i++)
            pthread_create(&thread[i], NULL, infer_often, &callers[i]);
        for (int i = 0; i < CALLERS; i++) {
            pthread_join(thread[i], NULL);
            CHECK(callers[i].failures == 0, "caller %d, split %d", i, split);
            CHECK(!memcmp(y[i], y[CALLERS], sizeof y[i]), "caller %d, split %d", i, split);
        }
        CHECK(naive_blas_threads() == 7, "the provider is left with %d", naive_blas_threads());
        release(s.packed);
    }
    fr_blas_select(NULL);
    forced_plan.rows = 0;
}

/* ---- the others sleep ----------------------------------------------------------------------- */

/* Rows in parts, units shared by step or of a single row, x W and dx in chunks or woven, made ahead or shared
 * out evenly: a thread that nobody helps makes the numbers that all would have made, forward and backward. */
static void a_thread_alone_makes_the_numbers_of_all(void)
{
    static const fr_plan plans[] = {
        {.threads = 2, .rows = 2, .units = 1, .chunk = 3, .offered = 1},
        {.threads = 2, .rows = 1, .units = 2, .chunk = 2, .offered = 1},
        {.threads = 3, .rows = 3, .units = 1, .chunk = 99, .offered = 1},
        {.threads = 4, .rows = 2, .units = 2, .chunk = 2, .offered = 1},
        {.threads = 3, .rows = 1, .units = 3, .chunk = 99, .offered = 1},
        {.threads = 8, .rows = 4, .units = 2, .chunk = 1, .offered = 1},
        {.threads = 2, .rows = 1, .units = 1, .chunk = 3, .ahead = 1, .offered = 1},
        {.threads = 2, .rows = 2, .units = 1, .chunk = 99, .offered = 1, .evenly = 1},
        {.threads = 3, .rows = 3, .units = 1, .chunk = 2, .offered = 1, .evenly = 1},
        {.threads = 8, .rows = 4, .units = 2, .chunk = 1, .offered = 1, .evenly = 1},
        {.threads = 2, .rows = 1, .units = 1, .chunk = 30, .ahead = 2, .offered = 1}};
    static const int64_t sizes[][4] = {
        {5, 6, 3, 20}, {7, 1, 4, 70}, {37, 1, 40, 170}, {3, 13, 1, 1}, {3, 6, 40, 70}};
    static const int wishes[] = {0,
                                 RAGGED,
                                 TOKENS | NO_DX,
                                 LOOK | CLIP_VALUE,
                                 SET_GRADS,
                                 LOOK | CLIP_NORM,
                                 SET_GRADS | RAGGED | CLEAR_PAST};
    unsigned turn = 0;
    forced_near_bytes = FR_NEAR_BYTES; /* woven wherever this is */
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
                int options = wishes[turn++ % (sizeof wishes / sizeof *wishes)];
                if (options & CLIP_NORM && plans[i].units > 1) /* they meet, and so are all woken */
                    options = 0;
                problem *p = new_problem((fr_cell)cell, sizes[k][0], sizes[k][1], sizes[k][2],
                                         sizes[k][3], options);
                const fr_dtype dtype = turn % 2 ? FR_F32 : FR_F64;
                answer all = new_answer(p), alone = new_answer(p);
                forced_plan = plans[i];
                forced_plan.offered = plans[i].ahead;
                const fr_status together = engine_solve(p, dtype, &all);
                CHECK(together == FR_OK, "cell %d, size %d, plan %d: %s", cell, (int)k, (int)i,
                      fr_status_text(together));
                forced_plan.offered = 1;
                alone_until = 0;
                lock_take(
                    &team); /* somebody else's job; a call that needs the team would never end */
                alarm(300);
                const fr_status by_one = engine_solve(p, dtype, &alone);
                alarm(0);
                lock_drop(&team);
                CHECK(by_one == FR_OK, "cell %d, size %d, plan %d: %s", cell, (int)k, (int)i,
                      fr_status_text(by_one));
                CHECK(alone_until, "cell %d, size %d: never alone, plan %d", cell, (int)k, (int)i);
                for (int what = 0; what < ANSWERS; what++)
                    CHECK(!memcmp(all.of[what], alone.of[what], all.count[what] * sizeof(double)),
                          "cell %d, size %d, plan %d: answer %d", cell, (int)k, (int)i, what);
                free_answer(&all), free_answer(&alone);
                free_problem(p);
            }
    forced_near_bytes = 0;
    forced_plan.rows = 0;
}

/* One training step of `T` steps on two threads that sleep before each pass; how many of forward and
 * backward nobody was woken for. */
static int passes_alone(int64_t T)
{
    enum { batch = 12, units = 64, most = 22 };
    const fr_layer layer = {FR_LSTM, FR_F32, units, units};
    const fr_seq seq = {.T = T, .B = batch, .threads = 2};
    static float w[4 * units * units], dw[2][4 * units * units], x[most * batch * units],
        y[most * batch * units];
    const int use = fr_training_use(&layer, &seq, 0, 1);
    void *packed = guarded(fr_packed_bytes(&layer, use));
    const size_t bytes[2] = {fr_forward_scratch_bytes(&layer, &seq, 1),
                             fr_backward_scratch_bytes(&layer, &seq, 0)};
    void *scratch = guarded(bytes[bytes[1] > bytes[0]]);
    void *reserve = guarded(fr_reserve_bytes(&layer, &seq));
    const fr_array rows = {y, batch * units, units};
    const fr_forward_args there = {.y = rows,
                                   .x = {x, batch * units, units},
                                   .packed = packed,
                                   .scratch = scratch,
                                   .reserve = reserve};
    const fr_backward_args back = {.y = rows,
                                   .x = there.x,
                                   .dy = rows,
                                   .grads = {dw[0], dw[1], NULL, NULL},
                                   .packed = packed,
                                   .scratch = scratch,
                                   .reserve = reserve};
    int alone = 0;
    fr_pack(&layer, use, packed, &(fr_weights){w, w, NULL, NULL});
    for (int pass = 0; pass < 2; pass++) {
        runs_once_each(2);
        while (!atomic_load(&workers[1].parked))
            nap(1);
        alone_until = 0;
        const fr_status status =
            pass ? fr_backward(&layer, &seq, &back) : fr_forward(&layer, &seq, &there);
        CHECK(status == FR_OK, "pass %d: %s", pass, fr_status_text(status));
        alone += alone_until != 0;
    }
    release(packed), release(scratch), release(reserve);
    return alone;
}

static void a_short_training_step_wakes_nobody(void)
{
    CHECK(passes_alone(4) == 2, "forward and backward");
}

/* Where backward is worth waking them for, forward need not do without them. */
static void a_longer_training_step_has_both_passes_shared(void)
{
    const fr_layer layer = {FR_LSTM, FR_F32, 64, 64};
    const fr_seq seq = {.T = 22, .B = 12, .threads = 2};
    fr_plan there, back;
    fr_plan_describe(&there, &layer, &seq, 0);
    fr_plan_describe(&back, &layer, &seq, 1);
    CHECK(there.offered == 1 && back.threads == 2 && !back.offered, "what this test is about");
    CHECK(passes_alone(22) == 0, "forward and backward");
}

/* A plan that gains enough for that, but whose steps are short. */
static void a_long_call_of_short_steps_wakes_the_others(void)
{
    for (int offered = 1; offered <= 2; offered++) {
        forced_plan =
            (fr_plan){.threads = 2, .rows = 2, .units = 1, .chunk = 4, .offered = offered};
        CHECK(passes_alone(4) == (offered == 1 ? 2 : 0), "offered %d", offered);
    }
    forced_plan.rows = 0;
}

/* ---- a state that is moved on in place --------------------------------------------------------- */

/* Two threads share the units of a single row, and are not equally fast: who is done writes its part of
 * the new state where the other may still be reading the old one. */
static void a_state_may_be_moved_on_in_place(void)
{
    enum {
        units = 80,
        rounds = 2000
    }; /* so few that the second thread begins when the first ends */
    static float w[4 * units * units], x[2 * 8], h[3][units], c[3][units], y[2 * units];
    static const uint8_t reset[2] = {0, 1};
    const fr_cell cells[] = {FR_RNN_TANH, FR_LSTM, FR_GRU};
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        w[i] = (float)uniform() / 8;
    for (int i = 0; i < 2 * 8; i++)
        x[i] = (float)uniform();
    for (int i = 0; i < units; i++)
        h[0][i] = (float)uniform(), c[0][i] = (float)uniform();
    forced_plan = (fr_plan){.threads = 2, .rows = 1, .units = 2, .chunk = 2};
    for (size_t k = 0; k < sizeof cells / sizeof *cells; k++)
        for (int steps = 1; steps <= 2; steps++) {
            const fr_layer layer = {cells[k], FR_F32, 8, units};
            const fr_seq seq = {.T = steps, .B = 1, .reset = steps > 1 ? reset : NULL};
            void *packed = guarded(fr_packed_bytes(&layer, FR_USE_DENSE));
            void *scratch = guarded(fr_forward_scratch_bytes(&layer, &seq, 0));
            fr_pack(&layer, FR_USE_DENSE, packed, &(fr_weights){w, w, NULL, NULL});
            fr_forward_args args = {.y = {y, units, units},
                                    .hT = h[1],
                                    .cT = c[1],
                                    .x = {x, 8, 8},
                                    .h0 = h[0],
                                    .c0 = c[0],
                                    .packed = packed,
                                    .scratch = scratch};
            CHECK(fr_forward(&layer, &seq, &args) == FR_OK, "apart");
            args.h0 = args.hT = h[2];
            args.c0 = args.cT = c[2];
            int different = 0;
            for (int i = 0; i < rounds; i++) {
                memcpy(h[2], h[0], sizeof h[0]);
                memcpy(c[2], c[0], sizeof c[0]);
                CHECK(fr_forward(&layer, &seq, &args) == FR_OK, "in place");
                different += memcmp(h[1], h[2], sizeof h[1]) ||
                             (cells[k] == FR_LSTM && memcmp(c[1], c[2], sizeof c[1]));
            }
            CHECK(!different, "cell %d, %d steps: %d of %d", (int)k, steps, different, rounds);
            release(packed), release(scratch);
        }
    forced_plan.rows = 0;
}

/* ---- fork ----------------------------------------------------------------------------------- */

/* 1 if a child can use the team, started anew, and its child too. */
static int works_in_a_child(int generations)
{
    const pid_t child = fork();
    if (child == 0) {
        alarm(60); /* a deadlock must end */
        int right = runs_once_each(3) && runs_once_each(2);
        if (generations > 1)
            right = right && works_in_a_child(generations - 1);
        _exit(right ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return child > 0 && status == 0;
}

static void a_forked_child_has_a_team_of_its_own(void)
{
    CHECK(runs_once_each(3), "before");
    CHECK(works_in_a_child(2), "child");
    CHECK(runs_once_each(3), "the parent, afterwards");
}

/* The calls of other threads never end in a child: the provider's threads are put back without them. */
static void a_child_forked_amid_a_foreign_product_gets_the_providers_threads_back(void)
{
    naive_blas_select(0);
    fr_blas_enter();
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        fr_blas_enter();
        const int inside = naive_blas_threads();
        fr_blas_leave();
        const int after = naive_blas_threads();
        fr_blas_enter();
        fr_blas_leave();
        _exit(inside == 1 && after == 7 && naive_blas_threads() == 7 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(child > 0 && status == 0, "the child");
    fr_blas_leave();
    CHECK(naive_blas_threads() == 7, "the parent is left with %d", naive_blas_threads());
    fr_blas_select(NULL);
}

static void a_child_forked_while_others_compute_has_a_team_too(void)
{
    pthread_t thread;
    int wrong = 0;
    CHECK(pthread_create(&thread, NULL, call_often, &wrong) == 0, "a busy thread");
    for (int i = 0; i < 5; i++)
        CHECK(works_in_a_child(1), "child %d", i);
    pthread_join(thread, NULL);
    CHECK(wrong == 0, "%d jobs of the busy thread went wrong", wrong);
}

int main(void)
{
    RUN(a_thread_that_cannot_start_is_an_error_and_nothing_is_written); /* before any has started */
    RUN(an_offered_job_runs_alone_where_no_thread_can_start);
    RUN(weights_that_no_thread_packs_are_not_written);
    RUN(a_job_runs_once_on_each_thread);
    RUN(thousands_of_jobs_follow_each_other);
    RUN(parked_threads_wake_up);
    RUN(an_offered_job_wakes_nobody_but_for_calls_close_together);
    RUN(what_one_thread_did_alone_counts_for_waking);
    RUN(an_offered_job_does_not_wait_for_other_callers);
    RUN(nobody_leaves_a_barrier_before_all_have_come);
    RUN(callers_at_once_take_turns);
    RUN(callers_may_share_weights_and_inputs);
    RUN_ON_EVERY_ISA(a_thread_alone_makes_the_numbers_of_all);
    RUN(a_short_training_step_wakes_nobody);
    RUN(a_longer_training_step_has_both_passes_shared);
    RUN(a_long_call_of_short_steps_wakes_the_others);
    RUN(a_state_may_be_moved_on_in_place);
    if (UNDER_TSAN || getenv("EMULATED"))
        printf("no fork: this tool cannot start threads in a child of a threaded process\n");
    else {
        RUN(a_forked_child_has_a_team_of_its_own);
        RUN(a_child_forked_amid_a_foreign_product_gets_the_providers_threads_back);
        RUN(a_child_forked_while_others_compute_has_a_team_too);
    }
    return summary();
}
