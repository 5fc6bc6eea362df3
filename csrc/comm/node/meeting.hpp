/// Meetings of the processes of one node: each arrives with a message, and goes on when all have arrived and
/// all messages can be read. The only place where a process waits in shared memory.
///
/// Every rank has a slot with two cells, used in turn. A rank that arrives writes its message, then the
/// number of the meeting, into its cell; the others watch that number. Two cells suffice: before a rank
/// writes a cell again it has been through the meeting between, where every other rank arrived after having
/// read the cell for the last time. Whoever waits spins first, then yields, then sleeps on a futex, since
/// ranks may outnumber cores. Every 100 ms a sleeper looks whether someone has died, left or given up, so
/// that a meeting which cannot take place ends by an error.
///
/// Cost: one cache line from each other rank; about 0.3 microseconds for two ranks with a core each.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace pyddl::comm::node {

/// What a rank brings to a meeting. Collective calls compare theirs, so that a mix-up is an error and no
/// garbage.
struct Message {
    std::int32_t operation = 0;
    std::int32_t vectors = 0;  ///< number of the shared allocation, 0 for private memory
    std::int64_t offset = 0;   ///< elements from the start of the allocation
    std::int64_t length = 0;   ///< elements
    std::int64_t count = 0;    ///< a number to add up
};

/// A meeting that cannot take place.
struct MeetingFailed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The caller asked to stop waiting (see Meeting's `look`).
struct Interrupted : std::exception {
    const char* what() const noexcept override { return "interrupted while waiting for other ranks"; }
};

class Meeting {
  public:
    /// Bytes of shared memory for a meeting of `size` ranks; zero at first.
    static std::int64_t bytes(int size);

    /// @param memory of all ranks, aligned to a cache line
    /// @param look called every 100 ms of sleep and after signals; anything but 0 ends the wait. May be null.
    Meeting(std::byte* memory, int rank, int size, int (*look)());
    ~Meeting();
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;

    /// Begin to watch the others: call when all ranks have constructed theirs.
    void watch();

    /// Arrive, and return when all have. Then message(r) is what rank r brought, until the next call.
    /// @throws MeetingFailed a rank died, left or gave up   @throws Interrupted
    void meet(const Message& mine);
    const Message& message(int rank) const;

    /// Tell the others, now or whenever they wait for this rank, that it will come to no more meetings.
    void leave() noexcept;

    int rank() const { return rank_; }
    int size() const { return size_; }

  private:
    struct Slot;

    void wait_for(int rank);
    void look_around();
    bool died(int rank) const;
    [[noreturn]] void give_up(const std::string& why);

    Slot* slots_;
    int rank_;
    int size_;
    int (*look_)();
    std::uint32_t number_ = 0;           ///< of the latest meeting
    std::vector<int> watched_;           ///< a pidfd per rank, or -1
    std::vector<std::int32_t> process_;  ///< a process number per rank, or 0 where it cannot be seen from here
};

}  // namespace pyddl::comm::node
