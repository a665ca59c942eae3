// What kernels of several passes need besides `prelude.hpp`, after which this file stands: reductions whose bits depend on a
// tensor's elements alone, float64 arithmetic for code per tensor, and the loop over passes, tensors and threads.
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
        if (seen == BLOCK) close();
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

// --- code per tensor -----------------------------------------------------------------------------------------------------

// One tensor between two passes: what its chunks left of the pass before, and the places of its numbers.
struct Tensor {
    void* const* table;
    int64_t tensors, tensor;
    double numel;
    const double* partials;
    int64_t chunks, measures;

    double* number(int64_t stream) const { return static_cast<double*>(table[stream * tensors + tensor]); }
    double sum(int64_t measure) const { return total<Add>(measure); }
    double mean(int64_t measure) const { return total<Add>(measure) / numel; }
    double largest(int64_t measure) const { return total<Larger>(measure); }
    double smallest(int64_t measure) const { return total<Smaller>(measure); }

  private:
    template <class Operation> OPTC_CALLED double total(int64_t measure) const {
        Tree<Operation> tree;
        for (int64_t c = 0; c < chunks; ++c) tree.add(partials[c * measures + measure]);
        return tree.total();
    }
};

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

// --- passes, stages and threads ------------------------------------------------------------------------------------------

// Code per element over one chunk: reads its tensor's statistics, leaves one partial per measure.
using Pass = void (*)(const Chunk& chunk, const double* scalars, const uint8_t* flags, double factor, const double* statistics,
                      double* partials);
// Code per tensor between two passes, or after the last: changes its statistics and numbers.
using Stage = void (*)(const Tensor& tensor, const double* scalars, const uint8_t* flags, double* statistics);

// One thread's part of some members. Chunk `c` is as `optc_run` says; member `m` is the tensor of the chunks from
// `member_begin[m]` to before `member_begin[m + 1]`.
struct Share {
    void* const* table;
    int64_t tensors;
    const int32_t* chunk_tensor;
    const int64_t *chunk_offset, *begin, *member_begin;
    const double* scalars;
    const uint8_t* flags;
    double factor;
    double* partials;
    int64_t measures;
    double* statistics;
    int64_t columns;
    int64_t first_member, end_member, share, shares;

    void run(Pass pass) const {
        const int64_t first = member_begin[first_member], chunks = member_begin[end_member] - first;
        const int64_t end = first + first_chunk(begin + first, chunks, share + 1, shares);
        for (int64_t c = first + first_chunk(begin + first, chunks, share, shares); c < end; ++c) {
            const Chunk chunk = {table, tensors, chunk_tensor[c], chunk_offset[c], begin[c + 1] - begin[c]};
            pass(chunk, scalars, flags, factor, statistics + chunk.tensor * columns, partials + c * measures);
        }
    }
    void run(Stage stage) const {
        const int64_t members = end_member - first_member, end = first_member + members * (share + 1) / shares;
        for (int64_t m = first_member + members * share / shares; m < end; ++m) {
            const int64_t first = member_begin[m], chunks = member_begin[m + 1] - first, tensor = chunk_tensor[first];
            const double numel = double(begin[first + chunks] - begin[first]);
            stage({table, tensors, tensor, numel, partials + first * measures, chunks, measures}, scalars, flags,
                  statistics + tensor * columns);
        }
    }
    // Until all threads of the share are here.
    void wait() const {
#ifdef _OPENMP
        if (shares > 1) {
#pragma omp barrier
        }
#endif
    }
};

// The passes and stages in their order; defined by the kernel.
static void run_all(const Share& share);

// Members of one chunk at the beginning are done one by one: no thread waits, and later passes find them in the cache. Then all
// threads do the others together.
static void run_share(const Share& all) {
    int64_t small = 0;
    while (small < all.end_member && all.member_begin[small + 1] == small + 1) ++small;
    const int64_t end = first_chunk(all.begin, small, all.share + 1, all.shares);
    for (int64_t m = first_chunk(all.begin, small, all.share, all.shares); m < end; ++m) {
        Share one = all;
        one.first_member = m, one.end_member = m + 1, one.share = 0, one.shares = 1;
        run_all(one);
    }
    Share others = all;
    others.first_member = small;
    if (small < all.end_member) run_all(others);
}

}  // namespace optc

// Runs the kernel once over the members (see `Share`). A tensor without elements has one chunk, of size 0. `partials` has
// `measures` places per chunk, `statistics` `columns` per tensor; neither is read before it is written.
OPTC_EXPORT void optc_run_passes(
    void* const* table, int64_t tensors, const int32_t* chunk_tensor, const int64_t* chunk_offset, const int64_t* begin,
    int64_t chunks, const int64_t* member_begin, int64_t members, const double* scalars, const uint8_t* flags, double factor,
    double* partials, int64_t measures, double* statistics, int64_t columns, int32_t threads) {
    const auto work = [=](int64_t share, int64_t shares) {
        optc::run_share({table, tensors, chunk_tensor, chunk_offset, begin, member_begin, scalars, flags, factor,
                         partials, measures, statistics, columns, 0, members, share, shares});
    };
#ifdef _OPENMP
    // No region at all for one thread, as in `optc_run`.
    if (threads > 1 && chunks > 1) {
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    work(0, 1);
}
