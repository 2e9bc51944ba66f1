/* problem.h: one sequence to run, all of its data in double, and its answer.
 *
 *   problem    what is computed: sizes, weights, inputs, gradients that come in
 *   manner     how the engine is asked: where arrays lie, which outputs are wanted
 *   answer     everything that comes out, dense (T,B,K), padding 0
 *
 * scalar_solve (scalar.c) is the slow and obvious way to the answer, engine_solve (problem.c) the
 * library's; a test compares the two. */
#ifndef FR_PROBLEM_H
#define FR_PROBLEM_H

#include "check.h"

enum {                     /* options of a problem, and of the manner */
       NO_STATE = 1 << 0,  /* h0, c0 not given */
       NO_DY = 1 << 1,     /* gradient only through the final state */
       NO_DFINAL = 1 << 2, /* gradient only through the outputs */
       REVERSE = 1 << 3,
       RAGGED = 1 << 4, /* lengths from 0 to T */
       RESETS = 1 << 5,
       TOKENS = 1 << 6,
       NO_BIAS = 1 << 7,

       BATCH_FIRST = 1 << 8,
       WIDER = 1 << 9,     /* rows are the second part of longer rows */
       DOWNWARD = 1 << 10, /* the first step has the highest address */
       NO_DX = 1 << 11,
       ADD_DX = 1 << 12,
       NO_GRADS = 1 << 13,
       NO_BIAS_GRADS = 1 << 14,
       NO_STATES_OUT = 1 << 15, /* hT, cT, dh0, dc0 not wanted */
       NO_C = 1 << 17,          /* neither c0 nor dcT, though h0 and dhT are */
       FOREIGN = 1 << 16,       /* batched products by a CBLAS: the naive one of naive_blas.c */
       LOOK = 1 << 18,          /* the gradient of each step's state is wanted, too */
       CLIP_VALUE = 1 << 19,    /* and clipped */
       CLIP_NORM = 1 << 20,
       SET_GRADS = 1 << 21,  /* written, not added to */
       CLEAR_PAST = 1 << 22, /* y and dx are zeros past a row's length */
};

typedef struct problem {
    fr_layer layer; /* dtype is the engine's business */
    fr_seq seq;
    int64_t *lengths; /* what seq points to */
    uint8_t *reset;
    int options;
    double *w_ih, *w_hh, *b_ih, *b_hh; /* as in torch */
    double *x;                         /* (T,B,I); of tokens: the one-hot rows */
    double *dy;                        /* (T,B,H) */
    double *h0, *c0, *dhT, *dcT;       /* (B,H) */
    int64_t *tokens;                   /* (T,B) or NULL */
} problem;

enum {
    Y,
    HT,
    CT,
    SLOT_0, /* of the reserve, as fr_read_reserve numbers them */
    DX = SLOT_0 + 5,
    DH0,
    DC0,
    DW_IH,
    DW_HH,
    DB_IH,
    DB_HH,
    STEP_DH,
    STEP_DC,
    ANSWERS
};

typedef struct answer {
    size_t count[ANSWERS]; /* 0: not wanted, or this cell has none */
    double *of[ANSWERS];
} answer;

extern const char *const answer_names[ANSWERS];
extern const char *const cell_names[FR_CELLS];
int cell_gates(fr_cell cell);
int cell_slots(fr_cell cell); /* kept by step, and not the cell's private business */

problem *new_problem(fr_cell cell, int64_t T, int64_t B, int64_t I, int64_t H, int options);
void free_problem(problem *p);
/* Some of the rows are clipped by it, not all of them. */
double clip_limit(const problem *p);
int64_t row_length(const problem *p, int64_t b);

answer new_answer(const problem *p);
void free_answer(answer *a);

void scalar_solve(const problem *p, answer *a);

/* Checks by itself that nothing outside the answer is written, that padding is not read, that
 * inputs stay as they were, and that a second run gives the same bits. What is not wanted stays
 * as it was in `a`. */
fr_status engine_solve(const problem *p, fr_dtype dtype, answer *a);

/* sum(y dy) + sum(hT dhT) + sum(cT dcT), forward in double: what backward differentiates. */
double engine_loss(const problem *p);

/* A CBLAS of three loops (naive_blas.c), one that gives wrong answers, and one whose integers have
 * 64 bits and not 32 as it says. */
fr_status naive_blas_select(int ilp64);
fr_status wrong_blas_select(void);
fr_status too_wide_blas_select(void);
int naive_blas_threads(void); /* what it believes it may use */

#endif
