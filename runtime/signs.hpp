// Signs that are kept as bits, eight to a byte (`codebook.py`), in kernels that know rows and columns: unpacked into a buffer for
// a piece, and packed again behind it. Bits follow the elements of the whole tensor, so that a run of a piece may begin and end
// within a byte. What such a byte has of others, who may be changing it now, is left as it is.

namespace optc {

// Up to eight bits, from bit `at` on; none behind `end` is read.
OPTC_INLINE uint32_t eight_signs(const uint8_t* bits, int64_t at, int64_t end) {
    const int64_t byte = at >> 3;
    const uint32_t next = ((byte + 1) << 3) < end ? bits[byte + 1] : 0;
    return (bits[byte] | next << 8) >> (at & 7) & 255;
}

OPTC_CALLED static void unpack_signs(const uint8_t* bits, int64_t at, math_t* to, int64_t size) {
    int64_t i = 0;
    if ((at & 7) == 0) {
        for (const uint8_t* byte = bits + (at >> 3); i + 8 <= size; i += 8) {
            const OctetOfNumbers x = signs_of(*byte++);
            __builtin_memcpy(to + i, &x, sizeof x);
        }
    }
    for (; i + 8 <= size; i += 8) {
        const OctetOfNumbers x = signs_of(eight_signs(bits, at + i, at + size));
        __builtin_memcpy(to + i, &x, sizeof x);
    }
    if (i == size) return;
    const OctetOfNumbers x = signs_of(eight_signs(bits, at + i, at + size));
    __builtin_memcpy(to + i, &x, uint64_t(size - i) * sizeof(math_t));
}

// The bits `mine` of a byte.
OPTC_INLINE void put_some(uint8_t* byte, uint32_t value, uint32_t mine) {
    __atomic_fetch_and(byte, uint8_t(~mine), __ATOMIC_RELAXED);
    __atomic_fetch_or(byte, uint8_t(value & mine), __ATOMIC_RELAXED);
}

OPTC_CALLED static void pack_signs(const math_t* from, uint8_t* bits, int64_t at, int64_t size) {
    uint8_t* byte = bits + (at >> 3);
    const uint32_t others = uint32_t(at & 7);  // bits of the first byte
    uint32_t kept = others, all = 0;
    bool whole = others == 0;
    int64_t i = 0;
    if (whole) {
        for (; i + 8 <= size; i += 8) *byte++ = uint8_t(above_zero(from + i));
    }
    for (; i < size; i += 8) {
        const int64_t count = size - i < 8 ? size - i : 8;
        uint32_t now = 0;
        if (count == 8) now = above_zero(from + i);
        else for (int64_t k = 0; k < count; ++k) now |= uint32_t(from[i + k] > 0) << k;
        all |= now << kept;
        kept += uint32_t(count);
        if (kept >= 8) {
            if (whole) *byte = uint8_t(all);
            else put_some(byte, all, 255u << others & 255);
            whole = true, all >>= 8, kept -= 8, ++byte;
        }
    }
    if (kept > (whole ? 0 : others)) put_some(byte, all, ((1u << kept) - 1) & (whole ? 255u : 255u << others));
}

// A stream of such signs, or where they are not kept as bits, of numbers. `each` has those of the present piece.
template <bool by_rows, bool coded> struct Signs {
    alignas(64) math_t each[PIECE];
    uint8_t* const bits;
    state_t* const numbers;
    const int64_t offset;

    Signs(const Tile& t, int64_t row)
        : bits(coded ? t.picked<uint8_t>(row, false) : nullptr), numbers(coded ? nullptr : t.row<state_t>(row)), offset(t.offset) {}
    OPTC_MEMBER void open(const Piece<by_rows>& piece) {
        for (int64_t run = 0; run < piece.runs; ++run) {
            const int64_t at = piece.at + run * piece.stride, from = run * piece.length;
            if (coded) unpack_signs(bits, offset + at, each + from, piece.length);
            else for (int64_t i = 0; i < piece.length; ++i) each[from + i] = load(numbers[at + i]);
        }
    }
    OPTC_MEMBER void close(const Piece<by_rows>& piece) {
        for (int64_t run = 0; run < piece.runs; ++run) {
            const int64_t at = piece.at + run * piece.stride, from = run * piece.length;
            if (coded) pack_signs(each + from, bits, offset + at, piece.length);
            else for (int64_t i = 0; i < piece.length; ++i) store(numbers[at + i], each[from + i]);
        }
    }
};

}  // namespace optc
