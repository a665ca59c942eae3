// The fixed part of every native kernel: element types, the language's arithmetic, and the loop over chunks and threads.
//
// The text of a kernel is appended to this file and compiled on first use (`native_build.py`), with the macros
//   OPTC_PARAM_T, OPTC_GRAD_T, OPTC_STATE_T, OPTC_INPUT_T   fp32, fp64, bf16 or fp16
//   OPTC_MATH_T                                             fp32, or fp64 where the parameters are
//   OPTC_VARIANT                                            the static flags, one bit each
//   OPTC_KEY                                                the identity of this build, exported to be checked after loading
//   OPTC_PASSES                                             defined where `reductions.hpp` follows, with another loop over chunks
//   OPTC_VECTOR_MATH                                        defined where glibc's vector mathematics (libmvec) is linked
// A plain C ABI and no torch headers. <cmath> is left out on purpose: the vector forms can only be declared here.

#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define OPTC_INLINE static inline __attribute__((always_inline, unused))

#ifdef OPTC_VECTOR_MATH
#define OPTC_SIMD _Pragma("omp declare simd notinbranch")
#else
#define OPTC_SIMD
#endif
extern "C" {
OPTC_SIMD float expf(float) noexcept;
OPTC_SIMD float logf(float) noexcept;
OPTC_SIMD float sinf(float) noexcept;
OPTC_SIMD float cosf(float) noexcept;
OPTC_SIMD float tanhf(float) noexcept;
OPTC_SIMD float atan2f(float, float) noexcept;
OPTC_SIMD double exp(double) noexcept;
OPTC_SIMD double log(double) noexcept;
OPTC_SIMD double sin(double) noexcept;
OPTC_SIMD double cos(double) noexcept;
OPTC_SIMD double tanh(double) noexcept;
OPTC_SIMD double pow(double, double) noexcept;
OPTC_SIMD double atan2(double, double) noexcept;
}

namespace optc {

// --- element types -------------------------------------------------------------------------------------------------------

using fp32 = float;
using fp64 = double;
struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };

using param_t = OPTC_PARAM_T;
using grad_t = OPTC_GRAD_T;
using state_t = OPTC_STATE_T;
using input_t = OPTC_INPUT_T;
using math_t = OPTC_MATH_T;

OPTC_INLINE uint32_t bits_of(float x) { uint32_t u; __builtin_memcpy(&u, &x, 4); return u; }
OPTC_INLINE float float_of(uint32_t u) { float x; __builtin_memcpy(&x, &u, 4); return x; }

OPTC_INLINE math_t load(fp32 x) { return math_t(x); }
OPTC_INLINE math_t load(fp64 x) { return math_t(x); }
OPTC_INLINE math_t load(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
OPTC_INLINE math_t load(fp16 x) {
    const uint32_t rest = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16;
    const uint32_t rebased = rest + (112u << 23);                                         // exponent bias 15 -> 127
    const uint32_t special = rest | (0xffu << 23);                                        // inf and NaN
    const uint32_t tiny = bits_of(float_of(rebased + (1u << 23)) - float_of(113u << 23));  // denormals become normal
    const uint32_t finite = rest < (1u << 23) ? tiny : rebased;
    return float_of((rest >= (31u << 23) ? special : finite) | sign);
}

// Stores round to nearest even, once; denormals are kept and NaN stays NaN. The 16-bit forms are integer code that vectorises
// everywhere; the bf16 instruction of some CPUs is avoided because it flushes denormals.
OPTC_INLINE void store(fp32& at, math_t x) { at = fp32(x); }
OPTC_INLINE void store(fp64& at, math_t x) { at = fp64(x); }
OPTC_INLINE void store(bf16& at, float x) {
    const uint32_t u = bits_of(x);
    const uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    at.bits = uint16_t((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : rounded);
}
OPTC_INLINE void store(fp16& at, float x) {
    const uint32_t all = bits_of(x), u = all & 0x7fffffff;
    const uint32_t normal = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;               // carries into inf from 65520 on
    const uint32_t tiny = bits_of(float_of(u) + 0.5f) - bits_of(0.5f);                      // the adder rounds at 2^-24
    const uint32_t special = u > 0x7f800000 ? (u >> 13 & 0x3ff) | 0x7e00 : 0x7c00;
    const uint32_t finite = u < (113u << 23) ? tiny : normal;
    at.bits = uint16_t((u >= (143u << 23) ? special : finite) | (all >> 16 & 0x8000));
}

// --- the language's arithmetic -------------------------------------------------------------------------------------------

constexpr bool is_double = sizeof(math_t) == 8;
constexpr math_t infinity = __builtin_inff();
constexpr math_t not_a_number = __builtin_nanf("");

// A choice by bits: conditional expressions that share a condition are turned into jumps by GCC, and the loop stays scalar.
OPTC_INLINE float where(bool condition, float a, float b) {
    const uint32_t mask = condition ? ~0u : 0u;
    return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask));
}
OPTC_INLINE double where(bool condition, double a, double b) {
    const uint64_t mask = condition ? ~0ull : 0ull;
    uint64_t x, y;
    __builtin_memcpy(&x, &a, 8);
    __builtin_memcpy(&y, &b, 8);
    x = (x & mask) | (y & ~mask);
    __builtin_memcpy(&a, &x, 8);
    return a;
}
OPTC_INLINE bool where(bool condition, bool a, bool b) { return (condition & a) | (!condition & b); }
OPTC_INLINE math_t square(math_t x) { return x * x; }
OPTC_INLINE math_t cube(math_t x) { return x * x * x; }
OPTC_INLINE math_t sqrt(math_t x) { return is_double ? math_t(__builtin_sqrt(x)) : math_t(__builtin_sqrtf(x)); }
OPTC_INLINE math_t abs(math_t x) { return is_double ? math_t(__builtin_fabs(x)) : math_t(__builtin_fabsf(x)); }
OPTC_INLINE math_t floor(math_t x) { return is_double ? math_t(__builtin_floor(x)) : math_t(__builtin_floorf(x)); }
// NaN passes through; sign(0) is 0.
OPTC_INLINE math_t sign(math_t x) { return where(x > 0, math_t(1), where(x < 0, math_t(-1), x)); }
OPTC_INLINE math_t min(math_t a, math_t b) { return where((a < b) | (a != a), a, b); }
OPTC_INLINE math_t max(math_t a, math_t b) { return where((a > b) | (a != a), a, b); }
// Floored: the sign of the divisor.
OPTC_INLINE math_t mod(math_t a, math_t b) {
    const math_t r = is_double ? math_t(__builtin_fmod(a, b)) : math_t(__builtin_fmodf(a, b));
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
// x^0.5. Equal to pow everywhere: -0 gives +0 and -inf gives +inf, which the square root alone would not.
OPTC_INLINE math_t half_power(math_t x) { return x == -infinity ? infinity : sqrt(x + math_t(0)); }
OPTC_INLINE math_t exp(math_t x) { return is_double ? math_t(::exp(double(x))) : math_t(::expf(float(x))); }
OPTC_INLINE math_t log(math_t x) { return is_double ? math_t(::log(double(x))) : math_t(::logf(float(x))); }
OPTC_INLINE math_t sin(math_t x) { return is_double ? math_t(::sin(double(x))) : math_t(::sinf(float(x))); }
OPTC_INLINE math_t cos(math_t x) { return is_double ? math_t(::cos(double(x))) : math_t(::cosf(float(x))); }
OPTC_INLINE math_t tanh(math_t x) { return is_double ? math_t(::tanh(double(x))) : math_t(::tanhf(float(x))); }
OPTC_INLINE double pow(double x, double y) { return ::pow(x, y); }
#ifdef __FP_FAST_FMAF
// C's powf to 0.97 units in the last place (measured), in every special case too; vector code wherever there are vectors of
// floats. |x|^y = 2^t with t = y·log2|x| in pairs of floats. Every sum of products that could be contracted is an explicit
// fma, so vector bodies and scalar tails agree to the bit whatever the compiler contracts.
// The polynomials are minimax (on the float coefficients); their errors are given beside them.
OPTC_INLINE float pow(float x, float y) {
    constexpr float inf = __builtin_inff();
    const auto fma = [](float a, float b, float c) { return __builtin_fmaf(a, b, c); };
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
    // t = n + r with |r| ≤ ½. The sum leaves n in the low bits. A plain product could be contracted with t - n.
    const float t = fma(y, log2_x, 0.0f);
    const float shifted = fma(y, log2_x, 0x1.8p23f), n = shifted - 0x1.8p23f;
    const float r = (t - n) + fma(y, rest_of_log2_x, fma(y, log2_x, -t));
    // 2^r = 1 + r·q(r), by a polynomial: 2^-28.3 of the value. 2^n, which may be no float, is two factors.
    const float q = fma(fma(fma(fma(fma(0x1.417abp-13f, r, 0x1.5f095p-10f), r, 0x1.3b2dd2p-7f), r, 0x1.c6af7ap-5f), r,
                            0x1.ebfbdcp-3f), r, 0x1.62e43p-1f);
    // 16-bit numbers in the loop make GCC work on two vectors at a time, which hides the latency of these long chains.
    const int32_t exponent = int16_t(bits_of(shifted)), half = exponent >> 1;
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
// The polynomials are minimax (Remez exchange in 60 digits, then rounded to double); their errors are given beside them.
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
OPTC_INLINE math_t atan2(math_t y, math_t x) {
    return is_double ? math_t(::atan2(double(y), double(x))) : math_t(::atan2f(float(y), float(x)));
}

// --- chunks and threads --------------------------------------------------------------------------------------------------

// A contiguous range of elements of one tensor. `table` holds one row of pointers per stream; absent streams are null.
struct Chunk {
    void* const* table;
    int64_t tensors, tensor, offset, size;

    template <class T> T* row(int64_t stream) const { return picked<T>(stream, true); }
    // A stream of picked elements from the first of the chunk on, where all are picked, else from the first of the tensor.
    template <class T> T* picked(int64_t stream, bool all) const {
        T* const base = static_cast<T*>(table[stream * tensors + tensor]);
        return base == nullptr || !all ? base : base + offset;
    }
};

#ifndef OPTC_PASSES
using Update = void (*)(const Chunk& chunk, const double* scalars, const uint8_t* flags, double factor);

// The update for these host flags; defined by the kernel.
static Update select_update(const uint8_t* flags);
#endif

// Starting a chunk costs about as much as this many elements.
constexpr int64_t CHUNK_COST = 128;

// The first chunk of `share` of `shares`: equal numbers of elements, bar one chunk.
static int64_t first_chunk(const int64_t* begin, int64_t chunks, int64_t share, int64_t shares) {
    const double goal = double(begin[chunks] - begin[0] + chunks * CHUNK_COST) * double(share) / double(shares);
    int64_t low = 0, high = chunks;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (double(begin[middle] - begin[0] + middle * CHUNK_COST) < goal) low = middle + 1; else high = middle;
    }
    return low;
}

}  // namespace optc

#define OPTC_EXPORT extern "C" __attribute__((visibility("default")))

OPTC_EXPORT const char optc_key[65];
const char optc_key[65] = OPTC_KEY;

#ifndef OPTC_PASSES
// Runs the kernel once over all chunks. Chunk `c` is `begin[c + 1] - begin[c]` elements of tensor `chunk_tensor[c]`, starting at
// `chunk_offset[c]`. Chunks do not depend on the number of threads, so neither do the results.
OPTC_EXPORT void optc_run(
    void* const* table, int64_t tensors, const int32_t* chunk_tensor, const int64_t* chunk_offset, const int64_t* begin,
    int64_t chunks, const double* scalars, const uint8_t* flags, double factor, int32_t threads) {
    const optc::Update update = optc::select_update(flags);
    const auto work = [=](int64_t share, int64_t shares) {
        const int64_t end = optc::first_chunk(begin, chunks, share + 1, shares);
        for (int64_t c = optc::first_chunk(begin, chunks, share, shares); c < end; ++c) {
            update({table, tensors, chunk_tensor[c], chunk_offset[c], begin[c + 1] - begin[c]}, scalars, flags, factor);
        }
    };
#ifdef _OPENMP
    // No region at all for one thread: a child of a forked process would wait for workers that do not exist in it.
    if (threads > 1 && chunks > 1) {
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    work(0, 1);
}
#endif
