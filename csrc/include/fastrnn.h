/* fastrnn.h: recurrent networks on a CPU. This header is the manual; read it first.
 *
 * One call runs one layer in one direction over a whole sequence, forward or backward (or two layers or
 * directions: fr_forward_both, fr_forward_two; or a step of training: fr_train_with_head).
 * Cells: vanilla RNN (tanh, relu, sigmoid), LSTM, GRU (reset after or before the product).
 * Parameters have torch.nn's shapes and gate order; the equations are in docs/math.md.
 *
 *   T  time steps     B  batch     I  input size     H  hidden size
 *   G  gates: 1 (RNN), 4 (LSTM: i f g o), 3 (GRU: r z n)
 *
 * Memory is the caller's. Three kinds of it, each with a function that answers its size:
 *
 *   packed    weights in the kernels' order; lives as long as the weights do not change
 *   reserve   what backward needs of forward; written by forward, const in backward
 *   scratch   one call's working space; contents undefined before and after
 *
 * All three must be 64-byte aligned. Nothing here allocates, except the thread team when it is
 * first used. No Python. Safe to call from several threads at once as long as outputs and scratch
 * are not shared.
 *
 * Every function that can fail returns an fr_status and writes nothing if it is not FR_OK (two calls at the
 * same time: see there). A function that answers a size answers 0 if there is none. */
#ifndef FASTRNN_H
#define FASTRNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTRNN_VERSION "0.1.0"

typedef enum fr_status {
    FR_OK = 0,
    FR_EDIM,    /* a size is < 1 (T and B: < 0), or a product of sizes overflows */
    FR_EARG,    /* a pointer that must be given is NULL, or an option is unknown */
    FR_EPACK,   /* packed weights do not belong to this layer and instruction set */
    FR_EISA,    /* instruction set unknown, or not available on this machine */
    FR_ETHREAD, /* the system would not start a thread */
    FR_ETOKEN,  /* a token is outside [0, I) */
    FR_ELENGTH, /* a length is outside [0, T] */
    FR_EBLAS,   /* the product of known matrices came out wrong */
} fr_status;

const char *fr_status_text(fr_status status);

typedef enum fr_cell {
    FR_RNN_TANH,
    FR_RNN_RELU,
    FR_RNN_SIGMOID,
    FR_LSTM,
    FR_GRU,        /* n = tanh(x W_n + b_in + r * (h R_n + b_hn)): torch, cuDNN */
    FR_GRU_BEFORE, /* n = tanh(x W_n + b_in + (r * h) R_n + b_hn): Cho et al. 2014 */
    FR_CELLS
} fr_cell;

typedef enum fr_dtype { FR_F32, FR_F64, FR_DTYPES } fr_dtype;

/* ---- what never changes between the calls of a layer ------------------------------------ */

typedef struct fr_layer {
    fr_cell cell;
    fr_dtype dtype;
    int64_t input_size, hidden_size; /* I and H; not by those names, which <complex.h> takes */
} fr_layer;

/* Parameters, or their gradients, in torch's layout, dense and row-major. Biases may be NULL. */
typedef struct fr_weights {
    const void *w_ih; /* (G*H, I) */
    const void *w_hh; /* (G*H, H) */
    const void *b_ih; /* (G*H,)   */
    const void *b_hh; /* (G*H,)   */
} fr_weights;

/* Added into; overwritten only where `set` is 1, and by fr_train_with_head. */
typedef struct fr_weight_grads {
    void *w_ih, *w_hh, *b_ih, *b_hh;
} fr_weight_grads;

/* ---- packed weights ---------------------------------------------------------------------- */

typedef enum fr_use {
    FR_USE_DENSE = 1,    /* forward on x (T,B,I) */
    FR_USE_TOKENS = 2,   /* forward on token ids: a table of I rows, one gathered per token */
    FR_USE_BACKWARD = 4, /* gradients to the states (and the weights) */
    FR_USE_DX = 8,       /* gradient to x as well */
    FR_USE_ALONE = 16    /* calls will be of one thread: what another has packed would come late */
} fr_use;

size_t fr_packed_bytes(const fr_layer *layer, int use); /* 0: sizes are out of range */
/* Large ones are packed by fr_get_num_threads() threads: the same bytes whoever does it. */
fr_status fr_pack(const fr_layer *layer, int use, void *packed, const fr_weights *w);

/* ---- one sequence ------------------------------------------------------------------------ */

typedef struct fr_seq {
    int64_t T, B;
    int reverse;            /* walk from each row's last step to its first */
    const int64_t *lengths; /* (B,), each 0..T, any order; NULL: every row has T steps */
    const uint8_t *reset;   /* (T,B): 1 zeroes the state before that step; NULL: never */
    int threads; /* at most; 0: fr_get_num_threads(). Scratch is laid out for them: ask for its size
                  * and make the call with the same number */
} fr_seq;

/* What a training call needs of the packed weights, as a set of fr_use; 0: an argument is not valid. A
 * call of a few rows reads on the way back what forward has read. To have more never harms. */
int fr_training_use(const fr_layer *layer, const fr_seq *seq, int tokens, int dx);

/* A (T,B,K) array whose last axis is dense: element (t,b,k) is p[t*st + b*sb + k]. Strides are in
 * elements, so batch-first arrays and one direction's half of a bidirectional output need no copy. */
typedef struct fr_array {
    void *p;
    ptrdiff_t st, sb;
} fr_array;

typedef struct fr_tokens {
    const int64_t *p; /* token (t,b) is p[t*st + b*sb] */
    ptrdiff_t st, sb;
} fr_tokens;

/* Forward. Outputs first. States are dense (B,H); c only for LSTM.
 *
 * A machine gives the same numbers for the same call, instruction set and number of threads. Another one may
 * differ in the last bits of a single row, whose sums are cut by what its first-level cache holds.
 *
 *   y        (T,B,H)  out  steps past a row's length are not written, or, with clear_past, zeros
 *   hT, cT   (B,H)    out  each row's own last state; may be NULL
 *   reserve           out  NULL: inference, nothing kept
 *   x                 in   or tokens, when x.p is NULL
 *   h0, c0   (B,H)    in   NULL: zeros
 * hT may be h0 and cT may be c0, so that a state is moved on in place; no other output may overlap an
 * input. (A training call's h0 and c0 are read again by backward.) */
typedef struct fr_forward_args {
    fr_array y;
    void *hT, *cT;
    void *reserve;
    fr_array x;
    fr_tokens tokens;
    const void *h0, *c0;
    const void *packed; /* packed for FR_USE_DENSE or FR_USE_TOKENS */
    void *scratch;
    int clear_past; /* of y, by the threads that write the rows */
} fr_forward_args;

size_t fr_reserve_bytes(const fr_layer *layer, const fr_seq *seq);
size_t fr_forward_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int training);
fr_status fr_forward(const fr_layer *layer, const fr_seq *seq, const fr_forward_args *args);

/* What becomes of the gradient that reaches a step's state, before it goes through the cell: of h
 * first, then of c, which has its share through h by then (C3, C4). */
typedef enum fr_clip {
    FR_CLIP_NONE,
    FR_CLIP_VALUE, /* each element into [-limit, limit] */
    FR_CLIP_NORM   /* each row's Euclidean norm to at most limit */
} fr_clip;

/* Backward of one forward call; y, x, h0, c0 are those of that call, unchanged.
 *   dx       (T,B,I)  out  written, or added into if dx_add; p NULL: not wanted; of tokens, the gradient
 *                     of the one-hot rows that they stand for. Apart from whatever is
 *                     read: some rows of it are written while rows of x are still needed. Steps past
 *                     a row's length are not written, or, with clear_past and without dx_add, zeros
 *   dh0, dc0 (B,H)    out  may be NULL
 *   grads             in/out, added into, or written if `set`; w_ih NULL: no weight gradients at all
 *   dy       (T,B,H)  in   p NULL: zeros. Steps past a row's length are not read
 *   dhT, dcT (B,H)    in   NULL: zeros
 *   step_dh, step_dc (T,B,H)  out  the whole gradient that reaches each step's h and c, as it goes
 *                     through the cell; p NULL: not wanted, and nothing is slower for it. c only
 *                     for LSTM. Steps past a row's length are not written */
typedef struct fr_backward_args {
    fr_array dx;
    int dx_add;
    void *dh0, *dc0;
    fr_weight_grads grads;
    fr_array dy;
    const void *dhT, *dcT;
    fr_array y;
    fr_array x;
    fr_tokens tokens;
    const void *h0, *c0;
    const void *reserve;
    const void *packed; /* the same as forward's, packed for what fr_training_use says */
    void *scratch;
    fr_array step_dh, step_dc;
    fr_clip clip_step;
    double clip_limit; /* above 0 */
    int set;           /* grads are written, not added to: what is there before does not count */
    int clear_past;    /* of dx */
} fr_backward_args;

size_t fr_backward_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int tokens);
fr_status fr_backward(const fr_layer *layer, const fr_seq *seq, const fr_backward_args *args);

/* ---- two calls at the same time ----------------------------------------------------------- */

/* The two directions of a bidirectional layer, of one shape: [0] walks forward in time and [1] backward
 * (seq->reverse is not read), each with packed weights, outputs and gradients of its own. Where that is
 * faster they are walked at the same time, on one thread each; or else one after the other, on all of
 * them. Which of the two depends on the shape and the number of threads alone, and so do the numbers.
 *
 * Scratch is that of args[0]; the other's is not read. dx is that of args[0], too, with its dx_add and
 * clear_past, and gets the sum of both. Either both have a reserve or none. Returns what fr_forward and
 * fr_backward do. If a token is out of range, which both read, nothing has been written; an argument that only
 * the second call has and that is not valid is found when the first has been made. */
fr_status fr_pack_both(const fr_layer *layer, const fr_seq *seq, int use, void *const packed[2],
                       const fr_weights weights[2]);
size_t fr_forward_both_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int training);
fr_status fr_forward_both(const fr_layer *layer, const fr_seq *seq, const fr_forward_args args[2]);
size_t fr_backward_both_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int tokens);
fr_status fr_backward_both(const fr_layer *layer, const fr_seq *seq,
                           const fr_backward_args args[2]);

/* Two layers of one stack, of which the second reads what the first writes (args[1].x is args[0].y), as one
 * call. Where that is faster the second follows the first by a few steps, on one thread each; or else they are
 * walked one after the other, on all threads. Otherwise as fr_forward_both: scratch is that of args[0], and
 * if a token is out of range, nothing has been written. */
size_t fr_forward_two_scratch_bytes(const fr_layer layers[2], const fr_seq *seq, int training);
fr_status fr_forward_two(const fr_layer layers[2], const fr_seq *seq,
                         const fr_forward_args args[2]);
/* Whether they would be walked at the same time: as fr_plan.together, and 0 if an argument is not valid. */
int fr_forward_two_together(const fr_layer layers[2], const fr_seq *seq, int tokens);

/* What forward kept of every step, for people to look at: one slot of the reserve, copied to
 * out (T,B,H). Slots of LSTM: i f g o c; of GRU: r z n, and q (FR_GRU) or r * h (FR_GRU_BEFORE); RNN has none.
 * Steps past a row's length are not written. `seq` is that of the forward call. */
fr_status fr_read_reserve(const fr_layer *layer, const fr_seq *seq, int slot, const fr_array *out,
                          const void *reserve);

/* ---- dense products: the layers around a recurrent one ---------------------------------- */

/* C (M,N) = op(A) op(B) [+ C if accumulate] [+ bias (N,) on every row]; row-major, dense rows with
 * leading dimensions lda, ldb, ldc; op is the transpose where the flag is set. In passing, the sums
 * of op(A)'s rows can be added to sums (M,): with A = dy transposed, a bias's gradient. */
typedef struct fr_gemm_args {
    fr_dtype dtype;
    int64_t M, N, K;
    void *C;
    int64_t ldc;
    const void *A;
    int64_t lda;
    int transpose_a;
    const void *B;
    int64_t ldb;
    int transpose_b;
    const void *bias;
    int accumulate;
    int threads; /* as in fr_seq */
    void *scratch;
    void *sums; /* NULL: not wanted */
} fr_gemm_args;

size_t fr_gemm_scratch_bytes(const fr_gemm_args *args);
fr_status fr_gemm(const fr_gemm_args *args);

/* ---- a layer and its head: one step of training ----------------------------------------- */

/* How long a call takes with its threads, ns[0], and with one, ns[1], as it has turned out. */
typedef struct fr_pace {
    double ns[2];
    int alone; /* one is faster */
    int calls, tries;
} fr_pace;

/* An affine map of the layer's outputs, with softmax and cross-entropy behind it.
 *
 *   w, b         (V,H), (V,)  in   b may be NULL
 *   targets      (T,B)        in   class ids that fr_check_targets has accepted
 *   ignored, scale            in   as of fr_softmax_cross_entropy_f32
 *   clip                      in   every gradient goes into [-clip, clip]; INFINITY: as it is
 *   dw, db                    out  db may be NULL
 *   logits, dlogits (T,B,V)   out  dense
 *   loss                      out  the sum of all steps' and rows'
 *   pace                           zeros at first, then the core's: to be kept from step to step */
typedef struct fr_head_args {
    int64_t V;
    const void *w, *b;
    void *dw, *db;
    void *logits, *dlogits;
    const int64_t *targets;
    int64_t ignored;
    double scale, clip;
    void *scratch;
    fr_pace pace;
    double loss;
} fr_head_args;

/* A step of training of a layer and its head, up to the clipped gradients, where it pays that a second thread
 * makes the head. fr_head_at_once answers 1 where it does: that depends on shapes, the number of threads,
 * instruction set and BLAS alone. Where it does not, the others refuse: 0 bytes, FR_EARG. The numbers are those of
 * fr_pack, fr_forward, fr_gemm, fr_softmax_cross_entropy_f32, fr_backward and fr_clip_f32 (or _f64) one after
 * the other, with as many threads.
 *
 * Gradients are written, not added to, and lie one behind the other: backward->grads.w_ih, w_hh, b_ih, b_hh,
 * then dw and db, those that are NULL left out. The packed weights are written, too, and those of forward and
 * backward. y is the same of both, and it and backward->dy, which is written, are dense (T,B,H). `use` is that of
 * fr_training_use; the layer's memory is for `seq` as it is given here.
 *
 * If the loss is not finite, FR_OK is returned and no gradient has been touched. If a token is out of range,
 * nothing but the packed weights has been written. What only the way back finds wrong with its arguments is
 * told when the loss and some gradients have been. */
int fr_head_at_once(const fr_layer *layer, const fr_seq *seq, int tokens, int64_t V);
size_t fr_head_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int64_t V);
/* Where the last gradient ends, if they lie as they should, and NULL if not. */
const void *fr_head_grads_end(const fr_layer *layer, const fr_weight_grads *grads,
                              const fr_head_args *head);
fr_status fr_train_with_head(const fr_layer *layer, const fr_seq *seq, int use, void *packed,
                             const fr_weights *weights, const fr_forward_args *forward,
                             const fr_backward_args *backward, fr_head_args *head);

/* ---- additive attention: every query with every place of a memory ------------------------- */

/* Scores, and from the gradient of the scores all that lies behind them:
 *
 *   p_ts = tanh(q_t + k_s);  e_ts = p_ts . v                                          (E5)
 *   dv = sum_ts de p;  dq_t = v sum_s de (1 - p^2);  dk_s = v sum_t de (1 - p^2)      (E12)
 *
 *   e         (B,T,S)   out  scores; places from len[b] on are not written
 *   dq dk dv  (B,T,M) (B,S,M) (B,M)   out  backward; dv row by row, for the caller to add up
 *   q k v     (B,T,M) (B,S,M) (M,)    in   queries and keys, already mapped to M units
 *   de        (B,T,S)   in   backward; places from len[b] on are not read, dk is 0 there
 *   len       (B,)      in   places of each row, 0..S; NULL: all of them
 *
 * Dense, row-major, not overlapping. No allocation and no scratch: p is never stored. The same
 * numbers for any number of threads. Returns FR_OK, or FR_EDIM, FR_EARG, FR_ELENGTH, FR_ETHREAD with
 * nothing written. */
typedef struct fr_attention_args {
    fr_dtype dtype;
    int64_t B, T, S, M;
    void *e;
    void *dq, *dk, *dv;
    const void *q, *k, *v, *de;
    const int64_t *len;
    int threads; /* as in fr_seq */
} fr_attention_args;

fr_status fr_attention_scores(const fr_attention_args *args);
fr_status fr_attention_backward(const fr_attention_args *args);

/* 64 bits that change when the memory does: to notice that weights must be packed anew. */
uint64_t fr_fingerprint(const void *p, size_t bytes);

/* ---- element-wise, exposed for tests: kind 0 exp, 1 sigmoid, 2 tanh ---------------------- */

/* As the kernels compute them, whose exponents are at most 0: exp is infinite from 127.5 ln 2 = 88.4 on,
 * in double from 709.4. Subnormal numbers are not flushed here, as they are in all other calls. */
fr_status fr_activation(fr_dtype dtype, int kind, void *out, const void *in, int64_t n);

/* ---- the machine ------------------------------------------------------------------------- */

/* Instruction sets compiled in, best first; NULL past the end. */
const char *fr_isa_name(int index);
int fr_isa_available(const char *name); /* 1 if compiled in and this processor and system run it */
const char *fr_isa(void);               /* the one in use */
fr_status fr_isa_select(const char *name); /* before anything is packed; NULL: the best available */

int fr_get_num_threads(void);
fr_status fr_set_num_threads(int n); /* 1..FR_MAX_THREADS */
#define FR_MAX_THREADS 64

/* Which library computes the products that are batched over time (x W, dW, dR, dx). `own` is
 * always there. A foreign one is a CBLAS, tried on a known product before it is accepted. */
typedef struct fr_blas {
    const char *name;    /* copied, at most 31 characters */
    void *sgemm, *dgemm; /* cblas_sgemm, cblas_dgemm */
    int ilp64;           /* integers are 64 bits wide */
    /* Makes it run on so many threads and returns the old number. Ours is 1 during a call, and the
     * old one is put back when it ends: two pools of threads must never alternate. May be NULL. */
    int (*set_threads)(int n);
    /* Where no function does both: these two instead, or NULL. */
    int (*get_threads)(void);
    void (*put_threads)(int n);
} fr_blas;
fr_status fr_blas_select(const fr_blas *blas); /* NULL: own */
const char *fr_blas_name(void);

/* How the work of a call on x (not on tokens) is split, for people and for tests. */
typedef struct fr_plan {
    int threads;     /* rows * units, and one more if `ahead` */
    int rows, units; /* parts of the batch; parts of the hidden units */
    int64_t chunk;   /* time steps whose batched products are done together */
    /* 1: whoever is done with the units of a step, or the gradients of a chunk, takes over some of the
     * others' */
    int takes_over;
    int ahead; /* 1: a second thread makes x W of steps to come while the first walks them; 2: which takes longer,
                * so the first helps when it would have to wait */
    /* 1: threads that sleep are not woken for one call; the caller's does all, with the same numbers, and
     * also where that turns out to be faster. 2: they are woken, but one thread makes it all where that turns
     * out to be faster. A forward call with a reserve that is 1 by itself goes by what its backward is. */
    int offered;
    int together; /* 1: the directions of a bidirectional layer are walked at the same time; 2: even if the
                   * other thread sleeps */
    int far; /* 1: weights come from the third level of cache or beyond it, and are asked for early */
    /* 1: parts of the batch that are not equally large share out x W, or all gradients that are sums over
     * time, evenly, whose rows they are */
    int evenly;
} fr_plan;
fr_status fr_plan_describe(fr_plan *plan, const fr_layer *layer, const fr_seq *seq, int backward);

#ifdef __cplusplus
}
#endif
#endif
