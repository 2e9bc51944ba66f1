# The C declarations of csrc/include/fastrnn.h that the boundary uses. Included by _core.pyx.

from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t

cdef extern from "fastrnn.h" nogil:
    ctypedef enum fr_status:
        FR_OK
        FR_EDIM
        FR_EARG
        FR_EPACK
        FR_EISA
        FR_ETHREAD
        FR_ETOKEN
        FR_ELENGTH
        FR_EBLAS

    ctypedef enum fr_cell:
        FR_RNN_TANH
        FR_RNN_RELU
        FR_RNN_SIGMOID
        FR_LSTM
        FR_GRU
        FR_GRU_BEFORE

    ctypedef enum fr_dtype:
        FR_F32
        FR_F64

    int FR_USE_DENSE, FR_USE_TOKENS, FR_USE_BACKWARD, FR_USE_DX, FR_USE_ALONE, FR_MAX_THREADS
    const char *FASTRNN_VERSION

    ctypedef struct fr_layer:
        fr_cell cell
        fr_dtype dtype
        int64_t input_size, hidden_size

    ctypedef struct fr_weights:
        const void *w_ih
        const void *w_hh
        const void *b_ih
        const void *b_hh

    ctypedef struct fr_weight_grads:
        void *w_ih
        void *w_hh
        void *b_ih
        void *b_hh

    ctypedef struct fr_seq:
        int64_t T, B
        int reverse
        const int64_t *lengths
        const uint8_t *reset
        int threads

    ctypedef struct fr_array:
        void *p
        Py_ssize_t st, sb

    ctypedef struct fr_tokens:
        const int64_t *p
        Py_ssize_t st, sb

    ctypedef struct fr_forward_args:
        fr_array y
        void *hT
        void *cT
        void *reserve
        fr_array x
        fr_tokens tokens
        const void *h0
        const void *c0
        const void *packed
        void *scratch
        int clear_past

    ctypedef enum fr_clip:
        FR_CLIP_NONE
        FR_CLIP_VALUE
        FR_CLIP_NORM

    ctypedef struct fr_backward_args:
        fr_array dx
        int dx_add
        void *dh0
        void *dc0
        fr_weight_grads grads
        fr_array dy
        const void *dhT
        const void *dcT
        fr_array y
        fr_array x
        fr_tokens tokens
        const void *h0
        const void *c0
        const void *reserve
        const void *packed
        void *scratch
        fr_array step_dh
        fr_array step_dc
        fr_clip clip_step
        double clip_limit
        int set
        int clear_past

    ctypedef struct fr_gemm_args:
        fr_dtype dtype
        int64_t M, N, K
        void *C
        int64_t ldc
        const void *A
        int64_t lda
        int transpose_a
        const void *B
        int64_t ldb
        int transpose_b
        const void *bias
        int accumulate
        int threads
        void *scratch
        void *sums

    ctypedef struct fr_attention_args:
        fr_dtype dtype
        int64_t B, T, S, M
        void *e
        void *dq
        void *dk
        void *dv
        const void *q
        const void *k
        const void *v
        const void *de
        const int64_t *len
        int threads

    ctypedef struct fr_blas:
        const char *name
        void *sgemm
        void *dgemm
        int ilp64
        int (*set_threads)(int n) noexcept nogil
        int (*get_threads)() noexcept nogil
        void (*put_threads)(int n) noexcept nogil

    ctypedef struct fr_plan:
        int threads, rows, units, ahead, offered, together, far, evenly
        int64_t chunk

    const char *fr_status_text(fr_status status)
    size_t fr_packed_bytes(const fr_layer *layer, int use)
    fr_status fr_pack(const fr_layer *layer, int use, void *packed, const fr_weights *w)
    int fr_training_use(const fr_layer *layer, const fr_seq *seq, int tokens, int dx)
    size_t fr_reserve_bytes(const fr_layer *layer, const fr_seq *seq)
    size_t fr_forward_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int training)
    fr_status fr_forward(const fr_layer *layer, const fr_seq *seq, const fr_forward_args *args)
    size_t fr_backward_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int tokens)
    fr_status fr_backward(const fr_layer *layer, const fr_seq *seq, const fr_backward_args *args)
    fr_status fr_pack_both(const fr_layer *layer, const fr_seq *seq, int use, void **packed,
                           const fr_weights *weights)
    size_t fr_forward_both_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int training)
    fr_status fr_forward_both(const fr_layer *layer, const fr_seq *seq, const fr_forward_args *args)
    size_t fr_backward_both_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int tokens)
    fr_status fr_backward_both(const fr_layer *layer, const fr_seq *seq,
                               const fr_backward_args *args)
    size_t fr_forward_two_scratch_bytes(const fr_layer *layers, const fr_seq *seq, int training)
    int fr_forward_two_together(const fr_layer *layers, const fr_seq *seq, int tokens)
    fr_status fr_forward_two(const fr_layer *layers, const fr_seq *seq,
                             const fr_forward_args *args)
    fr_status fr_read_reserve(const fr_layer *layer, const fr_seq *seq, int slot,
                              const fr_array *out, const void *reserve)
    ctypedef struct fr_pace:
        int alone

    ctypedef struct fr_head_args:
        int64_t V
        const void *w
        const void *b
        void *dw
        void *db
        void *logits
        void *dlogits
        const int64_t *targets
        int64_t ignored
        double scale, clip
        void *scratch
        fr_pace pace
        double loss

    int fr_head_at_once(const fr_layer *layer, const fr_seq *seq, int tokens, int64_t V)
    size_t fr_head_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int64_t V)
    const void *fr_head_grads_end(const fr_layer *layer, const fr_weight_grads *grads,
                                  const fr_head_args *head)
    fr_status fr_train_with_head(const fr_layer *layer, const fr_seq *seq, int use, void *packed,
                                 const fr_weights *weights, const fr_forward_args *forward,
                                 const fr_backward_args *backward, fr_head_args *head)
    size_t fr_gemm_scratch_bytes(const fr_gemm_args *args)
    fr_status fr_gemm(const fr_gemm_args *args)
    fr_status fr_attention_scores(const fr_attention_args *args)
    fr_status fr_attention_backward(const fr_attention_args *args)
    fr_status fr_activation(fr_dtype dtype, int kind, void *out, const void *x, int64_t n)
    uint64_t fr_fingerprint(const void *p, size_t bytes)
    const char *fr_isa_name(int index)
    int fr_isa_available(const char *name)
    const char *fr_isa()
    fr_status fr_isa_select(const char *name)
    int fr_get_num_threads()
    fr_status fr_set_num_threads(int n)
    fr_status fr_blas_select(const fr_blas *blas)
    const char *fr_blas_name()
    fr_status fr_plan_describe(
        fr_plan *plan, const fr_layer *layer, const fr_seq *seq, int backward)
