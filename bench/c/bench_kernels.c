/* bench_kernels.c: the recurrent kernels alone, against the multiply-add peak of this machine.
 *
 * What it is: the engine through its C interface, float32, three kinds of work
 *
 *   recurrence  forward on tokens: a table row per step, so that h R and the gates are all there is
 *   forward     on dense x, for training        backward  every gradient
 *
 * with one thread and with two. Peak is measured in the same rounds, alternating with the work.
 * A shared machine takes time away: "of peak" compares wall clocks, "of peak, CPU" flops for each
 * second of processor time (of all threads, waiting at barriers included), which a neighbour
 * disturbs less.
 *
 * What it is not: a comparison with other libraries (bench/peers.py).
 *
 *   make -C csrc bench            or, from csrc:  build/plain/bench_kernels --rounds 9 --json FILE */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fastrnn.h"
#include "peak.h"

enum work { RECURRENCE, FORWARD, BACKWARD };

static const char *const work_names[] = {"recurrence", "forward", "backward"};

static const struct {
    const char *name;
    fr_cell cell;
    int gates;
} cells[] = {{"lstm", FR_LSTM, 4}, {"gru", FR_GRU, 3}, {"rnn", FR_RNN_TANH, 1}};

static const struct {
    enum work work;
    int T, B, H;
} shapes[] = {
    {RECURRENCE, 20, 32, 256}, {RECURRENCE, 10, 64, 512}, {RECURRENCE, 3, 128, 1024},
    {RECURRENCE, 50, 1, 32},   {RECURRENCE, 50, 1, 64},   {RECURRENCE, 100, 1, 256},
    {FORWARD, 20, 32, 256},    {BACKWARD, 20, 32, 256},   {FORWARD, 10, 64, 512},
    {BACKWARD, 10, 64, 512},
};

#define COUNT(list) (int)(sizeof(list) / sizeof *(list))
enum { TOKENS = 65, MOST_ROUNDS = 99, MOST_THREADS = 2 };

/* ---- clocks -------------------------------------------------------------------------------- */

typedef struct span {
    double wall, cpu; /* seconds */
} span;

static span now(void)
{
    struct timespec wall, cpu;
    clock_gettime(CLOCK_MONOTONIC, &wall);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (span){(double)wall.tv_sec + 1e-9 * (double)wall.tv_nsec,
                  (double)cpu.tv_sec + 1e-9 * (double)cpu.tv_nsec};
}

static span since(span start)
{
    const span end = now();
    return (span){end.wall - start.wall, end.cpu - start.cpu};
}

static void nap(void) /* until idle threads of the engine have parked */
{
    nanosleep(&(struct timespec){0, 2000000}, NULL);
}

/* ---- peak ---------------------------------------------------------------------------------- */

static const long peak_turns = 1000000;
static atomic_int peak_ready;

typedef struct peak_part {
    int threads, away_from; /* the core of the first thread, or -1 */
    double flops, seconds;
} peak_part;

/* All start together, each on a core of its own. */
static void *peak_thread(void *arg)
{
    peak_part *part = arg;
    keep_off_core(part->away_from);
    atomic_fetch_add(&peak_ready, 1);
    while (atomic_load(&peak_ready) < part->threads)
        ;
    const span start = now();
    part->flops = peak_run(peak_turns);
    part->seconds = since(start).wall;
    return NULL;
}

/* Flops in a second: of the wall clock with `threads` threads, and of one processor's time. */
static span measure_peak(int threads)
{
    pthread_t thread[MOST_THREADS];
    peak_part part[MOST_THREADS];
    double flops = 0, wall = 0;
    atomic_store(&peak_ready, 0);
    for (int i = 0; i < threads; i++)
        part[i] = (peak_part){threads, i ? sched_getcpu() : -1, 0, 1};
    for (int i = 1; i < threads; i++)
        pthread_create(&thread[i], NULL, peak_thread, &part[i]);
    while (atomic_load(&peak_ready) < threads - 1)
        sched_yield();
    const span start = now();
    peak_thread(&part[0]);
    for (int i = 1; i < threads; i++)
        pthread_join(thread[i], NULL);
    const span took = since(start);
    for (int i = 0; i < threads; i++) {
        flops += part[i].flops;
        wall += part[i].flops / part[i].seconds;
    }
    return (span){wall, flops / took.cpu};
}

/* ---- jobs ---------------------------------------------------------------------------------- */

typedef struct job {
    int cell, shape, threads; /* indices; number */
    fr_layer layer;
    fr_seq seq;
    double flops;
    fr_forward_args forward;
    fr_backward_args backward;
    long repeats;           /* in a slice */
    span took[MOST_ROUNDS]; /* a call, by round */
} job;

static void *floats(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p)
        abort();
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        ((float *)p)[i] = (float)(i * 2654435761u % 2001) * 1e-4f - 0.1f;
    return p;
}

static void prepare(job *j)
{
    const int T = shapes[j->shape].T, B = shapes[j->shape].B, H = shapes[j->shape].H;
    const enum work work = shapes[j->shape].work;
    const int I = work == RECURRENCE ? TOKENS : H, G = cells[j->cell].gates;
    const size_t real = sizeof(float), states = (size_t)T * (size_t)B * (size_t)H * real;
    j->layer = (fr_layer){cells[j->cell].cell, FR_F32, I, H};
    j->seq = (fr_seq){.T = T, .B = B};
    /* Recurrent product alone; with the input's; backward: twice as many, dx and dW for y. */
    j->flops = 2.0 * T * B * G * H * (work == RECURRENCE ? H : H + I) * (work == BACKWARD ? 2 : 1);

    const int use = work == RECURRENCE ? FR_USE_TOKENS : FR_USE_DENSE | FR_USE_BACKWARD | FR_USE_DX;
    const size_t w_ih = (size_t)G * (size_t)H * (size_t)I * real,
                 w_hh = w_ih / (size_t)I * (size_t)H;
    const fr_weights w = {floats(w_ih), floats(w_hh), NULL, NULL};
    void *packed = floats(fr_packed_bytes(&j->layer, use));
    if (fr_pack(&j->layer, use, packed, &w) != FR_OK)
        abort();
    free((void *)w.w_ih), free((void *)w.w_hh);

    j->forward.y = (fr_array){floats(states), (ptrdiff_t)B * H, H};
    j->forward.h0 = floats((size_t)B * (size_t)H * real); /* from zeros, step 1 needs no product */
    j->forward.packed = packed;
    j->forward.scratch = floats(fr_forward_scratch_bytes(&j->layer, &j->seq, work != RECURRENCE));
    if (work == RECURRENCE) {
        int64_t *tokens = floats((size_t)T * (size_t)B * sizeof *tokens);
        for (int i = 0; i < T * B; i++)
            tokens[i] = i * 7 % TOKENS;
        j->forward.tokens = (fr_tokens){tokens, B, 1};
        return;
    }
    j->forward.x = (fr_array){floats(states), (ptrdiff_t)B * I, I};
    j->forward.reserve = floats(fr_reserve_bytes(&j->layer, &j->seq));
    if (work == BACKWARD) {
        j->backward = (fr_backward_args){
            .dx = {floats(states), (ptrdiff_t)B * I, I},
            .dh0 = floats((size_t)B * (size_t)H * real),
            .grads = {floats(w_ih), floats(w_hh), floats(w_ih), floats(w_ih)},
            .dy = {floats(states), (ptrdiff_t)B * H, H},
            .y = j->forward.y,
            .x = j->forward.x,
            .h0 = j->forward.h0,
            .reserve = j->forward.reserve,
            .packed = packed,
            .scratch = floats(fr_backward_scratch_bytes(&j->layer, &j->seq, 0)),
        };
        if (fr_forward(&j->layer, &j->seq, &j->forward) != FR_OK)
            abort();
    }
}

static void run(const job *j, long repeats)
{
    for (long i = 0; i < repeats; i++)
        if ((j->backward.dx.p ? fr_backward(&j->layer, &j->seq, &j->backward)
                              : fr_forward(&j->layer, &j->seq, &j->forward)) != FR_OK)
            abort();
}

/* ---- statistics ----------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *values, int n, double q)
{
    double sorted[MOST_ROUNDS];
    memcpy(sorted, values, (size_t)n * sizeof *values);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    return sorted[(int)(q * (n - 1) + 0.5)];
}

static span peaks[MOST_THREADS + 1][MOST_ROUNDS]; /* by threads, by round */

typedef struct result {
    double us[3], peak_us[3]; /* median, lower and upper quartile */
    double gflops, of_peak, of_peak_cpu;
} result;

/* Each round is compared with the peak of that round: what the machine lost, both lost. */
static result evaluate(const job *j, int rounds)
{
    static const double quantiles[3] = {0.5, 0.25, 0.75};
    double us[MOST_ROUNDS], ideal[MOST_ROUNDS], wall[MOST_ROUNDS], cpu[MOST_ROUNDS];
    result r;
    for (int k = 0; k < rounds; k++) {
        us[k] = j->took[k].wall * 1e6;
        ideal[k] = j->flops / peaks[j->threads][k].wall * 1e6;
        wall[k] = ideal[k] / us[k];
        cpu[k] = j->flops / j->took[k].cpu / peaks[j->threads][k].cpu;
    }
    for (int i = 0; i < 3; i++) {
        r.us[i] = quantile(us, rounds, quantiles[i]);
        r.peak_us[i] = quantile(ideal, rounds, quantiles[i]);
    }
    r.gflops = j->flops / r.us[0] * 1e-3;
    r.of_peak = quantile(wall, rounds, 0.5);
    r.of_peak_cpu = quantile(cpu, rounds, 0.5);
    return r;
}

/* Medians, in GFLOP/s. */
static span peak_gflops(int threads, int rounds)
{
    double wall[MOST_ROUNDS], cpu[MOST_ROUNDS];
    for (int k = 0; k < rounds; k++) {
        wall[k] = peaks[threads][k].wall * 1e-9;
        cpu[k] = peaks[threads][k].cpu * 1e-9;
    }
    return (span){quantile(wall, rounds, 0.5), quantile(cpu, rounds, 0.5)};
}

/* ---- reports -------------------------------------------------------------------------------- */

static void cpu_name(char *name, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(name, size, "unknown processor");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            line[strcspn(line, "\n")] = 0;
            snprintf(name, size, "%s", strchr(line, ':') + 2);
            break;
        }
    if (f)
        fclose(f);
}

static void print_table(const job *jobs, int n, int rounds)
{
    char cpu[256];
    cpu_name(cpu, sizeof cpu);
    const span one = peak_gflops(1, rounds), two = peak_gflops(2, rounds);
    printf("%s, ISA %s, fastrnn %s, float32. Multiply-add peak: %.0f GFLOP/s on one thread, %.0f "
           "on two; %.0f for each second of processor time.\nMedians of %d alternating rounds; "
           "recurrence: tokens, I = %d; otherwise I = H.\n\n",
           cpu, fr_isa(), FASTRNN_VERSION, one.wall, two.wall, one.cpu, rounds, TOKENS);
    printf("| work, T B H | threads | us | us a step | GFLOP/s | of peak | of peak, CPU |\n"
           "|---|---:|---:|---:|---:|---:|---:|\n");
    for (int i = 0; i < n; i++) {
        const result r = evaluate(&jobs[i], rounds);
        const int s = jobs[i].shape;
        printf("| %s %s, %d %d %d | %d | %.1f | %.2f | %.1f | %.0f%% | %.0f%% |\n",
               cells[jobs[i].cell].name, work_names[shapes[s].work], shapes[s].T, shapes[s].B,
               shapes[s].H, jobs[i].threads, r.us[0], r.us[0] / shapes[s].T, r.gflops,
               100 * r.of_peak, 100 * r.of_peak_cpu);
    }
}

/* Rows as bench/compare.py reads them; the other contender is the peak itself. */
static int write_json(const char *path, const job *jobs, int n, int rounds)
{
    char cpu[256], date[32];
    const time_t t = time(NULL);
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        return 1;
    }
    cpu_name(cpu, sizeof cpu);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S+00:00", gmtime(&t));
    fprintf(
        f,
        "{\n \"environment\": {\"date\": \"%s\", \"cpu\": \"%s\", \"isa\": \"%s\", \"versions\": "
        "{\"fastrnn\": \"%s\"},\n  \"peak_gflops\": {\"1\": %.1f, \"2\": %.1f}},\n \"rows\": [\n",
        date, cpu, fr_isa(), FASTRNN_VERSION, peak_gflops(1, rounds).wall,
        peak_gflops(2, rounds).wall);
    for (int i = 0; i < n; i++) {
        const result r = evaluate(&jobs[i], rounds);
        const job *j = &jobs[i];
        const char *plural = j->threads == 1 ? "" : "s";
        fprintf(
            f,
            "  {\"cell\": \"%s\", \"work\": \"%s %d thread%s\", \"shape\": [%d, %d, %d, %d], "
            "\"us\": {\"fastrnn\": {\"median\": %.3f, \"low\": %.3f, \"high\": %.3f}, \"peak\": "
            "{\"median\": %.3f, \"low\": %.3f, \"high\": %.3f}}, \"gflops\": %.2f, \"of_peak\": "
            "%.4f, \"of_peak_cpu\": %.4f}%s\n",
            cells[j->cell].name, work_names[shapes[j->shape].work], j->threads, plural,
            (int)j->seq.T, (int)j->seq.B, (int)j->layer.input_size, (int)j->layer.hidden_size,
            r.us[0], r.us[1], r.us[2], r.peak_us[0], r.peak_us[1], r.peak_us[2], r.gflops,
            r.of_peak, r.of_peak_cpu, i + 1 < n ? "," : "");
    }
    fprintf(f, " ]\n}\n");
    return fclose(f) != 0;
}

/* ---- main ----------------------------------------------------------------------------------- */

static const char *const usage =
    "usage: bench_kernels [--rounds N] [--slice MS] [--isa NAME] [--cell lstm|gru|rnn] [--json "
    "FILE]\n"
    "\n"
    "  --rounds N    slices of each job, alternating (default 7, at most 99)\n"
    "  --slice MS    length of a slice (default 15)\n"
    "  --isa NAME    instruction set (default: the best)\n"
    "  --cell NAME   only this cell (default: all)\n"
    "  --json FILE   write the results there too\n"
    "\n"
    "example: bench_kernels --cell lstm --rounds 15 --json results.json\n";

static void fail(const char *message, const char *what)
{
    fprintf(stderr, "bench_kernels: %s %s\n%s", message, what, usage);
    exit(2);
}

int main(int count, char **words)
{
    static job jobs[COUNT(cells) * COUNT(shapes) * MOST_THREADS];
    int n = 0, rounds = 7;
    double slice = 15e-3;
    const char *json = NULL, *cell = NULL;

    for (int i = 1; i < count; i++) {
        if (!strcmp(words[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        if (i + 1 == count)
            fail("no value, or unknown:", words[i]);
        const char *name = words[i], *value = words[++i];
        if (!strcmp(name, "--rounds"))
            rounds = atoi(value);
        else if (!strcmp(name, "--slice"))
            slice = atof(value) * 1e-3;
        else if (!strcmp(name, "--json"))
            json = value;
        else if (!strcmp(name, "--cell"))
            cell = value;
        else if (strcmp(name, "--isa"))
            fail("unknown option", name);
        else if (fr_isa_select(value) != FR_OK)
            fail("not available here: instruction set", value);
    }
    if (rounds < 1 || rounds > MOST_ROUNDS)
        fail("--rounds: expected 1 to 99, got", "something else");

    for (int c = 0; c < COUNT(cells); c++)
        for (int s = 0; s < COUNT(shapes) && (!cell || !strcmp(cell, cells[c].name)); s++)
            for (int threads = 1; threads <= MOST_THREADS; threads++) {
                job *j = &jobs[n++];
                j->cell = c;
                j->shape = s;
                j->threads = threads;
                fr_set_num_threads(threads);
                prepare(j);
                run(j, 1); /* the first touch of memory, the start of threads */
                const span start = now();
                run(j, 1);
                j->repeats = 1 + (long)(slice / since(start).wall);
            }
    if (!n)
        fail("--cell: expected lstm, gru or rnn, got", cell);
    for (int k = 0; k < rounds; k++) {
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            nap();
            peaks[threads][k] = measure_peak(threads);
        }
        for (int i = 0; i < n; i++) {
            fr_set_num_threads(jobs[i].threads);
            nap();
            run(&jobs[i], 1); /* caches and threads wake outside the clock */
            const span start = now();
            run(&jobs[i], jobs[i].repeats);
            const span took = since(start);
            jobs[i].took[k] =
                (span){took.wall / (double)jobs[i].repeats, took.cpu / (double)jobs[i].repeats};
        }
    }
    print_table(jobs, n, rounds);
    return json ? write_json(json, jobs, n, rounds) : 0;
}
