/* AVX-512's geometry (16 floats, 2 vectors a panel, 10 rows a tile) for machines without it: the
 * compiler makes each vector of two or more narrower ones. */
#define FR_ISA wide
#define FR_VBYTES 64
#define FR_NV 2
#define FR_MR 10
#define FR_WEAVE_FAR 0 /* weights of any size are far away */
#define FR_WEAVE_LONG 1
#define FR_WEAVE_PAYS() 1 /* wherever this is */
#define FR_WEAVE_PIECE 5
#include "kernels/kernels.h"
