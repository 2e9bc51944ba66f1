/* plan.c: how one call is split over threads and time. Pure functions, tested by themselves.
 *
 *   rows   each thread walks its own part of the batch through all of time: no waiting at all
 *   units  each thread owns panels of hidden units, so its slice of the weights stays in its
 *          own cache (Diamos et al. 2016 call it persistent); one barrier a step,
 *          or, of a single row, work to do until the others have come
 *   both   a grid, with a barrier among those that share rows
 *   ahead  of a single row, one thread makes x W while another walks the steps, and makes some, too, if
 *          that takes longer; who is late or has no core costs little
 *
 * Three rows are two and one. Where that costs more than meeting once a chunk, what is summed over time (x W,
 * gradients) is shared out evenly all the same.
 *
 * Two directions of a layer, or two layers of a stack, either do one after the other what is best for each,
 * or have a thread each; a layer then follows the one below by a few steps.
 *
 * Cores are seldom equally fast: some share their multipliers with somebody else, some are of a slower
 * kind. A thread that walks its own rows waits for the slowest one at the end. Threads that share
 * rows can do better, with enough work a step: who is done takes over panels of the others, and pieces of
 * their gradients. Which thread computes what changes no number.
 *
 * A service calls now and then, and its threads sleep meanwhile. A call that would gain less than it takes
 * to wake them is only offered to them, and only as long as it turns out to be faster with them: pace.c. So is
 * a longer one whose steps are short, but for that it wakes them.
 *
 * The choice is the cheapest by a model of one step, in cycles: a tile costs its multiply-adds
 * or the latency of a few of them, whichever is more; weights cost what the cache level that
 * holds them can deliver. The constants are rough on purpose; they need to rank, not to predict. */
#include "internal.h"

enum {
    BARRIER_CYCLES = 700, /* measured 0.2 us between two cores of one complex */
    EARLY_CYCLES = 400,   /* a single row's threads have something to do meanwhile: share.h */
    /* More where the third level of cache is slow, since what goes from core to core goes the same way: a line
     * there and back 350 ns on an Emerald Rapids, 100 between neighbours of a Zen 4 or 5. */
    SLOW_MEETING_CYCLES = 800,
    TILE_CYCLES = 25,    /* call, first loads, last stores */
    L1_BYTES = 24 << 10, /* what a slice of weights may take of each level */
    L2_BYTES = 400 << 10,
    /* Of one row's weights, what is still there from the last step, of 32 KB: rows.h */
    KEPT_BYTES = 28 << 10,
    KEPT_UP_TO = 256 << 10,
    /* A gradient that one thread has written and another goes on with: a clear of 92 KB took 5.2 us
     * instead of 0.9. Half of the lines make the way. */
    CROSSING_CYCLES = 20,
    FIRST_ROWS = 6,            /* of x W, which the first step must wait for */
    LINE_MADE_AHEAD = 8,       /* cycles for each line of x W that another core has made */
    SLOW_LINE_MADE_AHEAD = 24, /* and where it comes slowly, see above */
    CORE_BYTES = 1 << 20,      /* the most that a core keeps for itself */
    /* A line of weights that several threads read: after an update its next writer takes it from all of
     * them, which takes it 24. Forward is split alike in training and in inference, where it costs nothing:
     * with 2 a line, training of small layers took up to a third longer with two threads than with one, with
     * 14 hardly more of it is as fast, and inference gains less and less. Of many lines few are still there. */
    BOTH_READ_CYCLES = 10,
    BOTH_KEEP_BYTES = 512 << 10,
    FAR_BOTH_READ_CYCLES = 2,
    /* A thread must save more: handing over is 1 us while it still spins, as in a loop of calls less
     * than 50 us apart; 10 if it is parked. Threads that meet at every step must save more than that:
     * what a step saves is lost as soon as somebody else wants one of the cores. */
    TEAM_CYCLES = 4000,
    MEETING_CYCLES = 4000,
    /* A thread that is parked is woken for one call if it saves more than that: to wake it takes 10 to 30
     * us, on a virtual machine 120. */
    WAKING_CYCLES = 400000,
    /* What a meeting at every step takes longer where the cores share no cache: 400 ns on Zen 4. Threads that
     * gain no more a step may be slower there than one. */
    FAR_MEETING_CYCLES = 2000,
    TAKE_OVER_CYCLES = 500000, /* a step of a thread that is worth the traffic of sharing rows */
    /* On the way back dG, which is wider than h, goes from core to core: of so many units and more, where each
     * number of it is multiplied often enough. */
    TAKE_OVER_BACKWARD = 384,
    UNEVEN_PERCENT = 10, /* what parts of the batch lose by waiting for the slowest thread */
    /* Parts add up gradients on their own unless the largest has so many percent more rows than the mean; of
     * one gate, whose dG is soon added up, twice as many. */
    UNEVEN_SUMS_PERCENT = 4,
    XW_BYTES = 192 << 10, /* a thread's part of a chunk of xw stays in its second-level cache */
    BACKWARD_ROWS = 256,  /* rows of dG that make a product over a chunk worth its packing */
    /* Every chunk reads and writes all weight gradients. Where they are this many bytes, they come
     * from far away, and more rows have to share the way: a tenth of a training step at H = 512. */
    FAR_BYTES = 2 << 20,
    FAR_BACKWARD_ROWS = 1280,
    /* The input weights are read once a chunk. Where all weights are this many bytes, the third level does
     * not keep them beside the rest, or not always, and the way of so few rows of xw is shorter: an LSTM
     * of 650 units had read 7 MB for every step of 20 rows, a fifth of inference and more. */
    FAR_FORWARD_BYTES = 10 << 20,
    FAR_FORWARD_ROWS = 240,
    /* Weights are near if they have so small a part of fr_near_bytes: the way back streams them packed in the
     * other order, dG, and the gradients through the same cache. */
    NEAR_BACKWARD = 3,
    FOLLOWED_BYTES = 112 << 10, /* of a step's weights: from here on x W is better woven: weave.h */
    FEW_STEP = 14 /* weights of a unit that must be packed for each step before packing pays */
};

/* Panels of the thread that has most of them, its last one as wide as the tiles for it are: in quarters,
 * as far as an instruction set has those. */
static double most_panels(int64_t H, int units, int panel)
{
    const int64_t full = H / panel, rest = (H % panel * 4 + panel - 1) / panel;
    const int64_t whole = (full + (rest > 0) + units - 1) / units;
    return units == 1 ? (double)full + (double)rest / 4 : (double)whole;
}

/* One step of `rows` rows and `panels` panels. Forward and backward make the same product: gates
 * times H deep for a panel of units, whether the gates are outputs or inputs. */
static double step_cycles(const fr_cell_traits *cell, int64_t rows, double panels, int64_t H,
                          int panel, int real_bytes)
{
    /* Of 32 bytes: two multiply-adds a cycle. A single panel, at most half full, goes by halves. */
    const double vectors = panel * real_bytes / 32.0 / (H <= panel / 2 ? 2 : 1);
    const int64_t tiles = (rows + 5) / 6;
    double per_k = rows * vectors / 2;
    if (per_k < tiles * 2.0) /* a low tile waits for its loads */
        per_k = tiles * 2.0;
    const double arithmetic = panels * cell->gates * (H * per_k + tiles * TILE_CYCLES);
    const double bytes = panels * cell->gates * H * panel * real_bytes;
    const double kept = bytes <= L1_BYTES                  ? bytes
                        : rows == 1 && bytes <= KEPT_UP_TO ? KEPT_BYTES
                                                           : 0;
    const double memory = kept / 64 + (bytes - kept) / (bytes <= L2_BYTES ? 24 : 10);
    /* In double from the first factor on: sizes that no memory holds are asked about, too. */
    const double gates = (double)rows * panels * vectors * cell->gates * 12;
    return (arithmetic > memory ? arithmetic : memory) + gates;
}

/* A plan, and the cycles it is believed to take; and those of a plan of one thread. */
typedef struct costed_plan {
    fr_plan plan;
    double cycles, alone;
} costed_plan;

/* Steps of B rows that have at least so many, of all there are. */
static int64_t chunk_of(int64_t rows, int64_t B, int64_t steps)
{
    const int64_t chunk = B > 0 ? (rows + B - 1) / B : 1;
    return chunk < steps ? chunk : steps;
}

static costed_plan cheapest_plan(const fr_layer *layer, int64_t T, int64_t B, int threads,
                                 int panel, fr_pass pass)
{
    const int backward = pass == FR_PASS_BACKWARD;
    const fr_cell_traits *cell = &fr_cells[layer->cell];
    const int real_bytes = layer->dtype == FR_F64 ? 8 : 4;
    const int64_t P = (layer->hidden_size + panel - 1) / panel;
    const int64_t steps = T > 0 ? T : 1;
    double batched = (double)B * cell->gates * layer->hidden_size * real_bytes / 32 *
                     (layer->input_size + (backward ? layer->input_size + layer->hidden_size : 0)) /
                     2;
    const int64_t row_bytes = (int64_t)cell->gates * P * panel * real_bytes;
    const double weight_bytes =
        (double)row_bytes * (double)(layer->hidden_size + layer->input_size);
    /* What no second-level cache holds comes from further away in any case. */
    const double near_lines = weight_bytes >= FAR_BYTES ? 0 : weight_bytes / 64;
    const double shared =
        (weight_bytes < CORE_BYTES ? weight_bytes : CORE_BYTES) / 64 *
        (weight_bytes < BOTH_KEEP_BYTES ? BOTH_READ_CYCLES : FAR_BOTH_READ_CYCLES);
    const double crossing =
        backward ? TEAM_CYCLES + near_lines / 2 * CROSSING_CYCLES : 0; /* and a meeting */
    const double slower = fr_near_bytes() < FR_NEAR_BYTES ? SLOW_MEETING_CYCLES : 0,
                 meeting = BARRIER_CYCLES + slower;
    fr_plan best = {.threads = 1, .rows = 1, .units = 1};
    double least = 0, alone = 0;

    int64_t want = !backward                  ? (XW_BYTES + row_bytes - 1) / row_bytes
                   : weight_bytes > FAR_BYTES ? FAR_BACKWARD_ROWS
                                              : BACKWARD_ROWS;
    if (!backward && weight_bytes > FAR_FORWARD_BYTES && want < FAR_FORWARD_ROWS)
        want = FAR_FORWARD_ROWS;
    if (!backward && B == 1 && want < 2 * FR_WEAVE_STEPS) /* two groups in turn: kernels/weave.h */
        want = 2 * FR_WEAVE_STEPS;
    best.chunk = chunk_of(want, B, steps);
    /* The weights that products over time read, and the gradients they add to, once a chunk. */
    const double read = (double)row_bytes * (double)layer->input_size,
                 moved = read + (backward ? 2 * weight_bytes : 0);
    const double far = moved / (weight_bytes <= L2_BYTES ? 24 : 10) / (double)best.chunk;
    const double products = batched; /* their arithmetic alone */
    if (batched < far)
        batched = far;

    for (int rows = 1; rows <= threads && rows <= B; rows++)
        for (int units = 1; rows * units <= threads && units <= P; units++) {
            const int n = rows * units;
            const double panels = most_panels(layer->hidden_size, units, panel);
            const int64_t part_rows = (B + rows - 1) / rows;
            const double step =
                step_cycles(cell, part_rows, panels, layer->hidden_size, panel, real_bytes);
            const int large = B / rows > 1 && step >= TAKE_OVER_CYCLES &&
                              !(backward && layer->hidden_size < TAKE_OVER_BACKWARD);
            /* Forward makes x W panel by panel, whoever will read them. */
            const double share =
                backward ? 1.0 / units : panels / most_panels(layer->hidden_size, 1, panel);
            double cycles = step + batched / rows * share;
            /* What the largest part has more of all rows than each of equal parts would have. */
            const double surplus = B % rows ? (double)part_rows / (double)B - 1.0 / rows : 0;
            int evenly = 0;
            if (surplus > 0 && backward) {
                evenly = surplus * rows * 100 > UNEVEN_SUMS_PERCENT * (cell->gates > 1 ? 1 : 2);
            } else if (surplus > 0 && pass == FR_PASS_FORWARD) {
                const double waits = products * share * surplus;
                const double meets = 2.0 * meeting / (double)chunk_of(want * rows, B, steps);
                const double lines = surplus * (double)B * (double)row_bytes / 64;
                const double costs = meets + lines * CROSSING_CYCLES;
                evenly = waits > 2 * costs; /* a core may multiply twice as fast as counted here */
                cycles += evenly ? costs : waits;
            }
            if (units > 1)
                cycles +=
                    B == 1 && cell->phases == 1 ? EARLY_CYCLES + slower : meeting * cell->phases;
            else if (rows > 1 && large)
                cycles *= 1 + UNEVEN_PERCENT / 100.0;
            cycles *= steps;
            if (rows > 1)
                cycles += shared;
            if (n > 1)
                cycles += (TEAM_CYCLES + (units > 1 ? MEETING_CYCLES : 0)) * n + crossing;
            if (n == 1)
                alone = cycles;
            if (least == 0 || cycles < least) {
                least = cycles;
                best.threads = n;
                best.rows = rows;
                best.units = units;
                best.takes_over = units > 1 && large;
                best.evenly = evenly;
            }
        }
    /* Each has its rows of xw; the fewer chunks, the less often the input weights are read. (Ranked above as
     * one thread's chunks: enough to rank.) */
    if (!backward && best.rows > 1)
        best.chunk = chunk_of(want * best.rows, B, steps);
    if (best.threads > 1 && best.threads <= FR_MOST_ALONE && !best.takes_over) {
        if (alone - least < WAKING_CYCLES)
            best.offered = 1;
        else if (best.units > 1 &&
                 alone - least < (double)steps * cell->phases * FAR_MEETING_CYCLES)
            best.offered = 2;
    }

    if (pass == FR_PASS_FORWARD && threads > 1 && B == 1) { /* of more rows, parts are as fast */
        const double panels = most_panels(layer->hidden_size, 1, panel);
        const double walk =
            step_cycles(cell, 1, panels, layer->hidden_size, panel, real_bytes) +
            (double)row_bytes / 64 * (slower > 0 ? SLOW_LINE_MADE_AHEAD : LINE_MADE_AHEAD);
        const double shared_out = (walk + batched) / 2;
        const double chunks = (double)((steps + best.chunk - 1) / best.chunk);
        const double cycles = (double)steps * (walk > shared_out ? walk : shared_out) +
                              FIRST_ROWS * batched + TEAM_CYCLES + chunks * meeting;
        if (cycles < least) {
            least = cycles;
            best = (fr_plan){.threads = 2,
                             .rows = 1,
                             .units = 1,
                             .chunk = best.chunk,
                             .ahead = batched > walk ? 2 : 1,
                             .offered = 1};
        }
    }
    /* Directions that have a thread each wait for nobody; all gradients of one are then its thread's. Of
     * long steps a thread that is slow is helped out only by one that shares them. A single row's weights
     * must still come from the second-level cache. */
    const double at_once =
        alone + 2 * TEAM_CYCLES + (backward ? TEAM_CYCLES + near_lines * CROSSING_CYCLES : 0);
    const int stays_near = B > 1 || (double)row_bytes * (double)layer->hidden_size < L2_BYTES;
    if (threads > 1 && B > 0 && stays_near && !best.takes_over && at_once < 2 * least)
        best.together = alone < WAKING_CYCLES ? 1 : 2;
    best.far = weight_bytes * (backward ? NEAR_BACKWARD : 1) > (double)fr_near_bytes();
    return (costed_plan){best, least, alone};
}

/* To rank the splits takes 40 to 80 ns, and a call asks for a few plans: a twentieth of a step of 64
 * units from Python. Calls in a loop ask for the same ones, so each thread keeps the newest. */
typedef struct known_plan {
    fr_layer layer;
    int64_t T, B;
    int threads, panel; /* 0: nothing is known here */
    fr_pass pass;
    costed_plan plan;
} known_plan;

enum { KNOWN_PLANS = 16 };

static const costed_plan *known_or_made(const fr_layer *layer, int64_t T, int64_t B, int threads,
                                        int panel, fr_pass pass)
{
    static FR_THREAD_LOCAL known_plan known[KNOWN_PLANS];
    const uint64_t place = (uint64_t)layer->input_size + 3 * (uint64_t)layer->hidden_size +
                           5 * (uint64_t)T + 7 * (uint64_t)B + 11 * (uint64_t)pass;
    known_plan *const k = &known[(place ^ place >> 4) % KNOWN_PLANS];
    if (k->panel != panel || k->pass != pass || k->T != T || k->B != B || k->threads != threads ||
        k->layer.cell != layer->cell || k->layer.dtype != layer->dtype ||
        k->layer.input_size != layer->input_size || k->layer.hidden_size != layer->hidden_size)
        *k = (known_plan){.layer = *layer,
                          .T = T,
                          .B = B,
                          .threads = threads,
                          .panel = panel,
                          .pass = pass,
                          .plan = cheapest_plan(layer, T, B, threads, panel, pass)};
    return &k->plan;
}

fr_plan fr_make_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                     fr_pass pass)
{
    return known_or_made(layer, T, B, threads, panel, pass)->plan;
}

/* The second layer begins when the first is through with as many steps as it takes at a time. Its x W is
 * made in between, not woven into its steps, which would need more of them beforehand: kernels/weave.h. */
int fr_layers_at_once(const fr_layer layers[2], int64_t T, int64_t B, int threads, int panel,
                      const fr_pass passes[2])
{
    double one_by_one = 0, longest = 0;
    if (threads < 2 || B < 1 || T < 2 * FR_FOLLOWED_STEPS)
        return 0;
    for (int i = 0; i < 2; i++) {
        const costed_plan plan = *known_or_made(&layers[i], T, B, threads, panel, passes[i]);
        const double bytes = (double)fr_cells[layers[i].cell].gates *
                             (double)layers[i].hidden_size * (double)layers[i].hidden_size *
                             (layers[i].dtype == FR_F64 ? 8 : 4);
        if (plan.plan.takes_over || bytes > FOLLOWED_BYTES)
            return 0;
        one_by_one += plan.cycles;
        longest = longest > plan.alone ? longest : plan.alone;
    }
    const double at_once = longest * (1 + (double)FR_FOLLOWED_STEPS / (double)T) + 2 * TEAM_CYCLES;
    return at_once >= one_by_one ? 0 : longest < WAKING_CYCLES ? 1 : 2;
}

/* Packing for backward costs a third of a cycle or more a weight; without it every unit costs a few
 * cycles more a step, for the sum over a vector's lanes. */
int fr_is_few(const fr_layer *layer, int64_t T, int64_t rows)
{
    const double weights_of_a_unit = (double)fr_cells[layer->cell].gates *
                                     ((double)layer->hidden_size + (double)layer->input_size);
    return rows <= (T == 1 ? FR_FEW_ROWS_OF_A_STEP : FR_FEW_ROWS) &&
           (double)(T * FEW_STEP) <= weights_of_a_unit;
}

fr_part fr_plan_part(const fr_plan *plan, const fr_rows *rows, int64_t panels, int tid)
{
    const int64_t r = tid / plan->units, u = tid % plan->units, B = rows->B;
    fr_part part = {.p0 = panels * u / plan->units, .p1 = panels * (u + 1) / plan->units};
    if (rows->len) { /* longest rows first: dealt out to and fro, so that every part gets its share */
        for (int64_t k = 0; k <= r; k++) {
            part.rows_before += part.nj;
            part.j0 = k;
            part.jstep = plan->rows;
            part.shift = plan->rows - 1 - 2 * k;
            part.nj = B;
            part.nj = fr_part_active(&part, B);
        }
    } else { /* neighbours together: their outputs share cache lines */
        part.j0 = part.rows_before = B * r / plan->rows;
        part.jstep = 1;
        part.nj = B * (r + 1) / plan->rows - part.j0;
    }
    return part;
}
