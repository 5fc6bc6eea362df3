/// Meetings of the processes of one node: each arrives with a message, and goes on when all have arrived and
/// all messages can be read.
///
/// Every rank has a slot with two cells, used in turn. A rank that arrives writes its message, then the
/// number of the meeting, into its cell; the others watch that number. Two cells suffice: before a rank
/// writes a cell again it has been through the meeting between, where every other rank arrived after having
/// read the cell for the last time.
///
/// Cost: one cache line from each other rank; about 0.3 microseconds for two ranks with a core each.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/node/process.hpp"
#include "comm/node/wait.hpp"

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
    /// @throws PeerLost a rank died, left or gave up   @throws Interrupted
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
    [[noreturn]] void give_up(const std::string& why);

    Slot* slots_;
    int rank_;
    int size_;
    int (*look_)();
    std::uint32_t number_ = 0;  ///< of the latest meeting
    std::vector<Process> processes_;
};

}  // namespace pyddl::comm::node
