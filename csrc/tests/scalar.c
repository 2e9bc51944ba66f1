/* scalar.c: the cells by their equations, one number at a time, in double. Slow and obvious.
 *
 * Every weight gradient follows from two vectors a step: `in`, the gradient of x W^T + b_ih, and
 * `rec`, that of h_prev R^T + b_hh. The numbers are those of docs/math.md. */
#include "problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GATES = 4 };

typedef struct step { /* what forward leaves for backward; one unit each */
    double h, c, hprev, cprev;
    double act[GATES]; /* activated gates: the cell's own order */
    double q;          /* GRU: h_prev R_n^T + b_hn */
} step;

static double sigmoid(double a)
{
    return 1 / (1 + exp(-a));
}

/* bias[row] + sum over k of matrix[row][k] v[k] */
static double affine(const double *bias, const double *matrix, int64_t row, const double *v,
                     int64_t n)
{
    double sum = bias ? bias[row] : 0;
    for (int64_t k = 0; k < n; k++)
        sum += matrix[row * n + k] * v[k];
    return sum;
}

static void forward_step(const problem *p, step *u, const double *x, const double *hprev)
{
    const int64_t I = p->layer.input_size, H = p->layer.hidden_size;
    const fr_cell cell = p->layer.cell;
    double *rh = calloc((size_t)H, sizeof *rh);

    for (int64_t j = 0; j < H; j++) {
        double in[GATES], rec[GATES];
        for (int g = 0; g < cell_gates(cell); g++) {
            in[g] = affine(p->b_ih, p->w_ih, g * H + j, x, I);
            rec[g] = affine(p->b_hh, p->w_hh, g * H + j, hprev, H);
        }
        switch (cell) {
        case FR_RNN_TANH: /* (R2) */
            u[j].h = tanh(in[0] + rec[0]);
            break;
        case FR_RNN_RELU:
            u[j].h = in[0] + rec[0] > 0 ? in[0] + rec[0] : 0;
            break;
        case FR_RNN_SIGMOID:
            u[j].h = sigmoid(in[0] + rec[0]);
            break;
        case FR_LSTM: /* (L2, L3) */
            for (int g = 0; g < 4; g++)
                u[j].act[g] = g == 2 ? tanh(in[g] + rec[g]) : sigmoid(in[g] + rec[g]);
            u[j].c = u[j].act[1] * u[j].cprev + u[j].act[0] * u[j].act[2];
            u[j].h = u[j].act[3] * tanh(u[j].c);
            break;
        default: /* (G1, G2); n waits: it may need r of every unit */
            u[j].act[0] = sigmoid(in[0] + rec[0]);
            u[j].act[1] = sigmoid(in[1] + rec[1]);
            u[j].act[2] = in[2];
            u[j].q = rec[2];
            rh[j] = u[j].act[0] * hprev[j];
        }
    }
    if (cell == FR_GRU || cell == FR_GRU_BEFORE)
        for (int64_t j = 0; j < H; j++) {
            if (cell == FR_GRU) /* (G4) */
                u[j].act[2] = tanh(u[j].act[2] + u[j].act[0] * u[j].q);
            else /* (GB3) */
                u[j].act[2] = tanh(u[j].act[2] + affine(p->b_hh, p->w_hh, 2 * H + j, rh, H));
            u[j].h = u[j].act[1] * u[j].hprev + (1 - u[j].act[1]) * u[j].act[2]; /* (G5) */
        }
    free(rh);
}

/* From the whole gradients of h and c: in, rec (G,H), and what reaches h_prev, c_prev past rec. */
static void backward_step(const problem *p, const step *u, const double *dh, double *dc, double *in,
                          double *rec, double *dhprev)
{
    const int64_t H = p->layer.hidden_size;
    const fr_cell cell = p->layer.cell;
    for (int64_t j = 0; j < H; j++) {
        const double h = u[j].h, *a = u[j].act;
        dhprev[j] = 0;
        if (cell == FR_RNN_TANH || cell == FR_RNN_RELU || cell == FR_RNN_SIGMOID) { /* (R4) */
            in[j] = dh[j] * (cell == FR_RNN_TANH   ? 1 - h * h
                             : cell == FR_RNN_RELU ? (h > 0 ? 1 : 0)
                                                   : h * (1 - h));
        } else if (cell == FR_LSTM) { /* (L5, L7 .. L9) */
            const double t = tanh(u[j].c), all = dc[j];
            in[j] = all * a[2] * a[0] * (1 - a[0]);
            in[H + j] = all * u[j].cprev * a[1] * (1 - a[1]);
            in[2 * H + j] = all * a[0] * (1 - a[2] * a[2]);
            in[3 * H + j] = dh[j] * t * a[3] * (1 - a[3]);
            dc[j] = all * a[1];
        } else { /* (G7, G8, G10) */
            dhprev[j] = dh[j] * a[1];
            in[H + j] = dh[j] * (u[j].hprev - a[2]) * a[1] * (1 - a[1]);
            in[2 * H + j] = dh[j] * (1 - a[1]) * (1 - a[2] * a[2]);
            if (cell == FR_GRU) /* (G9) */
                in[j] = in[2 * H + j] * u[j].q * a[0] * (1 - a[0]);
        }
    }
    if (cell == FR_GRU_BEFORE)
        for (int64_t j = 0; j < H; j++) { /* (GB5 .. GB7) */
            double drh = 0;
            for (int64_t k = 0; k < H; k++)
                drh += in[2 * H + k] * p->w_hh[(2 * H + k) * H + j];
            in[j] = drh * u[j].hprev * u[j].act[0] * (1 - u[j].act[0]);
            dhprev[j] += drh * u[j].act[0];
        }
    memcpy(rec, in, (size_t)(cell_gates(cell) * H) * sizeof *rec);
    if (cell == FR_GRU)
        for (int64_t j = 0; j < H; j++)
            rec[2 * H + j] *= u[j].act[0];
    for (int g = 0; g < (cell == FR_GRU_BEFORE ? 2 : cell_gates(cell)); g++) /* (R5, L11, G14) */
        for (int64_t k = 0; k < H; k++)
            for (int64_t j = 0; j < H; j++)
                dhprev[j] += rec[g * H + k] * p->w_hh[(g * H + k) * H + j];
}

/* (R6, R7): the same for every cell, but that GRU_BEFORE's R_n multiplied r * h_prev. */
static void add_gradients(const problem *p, const step *u, const double *x, const double *in,
                          const double *rec, double *dx, answer *a)
{
    const int64_t I = p->layer.input_size, H = p->layer.hidden_size;
    const fr_cell cell = p->layer.cell;
    for (int g = 0; g < cell_gates(cell); g++)
        for (int64_t j = 0; j < H; j++) {
            const int64_t row = g * H + j;
            const int gated = cell == FR_GRU_BEFORE && g == 2;
            for (int64_t k = 0; k < I; k++) {
                dx[k] += in[row] * p->w_ih[row * I + k];
                a->of[DW_IH][row * I + k] += in[row] * x[k];
            }
            for (int64_t k = 0; k < H; k++)
                a->of[DW_HH][row * H + k] += rec[row] * u[k].hprev * (gated ? u[k].act[0] : 1);
            a->of[DB_IH][row] += in[row];
            a->of[DB_HH][row] += rec[row];
        }
}

static void clip(const problem *p, double *v)
{
    const int64_t H = p->layer.hidden_size;
    const double limit = clip_limit(p);
    double sum = 0;
    for (int64_t j = 0; j < H; j++)
        sum += v[j] * v[j];
    for (int64_t j = 0; j < H; j++) {
        if (p->options & CLIP_VALUE) /* (C3) */
            v[j] = v[j] > limit ? limit : v[j] < -limit ? -limit : v[j];
        if (p->options & CLIP_NORM && sqrt(sum) > limit) /* (C4) */
            v[j] *= limit / sqrt(sum);
    }
}

static void solve_row(const problem *p, int64_t b, answer *a)
{
    const int64_t T = row_length(p, b), B = p->seq.B;
    const int64_t I = p->layer.input_size, H = p->layer.hidden_size, G = cell_gates(p->layer.cell);
    step *u = calloc((size_t)((T + 1) * H), sizeof *u);
    double *hprev = calloc((size_t)H, sizeof *hprev), *dx = calloc((size_t)I, sizeof *dx);
    double *dh = calloc((size_t)H, sizeof *dh), *dc = calloc((size_t)H, sizeof *dc);
    double *dhprev = calloc((size_t)H, sizeof *dhprev);
    double *in = calloc((size_t)(G * H), sizeof *in), *rec = calloc((size_t)(G * H), sizeof *rec);

    /* u[s + 1] is the s-th step walked, u[0] the initial state. */
    for (int64_t j = 0; j < H; j++) {
        u[j].h = p->h0 ? p->h0[b * H + j] : 0;
        u[j].c = p->c0 ? p->c0[b * H + j] : 0;
    }
    for (int64_t s = 0; s < T; s++) {
        const int64_t t = p->seq.reverse ? T - 1 - s : s;
        const int reset = p->reset && p->reset[t * B + b];
        for (int64_t j = 0; j < H; j++) {
            u[(s + 1) * H + j].hprev = hprev[j] = reset ? 0 : u[s * H + j].h;
            u[(s + 1) * H + j].cprev = reset ? 0 : u[s * H + j].c;
        }
        forward_step(p, u + (s + 1) * H, p->x + (t * B + b) * I, hprev);
        for (int64_t j = 0; j < H; j++) {
            const step *v = &u[(s + 1) * H + j];
            a->of[Y][(t * B + b) * H + j] = v->h;
            for (int k = 0; k < cell_slots(p->layer.cell); k++)
                a->of[SLOT_0 + k][(t * B + b) * H + j] = k == 4 ? v->c : v->act[k];
        }
    }
    for (int64_t j = 0; j < H; j++) {
        a->of[HT][b * H + j] = u[T * H + j].h;
        a->of[CT][b * H + j] = u[T * H + j].c;
        dh[j] = p->dhT ? p->dhT[b * H + j] : 0;
        dc[j] = p->dcT ? p->dcT[b * H + j] : 0;
    }
    for (int64_t s = T - 1; s >= 0; s--) {
        const int64_t t = p->seq.reverse ? T - 1 - s : s, row = t * B + b;
        const int reset = p->reset && p->reset[row];
        for (int64_t j = 0; j < H; j++)
            dh[j] += p->dy ? p->dy[row * H + j] : 0; /* (R3) */
        clip(p, dh);
        for (int64_t j = 0; j < H && p->layer.cell == FR_LSTM; j++) { /* (L6) */
            const step *v = &u[(s + 1) * H + j];
            dc[j] += dh[j] * v->act[3] * (1 - tanh(v->c) * tanh(v->c));
        }
        clip(p, dc);
        memcpy(a->of[STEP_DH] + row * H, dh, (size_t)H * sizeof *dh);
        memcpy(a->of[STEP_DC] + row * H, dc, (size_t)H * sizeof *dc);
        backward_step(p, u + (s + 1) * H, dh, dc, in, rec, dhprev);
        memset(dx, 0, (size_t)I * sizeof *dx);
        add_gradients(p, u + (s + 1) * H, p->x + row * I, in, rec, dx, a);
        memcpy(a->of[DX] + row * I, dx, (size_t)I * sizeof *dx);
        for (int64_t j = 0; j < H; j++) { /* (M8) */
            dh[j] = reset ? 0 : dhprev[j];
            dc[j] = reset ? 0 : dc[j];
        }
    }
    memcpy(a->of[DH0] + b * H, dh, (size_t)H * sizeof *dh);
    memcpy(a->of[DC0] + b * H, dc, (size_t)H * sizeof *dc);
    free(u), free(hprev), free(dx), free(dh), free(dc), free(dhprev), free(in), free(rec);
}

void scalar_solve(const problem *p, answer *a)
{
    for (int i = 0; i < ANSWERS; i++)
        memset(a->of[i], 0, a->count[i] * sizeof(double));
    for (int64_t b = 0; b < p->seq.B; b++)
        solve_row(p, b, a);
}
