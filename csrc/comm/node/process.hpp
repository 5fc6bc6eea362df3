/// Processes of a node as others see them: what each says of itself in shared memory, and whether it lives.
#pragma once
#include <atomic>
#include <cstdint>
#include <utility>

namespace pyddl::comm::node {

/// What a process says of itself, in shared memory; all zero at first.
struct Presence {
    enum State : std::uint32_t { present = 0, left = 1, gave_up = 2 };

    void enter();
    /// Come to no more; those who wait for this process learn it when they look around.
    void leave() noexcept {
        std::uint32_t expected = present;
        state.compare_exchange_strong(expected, left);
    }

    std::atomic<std::uint32_t> state;
    std::atomic<std::int32_t> process;
};

/// Another process, watched for its end by a pidfd: its number may be given to a new one, the pidfd may not.
class Process {
  public:
    Process() = default;
    Process(Process&& other) noexcept
        : descriptor_(std::exchange(other.descriptor_, -1)), number_(std::exchange(other.number_, 0)) {}
    Process& operator=(Process&&) = delete;
    ~Process();

    /// Begin to watch. Does nothing where the process cannot be seen, as from another container.
    void watch(int number);
    bool died() const;
    int number() const { return number_; }

  private:
    int descriptor_ = -1;
    int number_ = 0;
};

}  // namespace pyddl::comm::node
