/* vmath.h: exp, sigmoid, tanh and log1p on vectors, a few ulp, no table, no branch.
 *
 * The first three rest on one range reduction (A7, A8 of docs/math.md):
 *
 *   x = n ln2 + r,  |r| <= ln2/2,  n an integer              so e^x = 2^n e^r
 *   e^r - 1 = r + r^2 Q(r),  Q a polynomial of degree 4 (float), 10 (double)
 *
 * Q interpolates (e^r - 1 - r) / r^2 at Chebyshev nodes; its share of the error is
 * 1.0e-8 in float and 6e-19 in double, below a fifth of an ulp. Measured bounds: tests/engine/test_activations.py.
 *
 * NaN in gives NaN out. Below FR_EXP_MIN exp stays at its value there, the smallest normal number, which
 * nobody can tell from 0 beside the 1 that is added to it; whoever does not add 1 sets it to 0. */

#undef FR_EXP_MAX
#undef FR_EXP_MIN
#undef FR_TANH_MAX
#undef FR_TANH_SMALL
#undef FR_LOG2E
#undef FR_LN2
#undef FR_LN2_HI
#undef FR_LN2_LO
#undef FR_ROUND
#undef FR_MANTISSA
#undef FR_TINY

#if FR_REAL_IS_DOUBLE
#define FR_EXP_MAX 709.9    /* above it e^x overflows: n rounds to 1024, the bits of infinity */
#define FR_EXP_MIN (-708.3) /* below it e^x is subnormal */
#define FR_TANH_MAX 20.0    /* tanh rounds to 1 from 19.06 on */
#define FR_TANH_SMALL 0.5
#define FR_LOG2E 1.4426950408889634
#define FR_LN2_HI 0.693147180369123816490 /* 33 bits: n * hi is exact */
#define FR_LN2_LO 1.90821492927058770002e-10
#define FR_ROUND (6755399441055744.0 + 1023) /* 1.5 * 2^52 and the exponent's bias: see below */
#define FR_MANTISSA 52
#define FR_TINY 2.2250738585072014e-308 /* the smallest normal number */
#else
#define FR_EXP_MAX 88.8f
#define FR_EXP_MIN (-87.3f)
#define FR_TANH_MAX 10.0f /* tanh rounds to 1 from 9.02 on */
#define FR_TANH_SMALL 0.55f
#define FR_LOG2E 1.44269504f
#define FR_LN2 0.693147181f /* 1.9e-9 more than ln2 */
#define FR_LN2_HI 0.693359375f
#define FR_LN2_LO (-2.12194440e-4f)
#define FR_ROUND (12582912.0f + 127) /* 1.5 * 2^23 and the bias */
#define FR_MANTISSA 23
#define FR_TINY 1.17549435e-38f
#endif

/* 2^n of x * log2e = n + ..: adding FR_ROUND rounds to an integer, which then stands in the low bits
 * with the exponent's bias on top; a shift puts both where an exponent belongs. Unsigned: a NaN gives
 * bits that no signed shift may touch. */
FR_INLINE vr NAME(two_to)(vr shifted)
{
    return vfrombits((vi)((vu)vbits(shifted) << FR_MANTISSA));
}

/* e^r - 1 for the reduced r, |r| <= ln2/2. */
FR_INLINE vr NAME(expm1_poly)(vr r)
{
#if FR_REAL_IS_DOUBLE
    /* Even and odd halves in r^2: half the dependency chain of Horner's rule. */
    const vr r2 = r * r;
    vr even = r2 * 2.0914717341716375952e-9 + 2.7557273570102139673e-7;
    vr odd = r2 * 2.5105259538448493419e-8 + 2.7557255297969644392e-6;
    even = r2 * even + 0.000024801587325605322782;
    odd = r2 * odd + 0.00019841269874901259234;
    even = r2 * even + 0.0013888888888883731828;
    odd = r2 * odd + 0.0083333333333261120526;
    even = r2 * even + 0.041666666666666669767;
    odd = r2 * odd + 0.16666666666666671008;
    even = r2 * even + 0.5;
    return r + r2 * (r * odd + even);
#else
    const vr r2 = r * r;
    const vr odd = r2 * 0.008363185031529085f + 0.16666576953788806f;
    vr even = r2 * 0.0013926191054999034f + 0.041666554572361895f;
    even = r2 * even + 0.5f;
    return r + r2 * (r * odd + even);
#endif
}

FR_INLINE vr NAME(v_exp)(vr x)
{
    x = vmin(FR_EXP_MAX, vmax(FR_EXP_MIN, x));
    const vr shifted = x * FR_LOG2E + FR_ROUND, n = shifted - FR_ROUND;
    const vr r = (x - n * FR_LN2_HI) - n * FR_LN2_LO;
    return NAME(two_to)(shifted) * (NAME(expm1_poly)(r) + (real)1); /* (A9) */
}

/* 1 / (1 + e^-x)  (A1): for large negative x the sum is e^-x itself, so the relative
 * error stays that of exp. Where e^-x overflows, 2^n is infinite and the result exactly 0;
 * hence 2^n (1 + em1), which is never infinity minus infinity. The sign of x goes into constants. */
FR_INLINE vr NAME(v_sigmoid)(vr x)
{
    x = vmin(-FR_EXP_MIN, vmax(-FR_EXP_MAX, x));
    const vr shifted = x * -FR_LOG2E + FR_ROUND, n = shifted - FR_ROUND;
    const vr r = (-x - n * FR_LN2_HI) - n * FR_LN2_LO;
    const vr e = NAME(expm1_poly)(r) + (real)1;
    return (real)1 / (NAME(two_to)(shifted) * e + (real)1);
}

/* P of tanh x = x + x z P(z), z = x^2, interpolated at Chebyshev nodes of [0, FR_TANH_SMALL^2];
 * relative error 3.6e-9 in float, 2.4e-19 in double. */
FR_INLINE vr NAME(tanh_poly)(vr z)
{
#if FR_REAL_IS_DOUBLE
    static const real c[] = {
        -0.33333333333333333228,   0.13333333333333230916,    -0.053968253968089754268,
        0.021869488525867597747,   -0.0088632351986591343844, 0.0035921217969498704895,
        -0.0014557608138655873862, 0.0005894667419101905059,  -0.00023635364294136243454,
        8.8195803057450643774e-5,  -2.2953304653337329028e-5};
#else
    static const real c[] = {-0.33333332007976979681f, 0.1333311372902087191f,
                             -0.053909428827460545439f, 0.021309388664443473807f,
                             -0.0066102278311147345141f};
#endif
    enum { degree = sizeof c / sizeof c[0] - 1 };
    vr p = vsplat(c[degree]);
    FR_UNROLL
    for (int i = degree - 1; i >= 0; i--)
        p = p * z + c[i];
    return p;
}

/* tanh, odd by construction (A14, A15):
 *
 *   |x| <  FR_TANH_SMALL   x + x z P(z), z = x^2: no cancellation, no division
 *   |x| >= FR_TANH_SMALL   1 - 2 / (e^(2|x|) + 1): the quotient is at most 0.54 and shrinks,
 *                          and its error with it, where gates saturate */
FR_INLINE vr NAME(v_tanh)(vr x)
{
    const vr a = vmin(FR_TANH_MAX, vabs(x));
    const vr shifted = a * (2 * FR_LOG2E) + FR_ROUND, n = shifted - FR_ROUND;
#if FR_REAL_IS_DOUBLE
    const vr r = (a + a - n * FR_LN2_HI) - n * FR_LN2_LO;
#else
    const vr r = a + a - n * FR_LN2; /* 1.9e-9 n too small, and the larger n, the less it counts */
#endif
    const vr em1 = NAME(expm1_poly)(r), two_n = NAME(two_to)(shifted);
    const vr large = (real)1 - (real)2 / (two_n * em1 + (two_n + (real)1));
    const vr z = a * a;
    const vr small = a * z * NAME(tanh_poly)(z) + a;
    return vcopysign(vless(a, FR_TANH_SMALL, small, large), x);
}

/* Q of artanh s = s + s z Q(z), z = s^2, interpolated at Chebyshev nodes of [0, 1/9];
 * relative error 3.9e-10 in float, 1.3e-19 in double. */
FR_INLINE vr NAME(artanh_poly)(vr z)
{
#if FR_REAL_IS_DOUBLE
    static const real c[] = {
        0.33333333333333333443,  0.1999999999999976125267, 0.142857142858000496461,
        0.111111110991183852785, 0.0909090994898135719128, 0.0769227198243027464365,
        0.066675893157246279183, 0.0586713953065159733001, 0.0542258919744000741103,
        0.037460718977753836504, 0.0781528890046142522313};
#else
    static const real c[] = {0.3333333366f, 0.19999853166f, 0.14296178997f, 0.108532879f,
                             0.11612164612f};
#endif
    enum { degree = sizeof c / sizeof c[0] - 1 };
    vr p = vsplat(c[degree]);
    FR_UNROLL
    for (int i = degree - 1; i >= 0; i--)
        p = p * z + c[i];
    return p;
}

/* log(1 + e) for 0 <= e <= 1, with full relative accuracy down to e = 0 (X10, X11). */
FR_INLINE vr NAME(v_log1p)(vr e)
{
    const vr s = e / (e + (real)2), z = s * s, twice = s + s;
    return twice * z * NAME(artanh_poly)(z) + twice;
}

#ifndef FR_VMATH_NAMES
#define FR_VMATH_NAMES
#define vexp NAME(v_exp)
#define vsigmoid NAME(v_sigmoid)
#define vtanh NAME(v_tanh)
#define vlog1p NAME(v_log1p)
#endif
