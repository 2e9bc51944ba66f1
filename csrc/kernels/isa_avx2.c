#define FR_ISA avx2
#define FR_VBYTES 32
#define FR_NV 2
#define FR_MR 6
#include "kernels/kernels.h"
