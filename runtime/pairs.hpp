// Parameters that are kept as a pair: the parameter itself, in 16 bits, and what it lacks beside it (`pairs.py` says what that is).
// This file stands after `prelude.hpp`. Parameters of other dtypes are kept as they are; then nothing stands beside them.

namespace optc {

template <class A, class B> constexpr bool same_type = false;
template <class A> constexpr bool same_type<A, A> = true;

// Of the upper half of a float's bits, the lower half or the upper part of that, as a signed number.
template <int bits, class Rest> struct Split {
    using rest_t = Rest;
    static constexpr bool applies = same_type<param_t, bf16>;
    static constexpr int drop = 16 - bits;

    OPTC_INLINE float join(bf16 p, Rest rest) {
        return float_of((uint32_t(p.bits) << 16) + (uint32_t(int32_t(rest)) << drop));
    }
    // Rounded to nearest even where bits are dropped; the upper half then to nearest, and at half way up.
    OPTC_INLINE void split(bf16& p, Rest& rest, float x) {
        const uint32_t all = bits_of(x), half = drop ? (1u << drop >> 1) - 1 + (all >> drop & 1) : 0;
        const uint32_t kept = (all + half) >> drop << drop, upper = (kept + 0x8000) >> 16;
        const bool number = (all & 0x7fffffff) <= 0x7f800000;
        p.bits = uint16_t(number ? upper : all >> 16 | 0x40);
        rest = Rest(number ? int32_t(kept - (upper << 16)) >> drop : 0);
    }
};
using split24 = Split<8, int8_t>;
using split32 = Split<16, int16_t>;

constexpr bool is_low = same_type<param_t, bf16> || same_type<param_t, fp16>;

// What rounding has lost, in the parameter's own dtype.
struct kahan {
    using rest_t = param_t;
    static constexpr bool applies = is_low;

    OPTC_INLINE math_t join(param_t p, param_t rest) { return load(p) + load(rest); }
    OPTC_INLINE void split(param_t& p, param_t& rest, math_t x) {
        store(p, x);
        const math_t lost = x - load(p);
        store(rest, where(abs(lost) < infinity, lost, math_t(0)));
    }
};

// The whole number, in float32: it counts where it rounds to the parameter, which may have been changed from outside.
struct master {
    using rest_t = fp32;
    static constexpr bool applies = is_low;

    OPTC_INLINE math_t join(param_t p, fp32 rest) {
        param_t rounded;
        store(rounded, math_t(rest));
        return where(load(rounded) == load(p), math_t(rest), load(p));
    }
    OPTC_INLINE void split(param_t& p, fp32& rest, math_t x) {
        store(p, x);
        rest = fp32(x);
    }
};

template <class Pair> OPTC_INLINE math_t joined(const param_t* at, const typename Pair::rest_t* rest, int64_t i) {
    if constexpr (Pair::applies) return Pair::join(at[i], rest[i]);
    else return load(at[i]);
}
template <class Pair> OPTC_INLINE void split_into(param_t* at, typename Pair::rest_t* rest, int64_t i, math_t x) {
    if constexpr (Pair::applies) Pair::split(at[i], rest[i], x);
    else store(at[i], x);
}

}  // namespace optc
