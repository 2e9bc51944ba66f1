/* NEON's geometry (4 floats, 4 vectors a panel, 6 rows a tile), and vec.h without any intrinsics. */
#define FR_ISA narrow
#define FR_VBYTES 16
#define FR_NV 4
#define FR_MR 6
#include "kernels/kernels.h"
