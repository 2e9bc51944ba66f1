#define FR_ISA portable
#define FR_VBYTES 0
#define FR_NV 4
#define FR_MR 6
#include "kernels/kernels.h"
