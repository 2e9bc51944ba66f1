#define FR_ISA neon
#define FR_VBYTES 16
#define FR_NV 4
#define FR_MR 6
#include "kernels/kernels.h"
