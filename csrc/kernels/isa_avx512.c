#define FR_ISA avx512
#define FR_VBYTES 64
#define FR_NV 2
#define FR_MR 10
#include "kernels/kernels.h"
