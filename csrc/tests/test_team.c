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
    forced_plan = (fr_plan){2, 2, 1, 3, 0, 0};
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

/* Between two barriers nobody may be a phase behind, and what others wrote is visible. */
/* How many threads of 3 took part in an offered job; -1: some twice, or not the first. */
static int taking_part(void)
{
    int runs[FR_MAX_THREADS] = {0};
    if (fr_team_offer(3, count_run, runs, sizeof runs) != FR_OK || runs[0] != 1 || runs[1] > 1 ||
        runs[2] > 1)
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
    for (int call = 0; call < 1000 && most < 3; call++) {
        const int n = taking_part();
        CHECK(n == 1 || n == 3, "%d threads", n);
        most = n > most ? n : most;
    }
    CHECK(most == 3, "calls close together");
}

static void an_offered_job_does_not_wait_for_other_callers(void)
{
    runs_once_each(3);
    lock_take(&team); /* somebody else's job */
    CHECK(taking_part() == 1, "while the team is busy");
    lock_drop(&team);
    CHECK(runs_once_each(3), "afterwards");
}

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
        forced_plan = split ? (fr_plan){2, 1, 2, 2, 1, 0} : (fr_plan){1, 1, 1, 2, 0, 0};
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
    RUN(a_job_runs_once_on_each_thread);
    RUN(thousands_of_jobs_follow_each_other);
    RUN(parked_threads_wake_up);
    RUN(an_offered_job_wakes_nobody_but_for_calls_close_together);
    RUN(an_offered_job_does_not_wait_for_other_callers);
    RUN(nobody_leaves_a_barrier_before_all_have_come);
    RUN(callers_at_once_take_turns);
    RUN(callers_may_share_weights_and_inputs);
    if (UNDER_TSAN || getenv("EMULATED"))
        printf("no fork: this tool cannot start threads in a child of a threaded process\n");
    else {
        RUN(a_forked_child_has_a_team_of_its_own);
        RUN(a_child_forked_while_others_compute_has_a_team_too);
    }
    return summary();
}
