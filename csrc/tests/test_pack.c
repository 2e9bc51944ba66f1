/* test_pack.c: packed weights. Whether their numbers are right, every product says; here, that they
 * are the same whoever packs them, and that nothing is written beside them. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const struct {
    int64_t I, H;
} sizes[] = {
    {1, 700}, {70, 350}, {400, 333}}; /* large enough to be shared; H of whole panels, or not */

static const int teams[] = {2, 3, 24}; /* the last with threads that find nothing to do */

static const int uses[] = {FR_USE_DENSE, FR_USE_TOKENS | FR_USE_BACKWARD,
                           FR_USE_DENSE | FR_USE_BACKWARD | FR_USE_DX};

#define COUNT(list) (sizeof(list) / sizeof *(list))

static void *numbers(size_t count, fr_dtype dtype)
{
    void *p = guarded(count * real_size(dtype));
    for (size_t i = 0; i < count; i++)
        put(p, dtype, (ptrdiff_t)i, uniform());
    return p;
}

static void *packed_by(int threads, const fr_layer *layer, int use, const fr_weights *weights)
{
    void *packed = guarded(fr_packed_bytes(layer, use));
    fr_set_num_threads(threads);
    const fr_status status = fr_pack(layer, use, packed, weights);
    fr_set_num_threads(1);
    CHECK(status == FR_OK, "status %d with %d threads", status, threads);
    return packed;
}

static void compare_threads(const fr_layer *layer, const fr_weights *weights)
{
    for (size_t u = 0; u < COUNT(uses); u++) {
        const size_t bytes = fr_packed_bytes(layer, uses[u]);
        void *alone = packed_by(1, layer, uses[u], weights);
        for (size_t t = 0; t < COUNT(teams); t++) {
            void *shared = packed_by(teams[t], layer, uses[u], weights);
            CHECK(!memcmp(alone, shared, bytes), "cell %d dtype %d I %d H %d use %d, %d threads",
                  layer->cell, layer->dtype, (int)layer->input_size, (int)layer->hidden_size,
                  uses[u], teams[t]);
            release(shared);
        }
        release(alone);
    }
}

static void packed_weights_are_the_same_bytes_whoever_packs_them(void)
{
    enum { MOST_GATES = 4 };
    for (int cell = 0; cell < FR_CELLS; cell++)
        for (int dtype = 0; dtype < FR_DTYPES; dtype++)
            for (size_t s = 0; s < COUNT(sizes); s++) {
                const size_t I = (size_t)sizes[s].I, GH = MOST_GATES * (size_t)sizes[s].H;
                const fr_layer layer = {(fr_cell)cell, (fr_dtype)dtype, sizes[s].I, sizes[s].H};
                const fr_weights weights = {
                    numbers(GH * I, layer.dtype), numbers(GH * (size_t)sizes[s].H, layer.dtype),
                    numbers(GH, layer.dtype), s ? numbers(GH, layer.dtype) : NULL};
                compare_threads(&layer, &weights);
                release((void *)weights.w_ih), release((void *)weights.w_hh);
                release((void *)weights.b_ih), release((void *)weights.b_hh);
            }
}

int main(void)
{
    RUN_ON_EVERY_ISA(packed_weights_are_the_same_bytes_whoever_packs_them);
    return summary();
}
