// What kernels of several passes need besides `prelude.hpp`, after which this file stands: reductions whose bits depend on a
// tensor's elements alone, and float64 arithmetic for code per tensor. `passes.hpp` runs them.
//
// A reduction is a tree per tensor. Its leaves are blocks of 4096 elements, whose element i goes to lane i mod 16, in double. Nodes
// are joined in pairs; one without a partner moves up as it is. A chunk is an aligned power of two of blocks, so what it leaves is
// a node of that tree: neither chunks, threads, the width of vectors nor the other tensors of a batch change a bit.

#define OPTC_CALLED __attribute__((noinline))

namespace optc {

// --- reductions ----------------------------------------------------------------------------------------------------------

constexpr int64_t LANES = 16;
constexpr int64_t TERMS = 256;   // elements whose terms are written before they are joined; they stay in the nearest cache
constexpr int64_t BLOCK = 4096;  // the smallest chunk of `native.py`

struct Add {
    static constexpr double none = 0;
    OPTC_INLINE double join(double a, double b) { return a + b; }
};
// NaN passes through both.
struct Larger {
    static constexpr double none = -__builtin_inf();
    OPTC_INLINE double join(double a, double b) { return (a >= b) | (a != a) ? a : b; }
};
struct Smaller {
    static constexpr double none = __builtin_inf();
    OPTC_INLINE double join(double a, double b) { return (a <= b) | (a != a) ? a : b; }
};

// Joins the leaves, or equal nodes, of a tree as they come. Those that wait for a partner are as many as `count` has bits.
template <class Operation> class Tree {
  public:
    void add(double node) {
        for (uint64_t n = count++; n & 1; n >>= 1) node = Operation::join(waiting[--size], node);
        waiting[size++] = node;
    }
    double total() const {
        if (size == 0) return Operation::none;
        double node = waiting[size - 1];
        for (int at = size - 2; at >= 0; --at) node = Operation::join(waiting[at], node);
        return node;
    }

  private:
    double waiting[64];
    int size = 0;
    uint64_t count = 0;
};

// Reduces a chunk. Its terms come in order, `TERMS` at a time. Called, not inlined: measures of all passes share the code.
template <class Operation> class Reduction {
  public:
    OPTC_CALLED void add(const math_t* terms, int64_t size) {
        double lane[LANES];  // a copy that the compiler keeps in registers
        for (int64_t l = 0; l < LANES; ++l) lane[l] = seen == 0 ? Operation::none : lanes[l];
        const int64_t whole = size / LANES * LANES;
        for (int64_t i = 0; i < whole; i += LANES) {
#pragma omp simd
            for (int64_t l = 0; l < LANES; ++l) lane[l] = Operation::join(lane[l], double(terms[i + l]));
        }
        for (int64_t l = 0; whole + l < size; ++l) lane[l] = Operation::join(lane[l], double(terms[whole + l]));
        for (int64_t l = 0; l < LANES; ++l) lanes[l] = lane[l];
        seen += size;
        if (seen >= BLOCK) close();
    }
    // Ends a block of which only some elements count, `picked` of them: it is a leaf of the tree whatever their number.
    OPTC_CALLED void end_block(int64_t picked) {
        if (picked == 0) tree.add(Operation::none); else if (seen > 0) close();
    }
    OPTC_CALLED double total() {
        if (seen > 0) close();
        return tree.total();
    }

  private:
    OPTC_CALLED void close() {
        for (int64_t width = LANES / 2; width > 0; width /= 2) {
            for (int64_t l = 0; l < width; ++l) lanes[l] = Operation::join(lanes[l], lanes[l + width]);
        }
        tree.add(lanes[0]);
        seen = 0;
    }

    double lanes[LANES];
    int64_t seen = 0;  // elements of the present block
    Tree<Operation> tree;
};

using Sum = Reduction<Add>;
using Largest = Reduction<Larger>;
using Smallest = Reduction<Smaller>;

// --- picked elements -----------------------------------------------------------------------------------------------------

// Every how many elements one is picked: a whole number from 1 on, in double.
OPTC_INLINE int64_t stride_of(double p) { return p < 0x1p62 ? int64_t(p) : int64_t(1) << 62; }
// How many of a tensor's elements before `element` are picked, and so the first picked one from there on.
OPTC_INLINE int64_t first_pick(int64_t element, int64_t stride) { return element / stride + (element % stride != 0); }

// --- code per tensor -----------------------------------------------------------------------------------------------------

// The language's arithmetic in double, whatever the elements are computed in; the same functions as in `prelude.hpp`.
namespace per_tensor {

OPTC_INLINE double where(bool condition, double a, double b) { return condition ? a : b; }
OPTC_INLINE bool where(bool condition, bool a, bool b) { return condition ? a : b; }
OPTC_INLINE double square(double x) { return x * x; }
OPTC_INLINE double cube(double x) { return x * x * x; }
OPTC_INLINE double sqrt(double x) { return __builtin_sqrt(x); }
OPTC_INLINE double abs(double x) { return __builtin_fabs(x); }
OPTC_INLINE double floor(double x) { return __builtin_floor(x); }
OPTC_INLINE double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
OPTC_INLINE double min(double a, double b) { return (a < b) | (a != a) ? a : b; }
OPTC_INLINE double max(double a, double b) { return (a > b) | (a != a) ? a : b; }
OPTC_INLINE double mod(double a, double b) {
    const double r = __builtin_fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
OPTC_INLINE double half_power(double x) { return x == -__builtin_inf() ? __builtin_inf() : sqrt(x + 0.0); }
OPTC_INLINE double exp(double x) { return ::exp(x); }
OPTC_INLINE double log(double x) { return ::log(x); }
OPTC_INLINE double sin(double x) { return ::sin(x); }
OPTC_INLINE double cos(double x) { return ::cos(x); }
OPTC_INLINE double tanh(double x) { return ::tanh(x); }
OPTC_INLINE double pow(double x, double y) { return ::pow(x, y); }
OPTC_INLINE double atan2(double y, double x) { return ::atan2(y, x); }

}  // namespace per_tensor

}  // namespace optc
