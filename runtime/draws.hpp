// Random numbers: Philox4x32 with ten rounds, as `dsl/philox.py` says. Follows the prelude in kernels that draw.
//
// A block has the words of four neighbours. So loops find those of their elements in a buffer that is filled before them; code that
// looks up elements here and there computes a block for each.

namespace optc {
namespace philox {

constexpr int ROUNDS = 10;
constexpr uint32_t FIRST = 0xD2511F53, SECOND = 0xCD9E8D57, FIRST_WEYL = 0x9E3779B9, SECOND_WEYL = 0xBB67AE85;

// Numbers of 32 bits, one in the lower half of every lane: there processors multiply them to 64 bits, and what is in the upper
// halves does not matter. By extensions that GCC and Clang share; the header of intrinsics takes longer to compile than a kernel.
#if defined(__AVX512F__)
constexpr int64_t WIDTH = 8;
#elif defined(__AVX2__)
constexpr int64_t WIDTH = 4;
#else
constexpr int64_t WIDTH = 2;
#endif
typedef uint64_t Lanes __attribute__((vector_size(8 * WIDTH)));
typedef int32_t Halves __attribute__((vector_size(8 * WIDTH)));
typedef long long Products __attribute__((vector_size(8 * WIDTH)));

OPTC_INLINE Lanes product(Lanes a, Lanes b) {
#if defined(__AVX512F__) && defined(__clang__)
    return Lanes(__builtin_ia32_pmuludq512(Halves(a), Halves(b)));
#elif defined(__AVX512F__)
    return Lanes(__builtin_ia32_pmuludq512_mask(Halves(a), Halves(b), Products(a), 0xff));
#elif defined(__AVX2__)
    return Lanes(__builtin_ia32_pmuludq256(Halves(a), Halves(b)));
#elif defined(__SSE2__)
    return Lanes(__builtin_ia32_pmuludq128(Halves(a), Halves(b)));
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}
OPTC_INLINE Lanes everywhere(uint64_t x) { return Lanes{} + x; }

// Exact, and through a signed integer, for which there are vectors: what kernels are given is below 2^24.
OPTC_INLINE uint32_t whole(math_t x) { return uint32_t(int32_t(x)); }

// Vectors whose chains of products take turns; few wide ones, as the last of them are often in vain.
constexpr int64_t TOGETHER = WIDTH == 8 ? 2 : 4;
constexpr int64_t AT_ONCE = TOGETHER * WIDTH;  // blocks
constexpr int64_t MORE = 4 * AT_ONCE + 4;      // words in a buffer behind those that are wanted
constexpr int64_t BEFORE = 16;                 // and before them, where a block may begin

}  // namespace philox

// What a word is a function of, besides its element.
struct Draw {
    uint32_t seed[2], step[2];

    Draw(math_t seed_low, math_t seed_high, math_t step_low, math_t step_high, math_t place)
        : seed{philox::whole(seed_low), philox::whole(seed_high)},
          step{philox::whole(step_low), philox::whole(step_high) * 256 + philox::whole(place)} {}

    // The words of `count` elements from `first` on, from place `first & 3` of `words` on.
    __attribute__((noinline)) void fill(uint32_t* words, uint64_t first, int64_t count) const {
        using namespace philox;
        Lanes keys[ROUNDS][2], lane;
        for (uint32_t round = 0; round < ROUNDS; ++round) {
            keys[round][0] = everywhere(seed[0] + round * FIRST_WEYL);
            keys[round][1] = everywhere(seed[1] + round * SECOND_WEYL);
        }
        for (int64_t i = 0; i < WIDTH; ++i) lane[i] = uint64_t(i);
        const int64_t blocks = (int64_t(first & 3) + count + 3) / 4;
        for (int64_t block = 0; block < blocks; block += AT_ONCE) {
            Lanes a[TOGETHER], b[TOGETHER], c[TOGETHER], d[TOGETHER];
            for (int64_t k = 0; k < TOGETHER; ++k) {
                a[k] = lane + ((first >> 2) + uint64_t(block + k * WIDTH)), b[k] = a[k] >> 32;
                c[k] = everywhere(step[0]), d[k] = everywhere(step[1]);
            }
#pragma GCC unroll 10
            for (int round = 0; round < ROUNDS; ++round) {
                for (int64_t k = 0; k < TOGETHER; ++k) {
                    const Lanes one = product(a[k], everywhere(FIRST)), other = product(c[k], everywhere(SECOND));
                    a[k] = (other >> 32) ^ b[k] ^ keys[round][0], b[k] = other;
                    c[k] = (one >> 32) ^ d[k] ^ keys[round][1], d[k] = one;
                }
            }
            for (int64_t k = 0; k < TOGETHER; ++k) {
                const Lanes low = (a[k] & 0xffffffff) | (b[k] << 32), high = (c[k] & 0xffffffff) | (d[k] << 32);
                uint64_t each[2 * WIDTH];
                for (int64_t i = 0; i < WIDTH; ++i) each[2 * i] = low[i], each[2 * i + 1] = high[i];
                __builtin_memcpy(words + 4 * (block + k * WIDTH), each, sizeof each);
            }
        }
    }
};

// A number from [0, 1): the upper 24 bits of a word, exactly.
OPTC_INLINE math_t uniform(uint32_t word) { return math_t(int32_t(word >> 8)) * math_t(0x1p-24); }

// The same for one element.
OPTC_INLINE math_t uniform(
    uint64_t element, math_t seed_low, math_t seed_high, math_t step_low, math_t step_high, math_t place) {
    using namespace philox;
    const Draw draw(seed_low, seed_high, step_low, step_high, place);
    uint32_t a = uint32_t(element >> 2), b = uint32_t(element >> 34), c = draw.step[0], d = draw.step[1];
#pragma GCC unroll 10
    for (uint32_t round = 0; round < ROUNDS; ++round) {
        const uint64_t one = uint64_t(a) * FIRST, other = uint64_t(c) * SECOND;
        a = uint32_t(other >> 32) ^ b ^ (draw.seed[0] + round * FIRST_WEYL);
        b = uint32_t(other);
        c = uint32_t(one >> 32) ^ d ^ (draw.seed[1] + round * SECOND_WEYL);
        d = uint32_t(one);
    }
    const uint32_t low = (element & 1) != 0 ? b : a, high = (element & 1) != 0 ? d : c;
    return uniform((element & 2) != 0 ? high : low);
}

// The numbers of a chunk's elements: three rows of the table have those of its tensor (`Runs` in `sharding.py`).
struct Elements {
    int64_t at, length, step;
    uint64_t first;

    Elements(const Chunk& chunk, int64_t row)
        : at(chunk.offset), length(chunk.number(row + 1)), step(chunk.number(row + 2)), first(uint64_t(chunk.number(row))) {}

    uint64_t operator()(int64_t i) const {
        const int64_t place = at + i;
        return first + uint64_t(step == 0 ? place : place / length * step + place % length);
    }
    // How many of up to `most` elements from the i-th on follow one another.
    int64_t together(int64_t i, int64_t most) const {
        const int64_t left = step == 0 ? most : length - (at + i) % length;
        return left < most ? left : most;
    }
};

// The words of up to `most` elements.
template <int64_t most> struct Drawn {
    alignas(64) uint32_t words[philox::BEFORE + most + philox::MORE];
    const Draw draw;

    explicit Drawn(const Draw& d) : draw(d) {}
    Drawn(math_t seed_low, math_t seed_high, math_t step_low, math_t step_high, math_t place)
        : draw(seed_low, seed_high, step_low, step_high, place) {}

    // Where that of the element `from` is; those behind it follow.
    const uint32_t* of(const Elements& elements, int64_t from, int64_t count) {
        int64_t end = elements.together(from, count);
        uint32_t* const found = words + philox::BEFORE + (elements(from) & 3);
        draw.fill(words + philox::BEFORE, elements(from), end);
        while (end < count) {  // the next run: its block begins up to three words before it
            const uint64_t first = elements(from + end);
            uint32_t kept[3], *const to = found + end, *const block = to - (first & 3);
            __builtin_memcpy(kept, to - 3, sizeof kept);
            const int64_t more = elements.together(from + end, count - end);
            draw.fill(block, first, more);
            __builtin_memcpy(to - 3, kept, sizeof kept);
            end += more;
        }
        return found;
    }
};

// By what codes of a chunk are rounded at random.
struct Dither {
    Elements elements;
    Draw draw;

    template <int64_t most> void operator()(int64_t first, int64_t count, float (&to)[most]) const {
        Drawn<most> drawn(draw);
        const uint32_t* words = drawn.of(elements, first, count);
        for (int64_t i = 0; i < count; ++i) to[i] = float(uniform(words[i]));
    }
};

}  // namespace optc
