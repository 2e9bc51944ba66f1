/* vec.h: vector lanes. The one file that knows how wide a register is.
 *
 * An ISA file (isa_avx2.c, ...) sets FR_VBYTES and includes kernels.h, which includes
 * typed.h, and with it this, once for float and once for double. Everything that follows
 * is written against the names below, so a kernel body exists once:
 *
 *   real           float or double             VL   lanes in a vector
 *   vr             VL reals                    vi, vu   VL integers of the same size
 *   + - * /        work on vr as they do on real
 *
 * FR_VBYTES 0 is the portable build: vr is one plain C scalar and VL is 1, which
 * any C11 compiler takes. Otherwise GCC's vector extension is used, which gcc and
 * clang compile for every target; intrinsics appear only where the extension has
 * no word for an operation (min, max, masks) or compilers make too much of it (sums, pairs).
 *
 * Everything is static: no function compiled for AVX-512 can be merged by the
 * linker into code that runs elsewhere. */

#undef real
#undef integer
#undef uinteger
#undef VL
#undef VH
#undef NAME
#undef FR_BITS
#if FR_REAL_IS_DOUBLE
#define real double
#define integer int64_t
#define uinteger uint64_t
#define FR_BITS 64
#define NAME(x) FR_CAT(x, _f64)
#else
#define real float
#define integer int32_t
#define uinteger uint32_t
#define FR_BITS 32
#define NAME(x) FR_CAT(x, _f32)
#endif

#ifndef FR_VEC_ONCE /* what does not depend on the element type */
#define FR_VEC_ONCE
#define FR_CAT_(a, b) a##b
#define FR_CAT(a, b) FR_CAT_(a, b)
#if defined(__clang__)
#define FR_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define FR_UNROLL _Pragma("GCC unroll 16")
#else
#define FR_UNROLL
#endif
#if defined(__GNUC__)
#define FR_INLINE static inline __attribute__((always_inline, unused))
#define FR_NOINLINE static __attribute__((noinline, unused))
#else
#define FR_INLINE static inline
#define FR_NOINLINE static
#endif
#if FR_VBYTES && (defined(__AVX2__) || defined(__AVX512F__))
#include <immintrin.h>
#if FR_VBYTES == 32 || defined(__AVX512F__)
#define FR_IN_REGISTER(v) __asm__("" : "+v"(v)) /* loaded once, not by every user anew */
#if FR_VBYTES == 64
#define FR_POINTER(p) __asm__("" : "+r"(p)) /* in a register, not an index beside another */
#endif
#endif
#elif FR_VBYTES && defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#ifndef FR_IN_REGISTER
#define FR_IN_REGISTER(v) ((void)(v))
#endif
/* Multiply-adds that gcc would not choose, in words of the machine. Not for sanitizers, which do not see what
 * such words fetch. */
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__) &&                 \
    !defined(__SANITIZE_THREAD__)
#define FR_WRITES_MULTIPLY_ADDS (FR_VBYTES == 64)
#else
#define FR_WRITES_MULTIPLY_ADDS 0
#endif
#ifndef FR_POINTER
#define FR_POINTER(p) ((void)(p))
#endif
/* In a loop over k of plain scalars. gcc 12 makes vectors of several k, which it has to turn about again and
 * again, and not of neighbouring sums, unless something stands between one k and the next: 2 to 2.8 times as
 * fast with it. */
#if FR_VBYTES == 0 && defined(__GNUC__)
#define FR_NOT_SEVERAL() __asm__ volatile("")
#else
#define FR_NOT_SEVERAL() ((void)0)
#endif
#endif

#define vr NAME(vr_)
#define vi NAME(vi_)
#define vu NAME(vu_)
#define vh NAME(vh_)

#if FR_VBYTES == 0
#define VL 1
typedef real vr;
typedef integer vi;
typedef uinteger vu;
#else
#if FR_REAL_IS_DOUBLE
#define VL (FR_VBYTES / 8)
#else
#define VL (FR_VBYTES / 4)
#endif
typedef real vr __attribute__((vector_size(FR_VBYTES)));
typedef integer vi __attribute__((vector_size(FR_VBYTES)));
typedef uinteger vu __attribute__((vector_size(FR_VBYTES)));
#endif

/* vh: half a vector, VH lanes, of which two make a vr: below. Elsewhere it is vr, and nothing is made of it. */
#if FR_VBYTES == 64
#define VH (VL / 2)
typedef real vh __attribute__((vector_size(FR_VBYTES / 2)));
#else
#define VH VL
typedef vr vh;
#endif

FR_INLINE vr NAME(v_load)(const real *p)
{
    vr v;
    memcpy(&v, p, sizeof v);
    return v;
}

FR_INLINE void NAME(v_store)(real *p, vr v)
{
    memcpy(p, &v, sizeof v);
}

FR_INLINE vi NAME(v_bits)(vr v)
{
    vi i;
    memcpy(&i, &v, sizeof i);
    return i;
}

FR_INLINE vr NAME(v_frombits)(vi i)
{
    vr v;
    memcpy(&v, &i, sizeof v);
    return v;
}

FR_INLINE vr NAME(v_splat)(real s)
{
#if FR_VBYTES == 0
    return s;
#else
    /* s - 0 is s for every s, NaN and -0 included, so this is one broadcast. */
    return s - (vr){0};
#endif
}

/* sum += a[0] * w, a[0] fetched by the multiply-add itself: one instruction less than to spread it first. gcc
 * makes that of a number that is used once, not of one that two multiply-adds want. */
FR_INLINE vr NAME(v_add_scaled)(vr sum, const real *a, vr w)
{
#if FR_WRITES_MULTIPLY_ADDS && FR_REAL_IS_DOUBLE
    __asm__("vfmadd231pd %2%{1to8%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*a));
    return sum;
#elif FR_WRITES_MULTIPLY_ADDS
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*a));
    return sum;
#else
    return sum + NAME(v_splat)(*a) * w;
#endif
}

/* sum += s * w into the register of the sum: gcc also writes it into that of s or w, and moves it back. */
FR_INLINE vr NAME(v_add_product)(vr sum, vr s, vr w)
{
#if FR_WRITES_MULTIPLY_ADDS && FR_REAL_IS_DOUBLE
    __asm__("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(s), "v"(w));
    return sum;
#elif FR_WRITES_MULTIPLY_ADDS
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(s), "v"(w));
    return sum;
#else
    return sum + s * w;
#endif
}

FR_INLINE vh NAME(v_load_h)(const real *p)
{
    vh v;
    memcpy(&v, p, sizeof v);
    return v;
}

FR_INLINE vh NAME(v_splat_h)(real s)
{
#if FR_VBYTES == 0
    return s;
#else
    return s - (vh){0};
#endif
}

/* Zeros behind the half. */
FR_INLINE vr NAME(v_widen)(vh half)
{
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    return (vr)_mm512_zextpd256_pd512((__m256d)half);
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    return (vr)_mm512_zextps256_ps512((__m256)half);
#else
    vr v = NAME(v_splat)(0);
    memcpy(&v, &half, sizeof half);
    return v;
#endif
}

/* Two rows of VH columns in one vector, column by column: row, next, row, next, ... Times a vector whose pairs
 * are all a[0], a[1] (vsplat_pair), and added up in pairs in the end (vsum_pairs), it is two steps of a product
 * of half a vector, for the price of one. */
FR_INLINE vr NAME(v_load_pairs)(const real *row, const real *next)
{
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    const __m512d both = _mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)NAME(v_load_h)(row)),
                                            (__m256d)NAME(v_load_h)(next), 1);
    return (vr)_mm512_permutexvar_pd(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), both);
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512((__m256)NAME(v_load_h)(row)),
                                           (__m256)NAME(v_load_h)(next), 1);
    return (vr)_mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15), both);
#else
    real lane[VL];
    for (int l = 0; l < VL; l++)
        lane[l] = l % 2 ? next[l / 2] : row[l / 2];
    return NAME(v_load)(lane);
#endif
}

FR_INLINE vr NAME(v_splat_pair)(const real *p)
{
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    return (vr)_mm512_broadcast_f64x2(_mm_loadu_pd(p));
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    double pair;
    memcpy(&pair, p, sizeof pair);
    return (vr)_mm512_set1_pd(pair);
#else
    real lane[VL];
    for (int l = 0; l < VL; l++)
        lane[l] = p[l % 2];
    return NAME(v_load)(lane);
#endif
}

FR_INLINE vh NAME(v_sum_pairs)(vr v)
{
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    const __m512d sums = _mm512_add_pd((__m512d)v, _mm512_permute_pd((__m512d)v, 0x55));
    return (vh)_mm512_castpd512_pd256(
        _mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), sums));
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    const __m512 sums = _mm512_add_ps((__m512)v, _mm512_permute_ps((__m512)v, 0xb1));
    return (vh)_mm512_castps512_ps256(_mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), sums));
#else
    real lane[VL];
    NAME(v_store)(lane, v);
    for (int l = 0; l < VL / 2; l++)
        lane[l] = lane[2 * l] + lane[2 * l + 1];
    return NAME(v_load_h)(lane);
#endif
}

/* The first n lanes, n > 0, zeros behind them: the last, incomplete panel of a row. With AVX-512 under a
 * mask: lane by lane it took a fifth of the last tile of a row. */
FR_INLINE vr NAME(v_load_n)(const real *p, ptrdiff_t n)
{
    if (n >= VL)
        return NAME(v_load)(p);
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    return (vr)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    return (vr)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    real lane[VL] = {0};
    for (ptrdiff_t l = 0; l < n; l++)
        lane[l] = p[l];
    return NAME(v_load)(lane);
#endif
}

FR_INLINE void NAME(v_store_n)(real *p, vr v, ptrdiff_t n)
{
    if (n >= VL) {
        NAME(v_store)(p, v);
        return;
    }
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    real lane[VL];
    NAME(v_store)(lane, v);
    for (ptrdiff_t l = 0; l < n; l++)
        p[l] = lane[l];
#endif
}

/* max(bound, x) and min(bound, x) that hand a NaN in x through: x86 returns its
 * second operand when either is NaN, NEON returns the NaN. */
FR_INLINE vr NAME(v_max)(real bound, vr x)
{
#if FR_VBYTES == 0
    return bound > x ? bound : x;
#elif FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    return (vr)_mm512_max_pd((__m512d)NAME(v_splat)(bound), (__m512d)x);
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    return (vr)_mm512_max_ps((__m512)NAME(v_splat)(bound), (__m512)x);
#elif FR_VBYTES == 32 && defined(__AVX2__) && FR_REAL_IS_DOUBLE
    return (vr)_mm256_max_pd((__m256d)NAME(v_splat)(bound), (__m256d)x);
#elif FR_VBYTES == 32 && defined(__AVX2__)
    return (vr)_mm256_max_ps((__m256)NAME(v_splat)(bound), (__m256)x);
#elif FR_VBYTES == 16 && defined(__ARM_NEON) && FR_REAL_IS_DOUBLE
    return (vr)vmaxq_f64((float64x2_t)NAME(v_splat)(bound), (float64x2_t)x);
#elif FR_VBYTES == 16 && defined(__ARM_NEON)
    return (vr)vmaxq_f32((float32x4_t)NAME(v_splat)(bound), (float32x4_t)x);
#else
    vr b = NAME(v_splat)(bound);
    vi m = b > x;
    return NAME(v_frombits)((NAME(v_bits)(b) & m) | (NAME(v_bits)(x) & ~m));
#endif
}

FR_INLINE vr NAME(v_min)(real bound, vr x)
{
#if FR_VBYTES == 32 && defined(__AVX2__) && FR_REAL_IS_DOUBLE
    return (vr)_mm256_min_pd((__m256d)NAME(v_splat)(bound), (__m256d)x);
#elif FR_VBYTES == 32 && defined(__AVX2__)
    return (vr)_mm256_min_ps((__m256)NAME(v_splat)(bound), (__m256)x);
#else
    return -NAME(v_max)(-bound, -x); /* an instruction more, and none that the compiler lacks */
#endif
}

FR_INLINE vr NAME(v_abs)(vr x)
{
    return NAME(v_frombits)(NAME(v_bits)(x) & (integer)(((uint64_t)1 << (FR_BITS - 1)) - 1));
}

FR_INLINE vr NAME(v_copysign)(vr magnitude, vr sign)
{
    const integer low = (integer)(((uint64_t)1 << (FR_BITS - 1)) - 1);
    return NAME(v_frombits)((NAME(v_bits)(magnitude) & low) | (NAME(v_bits)(sign) & ~low));
}

/* 1 where x > 0, else 0 (NaN gives 0). */
FR_INLINE vr NAME(v_positive)(vr x)
{
#if FR_VBYTES == 0
    return x > 0 ? (real)1 : (real)0;
#else
    vi m = x > (vr){0};
    return NAME(v_frombits)(NAME(v_bits)(NAME(v_splat)(1)) & m);
#endif
}

/* a < bound ? yes : no, lane by lane (NaN in a gives no). */
FR_INLINE vr NAME(v_less)(vr a, real bound, vr yes, vr no)
{
#if FR_VBYTES == 0
    return a < bound ? yes : no;
#else
    vi m = a < bound;
    return NAME(v_frombits)((NAME(v_bits)(yes) & m) | (NAME(v_bits)(no) & ~m));
#endif
}

/* The sum of all lanes, halves upon halves. */
FR_INLINE real NAME(v_sum)(vr v)
{
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    return _mm512_reduce_add_pd((__m512d)v);
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#elif FR_VBYTES == 32 && defined(__AVX2__) && FR_REAL_IS_DOUBLE
    const __m128d two =
        _mm_add_pd(_mm256_castpd256_pd128((__m256d)v), _mm256_extractf128_pd((__m256d)v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#elif FR_VBYTES == 32 && defined(__AVX2__)
    const __m128 four =
        _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    real lane[VL];
    NAME(v_store)(lane, v);
    for (int n = VL / 2; n > 0; n /= 2)
        for (int l = 0; l < n; l++)
            lane[l] += lane[l + n];
    return lane[0];
#endif
}

/* to[0..4) = the sums of all lanes of each of v[0..4), added together side by side: a third of the
 * instructions of four v_sum. */
FR_INLINE void NAME(v_sums_of_4)(real *to, const vr *v)
{
#if FR_VBYTES == 64 && defined(__AVX512F__) && FR_REAL_IS_DOUBLE
    __m256d half[2];
    for (int i = 0; i < 2; i++) {
        const __m512d a = (__m512d)v[2 * i], b = (__m512d)v[2 * i + 1];
        const __m512d two = _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        half[i] = _mm256_add_pd(_mm512_castpd512_pd256(two), _mm512_extractf64x4_pd(two, 1));
    }
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_permute2f128_pd(half[0], half[1], 0x20),
                                       _mm256_permute2f128_pd(half[0], half[1], 0x31)));
#elif FR_VBYTES == 64 && defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 four =
        _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif FR_VBYTES == 32 && defined(__AVX2__) && FR_REAL_IS_DOUBLE
    const __m256d a = (__m256d)v[0], b = (__m256d)v[1], c = (__m256d)v[2], d = (__m256d)v[3];
    const __m256d ab = _mm256_add_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
    const __m256d cd = _mm256_add_pd(_mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d));
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_permute2f128_pd(ab, cd, 0x20),
                                       _mm256_permute2f128_pd(ab, cd, 0x31)));
#elif FR_VBYTES == 32 && defined(__AVX2__)
    const __m256 a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256 four =
        _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
#else
    for (int i = 0; i < 4; i++)
        to[i] = NAME(v_sum)(v[i]);
#endif
}

/* Shorter names for the kernels. They follow NAME, so one definition serves both types. */
#ifndef FR_VEC_NAMES
#define FR_VEC_NAMES
#define vload NAME(v_load)
#define vstore NAME(v_store)
#define vload_n NAME(v_load_n)
#define vstore_n NAME(v_store_n)
#define vsplat NAME(v_splat)
#define vadd_scaled NAME(v_add_scaled)
#define vadd_product NAME(v_add_product)
#define vload_h NAME(v_load_h)
#define vsplat_h NAME(v_splat_h)
#define vwiden NAME(v_widen)
#define vload_pairs NAME(v_load_pairs)
#define vsplat_pair NAME(v_splat_pair)
#define vsum_pairs NAME(v_sum_pairs)
#define vmax NAME(v_max)
#define vmin NAME(v_min)
#define vabs NAME(v_abs)
#define vcopysign NAME(v_copysign)
#define vpositive NAME(v_positive)
#define vless NAME(v_less)
#define vbits NAME(v_bits)
#define vfrombits NAME(v_frombits)
#define vsum NAME(v_sum)
#define vsums_of_4 NAME(v_sums_of_4)
#endif
