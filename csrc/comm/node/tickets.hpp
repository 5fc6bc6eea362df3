/// Tickets: numbers 0, 1, 2, ... of an epoch's minibatches, each given to whoever asks first.
#pragma once
#include <atomic>
#include <cstdint>

#include "comm/node/wait.hpp"

namespace pyddl::comm::node {

/// In memory that processes share; all zero at first.
class Tickets {
  public:
    /// Begin the next epoch, with this many tickets. One process does, when nobody claims.
    void begin(std::int64_t count);
    std::uint32_t epoch() const { return begun_.value(); }  ///< from 1; 0 before the first
    Futex& begun() { return begun_; }

    /// The next ticket, or -1 when all have been given.
    std::int64_t claim();
    /// Give no more in this epoch.
    void close() { count_.store(0); }
    /// How many have been given in this epoch: those below.
    std::int64_t claimed() const { return next_.load(); }

  private:
    Futex begun_;
    std::atomic<std::int64_t> count_;
    std::atomic<std::int64_t> next_;
};

}  // namespace pyddl::comm::node
