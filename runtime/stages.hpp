// What code per tensor needs in kernels that know rows and columns (OPTC_MATRICES): memory for vectors, their reduction, and what
// passes left in them. This file stands between `matrices.hpp` and `passes.hpp`.

namespace optc {

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

// Reduces values of a stage, those of `term` from `first` on: 16 lanes, then pairs; few are joined one by one.
template <class Operation, class Term> OPTC_INLINE double fold_terms(int64_t first, int64_t length, const Term& term) {
    double some[PIECE];
    Lanes<Operation> lanes;
    for (int64_t done = 0; done < length; done += PIECE) {
        const int64_t now = length - done < PIECE ? length - done : PIECE;
        for (int64_t i = 0; i < now; ++i) some[i] = term(first + done + i);
        if (length > LANES) lanes.join(some, now);
    }
    if (length > LANES) return lanes.total();
    double value = Operation::none;
    for (int64_t i = 0; i < length; ++i) value = Operation::join(value, some[i]);
    return value;
}
template <class Operation> OPTC_CALLED double fold(const double* values, int64_t length) {
    return fold_terms<Operation>(0, length, [=](int64_t i) { return values[i]; });
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
