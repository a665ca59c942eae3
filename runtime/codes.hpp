// Streams that are kept as codes (`codebook.py` says what they mean): decoded piece by piece into a buffer on the stack, and
// encoded again when the piece is done. This file stands after `prelude.hpp` and `elementary.hpp`.
//
// A kernel has one struct per codebook, printed from `Codebook` and `Table`:
//   struct m_book {
//       static constexpr int bits = 8, shift = 16, base = 13458, buckets = 2799;
//       static constexpr int64_t block = 256;
//       static constexpr float unit = 1.0f, least = 0.0f;
//   };
// and one row of pointers whose target is the same for every tensor: `1 << bits` levels (float), then `2*buckets` entries.
// Levels times scales and numbers divided by scales are rounded to float at once: nothing here may be contracted.

#define OPTC_METHOD inline __attribute__((always_inline))

namespace optc {

// Numbers between two calls of `open`, given the block of every stream that is kept as codes, or 0: whole blocks of all of
// them, few enough for buffers to stay in the nearest cache; all at once where there are none.
template <class... Block> constexpr int64_t piece_of(Block... blocks) {
    int64_t most = 0;
    ((most = int64_t(blocks) > most ? int64_t(blocks) : most), ...);
    return most == 0 ? int64_t(1) << 62 : most < 256 ? 256 : most;
}

namespace codes {

// --- vectors ---------------------------------------------------------------------------------------------------------------

// By extensions that GCC and Clang share: the header of intrinsics takes longer to compile than a kernel.
constexpr int64_t LANES = 8, GROUP = 16;  // a group is encoded at once
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint64_t Pairs __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t UShorts __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint64_t TwoWords __attribute__((vector_size(16)));
typedef uint32_t FourWords __attribute__((vector_size(16)));

template <class Vector> OPTC_INLINE Vector from(const void* at) {
    Vector x;
    __builtin_memcpy(&x, at, sizeof x);
    return x;
}
OPTC_INLINE Floats numbers(const float* at) { return from<Floats>(at); }
OPTC_INLINE Floats numbers(const double* at) { return __builtin_convertvector(from<Doubles>(at), Floats); }
OPTC_INLINE void put(float* at, Floats x) { __builtin_memcpy(at, &x, sizeof x); }
OPTC_INLINE void put(double* at, Floats x) {
    const Doubles wide = __builtin_convertvector(x, Doubles);
    __builtin_memcpy(at, &wide, sizeof wide);
}
OPTC_INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
OPTC_INLINE Ints smaller(Ints a, Ints b) { return a < b ? a : b; }

// The numbers of a table in these places.
template <class Vector, class Number> OPTC_INLINE Vector looked_up(const Number* table, Words place) {
    const Pairs two = Pairs(place);
    const uint64_t a = two[0], b = two[1], c = two[2], d = two[3];
    return Vector{table[uint32_t(a)], table[a >> 32], table[uint32_t(b)], table[b >> 32],
                  table[uint32_t(c)], table[c >> 32], table[uint32_t(d)], table[d >> 32]};
}

// --- decoding --------------------------------------------------------------------------------------------------------------

// The levels of eight codes.
template <int bits> OPTC_INLINE Floats levels_of(const uint8_t* codes, const float* levels) {
    uint64_t all = 0;
    __builtin_memcpy(&all, codes, bits);
#ifdef __AVX2__
    if constexpr (bits == 4) {
        const Words each = (Words{} + uint32_t(all)) >> Words{4, 0, 12, 8, 20, 16, 28, 24};
        const Ints low = Ints(__builtin_ia32_permvarsf256(from<Floats>(levels), Ints(each)));
        const Ints high = Ints(__builtin_ia32_permvarsf256(from<Floats>(levels + 8), Ints(each)));
        return Floats(Ints(each << 28) < 0 ? high : low);
    }
#endif
    const auto one = [=](int k) { return levels[bits == 8 ? all >> 8 * k & 255 : all >> 4 * (k ^ 1) & 15]; };
    return Floats{one(0), one(1), one(2), one(3), one(4), one(5), one(6), one(7)};
}

// One block or the first part of it.
template <class Book> OPTC_INLINE void decode(
    const uint8_t* __restrict codes, float scale, const float* __restrict levels, math_t* __restrict to, int64_t size) {
    constexpr int64_t bytes = LANES * Book::bits / 8;
    for (int64_t i = 0; i + LANES <= size; i += LANES, codes += bytes) put(to + i, levels_of<Book::bits>(codes, levels) * scale);
    const int64_t done = size & -LANES;
    if (done == size) return;
    uint8_t rest[bytes] = {};
    __builtin_memcpy(rest, codes, ((size - done) * Book::bits + 7) / 8);
    put(to + done, levels_of<Book::bits>(rest, levels) * scale);
}

// --- encoding --------------------------------------------------------------------------------------------------------------

constexpr int32_t NOT_FINITE = 0x7f800000;

// The largest bits of |x|, infinities and NaN included or not. The size is a multiple of a group's.
template <bool all, class Number> OPTC_INLINE int32_t largest(const Number* at, int64_t size) {
    const auto bits = [=](int64_t i) {
        const Ints x = Ints(numbers(at + i)) & 0x7fffffff;
        return all ? x : x & (x < NOT_FINITE);
    };
    Ints most{}, other{};
    for (int64_t i = 0; i < size; i += GROUP) {
        most = larger(most, bits(i));
        other = larger(other, bits(i + LANES));
    }
    most = larger(most, other);
    int32_t found = 0;
    for (int64_t k = 0; k < LANES; ++k) found = most[k] > found ? most[k] : found;
    return found;
}

// The bucket of every ratio, and below it the lower bits of its size.
template <class Book, bool all> OPTC_INLINE Words place_of(Floats ratio) {
    constexpr int32_t first = Book::base * (1 << Book::shift), extent = Book::buckets << Book::shift;
    const Ints bits = all ? Ints(ratio) & (ratio == ratio) : Ints(ratio);
    const Ints above = larger((bits & 0x7fffffff) - first, Ints{});
    const bool beyond = all || (Book::unit == 1 ? bits_of(1.0f) : bits_of(Book::unit * 2)) >= uint32_t(first) + uint32_t(extent);
    return Words(beyond ? smaller(above, Ints{} + (extent - 1)) : above) + Words((bits >> 31) & extent);
}

template <class Book> OPTC_INLINE Words codes_of(Words place, const uint32_t* entries) {
    const Words entry = looked_up<Words>(entries, place >> Book::shift);
    const Ints inside = Ints(place & ((1u << Book::shift) - 1)) < Ints(entry & 0xffff);
    return (Words(inside ? Ints(entry >> 16) : Ints(entry >> 24))) & 255;
}

// The codes of a group, a byte each.
OPTC_INLINE Bytes packed(Words a, Words b) {
#ifdef __AVX2__
    const Pairs halves = Pairs(__builtin_ia32_packusdw256(Ints(a), Ints(b)));
    const Shorts low = Shorts(TwoWords{halves[0], halves[1]}), high = Shorts(TwoWords{halves[2], halves[3]});
    const FourWords bytes = FourWords(__builtin_ia32_packuswb128(low, high));
    return Bytes(FourWords{bytes[0], bytes[2], bytes[1], bytes[3]});
#else
    Bytes all;
    for (int k = 0; k < LANES; ++k) all[k] = uint8_t(a[k]), all[k + LANES] = uint8_t(b[k]);
    return all;
#endif
}

// The codes of a group, as they stand in memory.
template <class Book> struct Group { uint8_t bytes[GROUP * Book::bits / 8]; };
template <class Book, bool all> OPTC_INLINE Group<Book> encode(Floats a, Floats b, const uint32_t* entries) {
    const Bytes each = packed(codes_of<Book>(place_of<Book, all>(a), entries), codes_of<Book>(place_of<Book, all>(b), entries));
    Group<Book> group;
    if constexpr (Book::bits == 8) {
        __builtin_memcpy(group.bytes, &each, sizeof group);
    } else {
        const UShorts two = UShorts(each);
        const UShorts one = (two << 4 | two >> 8) & 255;
        for (int64_t k = 0; k < GROUP / 2; ++k) group.bytes[k] = uint8_t(one[k]);
    }
    return group;
}

template <class Book, bool all> OPTC_INLINE void encode(
    const math_t* __restrict at, float scale, const uint32_t* __restrict entries, uint8_t* __restrict codes, int64_t size) {
    const auto group = [=](int64_t i) {
        return encode<Book, all>(numbers(at + i) / scale, numbers(at + i + LANES) / scale, entries);
    };
    constexpr int64_t bytes = sizeof(Group<Book>);
    for (int64_t i = 0; i + GROUP <= size; i += GROUP, codes += bytes) {
        const Group<Book> whole = group(i);
        __builtin_memcpy(codes, whole.bytes, bytes);
    }
    if (size % GROUP != 0) {
        const Group<Book> rest = group(size & -GROUP);
        __builtin_memcpy(codes, rest.bytes, (size % GROUP * Book::bits + 7) / 8);
    }
}

// One block or the first part of it; returns the scale. Up to the next whole group, zeros follow the numbers.
template <class Book> OPTC_INLINE float encode(
    const math_t* __restrict at, const uint32_t* __restrict entries, uint8_t* __restrict codes, int64_t size) {
    const int64_t padded = (size + GROUP - 1) & -GROUP;
    int32_t most = largest<true>(at, padded);
    const bool finite = __builtin_expect(most < NOT_FINITE, 1);
    if (!finite) most = largest<false>(at, padded);
    const float size_of = float_of(uint32_t(most)), scale = (size_of > Book::least ? size_of : Book::least) / Book::unit;
    if (__builtin_expect(!(scale > 0), 0)) {
        const uint8_t code = uint8_t(codes_of<Book>(place_of<Book, false>(Floats{}), entries)[0]);
        __builtin_memset(codes, Book::bits == 8 ? code : code << 4 | code, (size * Book::bits + 7) / 8);
    } else if (finite) {
        encode<Book, false>(at, scale, entries, codes, size);
    } else {
        encode<Book, true>(at, scale, entries, codes, size);
    }
    return scale;
}

}  // namespace codes

// --- streams ---------------------------------------------------------------------------------------------------------------

// A stream of a chunk: kept as codes, or as plain numbers.
template <class Book, bool coded, int64_t piece> struct Kept {
    state_t* const plain;
    OPTC_METHOD Kept(const Chunk& chunk, int64_t row, int64_t, int64_t) : plain(chunk.row<state_t>(row)) {}
    OPTC_METHOD state_t* open(int64_t, int64_t) { return plain; }
    OPTC_METHOD void close(int64_t, int64_t) {}
};
template <class Book, int64_t piece> struct Kept<Book, true, piece> {
    static_assert(piece % Book::block == 0 && Book::block % codes::GROUP == 0, "pieces are whole blocks");
    uint8_t* const kept;
    float* const scales;
    const float* const levels;
    alignas(64) math_t numbers[piece];

    OPTC_METHOD Kept(const Chunk& chunk, int64_t row, int64_t scale_row, int64_t table_row)
        : kept(static_cast<uint8_t*>(chunk.table[row * chunk.tensors + chunk.tensor]) + chunk.offset * Book::bits / 8),
          scales(static_cast<float*>(chunk.table[scale_row * chunk.tensors + chunk.tensor]) + chunk.offset / Book::block),
          levels(static_cast<const float*>(chunk.table[table_row * chunk.tensors + chunk.tensor])) {}

    // Decodes numbers `first`, a multiple of the piece, to `end`; returns where number 0 would be.
    OPTC_METHOD math_t* open(int64_t first, int64_t end) {
        for (int64_t at = first; at < end; at += Book::block) {
            const int64_t size = end - at < Book::block ? end - at : Book::block;
            codes::decode<Book>(kept + at * Book::bits / 8, scales[at / Book::block], levels, numbers + (at - first), size);
        }
        // products stay rounded: from here on they are known to be in memory only
        asm volatile("" : : "r"(numbers) : "memory");
        return numbers - first;
    }
    OPTC_METHOD void close(int64_t first, int64_t end) {
        for (int64_t at = end - first; at % codes::GROUP != 0; ++at) numbers[at] = 0;
        const uint32_t* const entries = reinterpret_cast<const uint32_t*>(levels + (1 << Book::bits));
        for (int64_t at = first; at < end; at += Book::block) {
            const int64_t size = end - at < Book::block ? end - at : Book::block;
            scales[at / Book::block] =
                codes::encode<Book>(numbers + (at - first), entries, kept + at * Book::bits / 8, size);
        }
    }
};

}  // namespace optc
