/* plan.c, with a way to force a plan: the real one would never split problems as small as those
 * of the tests. What it decides by itself is shipped_make_plan, and fresh_plan if it remembers nothing. */
#include "internal.h"

#define fr_make_plan shipped_make_plan
#define fr_layers_at_once shipped_layers_at_once
fr_plan shipped_make_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                          fr_pass pass);
#include "../plan.c"
#undef fr_make_plan
#undef fr_layers_at_once

#include "seams.h"

fr_plan forced_plan;

fr_plan fresh_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                   fr_pass pass)
{
    return cheapest_plan(layer, T, B, threads, panel, pass).plan;
}

static int64_t at_most(int64_t n, int64_t limit)
{
    return n < limit ? n : limit > 1 ? limit : 1;
}

fr_plan fr_make_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                     fr_pass pass)
{
    fr_plan plan = forced_plan;
    if (plan.rows == 0)
        return shipped_make_plan(layer, T, B, threads, panel, pass);
    plan.rows = (int)at_most(plan.rows, B);
    plan.units = (int)at_most(plan.units, (layer->hidden_size + panel - 1) / panel);
    plan.chunk = at_most(plan.chunk, T);
    if (pass != FR_PASS_FORWARD || plan.rows * plan.units > 1)
        plan.ahead = 0;
    plan.threads = plan.rows * plan.units + (plan.ahead > 0);
    if (threads == 1) /* a direction by itself */
        plan.together = 0;
    return plan;
}

int fr_layers_at_once(const fr_layer layers[2], int64_t T, int64_t B, int threads, int panel,
                      const fr_pass passes[2])
{
    return forced_plan.rows ? forced_plan.together
                            : shipped_layers_at_once(layers, T, B, threads, panel, passes);
}
