/* internal.h: what the files of the core share with each other and nobody else.
 *
 *   fastrnn.c   entry points: checks, memory layout, dispatch
 *   both.c      two calls at the same time: the directions of a layer, two layers of a stack
 *   head.c      a step of training: a layer, and at the same time its head
 *   plan.c      how a call is split          team.c   threads and barriers
 *   pace.c      whether several threads are faster than one, as it turns out
 *   cpu.c       which instruction set        gemm.c   dense products and the provider table
 *   attention.c, pointwise.c, fingerprint.c  entry points of kernels that stand by themselves
 *   kernels/    compiled once per instruction set and element type */
#ifndef FR_INTERNAL_H
#define FR_INTERNAL_H

#include <stdatomic.h>

#include "fastrnn.h"
#include "fastrnn_pointwise.h"

#if defined(__GNUC__)
#define FR_PREFETCH(p) __builtin_prefetch(p)
#else
#define FR_PREFETCH(p) ((void)(p))
#endif

#if defined(_MSC_VER)
#define FR_THREAD_LOCAL __declspec(thread)
#else
#define FR_THREAD_LOCAL _Thread_local
#endif

/* ---- cells ------------------------------------------------------------------------------- */

/* What the core knows of a cell besides its kernels; what a row of the table does not name is 0.
 *
 * The last three are of the columns of a row of dG, and where each goes: slot k is added to gate
 * w_gate[k] of the input weights and to gate r_gate[k] of the recurrent ones (-1: to none). LSTM's
 * slots are its gates; GRU (reset after) needs four, because the candidate's two halves have
 * different gradients. */
enum { FR_MAX_GATES = 4 };

typedef struct fr_cell_traits {
    const char *name;
    int gates;  /* 1 .. FR_MAX_GATES: blocks of H rows in the weights */
    int slots;  /* activations kept per unit for backward; c is one of them */
    int dslots; /* gate gradients per unit, 1 .. FR_MAX_GATES */
    int phases; /* CELL_PHASES: products a step makes one after the other */
    int has_c;
    int splits_bias; /* the last gate's b_hh stays apart from its b_ih, behind all gates: GRU */
    int rh_slot;     /* of the reserve: the r*h that a later phase multiplied; 0: none */
    int slot_of_gate_r[FR_MAX_GATES]; /* recurrent gate -> slot of dG that reaches h through it */
    int w_gate[FR_MAX_GATES], r_gate[FR_MAX_GATES];
    int r_from_rh[FR_MAX_GATES]; /* the recurrent product of this slot read r*h, not h */
} fr_cell_traits;

extern const fr_cell_traits fr_cells[FR_CELLS];

/* ---- rows: who is active at which step ---------------------------------------------------- */

/* Rows are numbered by length, longest first, so the rows active at step s are 0 .. active(s)-1.
 * Row j is batch index order[j]; step s of it is time index fr_time(s, j). Internal buffers hold
 * the rows of all steps back to back: the row of (s, j) is first[s] + j. */
typedef struct fr_rows {
    int64_t T; /* steps walked: the longest length */
    int64_t B;
    int reverse;
    const int64_t *order; /* NULL: identity */
    const int64_t *len;   /* by row; NULL: all T */
    const int64_t *first; /* (T+1,); NULL: s * B */
    const uint8_t *reset; /* (T of the arrays, B) or NULL */
} fr_rows;

static inline int64_t fr_active(const fr_rows *r, int64_t s)
{
    return r->first ? r->first[s + 1] - r->first[s] : r->B;
}

static inline int64_t fr_row(const fr_rows *r, int64_t s, int64_t j)
{
    return (r->first ? r->first[s] : s * r->B) + j;
}

static inline int64_t fr_batch(const fr_rows *r, int64_t j)
{
    return r->order ? r->order[j] : j;
}

static inline int64_t fr_length(const fr_rows *r, int64_t j)
{
    return r->len ? r->len[j] : r->T;
}

static inline int64_t fr_time(const fr_rows *r, int64_t s, int64_t j)
{
    return r->reverse ? fr_length(r, j) - 1 - s : s;
}

static inline int fr_is_reset(const fr_rows *r, int64_t s, int64_t j)
{
    return r->reset && r->reset[fr_time(r, s, j) * r->B + fr_batch(r, j)];
}

/* ---- memory layout ------------------------------------------------------------------------ */

/* Byte offsets inside a packed buffer; 0 means the section is absent. */
typedef struct fr_packed_layout {
    size_t R;     /* [panel][gate][H][NR]   forward, recurrent */
    size_t W;     /* [panel][gate][I][NR]   forward, input */
    size_t table; /* [I][gate][Hp]          forward, one row per token, bias included */
    size_t bias;  /* [4][Hp]                per gate b_ih + b_hh; see splits_bias */
    size_t Rb;    /* [panel of H][gate][H][NR]   backward to h */
    size_t Wb;    /* [panel of I][gate][H][NR]   backward to x */
    size_t plain; /* [gate][Hp][I]          input weights for a foreign BLAS */
    size_t bytes;
} fr_packed_layout;

typedef struct fr_pack_call {
    const fr_layer *layer;
    const fr_weights *weights;
    char *packed;
    fr_packed_layout at;
    int use, threads;
} fr_pack_call;

typedef struct fr_packed_header { /* the first 64 bytes */
    uint64_t magic;
    const void *kernels;
    int64_t I, H;
    int32_t cell, dtype, use, blas;
} fr_packed_header;

/* ---- threads ------------------------------------------------------------------------------ */

/* Where n threads meet: a place for each, zeroed before use. A thread writes its own and reads all
 * the others', so a meeting takes one journey of a cache line between cores, not the three of a
 * common counter. */
typedef struct fr_place {
    _Alignas(64) _Atomic int times; /* how often its thread has come */
} fr_place;

void fr_meet(fr_place *places, int n, int me);
/* One tells how far it has come, another waits until it has come so far, and hears how far it has; far less
 * than 2^31 apart. */
void fr_tell(fr_place *place, int64_t times);
int64_t fr_wait(fr_place *place, int64_t times);
static inline int fr_has_come(fr_place *place, int64_t times)
{
    const unsigned come = (unsigned)atomic_load_explicit(&place->times, memory_order_acquire);
    return (int)(come - (unsigned)times) >= 0;
}

/* Work that is taken in its order by whoever comes first: take number `next`, if nobody has. */
static inline int fr_take(fr_place *work, int64_t next)
{
    int expected = (int)(unsigned)next;
    return atomic_load_explicit(&work->times, memory_order_relaxed) == expected &&
           atomic_compare_exchange_strong_explicit(&work->times, &expected,
                                                   (int)((unsigned)next + 1), memory_order_relaxed,
                                                   memory_order_relaxed);
}

/* Work that is taken, not dealt out: 1 for the first that asks in this round. Rounds are counted from
 * 1, and everything is asked for in every one of them; between two the threads meet. */
static inline int fr_claim(fr_place *work, unsigned round)
{
    return (unsigned)atomic_load_explicit(&work->times, memory_order_relaxed) != round &&
           (unsigned)atomic_exchange_explicit(&work->times, (int)round, memory_order_relaxed) !=
               round;
}

typedef void fr_job(void *arg, int tid);
/* job(arg, 0 .. threads-1); arg points to `bytes` bytes. */
fr_status fr_team_run(int threads, fr_job *job, void *arg, size_t bytes);
/* The same for a job that thread 0 does alone where it must, which is told in `alone` before it begins:
 * the others take part if they are awake, or if calls come so close together that waking them pays. */
void fr_team_offer(int threads, fr_job *job, void *arg, size_t bytes, int *alone);
/* And for one that thread 0 had better do alone; they may sleep, and it counts for waking them. */
void fr_team_leave(fr_job *job, void *arg);

int64_t fr_nanoseconds(void); /* since some time or other */

/* Subnormal numbers are flushed to zero inside our calls: saturated sequences would otherwise
 * run tens of times slower. Returns what fr_flush_restore puts back. */
unsigned long fr_flush_on(void);
void fr_flush_restore(unsigned long saved);

/* ---- one call ----------------------------------------------------------------------------- */

#define FR_ALIGN 64
#define FR_KC 320       /* rows of a batched product done at a time: its panels stay in L1 and L2 */
#define FR_MC 72        /* columns of dG transposed at a time */
#define FR_MOST_ALONE 8 /* threads whose work one of them may do alone */
#define FR_WEAVE_STEPS 16 /* of a single row, whose x W or dx is made together: kernels/weave.h */
#define FR_FOLLOWED_STEPS                                                                          \
    8 /* two layers that are walked at the same time take so many at a time: both.c */
/* Backward of at most so many rows of all steps together may be done without packing: kernels/few.h. Of a
 * single step, which reads its weights only once in whatever order they lie, of twice as many. */
#define FR_FEW_ROWS 16
#define FR_FEW_ROWS_OF_A_STEP 32
#define FR_HEAD_ROWS 256 /* of all steps of a layer whose head goes along: head.c */
/* Multiply-adds of a product that are worth a thread, each. */
#define FR_PRODUCT_OF_A_THREAD 1000000

typedef struct fr_part {   /* one thread's share */
    int64_t j0, jstep, nj; /* nj rows at most: fr_part_row */
    int64_t shift;         /* of every odd one */
    int64_t rows_before;   /* how many rows the parts before this one have */
    int64_t p0, p1;        /* panels of hidden units */
} fr_part;

/* Row q of a part, among all in their order. */
static inline int64_t fr_part_row(const fr_part *part, int64_t q)
{
    return part->j0 + q * part->jstep + (q & 1) * part->shift;
}

/* How many of a part's rows are among the first `active`. */
static inline int64_t fr_part_active(const fr_part *part, int64_t active)
{
    int64_t n = active - part->j0;
    if (part->jstep > 1) { /* one of each round, and of the last if it comes early enough */
        n = active / part->jstep;
        n += fr_part_row(part, n) < active;
    }
    return n < 0 ? 0 : n < part->nj ? n : part->nj;
}

/* Where weight gradients are added up: the caller's arrays, or a part's own until all are done. */
typedef struct fr_sums {
    fr_weight_grads grads;
    void *dtable; /* [I][gates][Hp] gradient of the token table; NULL: straight into w_ih */
} fr_sums;

/* Where one thread walks backward, another may make some of the products: rows of dR from unit `unit` of slot
 * `slot` on, and db. */
typedef struct fr_help {
    int slot;
    int64_t unit;
    const struct fr_call *call; /* what thread 0 has begun, and what to do for it */
    fr_job *job;
    fr_place begun;  /* 1: those are there, or call is NULL, if it could not begin */
    fr_place walked; /* 1: all dG are there */
    fr_place copied; /* 1: the call is no longer read */
} fr_help;

/* What ties a call of one thread to what another thread makes meanwhile; zeros: nothing. */
typedef struct fr_links {
    /* Forward. One call tells that it has begun (1) and, every few steps, how many are done (and 1 more);
     * another waits for its x, and takes at most `takes` steps of it at a time (0: any number). */
    fr_place *leads, *follows;
    int64_t tells, takes;
    /* Backward: where somebody tells how many of the last steps have their dy; who helps; and whether the
     * gradients of the weights are written, not added to, all but those that tokens are scattered to. The
     * last two only where all steps are one chunk of more than FR_FEW_ROWS and at most FR_KC rows. */
    fr_place *awaits;
    fr_help *help;
    int sets;
} fr_links;

/* Everything a walk needs, untyped; the kernels cast the pointers. */
typedef struct fr_call {
    fr_layer layer;
    fr_plan plan;
    int alone; /* thread 0 does what all threads of the plan would: kernels/walk.h */
    fr_rows rows;
    int64_t Hp; /* H rounded up to whole panels */
    /* elements from one row to the next, of several Hp each: row_elements in fastrnn.c */
    int64_t xw_row, reserve_row, dg_row;
    fr_place *everybody; /* [threads] */
    fr_place *sharers;   /* [rows of the plan][units]: those that share a part of the batch */
    fr_place
        *ahead; /* of x W made ahead: tiles taken, tiles that thread 1 is through with, and chunks
                          * that thread 0 is through with */
    fr_place *claims; /* [rows of the plan][panels], or NULL: every thread keeps to its own */
    /* Backward, [threads][pieces] of the products over a chunk: who takes one, and which are made; likewise. */
    fr_place *taken, *made;
    int64_t pieces;
    fr_links links;
    int helps; /* this is the copy of one that makes a share of the products: fr_help */
    const char *packed;
    fr_packed_layout at;
    int blas; /* batched products by the foreign provider */
    /* arrays, as in the public arguments */
    fr_array x, y, dy, dx;
    fr_tokens tokens;
    const void *h0, *c0, *dhT, *dcT;
    void *hT, *cT, *dh0, *dc0;
    int dx_add;
    int64_t clear_to; /* past a row's own steps y (backward: dx) is zeros up to it; 0: untouched */
    fr_array step_dh, step_dc;
    fr_clip clip_step;
    double clip_limit;
    int few;   /* backward by the weights that forward has read */
    int looks; /* each step's gradient is made whole before the cell takes it: kernels/steps.h */
    fr_weight_grads grads;
    int set;       /* grads are written, not added to */
    char *reserve; /* NULL: inference */
    /* scratch */
    char *zeros;             /* a row of zeros, as long as any row is read */
    char *c_start;           /* [B][Hp] c before the first step; inference keeps c there */
    char *carry_h, *carry_c; /* [B][Hp] gradients on their way from step to step */
    double *step_scale;      /* [B] what a step's gradient is multiplied by to clip its norm */
    char *gates; /* [B][reserve_row]: the reserve of inference, where a cell needs one */
    char *early; /* per thread [gates][Hp]; NULL: no units of a single row are shared */
    size_t early_stride;
    char *xw;    /* [chunk * B][xw_row] */
    char *dG[2]; /* [part][step][row][dg_row] of a chunk; chunks alternate */
    char *own;   /* weight gradients of all parts but the first; NULL: they share */
    size_t own_stride;
    char *dtable;   /* [I][gates][Hp]: gradient of the token table */
    char *pointers; /* per thread: row pointers */
    size_t pointers_stride;
    char *work; /* per thread: packed blocks of a batched product */
    size_t work_stride;
} fr_call;

/* Per-thread room for row pointers: arrays of `rows` pointers each. */
enum { FR_ROW_ARRAYS = 13 };

/* A sum of cross-entropies on its way, (0, 0, 1) at first: of_logits + (of_sums + log product). Its parts
 * are kept apart, so that it does not depend on how many rows come at a time. */
typedef struct fr_entropy {
    double of_logits, of_sums, product;
} fr_entropy;

#define FR_POINTWISE(real, type)                                                                   \
    typedef struct fr_pointwise_##type {                                                           \
        void (*softmax_cross_entropy)(real *, const real *, const int64_t *, ptrdiff_t, ptrdiff_t, \
                                      int64_t, double, fr_entropy *);                              \
        double (*bce_with_logits)(real *, const real *, const real *, ptrdiff_t, double);          \
        double (*sum_of_squares)(const real *, ptrdiff_t);                                         \
        void (*scale)(real *, ptrdiff_t, double);                                                  \
        void (*clip)(real *, ptrdiff_t, double, double);                                           \
        void (*dropout)(real *, const real *, ptrdiff_t, const fr_dropout_options *);              \
        void (*scatter_add)(real *, const real *, const int64_t *, ptrdiff_t, ptrdiff_t);          \
        void (*sgd)(real *, real *, const real *, ptrdiff_t, const fr_sgd_options *);              \
        void (*adagrad)(real *, real *, const real *, ptrdiff_t, const fr_adagrad_options *);      \
        void (*rmsprop)(real *, real *, real *, real *, const real *, ptrdiff_t,                   \
                        const fr_rmsprop_options *);                                               \
        void (*adam)(real *, real *, real *, const real *, ptrdiff_t, const fr_adam_options *);    \
    } fr_pointwise_##type
FR_POINTWISE(float, f32);
FR_POINTWISE(double, f64);

struct fr_gemm_call;

typedef struct fr_kernels {
    const char *isa;
    struct fr_typed {
        int vl, nr;
        fr_job *pack; /* arg: fr_pack_call */
        fr_job *forward[FR_CELLS];
        fr_job *backward[FR_CELLS];
        fr_job *gemm; /* arg: fr_gemm_call */
        void (*gemm_pack)(const struct fr_gemm_call *, int tid);
        void (*gemm_rows)(const struct fr_gemm_call *, int tid, int64_t first, int64_t end);
        int64_t (*gemm_tile)(int64_t M, int64_t first);
        fr_job *attention_scores, *attention_backward; /* arg: fr_attention_call */
        void (*activation)(int kind, void *out, const void *in, int64_t n);
    } typed[FR_DTYPES];
    fr_pointwise_f32 pointwise_f32;
    fr_pointwise_f64 pointwise_f64;
    uint64_t (*fingerprint)(const void *, size_t bytes);
} fr_kernels;

typedef struct fr_gemm_call {
    fr_gemm_args args;
    int threads;
    char *panels; /* op(B), packed: [panel of N][K][NR] */
    char *zeros;
    char *work; /* per thread: transposed block of A */
    size_t work_stride;
    fr_place *places; /* [threads] */
} fr_gemm_call;

/* pointwise.c: thread 1 has written a model's gradients from `first` to their end. */
void fr_note_far(const void *first, const void *end);

/* pointwise.c: fr_softmax_cross_entropy by and by, on the calling thread. */
typedef struct fr_entropy_call {
    fr_dtype dtype;
    void *dlogits;
    const void *logits;
    const int64_t *targets;
    ptrdiff_t n, V;
    int64_t ignored;
    double scale;
    double loss; /* of whole shares */
    fr_entropy rest;
} fr_entropy_call;

void fr_begin_entropy(fr_entropy_call *call);
/* Rows [first, end), which follow those of the call before. */
void fr_add_entropy(fr_entropy_call *call, ptrdiff_t first, ptrdiff_t end);

typedef struct fr_attention_call {
    fr_attention_args args;
    int threads;
} fr_attention_call;

extern const fr_kernels fr_kernels_portable;
#if defined(__x86_64__) && defined(__GNUC__)
extern const fr_kernels fr_kernels_avx2, fr_kernels_avx512;
#endif
#if defined(__aarch64__) && defined(__GNUC__)
extern const fr_kernels fr_kernels_neon;
#endif

const fr_kernels *fr_current_kernels(void);

/* Of the first-level data cache of a core; 32 KB where that is not known. */
size_t fr_l1_bytes(void);
/* So many bytes of weights come as fast as they are used; whoever reads more asks for them early: tile.h.
 * FR_NEAR_BYTES, where little is known. */
size_t fr_near_bytes(void);
#define FR_NEAR_BYTES 10000000

/* ---- plan.c ------------------------------------------------------------------------------- */

/* What is split: forward; backward; or forward whose x W is not made at all (tokens), or not by us. */
typedef enum fr_pass { FR_PASS_FORWARD, FR_PASS_BACKWARD, FR_PASS_STEPS } fr_pass;

/* A pure function of its arguments, which remembers its newest results. panel: units in a panel. */
fr_plan fr_make_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                     fr_pass pass);
/* Whether two layers of a stack are walked forward at the same time: as fr_plan.together. */
int fr_layers_at_once(const fr_layer layers[2], int64_t T, int64_t B, int threads, int panel,
                      const fr_pass passes[2]);
/* 1 if backward of `rows` rows in T steps had better read what forward has read. */
int fr_is_few(const fr_layer *layer, int64_t T, int64_t rows);
fr_part fr_plan_part(const fr_plan *plan, const fr_rows *rows, int64_t panels, int tid);

/* ---- pace.c ------------------------------------------------------------------------------- */

int fr_pace_next(fr_pace *pace); /* 1: the next had better be made by one thread */
void fr_pace_note(fr_pace *pace, int alone, int64_t ns); /* what it has taken */
fr_pace *fr_pace_of(const fr_call *call, fr_job *job); /* this thread's, for calls like this one */

/* ---- fastrnn.c ---------------------------------------------------------------------------- */

/* The plan of a call, checked as the call would be. */
fr_status fr_plan_of_call(fr_plan *plan, const fr_layer *layer, const fr_seq *seq, int backward,
                          int tokens);
fr_pass fr_pass_of_call(int backward, int tokens);
int fr_threads_of_call(const fr_seq *seq);
int64_t fr_longest(const fr_seq *seq); /* steps of its longest row */
fr_status fr_forward_linked(const fr_layer *layer, const fr_seq *seq, const fr_forward_args *args,
                            const fr_links *links);
fr_status fr_backward_linked(const fr_layer *layer, const fr_seq *seq, const fr_backward_args *args,
                             const fr_links *links);
/* The helper's side, in memory of its own. */
size_t fr_help_bytes(const fr_layer *layer, const fr_seq *seq);
int fr_help_backward(fr_help *help, void *scratch); /* 0: the call could not begin */

/* ---- gemm.c ------------------------------------------------------------------------------- */

/* A product made in phases by one thread: kernels->gemm_pack, then gemm_rows. args have been checked. */
void fr_gemm_begin(fr_gemm_call *call, const fr_gemm_args *args);
int fr_blas_serial(void); /* 0: own; otherwise a number that changes with the provider */
/* Row-major C (M,N) = beta C + op(A) op(B), by the foreign provider, on the calling thread. */
void fr_blas_gemm(fr_dtype dtype, int ta, int tb, int64_t M, int64_t N, int64_t K, const void *A,
                  int64_t lda, const void *B, int64_t ldb, double beta, void *C, int64_t ldc);
void fr_blas_enter(void); /* single-threaded from here on: two pools must not alternate */
void fr_blas_leave(void);

#endif
