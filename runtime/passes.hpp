// The loop over passes, tensors and threads of kernels of several passes. It stands after `reductions.hpp` and, where a kernel
// knows rows and columns (OPTC_MATRICES), after `matrices.hpp` and `stages.hpp`.

namespace optc {

#ifdef OPTC_MATRICES
// The rows and columns of all tensors. `grids` is null in variants without; then chunks are as elsewhere.
struct AllMatrices {
    const Grid* grids;
    void* const* vectors;
    double* scratch;

    Vectors of(int64_t tensors, int64_t tensor) const {
        return {grids == nullptr ? nullptr : grids + tensor, vectors, tensors, tensor, scratch};
    }
};
using Part = Tile;
#else
struct AllMatrices {};
using Part = Chunk;
#endif

// One tensor between two passes: what its chunks left of the pass before, and the places of its numbers.
struct Tensor {
    void* const* table;
    int64_t tensors, tensor;
    double numel;
    const double* partials;
    int64_t chunks, measures;
#ifdef OPTC_MATRICES
    Matrices matrices;

    template <class T> T* state(int64_t stream) const { return static_cast<T*>(table[stream * tensors + tensor]); }
#endif

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

// --- passes, stages and threads ------------------------------------------------------------------------------------------

// Code per element over one chunk, or tile: reads its tensor's statistics, leaves one partial per measure of the tensor.
using Pass = void (*)(const Part& chunk, const double* scalars, const uint8_t* flags, double factor, const double* statistics,
                      double* partials);
// Code per tensor between two passes, or after the last: changes its statistics and numbers.
using Stage = void (*)(const Tensor& tensor, const double* scalars, const uint8_t* flags, double* statistics);

// All passes and stages. Where other processes have parts of the tensors, only one of them at a time: stage k, before pass k, is
// number 2k, pass k is number 2k + 1.
constexpr int32_t ALL = -1;

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
    AllMatrices matrices;
    int32_t only;
    int64_t first_member, end_member, share, shares;

    void pass(int32_t k, Pass code) const {
        if (only != ALL && only != 2 * k + 1) return;
        const int64_t first = member_begin[first_member], chunks = member_begin[end_member] - first;
        const int64_t end = first + first_chunk(begin + first, chunks, share + 1, shares);
        for (int64_t c = first + first_chunk(begin + first, chunks, share, shares); c < end; ++c) {
            const Chunk chunk = {table, tensors, chunk_tensor[c], chunk_offset[c], begin[c + 1] - begin[c]};
#ifdef OPTC_MATRICES
            const Part part(chunk, matrices.of(tensors, chunk.tensor));
#else
            const Part& part = chunk;
#endif
            code(part, scalars, flags, factor, statistics + chunk.tensor * columns, partials + c * measures);
        }
    }
    void stage(int32_t k, Stage code) const {
        if (only != ALL && only != 2 * k) return;
        const int64_t members = end_member - first_member, end = first_member + members * (share + 1) / shares;
        for (int64_t m = first_member + members * share / shares; m < end; ++m) {
            const int64_t first = member_begin[m], chunks = member_begin[m + 1] - first, tensor = chunk_tensor[first];
            const double numel = double(begin[first + chunks] - begin[first]);
#ifdef OPTC_MATRICES
            const Matrices own = {matrices.of(tensors, tensor)};
            const Tensor one = {table, tensors, tensor, numel, partials + first * measures, chunks, measures, own};
#else
            const Tensor one = {table, tensors, tensor, numel, partials + first * measures, chunks, measures};
#endif
            code(one, scalars, flags, statistics + tensor * columns);
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
// threads do the others together, in waves whose members share the scratch: before each of `waves` the others end.
static void run_share(const Share& all, const int64_t* waves, int64_t wave_count) {
    int64_t small = 0;
    while (small < all.end_member && all.member_begin[small + 1] == small + 1) ++small;
    const int64_t end = first_chunk(all.begin, small, all.share + 1, all.shares);
    for (int64_t m = first_chunk(all.begin, small, all.share, all.shares); m < end; ++m) {
        Share one = all;
        one.first_member = m, one.end_member = m + 1, one.share = 0, one.shares = 1;
        run_all(one);
    }
    for (int64_t wave = 0; wave <= wave_count; ++wave) {
        Share others = all;
        others.first_member = wave == 0 ? small : waves[wave - 1];
        others.end_member = wave == wave_count ? all.end_member : waves[wave];
        if (wave > 0) all.wait();
        if (others.first_member < others.end_member) run_all(others);
    }
}

}  // namespace optc

// Runs the kernel once over the members (see `Share`). A tensor without elements has one chunk, of size 0. `partials` has
// `measures` places per chunk, `statistics` `columns` per tensor; neither is read before it is written. Kernels that know rows
// and columns are also given the tensors' grids (null in variants without rows), two vectors per statistic and tensor, scratch,
// and the first members of waves. `only`: see `ALL`.
OPTC_EXPORT void optc_run_passes(
    void* const* table, int64_t tensors, const int32_t* chunk_tensor, const int64_t* chunk_offset, const int64_t* begin,
    int64_t chunks, const int64_t* member_begin, int64_t members, const double* scalars, const uint8_t* flags, double factor,
    double* partials, int64_t measures, double* statistics, int64_t columns, int32_t only, int32_t threads
#ifdef OPTC_MATRICES
    , const optc::Grid* grids, void* const* vectors, double* scratch, const int64_t* waves, int64_t wave_count
#endif
    ) {
#ifdef OPTC_MATRICES
    const optc::AllMatrices matrices = {grids, vectors, scratch};
#else
    const optc::AllMatrices matrices = {};
    const int64_t* const waves = nullptr;
    const int64_t wave_count = 0;
#endif
    const auto work = [=](int64_t share, int64_t shares) {
        optc::run_share({table, tensors, chunk_tensor, chunk_offset, begin, member_begin, scalars, flags, factor,
                         partials, measures, statistics, columns, matrices, only, 0, members, share, shares}, waves, wave_count);
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
