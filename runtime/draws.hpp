// Random numbers: Philox4x32 with ten rounds, as `dsl/philox.py` says. Follows the prelude in kernels that draw.

namespace optc {

struct Philox { uint32_t words[4]; };

OPTC_INLINE Philox philox(uint64_t element, math_t seed_low, math_t seed_high, math_t step, math_t block) {
    // What is given is below 2^24: exact in float, and converted through a signed integer, for which there are vectors.
    uint32_t first = uint32_t(int32_t(seed_low)), second = uint32_t(int32_t(seed_high));
    uint32_t a = uint32_t(element), b = uint32_t(element >> 32), c = uint32_t(int32_t(step)), d = uint32_t(int32_t(block));
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const uint64_t one = uint64_t(a) * 0xD2511F53u, other = uint64_t(c) * 0xCD9E8D57u;
        a = uint32_t(other >> 32) ^ b ^ first;
        b = uint32_t(other);
        c = uint32_t(one >> 32) ^ d ^ second;
        d = uint32_t(one);
        first += 0x9E3779B9u;
        second += 0xBB67AE85u;
    }
    return {{a, b, c, d}};
}

// A number from [0, 1): the upper 24 bits of a word, exactly. Calls that differ in the word alone share the rounds.
template <int word>
OPTC_INLINE math_t uniform(uint64_t element, math_t seed_low, math_t seed_high, math_t step, math_t block) {
    return math_t(int32_t(philox(element, seed_low, seed_high, step, block).words[word] >> 8)) * math_t(0x1p-24);
}
OPTC_INLINE math_t uniform_0(uint64_t e, math_t l, math_t h, math_t s, math_t b) { return uniform<0>(e, l, h, s, b); }
OPTC_INLINE math_t uniform_1(uint64_t e, math_t l, math_t h, math_t s, math_t b) { return uniform<1>(e, l, h, s, b); }
OPTC_INLINE math_t uniform_2(uint64_t e, math_t l, math_t h, math_t s, math_t b) { return uniform<2>(e, l, h, s, b); }
OPTC_INLINE math_t uniform_3(uint64_t e, math_t l, math_t h, math_t s, math_t b) { return uniform<3>(e, l, h, s, b); }

}  // namespace optc
