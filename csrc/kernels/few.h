/* few.h: products of a few rows, which are over before weights in another order would pay.
 *
 * A training step of some rows alone (learning as data comes in) reads every weight once or twice.
 * Backward then takes the panels that forward has read, and a weight gradient is added up, or written, where
 * it lies: nothing is packed for either, and each number of a large layer comes from far away only
 * once. What backward wants of a panel is its transpose, so a product is a sum along the units:
 *
 *   out[m][j] += sum over gates, units u of  d[m][u] * W[u][j]
 *
 *        panel of a gate:  [j][NR units]    j = 0 ->  | u u u u | u u u u |   one vector after the
 *                                           j = 1 ->  | u u u u | u u u u |   other, times those of
 *                                            ...                              d: nothing is broadcast
 *
 * with a vector of sums for each (m, j), and each vector's own sum taken once, at the end. */

/* Gates [g0, g1) of weights packed for forward: [panel][gate][K][NR], units columns. */
typedef struct NAME(few_weights) {
    const real *panels;
    ptrdiff_t K, units;
    int gates, g0, g1;
    ptrdiff_t slot[FR_MAX_GATES]; /* of each gate, where in a row of d its units begin */
    int far;                      /* more than the first-level cache keeps */
} NAME(few_weights);

FR_INLINE NAME(few_weights)
    NAME(few_weights_of)(const real *panels, ptrdiff_t K, ptrdiff_t units, int gates)
{
    NAME(few_weights) w = {.panels = panels, .K = K, .units = units, .gates = gates, .g1 = gates};
    w.far = (size_t)(units * K * gates) * sizeof(real) > 24 << 10;
    return w;
}

/* Columns [j, j + nj) of the rows. Units past the last are zeros in a panel, but may be anything in
 * a row of d. */
FR_INLINE void NAME(dots_body)(const int nj, const int mr, real *const *out, int add,
                               const NAME(few_weights) * w, const real *const *d, ptrdiff_t j)
{
    vr acc[FR_MR][8];
    const real *b = w->panels + (w->g0 * w->K + j) * NR;
    FR_UNROLL
    for (int i = 0; i < nj; i++) {
        FR_UNROLL
        for (int m = 0; m < mr; m++)
            acc[m][i] = vsplat(0);
    }
    for (ptrdiff_t u = 0; u < w->units; u += NR, b += (w->gates - w->g1 + w->g0) * w->K * NR)
        for (int g = w->g0; g < w->g1; g++, b += w->K * NR) {
            const real *next = b + (g + 1 < w->g1 ? 1 : 1 + w->gates - w->g1 + w->g0) * w->K * NR;
            if (w->far) {
                FR_UNROLL
                for (int n = 0; n < nj * NR; n += 64 / (int)sizeof(real))
                    FR_PREFETCH(next + n);
            }
            for (ptrdiff_t v = 0; v < NR && u + v < w->units; v += VL) {
                const ptrdiff_t at = w->slot[g] + u + v, left = w->units - u - v;
                vr row[FR_MR];
                FR_UNROLL
                for (int m = 0; m < mr; m++)
                    row[m] = left >= VL ? vload(d[m] + at) : vload_n(d[m] + at, left);
                FR_UNROLL
                for (int i = 0; i < nj; i++) {
                    const vr weight = vload(b + i * NR + v);
                    FR_UNROLL
                    for (int m = 0; m < mr; m++)
                        acc[m][i] += row[m] * weight;
                }
            }
        }
    FR_UNROLL
    for (int m = 0; m < mr; m++) {
        real sum[8];
        FR_UNROLL
        for (int i = 0; i < nj; i += nj % 4 ? 1 : 4) {
            if (nj % 4)
                sum[i] = vsum(acc[m][i]);
            else
                vsums_of_4(sum + i, acc[m] + i);
        }
        FR_UNROLL
        for (int i = 0; i < nj; i++)
            out[m][i] = add ? out[m][i] + sum[i] : sum[i];
    }
}

/* Rows at once: with four columns each, as many sums as leave registers for the rows and a weight. */
enum { NAME(most_dots) = FR_MR == 10 ? 6 : 3 };

typedef void NAME(dots_fn)(real *const *out, int add, const NAME(few_weights) * w,
                           const real *const *d, ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t first);

#define FR_DOTS(mr)                                                                                \
    FR_NOINLINE void NAME(dots_##mr)(real *const *out, int add, const NAME(few_weights) * w,       \
                                     const real *const *d, ptrdiff_t j0, ptrdiff_t j1,             \
                                     ptrdiff_t first)                                              \
    {                                                                                              \
        enum { NJ = (mr) == 1 ? 8 : 4 };                                                           \
        real *to[mr];                                                                              \
        ptrdiff_t j = j0;                                                                          \
        for (int m = 0; m < (mr); m++)                                                             \
            to[m] = out[m] + first;                                                                \
        for (; j + NJ <= j1; j += NJ) {                                                            \
            NAME(dots_body)(NJ, mr, to, add, w, d, j);                                             \
            for (int m = 0; m < (mr); m++)                                                         \
                to[m] += NJ;                                                                       \
        }                                                                                          \
        for (; j < j1; j++) {                                                                      \
            NAME(dots_body)(1, mr, to, add, w, d, j);                                              \
            for (int m = 0; m < (mr); m++)                                                         \
                to[m]++;                                                                           \
        }                                                                                          \
    }
FR_DOTS(1)
FR_DOTS(2)
FR_DOTS(3)
#if FR_MR == 10
FR_DOTS(4)
FR_DOTS(5)
FR_DOTS(6)
#endif
#undef FR_DOTS

static NAME(dots_fn) *const NAME(dots_of)[NAME(most_dots)] = {
    NAME(dots_1), NAME(dots_2), NAME(dots_3),
#if FR_MR == 10
    NAME(dots_4), NAME(dots_5), NAME(dots_6),
#endif
};

/* out[m][j - j0] = or += column j of the product of row m, for n rows and j in [j0, j1). All rows take
 * a block of columns while it is in the cache. */
static void NAME(dots)(real *const *out, int add, const NAME(few_weights) * w, const real *const *d,
                       ptrdiff_t n, ptrdiff_t j0, ptrdiff_t j1)
{
    const ptrdiff_t tiles = (n + NAME(most_dots) - 1) / NAME(most_dots);
    for (ptrdiff_t j = j0; j < j1; j += NR)
        for (ptrdiff_t i = 0; i < tiles; i++) {
            const ptrdiff_t r = n * i / tiles, h = n * (i + 1) / tiles - r;
            NAME(dots_of)
            [h - 1](out + r, add, w, d + r, j, j + NR < j1 ? j + NR : j1, j - j0);
        }
}

/* C[i][0..N) += sum over m < n of d[m][i] * rows[m][0..N), or = , for nu rows of C. */
FR_INLINE void NAME(multiples_body)(const int nu, int set, real *C, ptrdiff_t ldc, ptrdiff_t N,
                                    const real *const *d, ptrdiff_t at, const real *const *rows,
                                    int n)
{
    real factor[FR_FEW_ROWS_OF_A_STEP][4];
    for (int m = 0; m < n; m++) {
        FR_UNROLL
        for (int i = 0; i < nu; i++)
            factor[m][i] = d[m][at + i];
    }
    ptrdiff_t c = 0;
    for (; c + 2 * VL <= N; c += 2 * VL) {
        vr acc[4][2];
        FR_UNROLL
        for (int i = 0; i < nu; i++) {
            acc[i][0] = set ? vsplat(0) : vload(C + i * ldc + c);
            acc[i][1] = set ? vsplat(0) : vload(C + i * ldc + c + VL);
        }
        for (int m = 0; m < n; m++) {
            const vr row0 = vload(rows[m] + c), row1 = vload(rows[m] + c + VL);
            FR_UNROLL
            for (int i = 0; i < nu; i++) {
                acc[i][0] += vsplat(factor[m][i]) * row0;
                acc[i][1] += vsplat(factor[m][i]) * row1;
            }
        }
        FR_UNROLL
        for (int i = 0; i < nu; i++) {
            vstore(C + i * ldc + c, acc[i][0]);
            vstore(C + i * ldc + c + VL, acc[i][1]);
        }
    }
    for (; c < N; c += VL) {
        vr acc[4];
        FR_UNROLL
        for (int i = 0; i < nu; i++)
            acc[i] = set ? vsplat(0) : vload_n(C + i * ldc + c, N - c);
        for (int m = 0; m < n; m++) {
            const vr row = vload_n(rows[m] + c, N - c);
            FR_UNROLL
            for (int i = 0; i < nu; i++)
                acc[i] += vsplat(factor[m][i]) * row;
        }
        FR_UNROLL
        for (int i = 0; i < nu; i++)
            vstore_n(C + i * ldc + c, acc[i], N - c);
    }
}

/* C (M, N) += the M columns of d from `at` on, each times its row, for n rows; or = , with `set`: then C is
 * neither read nor cleared before. */
static void NAME(add_multiples)(real *C, int set, ptrdiff_t M, ptrdiff_t N, const real *const *d,
                                ptrdiff_t at, const real *const *rows, int n)
{
    ptrdiff_t i = 0;
    for (; i + 4 <= M; i += 4)
        NAME(multiples_body)(4, set, C + i * N, N, N, d, at + i, rows, n);
    for (; i < M; i++)
        NAME(multiples_body)(1, set, C + i * N, N, N, d, at + i, rows, n);
}
