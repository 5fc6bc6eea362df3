#include "kernels/threads.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

namespace pyddl::kernels {
namespace {

std::atomic<int>& chosen() {
    static std::atomic<int> n{std::min(omp_get_max_threads(), most_threads)};
    return n;
}

// OpenMP's threads do not follow a process that is forked off, which would wait for them for ever.
std::atomic<bool> started{false}, lost{false};
[[maybe_unused]] const int watching =
    pthread_atfork(nullptr, nullptr, [] { lost.store(started.load(std::memory_order_relaxed)); });

}  // namespace

int threads() { return lost.load(std::memory_order_relaxed) ? 1 : chosen().load(std::memory_order_relaxed); }

void set_threads(int n) {
    if (n < 1 || n > most_threads)
        throw std::invalid_argument("n is " + std::to_string(n) + "; expected 1 to " + std::to_string(most_threads) +
                                    " threads");
    chosen().store(n, std::memory_order_relaxed);
}

ThreadScope::ThreadScope(bool serial) : before_(omp_get_max_threads()) {
    const int wanted = serial ? 1 : threads();
    if (wanted > 1) started.store(true, std::memory_order_relaxed);
    if (wanted != before_) omp_set_num_threads(wanted);
}

ThreadScope::~ThreadScope() {
    if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
}

}  // namespace pyddl::kernels
