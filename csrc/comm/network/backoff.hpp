/// Waiting for messages: spin, yield, then sleep for growing times, since no futex tells of a message.
#pragma once
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "comm/errors.hpp"

namespace pyddl::comm::network {

class Backoff {
  public:
    explicit Backoff(int (*look)()) : look_(look) {}

    /// Let some time go by between two tests. @throws Interrupted
    void pause() {
        using namespace std::chrono_literals;
        if (++tests_ <= tests_before_sleep) {
            sched_yield();  // 0.3 microseconds on an idle core
            return;
        }
        std::this_thread::sleep_for(sleep_);
        sleep_ = std::min<std::chrono::nanoseconds>(2 * sleep_, 1ms);
        const auto time = std::chrono::steady_clock::now();
        if (time < look_at_) return;
        look_at_ = time + 100ms;
        if (look_ != nullptr && look_() != 0) throw Interrupted();
    }

  private:
    static constexpr int tests_before_sleep = 300;

    int (*look_)();
    int tests_ = 0;
    std::chrono::nanoseconds sleep_ = std::chrono::microseconds(20);
    std::chrono::steady_clock::time_point look_at_{};
};

}  // namespace pyddl::comm::network
