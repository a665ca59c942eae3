// Rows and columns, for kernels that know them (OPTC_MATRICES); this file stands between `reductions.hpp` and
// `stages.hpp`.
//
// A tensor is `matrices` matrices of `rows` times `columns` elements. It is cut into tiles, by its shape alone: several whole
// matrices, or a part of one. A tile is walked in pieces of up to 256 elements: whole rows where they are short, else parts of four
// rows side by side. That joins columns in fours, and reads four places of memory at a time, which is faster than one; pieces are
// so short that reading the next one overlaps with joining the terms of the last. Elements are reduced along rows and columns in a
// fixed order within a tile; what the tiles of a matrix leave is joined in their order. So no bit depends on threads or the other
// tensors of a batch.

namespace optc {

constexpr int64_t PIECE = 256;  // elements, of up to SIDE_BY_SIDE rows

// A tensor's shape and cuts: `row_cuts` × `column_cuts` tiles per matrix, or tiles of `per_tile` matrices. Its scratch begins at
// `scratch` and has what all tiles but the first of a row (`row_measures` times), and of a column, leave.
struct Grid {
    int64_t matrices, rows, columns, row_cuts, column_cuts, per_tile, scratch, row_measures;
};

// The values of one tensor per row, column and matrix: in float64, and as code per element reads them.
struct Vectors {
    const Grid* grid;
    void* const* table;
    int64_t tensors, tensor;
    double* scratch;

    double* exact(int64_t slot) const { return static_cast<double*>(table[2 * slot * tensors + tensor]); }
    math_t* rounded(int64_t slot) const { return static_cast<math_t*>(table[(2 * slot + 1) * tensors + tensor]); }
    // Where the tiles of cut `q` leave row measure `index` of a pass.
    double* row_plane(int64_t slot, int64_t index, int64_t q) const {
        const int64_t length = grid->matrices * grid->rows;
        return q == 0 ? exact(slot) : scratch + grid->scratch + (index * (grid->column_cuts - 1) + q - 1) * length;
    }
    double* column_plane(int64_t slot, int64_t index, int64_t p) const {
        const int64_t before = grid->row_measures * (grid->column_cuts - 1) * grid->matrices * grid->rows;
        const int64_t length = grid->matrices * grid->columns;
        return p == 0 ? exact(slot) : scratch + grid->scratch + before + (index * (grid->row_cuts - 1) + p - 1) * length;
    }
};

// A chunk, or one tile of a tensor; rows are counted through all of its matrices.
struct Tile : Chunk {
    Vectors vectors;
    int64_t first_row = 0, end_row = 0, first_column = 0, end_column = 0, p = 0, q = 0;

    // Tile `number` of a tensor, or without a grid the chunk.
    Tile(const Chunk& chunk, const Vectors& v) : Chunk(chunk), vectors(v) {
        if (v.grid == nullptr) return;
        const Grid& g = *v.grid;
        const int64_t number = offset, each = g.row_cuts * g.column_cuts, matrix = number / each * g.per_tile;
        const int64_t end = matrix + g.per_tile < g.matrices ? matrix + g.per_tile : g.matrices;
        offset = 0;
        p = number % each / g.column_cuts, q = number % g.column_cuts;
        first_row = matrix * g.rows + g.rows * p / g.row_cuts;
        end_row = (end - 1) * g.rows + g.rows * (p + 1) / g.row_cuts;
        first_column = column_cut(q), end_column = column_cut(q + 1);
    }
  private:
    int64_t column_cut(int64_t at) const {
        const Grid& g = *vectors.grid;
        return at == g.column_cuts ? g.columns : g.columns / LANES * at / g.column_cuts * LANES;
    }
};

// The present piece of a tile: `runs` times `length` elements that lie next to each other, from `at` on and each `stride` after
// the last.
template <bool by_rows> struct Piece;

template <> struct Piece<false> {
    static constexpr int64_t runs = 1, stride = 0;
    int64_t at = 0, length;

    explicit Piece(const Tile& t) : tile_size(t.size) { measure(); }
    bool more() const { return at < tile_size; }
    void next() { at += PIECE, measure(); }
    int64_t size() const { return length; }

  private:
    void measure() { length = at + PIECE < tile_size ? PIECE : tile_size - at; }
    const int64_t tile_size;
};

// `rows` whole rows in one run, or parts of `columns` elements of them, each a run, of one matrix: the first and the last of the
// parts of rows in the tile are known.
template <> struct Piece<true> {
    int64_t at, runs, length, stride, row, rows, column, columns;
    bool first, last;

    explicit Piece(const Tile& t) : row(t.first_row), column(t.first_column), tile(t) {
        const int64_t all = t.end_column - t.first_column, side = height() < SIDE_BY_SIDE ? height() : SIDE_BY_SIDE;
        const int64_t most = PIECE / (side > 0 ? side : 1) / LANES * LANES, parts = (all + most - 1) / most;
        whole = all == width() && all <= most;
        most_rows = whole && all > 0 ? PIECE / all : side;
        most_columns = parts <= 1 ? all : ((all + parts - 1) / parts + LANES - 1) / LANES * LANES;
        measure();
    }
    bool more() const { return row < tile.end_row && column < tile.end_column; }
    void next() {
        column += columns;
        if (column == tile.end_column) column = tile.first_column, row += rows;
        measure();
    }
    int64_t size() const { return rows * columns; }
    // Of the matrices.
    int64_t height() const { return tile.vectors.grid->rows; }
    int64_t width() const { return tile.vectors.grid->columns; }

  private:
    const Tile& tile;
    bool whole;
    int64_t most_rows, most_columns;

    void measure() {
        if (!more()) return;
        rows = row + most_rows < tile.end_row ? most_rows : tile.end_row - row;
        if (!whole) {
            const int64_t left = height() - row % height();
            rows = rows < left ? rows : left;
        }
        columns = tile.end_column - column < most_columns ? tile.end_column - column : most_columns;
        first = column == tile.first_column, last = column + columns == tile.end_column;
        at = row * width() + column;
        runs = whole ? 1 : rows, length = whole ? rows * columns : columns, stride = width();
    }
};

// A number that the compiler knows, for the loops over very short rows.
template <int64_t value> struct Known {
    constexpr operator int64_t() const { return value; }
};

// Does the work for rows of this width.
template <class Work> OPTC_INLINE void by_width(int64_t width, const Work& work) {
    switch (width) {
        case 1: return work(Known<1>());
        case 2: return work(Known<2>());
        case 3: return work(Known<3>());
        case 4: return work(Known<4>());
        case 5: return work(Known<5>());
        case 7: return work(Known<7>());
        default: return work(width);
    }
}

// --- what code per element reads -------------------------------------------------------------------------------------------

// A value per row, or per matrix, repeated for each element of a piece. Nothing where rows are not known.
template <bool by_rows, bool per_matrix> struct Rows {
    alignas(64) math_t each[PIECE];
    const math_t* values = nullptr;
    int64_t width = 0;

    Rows(const Tile& t, int64_t slot) {
        if constexpr (by_rows) values = t.vectors.rounded(slot);
    }
    OPTC_MEMBER void fill(const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            if (piece.first || piece.columns != width) repeat(piece);
        }
    }

  private:
    OPTC_CALLED void repeat(const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            width = piece.columns;
            const math_t* from = values + (per_matrix ? piece.row / piece.height() : piece.row);
            int64_t left = per_matrix ? piece.height() - piece.row % piece.height() : 1;
            by_width(piece.columns, [&](auto length) {
                math_t* to = each;
                for (int64_t r = 0; r < piece.rows; ++r, to += length) {
                    const math_t value = *from;
                    for (int64_t i = 0; i < length; ++i) to[i] = value;
                    if (--left == 0) ++from, left = per_matrix ? piece.height() : 1;
                }
            });
        }
    }
};

// A value per column; where a run has whole rows, repeated for each of them.
template <bool by_rows> struct Columns {
    alignas(64) math_t repeated[PIECE];
    const math_t *values = nullptr, *each = repeated;
    int64_t matrix = -1, filled = 0;

    Columns(const Tile& t, int64_t slot) {
        if constexpr (by_rows) values = t.vectors.rounded(slot);
    }
    OPTC_MEMBER void fill(const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            if (piece.length == piece.columns) {  // a run in one row
                each = values + piece.row / piece.height() * piece.width() + piece.column;
            } else {
                repeat(piece);
            }
        }
    }

  private:
    OPTC_CALLED void repeat(const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            int64_t m = piece.row / piece.height(), left = (m + 1) * piece.height() - piece.row;
            each = repeated;
            if (left >= piece.rows && m == matrix && filled >= piece.rows) return;
            matrix = left >= piece.rows ? m : -1, filled = piece.rows;
            by_width(piece.columns, [&](auto width) {
                const math_t* from = values + m * width;
                math_t* to = repeated;
                for (int64_t r = 0; r < piece.rows; ++r, to += width) {
                    for (int64_t i = 0; i < width; ++i) to[i] = from[i];
                    if (--left == 0) from += width, left = piece.height();
                }
            });
        }
    }
};

// --- what passes measure ---------------------------------------------------------------------------------------------------

template <class Operation, bool by_rows> class RowReduction;
template <class Operation, bool by_rows> class ColumnReduction;

// One value per row of a tile, in double: lane i mod 4 has element i of a row, four rows side by side. Elements of rows shorter
// than 16 are joined one by one.
template <class Operation, bool by_rows> class RowReduction {
  public:
    RowReduction(const Tile& t, int64_t slot, int64_t index) {
        if constexpr (by_rows) {
            out = t.vectors.row_plane(slot, index, t.q);
            if (t.first_column == t.end_column) {
                for (int64_t r = t.first_row; r < t.end_row; ++r) out[r] = Operation::none;
            }
        }
    }
    OPTC_CALLED void add(const math_t* terms, const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            if (!(piece.first && piece.last) || piece.columns >= LANES) {
                for (int64_t r = 0; r < piece.rows; r += SIDE_BY_SIDE) {
                    const int64_t left = piece.rows - r;
                    join_rows(piece.row + r, terms + r * piece.columns, left < SIDE_BY_SIDE ? left : SIDE_BY_SIDE, piece);
                }
            } else {
                by_width(piece.columns, [&](auto width) {
                    for (int64_t r = 0; r < piece.rows; ++r, terms += width) {
                        double value = double(terms[0]);
                        for (int64_t i = 1; i < width; ++i) value = Operation::join(value, double(terms[i]));
                        out[piece.row + r] = value;
                    }
                });
            }
        }
    }

  private:
    // Up to four rows of a piece.
    OPTC_MEMBER void join_rows(int64_t first_row, const math_t* terms, int64_t count, const Piece<by_rows>& piece) {
        const int64_t columns = piece.columns, whole = columns / 4 * 4;
        if (piece.first) clear();
        if (count == SIDE_BY_SIDE) {
            const math_t *u = terms, *v = u + columns, *w = v + columns, *x = w + columns;
            Four a = side[0], b = side[1], c = side[2], d = side[3];
            for (int64_t i = 0; i < whole; i += 4) {
                a = Operation::join(a, four(u + i)), b = Operation::join(b, four(v + i));
                c = Operation::join(c, four(w + i)), d = Operation::join(d, four(x + i));
            }
            side[0] = a, side[1] = b, side[2] = c, side[3] = d;
        } else {
            for (int64_t r = 0; r < count; ++r) {
                Four a = side[r];
                for (int64_t i = 0; i < whole; i += 4) a = Operation::join(a, four(terms + r * columns + i));
                side[r] = a;
            }
        }
        for (int64_t r = 0; r < count; ++r) {
            for (int64_t l = 0; whole + l < columns; ++l) {
                side[r][l] = Operation::join(side[r][l], double(terms[r * columns + whole + l]));
            }
        }
        if (piece.last) finish(first_row, count);
    }
    void clear() {
        for (Four& lanes : side) lanes = Four{Operation::none, Operation::none, Operation::none, Operation::none};
    }
    void finish(int64_t row, int64_t count) {
        for (int64_t r = 0; r < count; ++r) out[row + r] = total_of<Operation>(side[r]);
    }

    Four side[SIDE_BY_SIDE];
    double* out = nullptr;

    template <class R, class C, bool some> friend void add_to_both(
        RowReduction<R, some>&, ColumnReduction<C, some>&, const math_t*, const Piece<some>&);
};

// One value per column of each matrix of a tile, in double: the rows of a piece are joined in fours.
template <class Operation, bool by_rows> class ColumnReduction {
  public:
    ColumnReduction(const Tile& t, int64_t slot, int64_t index) {
        if constexpr (by_rows) {
            out = t.vectors.column_plane(slot, index, t.p);
            const Grid& g = *t.vectors.grid;
            const int64_t end = g.rows == 0 ? g.matrices : t.end_row == t.first_row ? 0 : (t.end_row - 1) / g.rows + 1;
            for (int64_t m = g.rows == 0 ? 0 : t.first_row / g.rows; m < end; ++m) {
                for (int64_t c = t.first_column; c < t.end_column; ++c) out[m * g.columns + c] = Operation::none;
            }
        }
    }
    OPTC_CALLED void add(const math_t* terms, const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            const int64_t matrix = piece.row / piece.height();
            int64_t left = (matrix + 1) * piece.height() - piece.row;
            double* to = out + matrix * piece.width() + piece.column;
            by_width(piece.columns, [&](auto width) {
                for (int64_t rows = piece.rows; rows > 0; left = piece.height(), to += width) {
                    const int64_t now = left < rows ? left : rows;
                    add_rows(to, terms, now, width);
                    rows -= now, terms += now * width;
                }
            });
        }
    }

  private:
    template <class Width>
    OPTC_INLINE void add_rows(double* __restrict to, const math_t* __restrict terms, int64_t rows, Width width) {
        for (; rows >= SIDE_BY_SIDE; rows -= SIDE_BY_SIDE, terms += SIDE_BY_SIDE * width) {
            const math_t *a = terms, *b = a + width, *c = b + width, *d = c + width;
            for (int64_t i = 0; i < width / 4 * 4; i += 4) {
                const Four x = joined<Four>(four(a + i), four(b + i), four(c + i), four(d + i));
                put(to + i, Operation::join(four(to + i), x));
            }
            for (int64_t i = width / 4 * 4; i < width; ++i) {
                to[i] = Operation::join(to[i], joined<double>(a[i], b[i], c[i], d[i]));
            }
        }
        for (; rows > 0; --rows, terms += width) {
            for (int64_t i = 0; i < width / 4 * 4; i += 4) put(to + i, Operation::join(four(to + i), four(terms + i)));
            for (int64_t i = width / 4 * 4; i < width; ++i) to[i] = Operation::join(to[i], double(terms[i]));
        }
    }
    template <class T> OPTC_INLINE T joined(T a, T b, T c, T d) {
        return Operation::join(Operation::join(a, b), Operation::join(c, d));
    }
    OPTC_INLINE void put(double* to, Four x) { __builtin_memcpy(to, &x, sizeof x); }

    double* out = nullptr;

    template <class R, class C, bool some> friend void add_to_both(
        RowReduction<R, some>&, ColumnReduction<C, some>&, const math_t*, const Piece<some>&);
};

// Adds the same terms to one of each; where four rows stand side by side, each term is converted once. The same bits as alone.
template <class R, class C, bool by_rows>
OPTC_CALLED void add_to_both(
    RowReduction<R, by_rows>& rows, ColumnReduction<C, by_rows>& columns, const math_t* terms, const Piece<by_rows>& piece) {
    if constexpr (by_rows) {
        if (piece.rows != SIDE_BY_SIDE || piece.columns < LANES || piece.columns % 4 != 0 ||
            piece.row % piece.height() + SIDE_BY_SIDE > piece.height()) {
            rows.add(terms, piece);
            columns.add(terms, piece);
            return;
        }
        const math_t *u = terms, *v = u + piece.columns, *w = v + piece.columns, *x = w + piece.columns;
        double* const to = columns.out + piece.row / piece.height() * piece.width() + piece.column;
        if (piece.first) rows.clear();
        Four a = rows.side[0], b = rows.side[1], c = rows.side[2], d = rows.side[3];
        for (int64_t i = 0; i < piece.columns; i += 4) {
            const Four e = four(u + i), f = four(v + i), g = four(w + i), h = four(x + i);
            a = R::join(a, e), b = R::join(b, f), c = R::join(c, g), d = R::join(d, h);
            columns.put(to + i, C::join(four(to + i), columns.joined(e, f, g, h)));
        }
        rows.side[0] = a, rows.side[1] = b, rows.side[2] = c, rows.side[3] = d;
        if (piece.last) rows.finish(piece.row, SIDE_BY_SIDE);
    }
}

}  // namespace optc
