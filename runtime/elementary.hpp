// Exponential, logarithm and circular functions, per element; this file stands after `prelude.hpp`.
//
// Those of floats are our own: branch-free, so that loops over them become vector code, and the same to the bit in vectors and
// in the scalar code at the end of a tensor. Polynomials are minimax, with their errors beside them. Those of doubles, and the
// angle where there is no fast fma, are the C library's. <cmath> is left out on purpose: its overloads would hide ours.

extern "C" {
float atan2f(float, float) noexcept;
double exp(double) noexcept;
double log(double) noexcept;
double sin(double) noexcept;
double cos(double) noexcept;
double tanh(double) noexcept;
double pow(double, double) noexcept;
double atan2(double, double) noexcept;
}

namespace optc {

OPTC_INLINE double exp(double x) { return ::exp(x); }
OPTC_INLINE double log(double x) { return ::log(x); }
OPTC_INLINE double sin(double x) { return ::sin(x); }
OPTC_INLINE double cos(double x) { return ::cos(x); }
OPTC_INLINE double tanh(double x) { return ::tanh(x); }
OPTC_INLINE double atan2(double y, double x) { return ::atan2(y, x); }

// --- exponential and logarithm ---------------------------------------------------------------------------------------------

// ln 2 in two parts; products of the first and an exponent are exact.
constexpr float LN2 = 0x1.62e4p-1f, REST_OF_LN2 = 0x1.7f7d1cp-20f;

// e^x = 2^n·(1 + less_one), with the rest of x at most ½·ln 2. The polynomial is good to 2^-26.1 of less_one.
struct Exponential {
    int32_t n;
    float less_one;

    __attribute__((always_inline)) explicit Exponential(float x) {
        const float shifted = fma(x, 0x1.715476p+0f, 0x1.8p23f), whole = shifted - 0x1.8p23f;  // n is left in the low bits
        const float r = fma(whole, -REST_OF_LN2, fma(whole, -LN2, x)), r2 = r * r;
        const float p = fma(fma(0x1.6b9c68p-10f, r, 0x1.12254ap-7f), r2, fma(0x1.5556f2p-5f, r, 0x1.5554b4p-3f));
        less_one = fma(fma(p, r, 0x1.fffffep-2f), r2, r);
        n = int16_t(bits_of(shifted));
    }
};

// To 1.04 units in the last place, measured on all floats.
OPTC_INLINE float exp(float x) {
    // Beyond these, e^x is rounded to 0 or inf. NaN comes through by itself. 2^n, which may be no float, is two factors.
    const Exponential e(where(x > 89, 89.0f, where(x < -104, -104.0f, x)));
    const int32_t half = e.n >> 1;
    const float one_half = float_of((uint32_t(half) << 23) + 0x3f800000);
    const float other_half = float_of((uint32_t(e.n - half) << 23) + 0x3f800000);
    return fma(e.less_one, one_half, one_half) * other_half;
}

// To 2.57 units in the last place, measured on all floats: (e^2|x| - 1)/(e^2|x| + 1), with the sign of x.
OPTC_INLINE float tanh(float x) {
    const float twice = __builtin_fabsf(x) * 2;
    const Exponential e(where(twice > 20, 20.0f, twice));
    const float power = float_of((uint32_t(e.n) << 23) + 0x3f800000), above = fma(e.less_one, power, power - 1);
    return __builtin_copysignf(above / (above + 2), x);
}

// x = (1 + f)·2^e with √½ ≤ 1 + f < √2, on the bits of a positive float; denormals are scaled up first.
struct Parted {
    float f;          // exact
    int32_t shifted;  // e·2^23, and bits below

    __attribute__((always_inline)) explicit Parted(float x) {
        const uint32_t root_half = 0x3f3504f3, up = x < 0x1p-126f ? 24u << 23 : 0u;
        const uint32_t above = bits_of(x * float_of(0x3f800000 + up)) - root_half;
        f = float_of((above & 0x7fffff) + root_half) - 1;
        shifted = int32_t(above - up);
    }
};

// To 0.99 units in the last place, measured on all floats.
OPTC_INLINE float log(float x) {
    constexpr float inf = __builtin_inff();
    const Parted parted(x);
    const float f = parted.f, e = float(parted.shifted >> 23);
    // ln(1 + f) = f + f²·p(f), to 2^-27.8 of the value
    const float f2 = f * f, f4 = f2 * f2;
    const float low = fma(fma(0x1.99a41cp-3f, f, -0x1.000438p-2f), f2, fma(0x1.55555p-2f, f, -0x1.fffff8p-2f));
    const float high = fma(fma(0x1.0875p-3f, f, -0x1.0f5208p-3f), f2, fma(0x1.226c84p-3f, f, -0x1.5423e8p-3f));
    const float p = fma(fma(-0x1.38138ep-4f, f4, high), f4, low);
    const float logarithm = fma(e, LN2, f + fma(f2, p, e * REST_OF_LN2));
    const float special = where(x == 0, -inf, where(x > 0, x, __builtin_nanf("")));  // inf and NaN are their own
    return where((x > 0) & (x < inf), logarithm, special);
}

// --- circular functions ----------------------------------------------------------------------------------------------------

// x = (n + f) quarter turns, with |f| ≤ ½. Products of x with parts of 2/π of at most 26 bits are exact, and whole turns are
// taken from each: no x is slower than others.
struct Turned {
    double angle;  // f·π/2
    int32_t n;

    __attribute__((always_inline)) explicit Turned(float x) {
        constexpr double parts[] = {0x1.45f3068p-1,  0x1.7272208p-27, 0x1.4a7f09p-54,  0x1.abe8fa8p-79,
                                    0x1.a6ee06p-107, 0x1.b62959p-132, 0x1.278872p-157};
        double quarters = 0;
        for (const double part : parts) {
            const double product = double(x) * part;
            quarters += product - 4 * __builtin_floor(product * 0.25 + 0.5);
        }
        const double whole = __builtin_floor(quarters + 0.5);
        angle = (quarters - whole) * 1.57079632679489662;
        n = int32_t(whole);
    }

    // Its sine after `more` quarter turns; both polynomials to 2^-33.8 of the value.
    __attribute__((always_inline)) float sine(int32_t more) const {
        const double w = angle * angle;
        const double s = ((2.7180464728090995e-06 * w - 0.00019839304415691326) * w + 0.008333329280525471) * w;
        const double c = ((2.43827217653188e-05 * w - 0.0013886672664422362) * w + 0.04166662007283202) * w;
        const float sine = float(angle + angle * w * (s - 0.16666666640588215)), cosine = float(1 + w * (c - 0.4999999969195928));
        const uint32_t quarter = uint32_t(n + more);
        return float_of(bits_of(where((quarter & 1) != 0, cosine, sine)) ^ (quarter & 2) << 30);
    }
};

// To 0.51 units in the last place, the cosine of floats closest to multiples of π/2 to 1.5; measured on all floats.
OPTC_INLINE float sin(float x) { return where(x == 0, x, Turned(x).sine(0)); }
OPTC_INLINE float cos(float x) { return Turned(x).sine(1); }

// cos(πx) as the sine of what is left to a quarter turn, by its series; exact reduction, so that no x is slower than others.
OPTC_INLINE math_t cospi(math_t x) {
    const math_t turn = x - 2 * floor(x * math_t(0.5) + math_t(0.5)), b = math_t(0.5) - abs(turn), w = b * b;
    math_t s = math_t(4.66302805767612560e-4);
    if (is_double) {
        math_t more = fma(math_t(-1.05184717169320540e-11), w, math_t(5.39266466260812850e-10));
        more = fma(fma(more, w, math_t(-2.29484289972698730e-8)), w, math_t(7.95205400147551290e-7));
        s = fma(fma(more, w, math_t(-2.19153534478302170e-5)), w, s);
    }
    s = fma(fma(s, w, math_t(-7.37043094571435e-3)), w, math_t(0.0821458866111282287));
    s = fma(fma(s, w, math_t(-0.599264529320792076)), w, math_t(2.55016403987734548));
    return fma(fma(s, w, math_t(-5.16771278004997002)) * w, b, math_t(3.14159265358979324) * b);
}

// --- angles --------------------------------------------------------------------------------------------------------------

#ifdef __FP_FAST_FMAF
// The angle of (x, y) to 2 units in the last place (1.74 measured), in C's special cases too: that of the smaller of |x| and
// |y| to the larger, added to or taken from a number of quarter turns, with the sign of y.
OPTC_INLINE float atan2(float y, float x) {
    const float height = __builtin_fabsf(y), width = __builtin_fabsf(x);
    const bool steep = height > width;
    const float smaller = steep ? width : height, larger = steep ? height : width;  // one instruction each
    const float ratio = where(smaller == larger, where(larger > 0, 1.0f, 0.0f), smaller / larger), w = ratio * ratio;
    // artan(z) = z + z³·p(z²), to 2^-25.8 of the value
    float p = fma(fma(0x1.7eea72p-9f, w, -0x1.0c38a8p-6f), w, 0x1.620884p-5f);
    p = fma(fma(fma(p, w, -0x1.355b76p-4f), w, 0x1.b4e388p-4f), w, -0x1.230b2ep-3f);
    const float angle = fma(fma(fma(p, w, 0x1.9978fep-3f), w, -0x1.5554dcp-2f), ratio * w, ratio);
    const uint32_t sign = 0x80000000, taken = (steep ? sign : 0) ^ (bits_of(x) & sign);
    // 8-bit numbers in a loop make GCC work on four vectors at a time, which hides the latency of these long chains.
    const float quarters = int8_t(steep ? 1 : int32_t(bits_of(x)) >> 31 & 2);
    const float rest = fma(quarters, -0x1.777a5cp-25f, float_of(bits_of(angle) ^ taken));
    return __builtin_copysignf(fma(quarters, 0x1.921fb6p+0f, rest), y);
}
#else
OPTC_INLINE float atan2(float y, float x) { return ::atan2f(y, x); }
#endif

}  // namespace optc
