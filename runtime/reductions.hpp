// What kernels of several passes need besides `prelude.hpp`, after which this file stands: reductions whose bits depend on a
// tensor's elements alone, and float64 arithmetic for code per tensor. `passes.hpp` runs them.
//
// A reduction is a tree per tensor. Its leaves are blocks of 4096 elements, whose element i goes to lane i mod 16, in double. Nodes
// are joined in pairs; one without a partner moves up as it is. A chunk is an aligned power of two of blocks, so what it leaves is
// a node of that tree: neither chunks, threads, the width of vectors nor the other tensors of a batch change a bit.

#define OPTC_CALLED __attribute__((noinline))
#define OPTC_MEMBER inline __attribute__((always_inline))

namespace optc {

// --- reductions ----------------------------------------------------------------------------------------------------------

constexpr int64_t LANES = 16;
constexpr int64_t TERMS = 256;   // elements whose terms are written before they are joined; they stay in the nearest cache
constexpr int64_t BLOCK = 4096;  // the smallest chunk of `native.py`
constexpr int64_t SIDE_BY_SIDE = 4;  // places of memory that are read by turns

// Four numbers at once, by extensions that GCC and Clang share.
typedef double Four __attribute__((vector_size(32)));
typedef int64_t FourBits __attribute__((vector_size(32)));

// Four terms that lie next to each other, in double.
OPTC_INLINE Four four(const double* at) {
    Four x;
    __builtin_memcpy(&x, at, sizeof x);
    return x;
}
OPTC_INLINE Four four(const float* at) {
#if defined(__AVX__) && defined(__GNUC__) && !defined(__clang__)
    // One instruction from memory: GCC's own choice, to load more and take it apart, takes twice as long on some CPUs.
    typedef float Floats __attribute__((vector_size(16)));
    Floats x;
    __builtin_memcpy(&x, at, sizeof x);
    return __builtin_ia32_cvtps2pd256(x);
#else
    return Four{double(at[0]), double(at[1]), double(at[2]), double(at[3])};
#endif
}
OPTC_INLINE Four chosen(FourBits mask, Four a, Four b) { return Four((mask & FourBits(a)) | (~mask & FourBits(b))); }

struct Add {
    static constexpr double none = 0;
    OPTC_INLINE double join(double a, double b) { return a + b; }
    OPTC_INLINE Four join(Four a, Four b) { return a + b; }
};
// NaN passes through both.
struct Larger {
    static constexpr double none = -__builtin_inf();
    OPTC_INLINE double join(double a, double b) { return (a >= b) | (a != a) ? a : b; }
    OPTC_INLINE Four join(Four a, Four b) { return chosen((a >= b) | (a != a), a, b); }
};
struct Smaller {
    static constexpr double none = __builtin_inf();
    OPTC_INLINE double join(double a, double b) { return (a <= b) | (a != a) ? a : b; }
    OPTC_INLINE Four join(Four a, Four b) { return chosen((a <= b) | (a != a), a, b); }
};

// Joins four lanes in pairs: those that are 2 apart, then 1.
template <class Operation> OPTC_INLINE double total_of(Four x) {
    return Operation::join(Operation::join(x[0], x[2]), Operation::join(x[1], x[3]));
}

// 16 lanes, in which terms are joined as they come: term i of a call in lane i mod 16. Four names, not an array, so that
// compilers keep them in registers.
template <class Operation> class Lanes {
  public:
    Lanes() { clear(); }
    void clear() { a = b = c = d = none(); }
    template <class T> OPTC_MEMBER void join(const T* terms, int64_t size) {
        const int64_t whole = size / LANES * LANES;
        Four w = a, x = b, y = c, z = d;
        for (int64_t i = 0; i < whole; i += LANES) {
            w = Operation::join(w, four(terms + i));
            x = Operation::join(x, four(terms + i + 4));
            y = Operation::join(y, four(terms + i + 8));
            z = Operation::join(z, four(terms + i + 12));
        }
        if (whole < size) {
            double rest[LANES];
            for (int64_t l = 0; l < LANES; ++l) rest[l] = Operation::none;
            for (int64_t l = 0; whole + l < size; ++l) rest[l] = double(terms[whole + l]);
            w = Operation::join(w, four(rest));
            x = Operation::join(x, four(rest + 4));
            y = Operation::join(y, four(rest + 8));
            z = Operation::join(z, four(rest + 12));
        }
        a = w, b = x, c = y, d = z;
    }
    // In pairs: the lanes that are 8 apart, then 4, 2, 1.
    OPTC_MEMBER double total() const {
        const Four x = Operation::join(Operation::join(a, c), Operation::join(b, d));
        return total_of<Operation>(x);
    }

  private:
    static Four none() { return Four{Operation::none, Operation::none, Operation::none, Operation::none}; }

    Four a, b, c, d;
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

// The way through a chunk of which little is read and nothing written: four blocks at a time, by turns. Memory is read much faster
// in several places than in one. What is left of the chunk comes in order, `TERMS` elements at a time.
class Turns {
  public:
    int64_t first = 0, end, side = 0;  // the present elements, and which of the blocks they are in

    explicit Turns(int64_t elements) : size(elements), in_turns(elements / (SIDE_BY_SIDE * BLOCK) * (SIDE_BY_SIDE * BLOCK)) {
        measure();
    }
    bool more() const { return first < size; }
    void next() {
        if (first >= in_turns) {
            first += TERMS;
        } else if (++side < SIDE_BY_SIDE) {
            first += BLOCK;
        } else {
            side = 0;
            first += EACH - (SIDE_BY_SIDE - 1) * BLOCK;
            if (first % BLOCK == 0) first += (SIDE_BY_SIDE - 1) * BLOCK;
        }
        measure();
    }

  private:
    static constexpr int64_t EACH = TERMS / SIDE_BY_SIDE;

    void measure() {
        const int64_t length = first < in_turns ? EACH : TERMS;
        end = first + length < size ? first + length : size;
    }
    const int64_t size, in_turns;
};

// Reduces a chunk. The terms of a block come in order, those of `sides` blocks by turns. Called, not inlined: measures of all
// passes share the code.
template <class Operation, int64_t sides = 1> class Reduction {
  public:
    OPTC_CALLED void add(const math_t* terms, int64_t size, int64_t side = 0) {
        lanes[side].join(terms, size);
        seen[side] += size;
        if (seen[side] >= BLOCK) close(side);
    }
    // Ends a block of which only some elements count, `picked` of them: it is a leaf of the tree whatever their number.
    OPTC_CALLED void end_block(int64_t picked) {
        if (picked == 0) tree.add(Operation::none); else if (seen[0] > 0) close(0);
    }
    OPTC_CALLED double total() {
        if (seen[0] > 0) close(0);
        return tree.total();
    }

  private:
    OPTC_CALLED void close(int64_t side) {
        tree.add(lanes[side].total());
        lanes[side].clear();
        seen[side] = 0;
    }

    Lanes<Operation> lanes[sides];
    int64_t seen[sides] = {};  // elements of the present blocks
    Tree<Operation> tree;
};

using Sum = Reduction<Add>;
using Largest = Reduction<Larger>;
using Smallest = Reduction<Smaller>;
template <class Operation> using ByTurns = Reduction<Operation, SIDE_BY_SIDE>;

// --- picked elements -----------------------------------------------------------------------------------------------------

// Every how many elements one is picked: a whole number from 1 on, in double.
OPTC_INLINE int64_t stride_of(double p) { return p < 0x1p62 ? int64_t(p) : int64_t(1) << 62; }
// How many of a tensor's elements before `element` are picked, and so the first picked one from there on.
OPTC_INLINE int64_t first_pick(int64_t element, int64_t stride) { return element / stride + (element % stride != 0); }

// --- code per tensor -----------------------------------------------------------------------------------------------------

// The language's arithmetic in double, whatever the elements are computed in; the same functions as per element.
namespace per_tensor {

OPTC_INLINE double where(bool condition, double a, double b) { return condition ? a : b; }
OPTC_INLINE bool where(bool condition, bool a, bool b) { return condition ? a : b; }
OPTC_INLINE double square(double x) { return x * x; }
OPTC_INLINE double cube(double x) { return x * x * x; }
OPTC_INLINE double fourth(double x) { return square(x * x); }
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
OPTC_INLINE double round_bf16(double x, double u) { return optc::round_bf16(x, u); }
OPTC_INLINE double half_power(double x) { return x == -__builtin_inf() ? __builtin_inf() : sqrt(x + 0.0); }
OPTC_INLINE double exp(double x) { return ::exp(x); }
OPTC_INLINE double log(double x) { return ::log(x); }
OPTC_INLINE double sin(double x) { return ::sin(x); }
OPTC_INLINE double cos(double x) { return ::cos(x); }
OPTC_INLINE double cospi(double x) { return ::cos(3.14159265358979324 * (x - 2 * __builtin_floor(x * 0.5 + 0.5))); }
OPTC_INLINE double tanh(double x) { return ::tanh(x); }
OPTC_INLINE double pow(double x, double y) { return ::pow(x, y); }
OPTC_INLINE double atan2(double y, double x) { return ::atan2(y, x); }

}  // namespace per_tensor

}  // namespace optc
