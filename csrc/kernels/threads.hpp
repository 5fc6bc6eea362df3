/// The number of OpenMP threads that kernels use, one number per process.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// Threads in use; at first what OMP_NUM_THREADS or the affinity mask gives, `most_threads` at the most. One, whatever
/// is set, in a process forked off one that has used several.
int threads();

/// More than any machine has for one process. OpenMP keeps a record of each on the stack, which ends at some number.
inline constexpr int most_threads = 1024;

/// @throws std::invalid_argument when n < 1 or n > most_threads
void set_threads(int n);

/// Makes the calling thread use threads() for OpenMP regions, or one thread where the work is small, until
/// the end of the scope. OpenMP keeps its number per calling thread: without this, kernels called from a
/// second Python thread would not follow set_threads.
class ThreadScope {
  public:
    explicit ThreadScope(bool serial = false);
    ~ThreadScope();
    ThreadScope(const ThreadScope&) = delete;
    ThreadScope& operator=(const ThreadScope&) = delete;

  private:
    int before_;
};

/// Element-wise passes over fewer elements than this stay on one thread: waking the others costs more.
inline constexpr std::int64_t parallel_elements = 1 << 15;

/// Matrix products of fewer floating-point operations than this stay on one thread.
inline constexpr double parallel_flops = 2e6;

}  // namespace pyddl::kernels
