/* transpose.h: rows to columns. Packing weights and taking dG^T x both begin with it.
 *
 *   dst[c * ldd + r] = src[r * lds + c]
 *
 * On x86 blocks of 8 x 8 floats or 4 x 4 doubles go through registers, because a loop of scalar
 * stores, each to another cache line, would cost as much as a small product itself. */

#if defined(__AVX2__) && FR_VBYTES >= 32 && FR_REAL_IS_DOUBLE
#define FR_BLOCK 4
FR_INLINE void NAME(transpose_block)(real *dst, ptrdiff_t ldd, const real *src, ptrdiff_t lds)
{
    const __m256d a = _mm256_loadu_pd(src), b = _mm256_loadu_pd(src + lds);
    const __m256d c = _mm256_loadu_pd(src + 2 * lds), d = _mm256_loadu_pd(src + 3 * lds);
    const __m256d ab0 = _mm256_unpacklo_pd(a, b), ab1 = _mm256_unpackhi_pd(a, b);
    const __m256d cd0 = _mm256_unpacklo_pd(c, d), cd1 = _mm256_unpackhi_pd(c, d);
    _mm256_storeu_pd(dst, _mm256_permute2f128_pd(ab0, cd0, 0x20));
    _mm256_storeu_pd(dst + ldd, _mm256_permute2f128_pd(ab1, cd1, 0x20));
    _mm256_storeu_pd(dst + 2 * ldd, _mm256_permute2f128_pd(ab0, cd0, 0x31));
    _mm256_storeu_pd(dst + 3 * ldd, _mm256_permute2f128_pd(ab1, cd1, 0x31));
}
#elif defined(__AVX2__) && FR_VBYTES >= 32
#undef FR_BLOCK
#define FR_BLOCK 8
FR_INLINE void NAME(transpose_block)(real *dst, ptrdiff_t ldd, const real *src, ptrdiff_t lds)
{
    __m256 row[8], pair[8], quad[8];
    FR_UNROLL
    for (int i = 0; i < 8; i++)
        row[i] = _mm256_loadu_ps(src + i * lds);
    FR_UNROLL
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    FR_UNROLL
    for (int i = 0; i < 8; i += 4) {
        quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    FR_UNROLL
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * ldd, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * ldd, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31));
    }
}
#endif

static void NAME(transpose)(real *restrict dst, ptrdiff_t ldd, const real *restrict src,
                            ptrdiff_t lds, ptrdiff_t rows, ptrdiff_t columns)
{
#ifdef FR_BLOCK
    /* The last block of a row or column of them begins early enough to be whole: what it shares with the one
     * before is written twice. */
    if (rows >= FR_BLOCK && columns >= FR_BLOCK) {
        for (ptrdiff_t i = 0; i < rows; i += FR_BLOCK) {
            const ptrdiff_t r = i + FR_BLOCK <= rows ? i : rows - FR_BLOCK;
            for (ptrdiff_t k = 0; k < columns; k += FR_BLOCK) {
                const ptrdiff_t c = k + FR_BLOCK <= columns ? k : columns - FR_BLOCK;
                NAME(transpose_block)(dst + c * ldd + r, ldd, src + r * lds + c, lds);
            }
        }
        return;
    }
#endif
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < columns; c++)
            dst[c * ldd + r] = src[r * lds + c];
}
#undef FR_BLOCK
