// Rows and columns, for kernels that know them (OPTC_MATRICES); this file stands between `reductions.hpp` and `passes.hpp`.
//
// A tensor is `matrices` matrices of `rows` times `columns` elements. It is cut into tiles, by its shape alone: several whole
// matrices, or a part of one. A tile is walked in memory's order, in pieces of up to 1024 elements that lie next to each other:
// whole rows where they are short, else a part of one. Elements are reduced along rows and columns in a fixed order within a
// tile; what the tiles of a matrix leave is joined in their order. So no bit depends on threads or the other tensors of a batch.

namespace optc {

constexpr int64_t PIECE = 1024;  // elements

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

// The present piece of a tile: `length` elements from `at` on.
template <bool by_rows> struct Piece;

template <> struct Piece<false> {
    int64_t at = 0, length;

    explicit Piece(const Tile& t) : size(t.size) { measure(); }
    bool more() const { return at < size; }
    void next() { at += PIECE, measure(); }

  private:
    void measure() { length = at + PIECE < size ? PIECE : size - at; }
    const int64_t size;
};

// `rows` whole rows, or parts of `columns` elements of one: the first and the last of a row's parts in the tile are known.
template <> struct Piece<true> {
    int64_t at, length, row, rows, column, columns;
    bool first, last;

    explicit Piece(const Tile& t) : row(t.first_row), column(t.first_column), tile(t) {
        const int64_t all = t.end_column - t.first_column, parts = (all + PIECE - 1) / PIECE;
        most_rows = all > 0 && all == width() ? (all < PIECE ? PIECE / all : 1) : 1;
        most_columns = parts <= 1 ? all : ((all + parts - 1) / parts + LANES - 1) / LANES * LANES;
        measure();
    }
    bool more() const { return row < tile.end_row && column < tile.end_column; }
    void next() {
        column += columns;
        if (column == tile.end_column) column = tile.first_column, row += rows;
        measure();
    }
    // Of the matrices.
    int64_t height() const { return tile.vectors.grid->rows; }
    int64_t width() const { return tile.vectors.grid->columns; }

  private:
    const Tile& tile;
    int64_t most_rows, most_columns;

    void measure() {
        if (!more()) return;
        rows = row + most_rows < tile.end_row ? most_rows : tile.end_row - row;
        columns = tile.end_column - column < most_columns ? tile.end_column - column : most_columns;
        first = column == tile.first_column, last = column + columns == tile.end_column;
        at = row * width() + column;
        length = rows * columns;
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

    Rows(const Tile& t, int64_t slot) {
        if constexpr (by_rows) values = t.vectors.rounded(slot);
    }
    OPTC_CALLED void fill(const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            if (!piece.first) return;  // parts of a row are not longer than the first
            const math_t* from = values + (per_matrix ? piece.row / piece.height() : piece.row);
            int64_t left = per_matrix ? piece.height() - piece.row % piece.height() : 1;
            by_width(piece.columns, [&](auto width) {
                math_t* to = each;
                for (int64_t r = 0; r < piece.rows; ++r, to += width) {
                    const math_t value = *from;
                    for (int64_t i = 0; i < width; ++i) to[i] = value;
                    if (--left == 0) ++from, left = per_matrix ? piece.height() : 1;
                }
            });
        }
    }
};

// A value per column; where a piece has whole rows, repeated for each of them.
template <bool by_rows> struct Columns {
    alignas(64) math_t repeated[PIECE];
    const math_t *values = nullptr, *each = repeated;
    int64_t matrix = -1, filled = 0;

    Columns(const Tile& t, int64_t slot) {
        if constexpr (by_rows) values = t.vectors.rounded(slot);
    }
    OPTC_CALLED void fill(const Piece<by_rows>& piece) {
        if constexpr (by_rows) {
            int64_t m = piece.row / piece.height(), left = (m + 1) * piece.height() - piece.row;
            if (piece.rows == 1) {
                each = values + m * piece.width() + piece.column;
                return;
            }
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

// One value per row of a tile, in double: lane i mod 16 has element i of a part. Rows shorter than 128 have 4 lanes; elements of
// those shorter than 16 are joined one by one.
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
            double* const to = out + piece.row;
            if (!(piece.first && piece.last) || piece.columns >= 128) {
                for (int64_t r = 0; r < piece.rows; ++r, terms += piece.columns) {
                    if (piece.first) clear(lanes);
                    join(lanes, terms, piece.columns);
                    if (piece.last) to[r] = total(lanes);
                }
            } else if (piece.columns >= LANES) {
                for (int64_t r = 0; r < piece.rows; ++r, terms += piece.columns) {
                    double few[4];
                    clear(few), join(few, terms, piece.columns), to[r] = total(few);
                }
            } else {
                by_width(piece.columns, [&](auto width) {
                    for (int64_t r = 0; r < piece.rows; ++r, terms += width) {
                        double value = double(terms[0]);
                        for (int64_t i = 1; i < width; ++i) value = Operation::join(value, double(terms[i]));
                        to[r] = value;
                    }
                });
            }
        }
    }

  private:
    template <int count> OPTC_INLINE void clear(double (&lane)[count]) {
        for (int l = 0; l < count; ++l) lane[l] = Operation::none;
    }
    template <int count> OPTC_INLINE void join(double (&lanes)[count], const math_t* terms, int64_t length) {
        double lane[count];  // a copy that the compiler keeps in registers
        for (int l = 0; l < count; ++l) lane[l] = lanes[l];
        const int64_t whole = length / count * count;
        for (int64_t i = 0; i < whole; i += count) {
#pragma omp simd
            for (int l = 0; l < count; ++l) lane[l] = Operation::join(lane[l], double(terms[i + l]));
        }
        for (int64_t l = 0; whole + l < length; ++l) lane[l] = Operation::join(lane[l], double(terms[whole + l]));
        for (int l = 0; l < count; ++l) lanes[l] = lane[l];
    }
    template <int count> OPTC_INLINE double total(double (&lane)[count]) {
        for (int width = count / 2; width > 0; width /= 2) {
            for (int l = 0; l < width; ++l) lane[l] = Operation::join(lane[l], lane[l + width]);
        }
        return lane[0];
    }

    alignas(64) double lanes[LANES];
    double* out = nullptr;
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
        for (; rows >= 4; rows -= 4, terms += 4 * width) {
            const math_t *a = terms, *b = a + width, *c = b + width, *d = c + width;
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) to[i] = Operation::join(to[i], four(a[i], b[i], c[i], d[i]));
        }
        for (; rows > 0; --rows, terms += width) {
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) to[i] = Operation::join(to[i], double(terms[i]));
        }
    }
    OPTC_INLINE double four(double a, double b, double c, double d) {
        return Operation::join(Operation::join(a, b), Operation::join(c, d));
    }

    double* out = nullptr;
};

// --- code on rows and columns ------------------------------------------------------------------------------------------------

// What stages keep for themselves: one float64 per row, column or matrix.
struct Values {
    double* const at;

    explicit Values(int64_t length) : at(static_cast<double*>(__builtin_malloc(length > 0 ? length * 8 : 1))) {
        if (at == nullptr) __builtin_trap();
    }
    ~Values() { __builtin_free(at); }
    Values(const Values&) = delete;
    Values& operator=(const Values&) = delete;
    operator double*() const { return at; }
};

// Reduces values of a stage: 16 lanes, then pairs; few are joined one by one.
template <class Operation> OPTC_CALLED double fold_many(const double* values, int64_t length) {
    double lane[LANES];
    for (int64_t l = 0; l < LANES; ++l) lane[l] = Operation::none;
    const int64_t whole = length / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (int64_t l = 0; l < LANES; ++l) lane[l] = Operation::join(lane[l], values[i + l]);
    }
    for (int64_t l = 0; whole + l < length; ++l) lane[l] = Operation::join(lane[l], values[whole + l]);
    for (int64_t width = LANES / 2; width > 0; width /= 2) {
        for (int64_t l = 0; l < width; ++l) lane[l] = Operation::join(lane[l], lane[l + width]);
    }
    return lane[0];
}
template <class Operation> OPTC_INLINE double fold(const double* values, int64_t length) {
    if (length > LANES) return fold_many<Operation>(values, length);
    double value = Operation::none;
    for (int64_t i = 0; i < length; ++i) value = Operation::join(value, values[i]);
    return value;
}

// What stages see of rows and columns: the lengths of vectors, and what passes left in them. Without a grid there are none.
struct Matrices {
    Vectors vectors;

    int64_t count() const { return vectors.grid == nullptr ? 0 : vectors.grid->matrices; }
    int64_t height() const { return vectors.grid == nullptr ? 0 : vectors.grid->rows; }
    int64_t width() const { return vectors.grid == nullptr ? 0 : vectors.grid->columns; }
    int64_t rows() const { return count() * height(); }
    int64_t columns() const { return count() * width(); }
    double* vector(int64_t slot) const { return vectors.grid == nullptr ? nullptr : vectors.exact(slot); }
    // What `index` row measures before it, and all tiles, have left: joined in place, divided by the number of elements.
    template <class Operation> OPTC_CALLED double* of_rows(int64_t slot, int64_t index, bool mean) const {
        double* const to = vector(slot);
        if (to == nullptr) return to;
        for (int64_t q = 1; q < vectors.grid->column_cuts; ++q) join<Operation>(to, vectors.row_plane(slot, index, q), rows());
        if (mean) divide(to, rows(), width());
        return to;
    }
    template <class Operation> OPTC_CALLED double* of_columns(int64_t slot, int64_t index, bool mean) const {
        double* const to = vector(slot);
        if (to == nullptr) return to;
        for (int64_t p = 1; p < vectors.grid->row_cuts; ++p) {
            join<Operation>(to, vectors.column_plane(slot, index, p), columns());
        }
        if (mean) divide(to, columns(), height());
        return to;
    }
    // A measure whose line did not run.
    double* of_nothing(int64_t slot, int64_t length, double value) const {
        double* const to = vector(slot);
        for (int64_t i = 0; i < length; ++i) to[i] = value;
        return to;
    }
    // For code per element.
    void round(int64_t slot, int64_t length) const {
        if (length == 0) return;
        const double* const from = vectors.exact(slot);
        math_t* const to = vectors.rounded(slot);
        for (int64_t i = 0; i < length; ++i) to[i] = math_t(from[i]);
    }

  private:
    template <class Operation> static void join(double* __restrict to, const double* __restrict from, int64_t length) {
        for (int64_t i = 0; i < length; ++i) to[i] = Operation::join(to[i], from[i]);
    }
    static void divide(double* to, int64_t length, int64_t by) {
        for (int64_t i = 0; i < length; ++i) to[i] /= double(by);
    }
};

}  // namespace optc
