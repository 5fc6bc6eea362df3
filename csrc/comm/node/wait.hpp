/// Waiting in shared memory: the one way in which the processes of a node wait for each other.
///
/// Whoever waits spins first, then yields, then sleeps on a futex, since ranks may outnumber cores. Every
/// 100 ms, and after a signal, a sleeper looks around: whether someone has died, left or given up, so that
/// what cannot come ends by an error.
#pragma once
#include <atomic>
#include <cstdint>

#include "comm/errors.hpp"

namespace pyddl::comm::node {

constexpr long look_every = 100'000'000;  // nanoseconds

// Measured with 2, 4 and 8 ranks on 2 cores, idle and busy: a longer spin gains nothing where every rank has
// a core, and where it has none the spinner holds up the one that it waits for. A yield costs 0.3
// microseconds on an idle core.
constexpr int spins = 20;
constexpr int yields = 300;
constexpr int many_yields = 5000;  ///< for what is sure to come soon, since being woken takes 60 microseconds or more

using comm::Interrupted;
using comm::PeerLost;

/// Seconds on the clock that all times of comm are from.
double now();

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}
void yield();

/// A number to sleep on, in memory that may be shared; all zero at first.
///
/// Sequentially consistent throughout: either a sleeper sees the change, or who changes it sees the sleeper.
class Futex {
  public:
    std::uint32_t value() const { return word_.load(); }
    std::uint32_t poll() const { return word_.load(std::memory_order_acquire); }

    void set(std::uint32_t value) {
        word_.store(value);
        if (sleepers_.load() != 0) wake();
    }
    void advance() {
        word_.fetch_add(1);
        if (sleepers_.load() != 0) wake();
    }

    /// Sleep until the number changes, at most `nanoseconds`, unless `ready()`. False after a signal, or when
    /// the time is over.
    template <class Ready>
    bool sleep_unless(const Ready& ready, long nanoseconds) {
        sleepers_.fetch_add(1);
        const std::uint32_t seen = word_.load();
        const bool woken = ready() || sleep_while(seen, nanoseconds);
        sleepers_.fetch_sub(1);
        return woken;
    }

  private:
    void wake();
    bool sleep_while(std::uint32_t seen, long nanoseconds);

    static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
    std::atomic<std::uint32_t> word_;
    std::atomic<std::uint32_t> sleepers_;
};

/// Spin, then yield, until `ready()`; false when it is time to sleep.
template <class Ready>
bool spin_until(const Ready& ready, int most_yields = yields) {
    for (int i = 0; i < spins; ++i) {
        if (ready()) return true;
        pause();
    }
    for (int i = 0; i < most_yields; ++i) {
        if (ready()) return true;
        yield();
    }
    return false;
}

/// Return when `ready()`: what makes it true must change `futex` afterwards. `look_around` may throw.
template <class Ready, class LookAround>
void wait_until(Futex& futex, const Ready& ready, const LookAround& look_around, int most_yields = yields) {
    if (spin_until(ready, most_yields)) return;
    while (!ready())
        if (!futex.sleep_unless(ready, look_every)) look_around();
}

}  // namespace pyddl::comm::node
