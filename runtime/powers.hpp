// Powers, per element; this file stands after `elementary.hpp`, and what it says of functions of floats holds here too.

namespace optc {

OPTC_INLINE double pow(double x, double y) { return ::pow(x, y); }

#ifdef __FP_FAST_FMAF
// C's powf to 0.97 units in the last place (measured), in every special case too; vector code wherever there are vectors of
// floats. |x|^y = 2^t with t = y·log2|x| in pairs of floats. The polynomials are minimax on the float coefficients.
OPTC_INLINE float pow(float x, float y) {
    constexpr float inf = __builtin_inff();
    // |x| = m·2^i, with m from 2^-¼ to 2^¾, on the bits; denormals are scaled up first. Above 2^¼, m is compared with
    // c = 2^0.50015…, which is a float to 2^-35, and that exponent is added to i: e = i + log2(c), exactly.
    const float size = __builtin_fabsf(x);
    const bool finite = size < inf, denormal = size < 0x1p-126f;
    const uint32_t least = 0x3f5747e7;
    const uint32_t above = bits_of(where(denormal, size * 0x1p24f, size)) - least;
    const float m = float_of((above & 0x7fffff) + least);
    const bool upper = m > 0x1.3074p+0f;
    const float c = where(upper, 0x1.6a13b4p+0f, 1.0f);
    const float scale = (float(int32_t(above) >> 23) + where(upper, 0x1.0014p-1f, 0.0f)) - where(denormal, 24.0f, 0.0f);
    const float e = where(x == 0, -inf, where(finite, scale, size));
    // log2(m/c) = 2/ln 2·artanh(s), s = (m - c)/(m + c) with its rest: s times a polynomial in s² ≤ 0.0075, good to 2^-37
    const float difference = m - c, sum = m + c, rest_of_sum = m - (sum - c), s = difference / sum, w = s * s;
    const float rest_of_s = fma(-s, rest_of_sum, fma(-s, sum, difference)) * (1 / sum);
    constexpr float two_by_ln2 = 0x1.715476p+1f, rest_of_two_by_ln2 = 0x1.4ae0cp-25f;
    const float tail = fma(fma(0x1.aa357cp-2f, w, 0x1.277508p-1f), w, 0x1.ec709ep-1f);
    const float factor = fma(w, tail, two_by_ln2), rest_of_factor = fma(w, tail, two_by_ln2 - factor) + rest_of_two_by_ln2;
    const float slope = fma(w, two_by_ln2, two_by_ln2);  // of the logarithm, for the rest of s
    const float log2_x = fma(s, factor, e);
    const float rest_of_log2_x = fma(rest_of_s, slope, fma(s, rest_of_factor, fma(s, factor, e - log2_x)));
    // t = n + r with |r| ≤ ½. The sum leaves n in the low bits.
    const float t = y * log2_x;
    const float shifted = fma(y, log2_x, 0x1.8p23f), n = shifted - 0x1.8p23f;
    const float r = (t - n) + fma(y, rest_of_log2_x, fma(y, log2_x, -t));
    // 2^r = 1 + r·q(r), by a polynomial: 2^-28.3 of the value. 2^n, which may be no float, is two factors.
    const float q = fma(fma(fma(fma(fma(0x1.417abp-13f, r, 0x1.5f095p-10f), r, 0x1.3b2dd2p-7f), r, 0x1.c6af7ap-5f), r,
                            0x1.ebfbdcp-3f), r, 0x1.62e43p-1f);
    // 8-bit numbers in a loop make GCC work on four vectors at a time, which hides the latency of these long chains.
    const int32_t exponent = int16_t(bits_of(shifted)), half = int8_t(exponent >> 1);
    const float one_half = float_of((uint32_t(half) << 23) + 0x3f800000);
    const float other_half = float_of((uint32_t(exponent - half) << 23) + 0x3f800000);
    const float power = fma(q, r * one_half, one_half) * other_half;
    // That holds for |t| ≤ 200. Beyond, and where x is 0 or inf, the result is inf or 0. 1^inf, 0^0 and inf^0 are 1.
    const float far = where(__builtin_fabsf(t) > 200, where(t > 0, inf, 0.0f), power);
    const float magnitude = where((size == 1) | (y == 0), 1.0f, far);
    // An odd y keeps the sign of x; a negative number to a y that is no integer is undefined. NaN has come through by itself.
    const float half_y = y * 0.5f;
    const bool integer = __builtin_floorf(y) == y, odd = integer & (__builtin_floorf(half_y) != half_y);
    const float sign_of_x = __builtin_copysignf(0.0f, x);  // unlike the bits of x, known to the compiler where x is an abs
    const float signed_power = float_of(bits_of(magnitude) ^ (bits_of(sign_of_x) & (odd ? ~0u : 0u)));
    return where((x < 0) & finite & !integer, __builtin_nanf(""), signed_power);
}
#else
// The same where there is no fast fma.
// C's powf to 0.54 units in the last place, in every special case too; vector code wherever there are vectors of floats and
// doubles. |x|^y = 2^t with t = y·log2|x| in double, which is rounded to float once (so denormal results are right as well).
OPTC_INLINE float pow(float x, float y) {
    constexpr float inf = __builtin_inff();
    // |x| = (1 + f)·2^e with √½ ≤ 1 + f < √2, on the bits; denormals are scaled up first.
    const float size = __builtin_fabsf(x);
    const bool finite = size < inf, denormal = size < 0x1p-126f;
    const uint32_t root_half = 0x3f3504f3;
    const uint32_t above = bits_of(where(denormal, size * 0x1p24f, size)) - root_half;
    const float f = float_of((above & 0x7fffff) + root_half) - 1;  // exact
    const float scale = float(int32_t(above) >> 23) - where(denormal, 24.0f, 0.0f);
    const float e = where(x == 0, -inf, where(finite, scale, inf));
    // log2(1 + f) = 2/ln 2·artanh(s), s = f/(2 + f), by a polynomial in s² ≤ 0.0295: 2^-37.8 of the value
    const double s = double(f) / (double(f) + 2), w = s * s;
    const double log2_over_s =
        (((0.34072802835157181 * w + 0.41167282583805961) * w + 0.57708358328673473) * w + 0.96179667334997234) * w +
        2.8853900817900802;
    const double t = double(y) * (s * log2_over_s + double(e));
    // 2^t = 2^n·2^r with |r| ≤ ½, by a polynomial: 2^-28.9 of the value. The sum leaves n in the low bits, for the exponent.
    const double shifted = t + 0x1.8p52, r = t - (shifted - 0x1.8p52);
    double power =
        (((((1.5353362996698253e-4 * r + 1.3398874426617976e-3) * r + 9.6184373532001713e-3) * r + 0.055503324710974503) * r +
          0.24022647913673364) * r + 0.69314720285506975) * r + 1;
    uint64_t n, u;
    __builtin_memcpy(&n, &shifted, 8);
    __builtin_memcpy(&u, &power, 8);
    u += n << 52;
    __builtin_memcpy(&power, &u, 8);
    // That holds for |t| < 1000. Beyond, and where x is 0 or inf, an estimate of t, good to a fifth, says whether the result is
    // inf or 0. It is NaN for 0·inf, that is for 1^inf, 0^0 and inf^0, which are 1 (and for NaN: see the last lines).
    const float estimate = y * (f * 1.44f + e);
    const float beyond = where(estimate > 512, inf, where(estimate != estimate, 1.0f, 0.0f));
    const float magnitude = where(__builtin_fabsf(estimate) <= 512, float(power), beyond);
    // An odd y keeps the sign of x; a negative number to a y that is no integer is undefined. Floats from 2^24 on are even.
    const uint32_t y_bits = bits_of(y) & 0x7fffffff;
    const float y_size = float_of(y_bits < 0x4b800000 ? y_bits : 0x4b800000);
    const int32_t whole = int32_t(y_size);
    const bool integer = float(whole) == y_size;
    const float odd = where(integer, float_of(uint32_t(whole) << 31), 0.0f);
    const float sign_of_x = __builtin_copysignf(0.0f, x);  // unlike the bits of x, known to the compiler where x is an abs
    const float signed_power = float_of(bits_of(magnitude) ^ (bits_of(odd) & bits_of(sign_of_x)));
    const bool undefined = ((x < 0) & finite & !integer) | __builtin_isunordered(x, y);
    return where((x == 1) | (y == 0), 1.0f, where(undefined, __builtin_nanf(""), signed_power));
}
#endif

// --- powers whose exponent is the same for all elements --------------------------------------------------------------------

// What is known of such exponents before the loop over elements, which has an instance for each.
enum class Power { any, one, half, root };

constexpr Power kind_of(double exponent) {
#ifdef __FP_FAST_FMAF
    const bool root = !is_double && exponent > 0 && exponent < 0.5;
#else
    const bool root = false;
#endif
    return exponent == 1 ? Power::one : exponent == 0.5 ? Power::half : root ? Power::root : Power::any;
}
// Of several, what they have in common.
template <class... Others> constexpr Power kind_of(double exponent, double other, Others... others) {
    return kind_of(exponent) == kind_of(other, others...) ? kind_of(exponent) : Power::any;
}

template <Power power> struct Exponent {
    math_t value;

    explicit Exponent(double exponent) : value(math_t(exponent)) {}
    operator math_t() const { return value; }
};
OPTC_INLINE math_t pow(math_t x, const Exponent<Power::any>& y) { return pow(x, y.value); }
OPTC_INLINE math_t pow(math_t x, const Exponent<Power::one>&) { return x; }
OPTC_INLINE math_t pow(math_t x, const Exponent<Power::half>&) { return half_power(x); }

// An exponent between 0 and ½: powers of numbers from 2^-149 to 2^128 are normal floats. |x| = (1 + f)·2^e; the exponent is a
// pair of floats, for e·2^23, and the factor of the logarithm's polynomial: log2(1 + f) = f·(c[0] + c[1]·f + …), to 2^-27.1.
template <> struct Exponent<Power::root> {
    float value, high, low, c[9];

    explicit Exponent(double exponent)
        : value(float(exponent)), high(value * 0x1p-23f), low(float(exponent - double(value)) * 0x1p-23f),
          c{float(exponent * 1.4426948701234037), float(exponent * -0.7213471290852022), float(exponent * 0.480922422773036),
            float(exponent * -0.3607211296871632), float(exponent * 0.2876587435197412), float(exponent * -0.2385212825751408),
            float(exponent * 0.2173659436764796), float(exponent * -0.21028940860536002),
            float(exponent * 0.12542702628093802)} {}
    operator math_t() const { return value; }
};

#ifdef __FP_FAST_FMAF
// C's pow to 2 units in the last place (1.88 measured), in every special case too, with half the instructions of any power.
OPTC_INLINE math_t pow(math_t x, const Exponent<Power::root>& y) {
    constexpr float inf = __builtin_inff();
    const float size = __builtin_fabsf(float(x));
    const bool finite = size < inf;
    // e stays where it is in the bits, as a multiple of 2^23.
    const Parted parted(size);
    const float f = parted.f, e = float(parted.shifted & -0x800000);
    // y·log2|x| = n + r with |r| ≤ ¾: n is y·e, rounded. The sum leaves it in the low bits.
    const float shifted = fma(e, y.high, 0x1.8p23f), rest = fma(e, y.low, fma(e, y.high, -(shifted - 0x1.8p23f)));
    const float f2 = f * f, f4 = f2 * f2;
    const float low = fma(fma(y.c[3], f, y.c[2]), f2, fma(y.c[1], f, y.c[0]));
    const float high = fma(fma(y.c[7], f, y.c[6]), f2, fma(y.c[5], f, y.c[4]));
    const float r = fma(f, fma(fma(y.c[8], f4, high), f4, low), rest);
    // 2^r = 1 + r·q(r), by a polynomial: 2^-27.9 of the value
    const float r2 = r * r;
    const float first = fma(fma(0x1.3b23b8p-7f, r, 0x1.c6b042p-5f), r2, fma(0x1.ebfbeep-3f, r, 0x1.62e43p-1f));
    const float others = fma(0x1.fa0ef2p-17f, r2, fma(0x1.47108ep-13f, r, 0x1.5d9f7p-10f));
    const float power = fma(fma(others, r2 * r2, first), r, 1.0f);
    const int32_t exponent = int8_t(bits_of(shifted));  // from -75 to 64; for 8-bit numbers, see above
    const float scaled = float_of(bits_of(power) + (uint32_t(exponent) << 23));
    // 0, inf and NaN are their own powers, with a plus; a negative number has none.
    return where((x < 0) & finite, __builtin_nanf(""), where((size > 0) & finite, scaled, size));
}
#else
OPTC_INLINE math_t pow(math_t x, const Exponent<Power::root>& y) { return pow(x, math_t(y.value)); }
#endif

}  // namespace optc
