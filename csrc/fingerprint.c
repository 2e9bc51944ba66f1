/* fingerprint.c: has a block of memory changed? Weights are packed once and used many times, while
 * anyone who holds an array of them may write into it. How: kernels/fingerprint.h. */
#include "fastrnn.h"

#include "internal.h"

uint64_t fr_fingerprint(const void *p, size_t bytes)
{
    return fr_current_kernels()->fingerprint(p, bytes);
}
