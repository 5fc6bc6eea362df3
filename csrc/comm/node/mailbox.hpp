/// Mailbox: what one worker pushes to one server. Two slots, used in turn, so that the worker goes on with its
/// next push while the server reads the last one; it waits only while both are full.
///
/// Each side makes its own Mailbox over the same memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "comm/node/wait.hpp"

namespace pyddl::comm::node {

class Mailbox {
  public:
    static constexpr int slots = 2;

    /// What travels with a vector.
    struct Push {
        std::int64_t samples = 0;
        std::int64_t version = 0;  ///< that the vector was computed from
        std::int64_t note = 0;     ///< whatever else there is to say of it
        std::int64_t clock = 0;    ///< pushes of this worker before this one
    };

    static std::int64_t bytes(std::int64_t length);

    /// @param memory zero at first, aligned to a cache line
    Mailbox(std::byte* memory, std::int64_t length);

    float* vector(int slot) const;
    static int slot_of(std::int64_t clock) { return static_cast<int>(clock % slots); }

    // ---- the worker

    /// Whether the slot of the next push is empty; changes `emptied` when it becomes so.
    bool has_room() const;
    Futex& emptied();
    /// Whether the server is through with all pushes; changes `latest` when it becomes so.
    bool all_used() const;
    Futex& latest();
    float* next() const { return vector(slot_of(clock_)); }
    /// Hand over next() as the next push.
    void post(std::int64_t samples, std::int64_t version, std::int64_t note);

    // ---- the server

    /// The oldest push that was not taken, or null.
    const Push* full() const;
    /// Take it: its slot, which stays as it is until released.
    int take() { return slot_of(clock_++); }
    void release(int slot);

  private:
    struct Slot;

    Slot* slots_;
    float* vectors_;
    std::int64_t stride_;     ///< floats
    std::int64_t clock_ = 0;  ///< of the next push to post or to take
};

}  // namespace pyddl::comm::node
