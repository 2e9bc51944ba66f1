/* typed.h: every kernel for one element type. The order is that of dependence; a new cell is
 * one more line here and one in FR_CELLS_OF of kernels.h. */
#include "kernels/vec.h"

#include "kernels/vmath.h"

#include "kernels/tile.h"

#include "kernels/fingerprint.h"

#include "kernels/transpose.h"

#include "kernels/pack.h"

#include "kernels/few.h"

#include "kernels/weave.h"

#include "kernels/rows.h"

#include "kernels/share.h"

#include "kernels/pieces.h"

#include "kernels/products.h"

#include "kernels/dense.h"

#include "kernels/attention.h"

#include "kernels/pointwise.h"

#include "kernels/steps.h"

#include "rnn.c"

#include "lstm.c"

#include "gru.c"

#include "gru_before.c"
