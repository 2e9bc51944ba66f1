/* test_gradients.c: backward against central finite differences of the engine's own forward, in
 * double. Needs no reference: a backward that agrees here differentiates this forward. */
#include <stdlib.h>
#include <string.h>

#include "problem.h"
#include "seams.h"

static const struct {
    const char *name;
    int options;
} cases[] = {
    {"everything given", 0},
    {"only through the final state", NO_DY},
    {"only through the outputs, no initial state", NO_DFINAL | NO_STATE},
    {"ragged, reverse, resets", RAGGED | REVERSE | RESETS},
    {"resets, no bias", RESETS | NO_BIAS},
    {"tokens", TOKENS | NO_DX},
};

static const fr_plan plans[] = {{.threads = 1, .rows = 1, .units = 1, .chunk = 99},
                                {.threads = 2, .rows = 2, .units = 1, .chunk = 2},
                                {.threads = 2, .rows = 1, .units = 2, .chunk = 1, .takes_over = 1}};

enum { T = 4, B = 3, I = 2, H = 5 };

/* (loss(v + e) - loss(v - e)) / 2e for each of n values: exact to e^2 and to 1e-16 / e. */
static void differentiate(const problem *p, double *values, size_t n, double *slopes)
{
    const double e = 2e-5;
    for (size_t i = 0; i < n; i++) {
        const double v = values[i];
        values[i] = v + e;
        const double up = engine_loss(p);
        values[i] = v - e;
        const double down = engine_loss(p);
        values[i] = v;
        slopes[i] = (up - down) / (2 * e);
    }
}

static void compare(fr_cell cell, int c)
{
    problem *p = new_problem(cell, T, B, I, H, cases[c].options);
    answer have = new_answer(p), want = new_answer(p);
    double *values[ANSWERS] = {[DX] = p->x, p->h0, p->c0, p->w_ih, p->w_hh, p->b_ih, p->b_hh};
    const fr_status status = engine_solve(p, FR_F64, &have);
    CHECK(status == FR_OK, "%s", fr_status_text(status));
    for (int i = DX; i < ANSWERS; i++) {
        if (!have.count[i] || !values[i])
            continue;
        differentiate(p, values[i], have.count[i], want.of[i]);
        const double d = distance(have.of[i], want.of[i], have.count[i]);
        CHECK(d < 3e-9, "%s, %s, plan %d x %d: %s is off by %.2g", cell_names[cell], cases[c].name,
              forced_plan.rows, forced_plan.units, answer_names[i], d);
    }
    free_answer(&have);
    free_answer(&want);
    free_problem(p);
}

static void every_gradient_is_the_slope_of_the_loss(void)
{
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            forced_plan = plans[((size_t)cell + c) % 3];
            compare((fr_cell)cell, (int)c);
        }
    forced_plan.rows = 0;
}

int main(void)
{
    RUN_ON_EVERY_ISA(every_gradient_is_the_slope_of_the_loss);
    return summary();
}
