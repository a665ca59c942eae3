// The fixed part of every native kernel: element types, the language's arithmetic, and the loop over chunks and threads.
//
// The text of a kernel is appended to this file and compiled on first use (`native_build.py`), with the macros
//   OPTC_PARAM_T, OPTC_GRAD_T, OPTC_STATE_T, OPTC_INPUT_T   fp32, fp64, bf16 or fp16
//   OPTC_MATH_T                                             fp32, or fp64 where the parameters are
//   OPTC_VARIANT                                            the static flags, one bit each
//   OPTC_KEY                                                the identity of this build, exported to be checked after loading
//   OPTC_PASSES                                             defined where `reductions.hpp` follows, with another loop over chunks
// A plain C ABI and no torch headers.

#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define OPTC_INLINE static inline __attribute__((always_inline, unused))

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
// a·b + c, rounded once where the CPU can, and nothing else is: compilers may not contract by themselves, since they would do it
// otherwise in the scalar code at the end of a tensor than in vectors.
#ifdef __FP_FAST_FMAF
OPTC_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
OPTC_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
OPTC_INLINE float fma(float a, float b, float c) { return a * b + c; }
OPTC_INLINE double fma(double a, double b, double c) { return a * b + c; }
#endif
OPTC_INLINE math_t square(math_t x) { return x * x; }
OPTC_INLINE math_t cube(math_t x) { return x * x * x; }
OPTC_INLINE math_t fourth(math_t x) { return square(x * x); }
OPTC_INLINE math_t sqrt(math_t x) { return is_double ? math_t(__builtin_sqrt(x)) : math_t(__builtin_sqrtf(x)); }
OPTC_INLINE math_t abs(math_t x) { return is_double ? math_t(__builtin_fabs(x)) : math_t(__builtin_fabsf(x)); }
OPTC_INLINE math_t floor(math_t x) { return is_double ? math_t(__builtin_floor(x)) : math_t(__builtin_floorf(x)); }
// NaN passes through; sign(0) is 0.
OPTC_INLINE math_t sign(math_t x) { return where(x > 0, math_t(1), where(x < 0, math_t(-1), x)); }
OPTC_INLINE math_t min(math_t a, math_t b) { const math_t smaller = a < b ? a : b; return where(a != a, a, smaller); }
OPTC_INLINE math_t max(math_t a, math_t b) { const math_t larger = a > b ? a : b; return where(a != a, a, larger); }
// x as bfloat16: away from 0 where the bits that are cut off, as a number from [0, 1), exceed u.
OPTC_INLINE math_t round_bf16(math_t x, math_t u) {
    const float single = float(x);
    const uint32_t bits = bits_of(single), away = math_t(int32_t(bits & 0xffff)) > u * 65536 ? 0x10000u : 0u;
    return math_t(where(single != single, single, float_of((bits & 0xffff0000u) + away)));
}
// Floored: the sign of the divisor.
OPTC_INLINE math_t mod(math_t a, math_t b) {
    const math_t r = is_double ? math_t(__builtin_fmod(a, b)) : math_t(__builtin_fmodf(a, b));
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
// x^0.5. Equal to pow everywhere: -0 gives +0 and -inf gives +inf, which the square root alone would not.
OPTC_INLINE math_t half_power(math_t x) { return x == -infinity ? infinity : sqrt(x + math_t(0)); }

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
    // Of a row that holds numbers and not pointers.
    int64_t number(int64_t stream) const { return int64_t(table[stream * tensors + tensor]); }
};

#ifndef OPTC_PASSES
using Update = void (*)(const Chunk& chunk, const double* scalars, const uint8_t* flags, double factor);

// The update for these scalars and host flags; defined by the kernel.
static Update select_update(const double* scalars, const uint8_t* flags);
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
    const optc::Update update = optc::select_update(scalars, flags);
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
