#include "comm/node/meeting.hpp"

#include <new>

#include "comm/node/shared_memory.hpp"

namespace pyddl::comm::node {

/// Two cache lines of meetings, one of facts: what others poll shares no line with what they do not.
struct Meeting::Slot {
    struct alignas(cache_line) Cell {
        Futex arrived;  ///< number of the meeting that this rank came to
        Message message;
    };
    Cell cells[2];
    alignas(cache_line) Presence presence;
};

std::int64_t Meeting::bytes(int size) { return size * static_cast<std::int64_t>(sizeof(Slot)); }

Meeting::Meeting(std::byte* memory, int rank, int size, int (*look)())
    : slots_(reinterpret_cast<Slot*>(memory)),
      rank_(rank),
      size_(size),
      look_(look),
      processes_(static_cast<std::size_t>(size)) {
    Slot* mine = new (slots_ + rank) Slot{};
    mine->presence.enter();
}

Meeting::~Meeting() { leave(); }

void Meeting::watch() {
    for (int r = 0; r < size_; ++r)
        if (r != rank_) processes_[static_cast<std::size_t>(r)].watch(slots_[r].presence.process.load());
}

const Message& Meeting::message(int rank) const { return slots_[rank].cells[number_ % 2].message; }

void Meeting::meet(const Message& mine) {
    ++number_;
    Slot::Cell& cell = slots_[rank_].cells[number_ % 2];
    cell.message = mine;
    cell.arrived.set(number_);
    for (int step = 1; step < size_; ++step) wait_for((rank_ + step) % size_);
}

void Meeting::wait_for(int rank) {
    Futex& arrived = slots_[rank].cells[number_ % 2].arrived;
    wait_until(arrived, [&] { return arrived.poll() == number_; }, [&] { look_around(); });
}

void Meeting::look_around() {
    if (look_ != nullptr && look_() != 0) {
        slots_[rank_].presence.state.store(Presence::gave_up);
        throw Interrupted();
    }
    for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        // One that has arrived here may well have gone on and left already.
        const bool arrived = slots_[r].cells[number_ % 2].arrived.value() == number_;
        const std::string name = "rank " + std::to_string(r) + " of this node";
        const std::uint32_t state = slots_[r].presence.state.load();
        if (state == Presence::gave_up) give_up(name + " gave up");
        if (arrived) continue;
        if (state == Presence::left) give_up(name + " has ended, while others wait for it");
        const Process& process = processes_[static_cast<std::size_t>(r)];
        if (process.died()) give_up(name + " (process " + std::to_string(process.number()) + ") died");
    }
}

void Meeting::give_up(const std::string& why) {
    slots_[rank_].presence.state.store(Presence::gave_up);  // those who wait for this rank follow
    throw PeerLost(why);
}

void Meeting::leave() noexcept { slots_[rank_].presence.leave(); }

}  // namespace pyddl::comm::node
