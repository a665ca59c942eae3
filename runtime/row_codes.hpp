// Streams that are kept as codes (`codes.hpp`), in kernels that know rows and columns: decoded into a buffer for a piece. What the
// piece leaves goes to the lines of its tile, in the order of memory, and is encoded where blocks are whole. Tiles begin with a
// block, and have whole rows: see `grids` in `native_matrices.py`.

namespace optc {

template <class Book>
OPTC_CALLED static void decode_run(
    const uint8_t* kept, const float* scales, const float* levels, int64_t at, math_t* to, int64_t size) {
    for (int64_t i = 0; i < size;) {
        const int64_t block = (at + i) / Book::block, left = (block + 1) * Book::block - at;
        const int64_t end = left < size ? left : size;
        const float scale = codes::scale_at<Book>(scales, block);
        for (; i < end; ++i) {
            const int64_t p = at + i;
            const uint32_t code = Book::bits == 8 ? kept[p] : kept[p >> 1] >> ((p & 1) != 0 ? 0 : 4) & 15;
            to[i] = math_t(levels[code] * scale);
        }
    }
}

// `each` has the numbers of the present piece; where they are no codes, it is a copy of them.
template <class Book, bool by_rows, bool coded> struct RowCodes {
    alignas(64) math_t each[PIECE];

    RowCodes(const Tile& t, int64_t row, int64_t scale_row, int64_t table_row)
        : kept(t.picked<uint8_t>(row, false)), scales(t.picked<float>(scale_row, false)),
          levels(t.picked<const float>(table_row, false)), numbers(coded ? nullptr : t.row<state_t>(row)), offset(t.offset) {
        if (by_rows) base = t.first_row * t.vectors.grid->columns, tile_end = t.end_row * t.vectors.grid->columns;
        else base = offset, tile_end = offset + t.size;
    }
    RowCodes(const RowCodes&) = delete;
    RowCodes& operator=(const RowCodes&) = delete;
    ~RowCodes() { __builtin_free(lines); }

    OPTC_MEMBER void open(const Piece<by_rows>& piece) {
        for (int64_t run = 0; run < piece.runs; ++run) {
            const int64_t at = piece.at + run * piece.stride, from = run * piece.length;
            if (coded) decode_run<Book>(kept, scales, levels, offset + at, each + from, piece.length);
            else for (int64_t i = 0; i < piece.length; ++i) each[from + i] = load(numbers[at + i]);
        }
    }
    template <class Draw = codes::Undithered> OPTC_MEMBER void close(const Piece<by_rows>& piece, const Draw& draw = {}) {
        if (coded && lines == nullptr) begin(piece);
        for (int64_t run = 0; run < piece.runs; ++run) {
            const int64_t at = piece.at + run * piece.stride, from = run * piece.length;
            if (coded) __builtin_memcpy(lines + (offset + at - base), each + from, uint64_t(piece.length) * sizeof(math_t));
            else for (int64_t i = 0; i < piece.length; ++i) store(numbers[at + i], each[from + i]);
        }
        if (coded) finish(piece, draw);
    }

  private:
    uint8_t* const kept;
    float* const scales;
    const float* const levels;
    state_t* const numbers;
    const int64_t offset;
    math_t* lines = nullptr;  // from element `base` on, the first of a block that is not encoded
    int64_t base, tile_end;

    // Room for what is left of a block and the rows of a piece.
    OPTC_CALLED void begin(const Piece<by_rows>& piece) {
        int64_t most = PIECE;
        if constexpr (by_rows) most = SIDE_BY_SIDE * piece.width() > most ? SIDE_BY_SIDE * piece.width() : most;
        lines = static_cast<math_t*>(__builtin_malloc(uint64_t(most + 2 * Book::block) * sizeof(math_t)));
        if (lines == nullptr) __builtin_trap();
    }
    template <class Draw> OPTC_CALLED void finish(const Piece<by_rows>& piece, const Draw& draw) {
        int64_t end = offset + piece.at + piece.length;
        if constexpr (by_rows) {
            if (!piece.last) return;
            end = (piece.row + piece.rows) * piece.width();
        }
        const uint32_t* const entries = reinterpret_cast<const uint32_t*>(levels + (1 << Book::bits));
        math_t* from = lines;
        for (; base + Book::block <= end; base += Book::block, from += Book::block) {
            const float scale = codes::encode_block<Book>(from, entries, kept + base * Book::bits / 8);
            codes::keep_scale<Book>(scales, base / Book::block, scale);
            codes::dither<Book>(from, scale, levels, kept + base * Book::bits / 8, Book::block, base - offset, draw);
        }
        const int64_t left = end - base;
        if (end == tile_end && left > 0) {
            for (int64_t i = left; i % codes::GROUP != 0; ++i) from[i] = 0;
            const float scale = codes::encode_any<Book>(from, entries, kept + base * Book::bits / 8, left);
            codes::keep_scale<Book>(scales, base / Book::block, scale);
            codes::dither<Book>(from, scale, levels, kept + base * Book::bits / 8, left, base - offset, draw);
        } else if (from != lines) {
            __builtin_memmove(lines, from, uint64_t(left) * sizeof(math_t));
        }
    }
};

}  // namespace optc
