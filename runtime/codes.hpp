// Streams that are kept as codes (`codebook.py` says what they mean): decoded piece by piece into a buffer on the stack, and
// encoded again when a piece is done. This file stands after `prelude.hpp` and `elementary.hpp`.
//
// A kernel has a struct for each codebook, printed from `Codebook` and `Table`:
//     struct m_book {
//         static constexpr int bits = 8, shift = 16, base = 13458, buckets = 2799;
//         static constexpr int64_t block = 256;  // numbers that share a scale; without scales, that are encoded at a time
//         static constexpr bool scaled = true;   // else all scales are 1, and lie nowhere that matters
//         static constexpr float unit = 1.0f, least = 0.0f;
//     };
// Its levels, `1 << bits` floats, and then its `2*buckets` entries lie where a row of pointers says, the same for all tensors.

#define OPTC_METHOD inline __attribute__((always_inline))

namespace optc {
namespace codes {

// --- vectors -------------------------------------------------------------------------------------------------------------

// By extensions that GCC and Clang share; the header of intrinsics takes longer to compile than a whole kernel.
constexpr int64_t WIDTH = 8;
constexpr int64_t GROUP = 16;  // numbers whose codes are put at once
constexpr int64_t RUN = 64;    // numbers whose places are written down before they are looked up
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));
typedef float HalfFloats __attribute__((vector_size(16)));
typedef uint32_t HalfWords __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint8_t HalfBytes __attribute__((vector_size(8)));

template <class Value> OPTC_INLINE Value from(const void* at) {
    Value x;
    __builtin_memcpy(&x, at, sizeof x);
    return x;
}
template <class Value> OPTC_INLINE void put(void* at, Value x) { __builtin_memcpy(at, &x, sizeof x); }
OPTC_INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
OPTC_INLINE Ints smaller(Ints a, Ints b) { return a < b ? a : b; }

// Numbers of a buffer as floats, rounded where they are double.
OPTC_INLINE Floats rounded(const float* at) { return from<Floats>(at); }
OPTC_INLINE Floats rounded(const double* at) {
    const HalfFloats halves[2] = {__builtin_convertvector(from<Doubles>(at), HalfFloats),
                                  __builtin_convertvector(from<Doubles>(at + WIDTH / 2), HalfFloats)};
    return from<Floats>(halves);
}
OPTC_INLINE void write(float* at, Floats x) { put(at, x); }
OPTC_INLINE void write(double* at, Floats x) {
    put(at, __builtin_convertvector(from<HalfFloats>(&x), Doubles));
    put(at + WIDTH / 2, __builtin_convertvector(from<HalfFloats>(reinterpret_cast<const float*>(&x) + WIDTH / 2), Doubles));
}

// --- decoding ------------------------------------------------------------------------------------------------------------

template <int bits> OPTC_INLINE Floats levels_of(const uint8_t* codes, const float* levels) {
    uint64_t all = 0;
    __builtin_memcpy(&all, codes, bits);
#ifdef __AVX2__
    if (bits == 4) {
        const Words each = (Words{} + uint32_t(all)) >> Words{4, 0, 12, 8, 20, 16, 28, 24};
        const Floats low = __builtin_ia32_permvarsf256(from<Floats>(levels), Ints(each));
        const Floats high = __builtin_ia32_permvarsf256(from<Floats>(levels + WIDTH), Ints(each));
        return Floats(Ints(each << 28) < 0 ? Ints(high) : Ints(low));
    }
#endif
    const auto level = [=](int k) { return levels[bits == 8 ? all >> 8 * k & 255 : all >> 4 * (k ^ 1) & 15]; };
    return Floats{level(0), level(1), level(2), level(3), level(4), level(5), level(6), level(7)};
}

// A block or the first part of it. The buffer has room for whole vectors.
template <class Book> OPTC_INLINE void decode(
    const uint8_t* __restrict codes, float scale, const float* __restrict levels, math_t* __restrict to, int64_t size) {
    constexpr int64_t bytes = WIDTH * Book::bits / 8;
    const int64_t whole = size & -WIDTH;
    if (Book::bits == 1) {
        for (int64_t i = 0; i < size; i += WIDTH) put(to + i, signs_of(*codes++));
        return;
    }
    for (int64_t i = 0; i < whole; i += WIDTH, codes += bytes) write(to + i, levels_of<Book::bits>(codes, levels) * scale);
    if (whole == size) return;
    uint8_t rest[bytes] = {};
    __builtin_memcpy(rest, codes, ((size - whole) * Book::bits + 7) / 8);
    write(to + whole, levels_of<Book::bits>(rest, levels) * scale);
}

// --- encoding ------------------------------------------------------------------------------------------------------------

constexpr int32_t NOT_FINITE = 0x7f800000;

// The bits of the largest |x|, or of the largest that is finite, in whole groups.
template <bool finite> OPTC_INLINE int32_t largest(const math_t* at, int64_t size) {
    const auto magnitude = [=](int64_t i) {
        const Ints x = Ints(rounded(at + i)) & 0x7fffffff;
        return finite ? x & (x < NOT_FINITE) : x;
    };
    Ints most{}, other{};
    for (int64_t i = 0; i < size; i += GROUP) {
        most = larger(most, magnitude(i));
        other = larger(other, magnitude(i + WIDTH));
    }
    most = larger(most, other);
    int32_t found = 0;
    for (int64_t k = 0; k < WIDTH; ++k) found = most[k] > found ? most[k] : found;
    return found;
}

// Where to look up numbers that are in units of their scale: the bucket, and below it the lower bits of |x|.
template <class Book, bool finite> OPTC_INLINE Words places_of(Floats ratio) {
    constexpr int32_t first = Book::base * (1 << Book::shift), extent = Book::buckets << Book::shift;
    const Ints bits = finite ? Ints(ratio) : Ints(ratio) & (ratio == ratio);
    const Ints above = larger((bits & 0x7fffffff) - first, Ints{});
    // At most the unit, or half as much again by the rounding of a denormal scale.
    const uint32_t most = bits_of(Book::unit == 1 ? 1.0f : 2 * Book::unit);
    const bool reaches_beyond = !finite || most >= uint32_t(first) + uint32_t(extent);
    return Words(reaches_beyond ? smaller(above, Ints{} + (extent - 1)) : above) + Words(bits >> 31 & extent);
}

// The codes in these places, in the lowest bytes. Two places are read at once and taken apart in an ordinary register.
template <class Book> OPTC_INLINE Words codes_of(const uint32_t* places, const uint32_t* entries) {
    constexpr int shift = Book::shift;
    const auto pair = [=](int k) { return from<uint64_t>(places + k); };
    const uint64_t a = pair(0), b = pair(2), c = pair(4), d = pair(6);
    const auto low = [=](uint64_t pair) { return entries[uint32_t(pair) >> shift]; };
    const auto high = [=](uint64_t pair) { return entries[pair >> (32 + shift)]; };
    const Words entry = {low(a), high(a), low(b), high(b), low(c), high(c), low(d), high(d)};
    const Ints inner = Ints(from<Words>(places) & ((1u << shift) - 1)) < Ints(entry & 0xffff);
    return Words(inner ? Ints(entry >> 16) : Ints(entry >> 24)) & 255;
}

// The lowest bytes; all others are 0.
OPTC_INLINE Bytes packed(Words a, Words b) {
#ifdef __AVX2__
    // four of a and four of b, then their other halves
    const auto shorts = __builtin_ia32_packusdw256(Ints(a), Ints(b));
    Shorts halves[2];
    __builtin_memcpy(halves, &shorts, sizeof halves);
    const HalfWords fours = HalfWords(__builtin_ia32_packuswb128(halves[0], halves[1]));
    return Bytes(HalfWords{fours[0], fours[2], fours[1], fours[3]});
#else
    Bytes all;
    for (int k = 0; k < WIDTH; ++k) all[k] = uint8_t(a[k]), all[k + WIDTH] = uint8_t(b[k]);
    return all;
#endif
}

// Puts the codes of a group, or of the first numbers of one.
template <int bits> OPTC_INLINE void keep(uint8_t* to, Bytes codes, int64_t size) {
    if (bits == 4) {
        const Shorts two = Shorts(codes);  // the first in the lower byte
        const HalfBytes joined = __builtin_convertvector((two << 4 | two >> 8) & 255, HalfBytes);
        __builtin_memcpy(&codes, &joined, sizeof joined);
    }
    if (size >= GROUP) __builtin_memcpy(to, &codes, GROUP * bits / 8);
    else __builtin_memcpy(to, &codes, (size * bits + 7) / 8);
}

// Places first and look-ups after them, a run at a time: the chain from a number to its code is too long for CPUs to look ahead
// to the next. Zeros follow the numbers, up to a whole group.
template <class Book, bool finite> OPTC_INLINE void encode_run(
    const math_t* __restrict at, float scale, const uint32_t* __restrict entries, uint8_t* __restrict to, int64_t size) {
    alignas(32) uint32_t places[RUN];
    for (int64_t i = 0; i < size; i += GROUP) {
        put(places + i, places_of<Book, finite>(rounded(at + i) / scale));
        put(places + i + WIDTH, places_of<Book, finite>(rounded(at + i + WIDTH) / scale));
    }
    asm volatile("" : : "r"(places) : "memory");  // to be read from memory: taking vectors apart costs more
    for (int64_t i = 0; i < size; i += GROUP) {
        const Bytes codes = packed(codes_of<Book>(places + i, entries), codes_of<Book>(places + i + WIDTH, entries));
        keep<Book::bits>(to + i * Book::bits / 8, codes, size - i);
    }
}

template <class Book> OPTC_INLINE float scale_of(int32_t most) {
    const float size = float_of(uint32_t(most));
    return (size > Book::least ? size : Book::least) / Book::unit;
}

// Signs: 1 where numbers are above 0, up to a whole group. Their scale is 1.
OPTC_INLINE float encode_signs(const math_t* __restrict at, uint8_t* __restrict to, int64_t size) {
    for (int64_t i = 0; i < size; i += WIDTH) to[i / WIDTH] = uint8_t(above_zero(at + i));
    return 1;
}

// The scale of a block; and keeps one, where blocks have scales.
template <class Book> OPTC_INLINE float scale_at(const float* scales, int64_t block) {
    return Book::scaled ? scales[block] : 1.0f;
}
template <class Book> OPTC_INLINE void keep_scale(float* scales, int64_t block, float scale) {
    if (Book::scaled) scales[block] = scale;
}

// A block or the first part of it, whatever the numbers are; returns the scale.
template <class Book> static __attribute__((noinline)) float encode_any(
    const math_t* at, const uint32_t* entries, uint8_t* to, int64_t size) {
    if (Book::bits == 1) return encode_signs(at, to, size);
    const float scale = Book::scaled ? scale_of<Book>(largest<true>(at, (size + GROUP - 1) & -GROUP)) : 1.0f;
    const float divisor = scale > 0 ? scale : __builtin_inff();  // without a scale all are 0
    for (int64_t i = 0; i < size; i += RUN) {
        encode_run<Book, false>(at + i, divisor, entries, to + i * Book::bits / 8, size - i < RUN ? size - i : RUN);
    }
    return scale;
}

// The same for a whole block, in less time where all numbers are finite.
template <class Book> OPTC_INLINE float encode_block(
    const math_t* __restrict at, const uint32_t* __restrict entries, uint8_t* __restrict to) {
    if (Book::bits == 1) return encode_signs(at, to, Book::block);
    if (!Book::scaled) return encode_any<Book>(at, entries, to, Book::block);
    const int32_t most = largest<false>(at, Book::block);
    const float scale = scale_of<Book>(most);
    if (__builtin_expect((most >= NOT_FINITE) | !(scale > 0), 0)) return encode_any<Book>(at, entries, to, Book::block);
    for (int64_t i = 0; i < Book::block; i += RUN) encode_run<Book, true>(at + i, scale, entries, to + i * Book::bits / 8, RUN);
    return scale;
}

// Codes of the nearest levels become those of the levels on the other side of the numbers, at random: `draw` gives the
// numbers from [0, 1) for some elements of the chunk, of which the first here is `first`. See `codebook.py`.
template <class Book, class Draw> static __attribute__((noinline)) void dither(
    const math_t* at, float scale, const float* levels, uint8_t* to, int64_t size, int64_t first, const Draw& draw) {
    float drawn[RUN];
    for (int64_t begin = 0; begin < size; begin += RUN) {
        const int64_t count = size - begin < RUN ? size - begin : RUN;
        draw(first + begin, count, drawn);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t p = begin + i;
            const int place = Book::bits == 8 || (p & 1) != 0 ? 0 : 4;
            uint8_t& byte = to[p * Book::bits / 8];
            const int code = byte >> place & ((1 << Book::bits) - 1);
            const float x = float(at[p]), near = levels[code];
            if (near * scale == x) continue;
            const float quotient = scale > 0 ? x / scale : 0.0f, ratio = quotient == quotient ? quotient : 0.0f;
            const int other = ratio > near ? code + 1 : code - 1;
            if (other < 0 || other >= 1 << Book::bits) continue;
            if (!(drawn[i] < (ratio - near) / (levels[other] - near))) continue;
            byte = uint8_t((byte & ~(((1 << Book::bits) - 1) << place)) | other << place);
        }
    }
}

// What is called for codes that are rounded to nearest.
struct Undithered {};
template <class Book> OPTC_INLINE void dither(
    const math_t*, float, const float*, uint8_t*, int64_t, int64_t, const Undithered&) {}

}  // namespace codes

// --- streams -------------------------------------------------------------------------------------------------------------

// The numbers of a piece, given the blocks of all streams, 0 for those without codes: whole blocks of every stream, and few,
// so that the buffers stay in the nearest cache. Where there are no codes, all numbers are one piece.
template <class... Block> constexpr int64_t piece_of(Block... blocks) {
    int64_t most = 0;
    ((most = int64_t(blocks) > most ? int64_t(blocks) : most), ...);
    return most == 0 ? int64_t(1) << 62 : most < 256 ? 256 : most;
}

// A stream of a chunk, in a loop over its pieces. `open` says where element 0 of the chunk would be, so that elements `first` (a
// multiple of the piece) to `end` can be read and written; `close` keeps what was written. Without codes these are the numbers
// of the stream itself.
template <class Book, bool coded, int64_t piece> struct Kept {
    state_t* const numbers;

    OPTC_METHOD Kept(const Chunk& chunk, int64_t row, int64_t, int64_t) : numbers(chunk.row<state_t>(row)) {}
    OPTC_METHOD state_t* open(int64_t, int64_t) { return numbers; }
    template <class Draw = codes::Undithered> OPTC_METHOD void close(int64_t, int64_t, const Draw& = {}) {}
};

// With codes: rows of codes, of scales and of the codebook. Chunks begin with a block.
template <class Book, int64_t piece> struct Kept<Book, true, piece> {
    static_assert(piece % Book::block == 0 && Book::block % codes::GROUP == 0, "pieces are whole blocks, blocks whole groups");
    uint8_t* const kept;
    float* const scales;
    const float* const levels;
    alignas(64) math_t numbers[piece];

    OPTC_METHOD Kept(const Chunk& chunk, int64_t row, int64_t scale_row, int64_t table_row)
        : kept(chunk.picked<uint8_t>(row, false) + chunk.offset * Book::bits / 8),
          scales(chunk.picked<float>(scale_row, false) + chunk.offset / Book::block),
          levels(chunk.picked<const float>(table_row, false)) {}

    OPTC_METHOD math_t* open(int64_t first, int64_t end) {
        int64_t at = first;
        for (; end - at >= Book::block; at += Book::block) decode(first, at, Book::block);
        if (at < end) decode(first, at, end - at);
        // The products are rounded: no compiler can see that a sum of the kernel has them as terms.
        asm volatile("" : : "r"(numbers) : "memory");
        return numbers - first;
    }
    template <class Draw = codes::Undithered> OPTC_METHOD void close(int64_t first, int64_t end, const Draw& draw = {}) {
        const uint32_t* const entries = reinterpret_cast<const uint32_t*>(levels + (1 << Book::bits));
        int64_t at = first;
        for (; end - at >= Book::block; at += Book::block) {
            const float scale = codes::encode_block<Book>(numbers + (at - first), entries, kept + at * Book::bits / 8);
            codes::keep_scale<Book>(scales, at / Book::block, scale);
            codes::dither<Book>(numbers + (at - first), scale, levels, kept + at * Book::bits / 8, Book::block, at, draw);
        }
        if (at == end) return;
        for (int64_t i = end - first; i % codes::GROUP != 0; ++i) numbers[i] = 0;
        const float scale = codes::encode_any<Book>(numbers + (at - first), entries, kept + at * Book::bits / 8, end - at);
        codes::keep_scale<Book>(scales, at / Book::block, scale);
        codes::dither<Book>(numbers + (at - first), scale, levels, kept + at * Book::bits / 8, end - at, at, draw);
    }

private:
    OPTC_METHOD void decode(int64_t first, int64_t at, int64_t size) {
        const float scale = codes::scale_at<Book>(scales, at / Book::block);
        codes::decode<Book>(kept + at * Book::bits / 8, scale, levels, numbers + (at - first), size);
    }
};

}  // namespace optc
