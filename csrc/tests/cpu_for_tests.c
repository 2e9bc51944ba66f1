/* cpu.c with two more lines in its table, the kernels of isa_wide.c and isa_narrow.c, and caches
 * as large as a test says. Everything else is the shipped file, which the linker then leaves in the
 * library. */
#include "internal.h"

extern const fr_kernels fr_kernels_wide, fr_kernels_narrow;

#if defined(__x86_64__) /* isa_wide.c is compiled with AVX2 */
#define WIDE_AVAILABLE has_avx2
#else
#define WIDE_AVAILABLE always
#endif
/* clang-format off */
#define fr_kernels_portable fr_kernels_portable, always}, \
    {&fr_kernels_wide, WIDE_AVAILABLE},                   \
    {&fr_kernels_narrow
/* clang-format on */

#define fr_l1_bytes shipped_l1_bytes
#define fr_near_bytes shipped_near_bytes
#include "../cpu.c"
#undef fr_l1_bytes
#undef fr_near_bytes

#include "seams.h"

size_t forced_l1_bytes, forced_near_bytes;

int cores_differ(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    return is_hybrid();
#else
    return 0;
#endif
}

size_t fr_l1_bytes(void)
{
    return forced_l1_bytes ? forced_l1_bytes : shipped_l1_bytes();
}

size_t fr_near_bytes(void)
{
    return forced_near_bytes ? forced_near_bytes : shipped_near_bytes();
}
