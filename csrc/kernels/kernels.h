/* kernels.h: every kernel for one instruction set, in both element types, and their table.
 *
 * An ISA file sets
 *   FR_ISA      its name as an identifier (the table is fr_kernels_<FR_ISA>)
 *   FR_VBYTES   bytes in a vector, 0 for plain C
 *   FR_NV       vectors in a panel
 *   FR_MR       rows in a tile, 6 or 10: FR_MR * FR_NV accumulators must fit in the registers,
 *               with FR_NV weights and one broadcast beside them
 * and includes this file. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"
#include "kernels/philox.h"

#if FR_MR != 6 && FR_MR != 10
#error "FR_MR: tile.h makes tiles of up to 6 or up to 10 rows"
#endif

#define FR_REAL_IS_DOUBLE 0
#include "kernels/typed.h"
#undef FR_REAL_IS_DOUBLE
#define FR_REAL_IS_DOUBLE 1
#include "kernels/typed.h"

#define FR_STRING_(x) #x
#define FR_STRING(x) FR_STRING_(x)
/* clang-format off */
#define FR_CELLS_OF(pass, t)                                                                       \
    {                                                                                              \
        [FR_RNN_TANH] = rnn_##pass##_##t,                                                          \
        [FR_RNN_RELU] = rnn_##pass##_##t,                                                          \
        [FR_RNN_SIGMOID] = rnn_##pass##_##t,                                                       \
        [FR_LSTM] = lstm_##pass##_##t,                                                             \
        [FR_GRU] = gru_##pass##_##t,                                                               \
        [FR_GRU_BEFORE] = gru_before_##pass##_##t,                                                 \
    }
/* clang-format on */
#define FR_TYPED(t, size)                                                                          \
    {                                                                                              \
        FR_VBYTES ? FR_VBYTES / size : 1, FR_NV *(FR_VBYTES ? FR_VBYTES / size : 1), pack_##t,     \
            FR_CELLS_OF(forward, t), FR_CELLS_OF(backward, t), gemm_##t, gemm_pack_##t,            \
            gemm_rows_##t, gemm_tile_##t, attention_scores_##t, attention_backward_##t,            \
            activation_##t                                                                         \
    }

#define FR_POINTWISE_OF(t)                                                                         \
    {                                                                                              \
        softmax_cross_entropy_##t, bce_with_logits_##t, sum_of_squares_##t, scale_##t, clip_##t,   \
            dropout_##t, scatter_add_##t, sgd_##t, adagrad_##t, rmsprop_##t, adam_##t              \
    }

const fr_kernels FR_CAT(fr_kernels_, FR_ISA) = {FR_STRING(FR_ISA),
                                                {FR_TYPED(f32, 4), FR_TYPED(f64, 8)},
                                                FR_POINTWISE_OF(f32),
                                                FR_POINTWISE_OF(f64),
                                                fingerprint_f32};
