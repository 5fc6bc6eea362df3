#include "comm/node/meeting.hpp"

#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>
#include <new>
#include <string>

namespace pyddl::comm::node {
namespace {

constexpr std::size_t cache_line = 64;
constexpr long look_every = 100'000'000;  // nanoseconds

// Measured with 2, 4 and 8 ranks on 2 cores, idle and busy: a longer spin gains nothing where every rank has
// a core, and where it has none the spinner holds up the one that it waits for. A yield costs 0.3
// microseconds on an idle core.
constexpr int spins = 20;
constexpr int yields = 300;

enum State : std::uint32_t { present = 0, left = 1, gave_up = 2 };

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Sleep while `word` is `seen`, at most until it is time to look around. Returns early after a signal.
bool sleep_while(std::atomic<std::uint32_t>& word, std::uint32_t seen) {
    const timespec most{0, look_every};
    const long result = syscall(SYS_futex, &word, FUTEX_WAIT, seen, &most, nullptr, 0);
    return result == 0 || errno == EAGAIN;
}

void wake_all(std::atomic<std::uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace

/// Two cache lines of meetings, one of facts: what others poll shares no line with what they do not.
struct Meeting::Slot {
    struct alignas(cache_line) Cell {
        std::atomic<std::uint32_t> arrived;  ///< number of the meeting that this rank came to
        std::atomic<std::uint32_t> sleepers;
        Message message;
    };
    Cell cells[2];
    alignas(cache_line) std::atomic<std::uint32_t> state;
    std::atomic<std::int32_t> process;
};

std::int64_t Meeting::bytes(int size) { return size * static_cast<std::int64_t>(sizeof(Slot)); }

Meeting::Meeting(std::byte* memory, int rank, int size, int (*look)())
    : slots_(reinterpret_cast<Slot*>(memory)),
      rank_(rank),
      size_(size),
      look_(look),
      watched_(static_cast<std::size_t>(size), -1),
      process_(static_cast<std::size_t>(size), 0) {
    static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
    Slot* mine = new (slots_ + rank) Slot{};
    mine->process.store(getpid());
}

Meeting::~Meeting() {
    leave();
    for (int descriptor : watched_)
        if (descriptor >= 0) close(descriptor);
}

void Meeting::watch() {
    for (int r = 0; r < size_; ++r) {
        const auto i = static_cast<std::size_t>(r);
        const int process = slots_[r].process.load();
        if (r == rank_ || kill(process, 0) != 0) continue;  // in a container of its own, it cannot be seen
        process_[i] = process;
#if defined(SYS_pidfd_open)
        watched_[i] = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
#endif
    }
}

const Message& Meeting::message(int rank) const { return slots_[rank].cells[number_ % 2].message; }

void Meeting::meet(const Message& mine) {
    ++number_;
    Slot::Cell& cell = slots_[rank_].cells[number_ % 2];
    cell.message = mine;
    // Sequentially consistent, as is the reading in wait_for: either a sleeper sees the arrival or we see the
    // sleeper.
    cell.arrived.store(number_);
    if (cell.sleepers.load() != 0) wake_all(cell.arrived);
    for (int step = 1; step < size_; ++step) wait_for((rank_ + step) % size_);
}

void Meeting::wait_for(int rank) {
    Slot::Cell& cell = slots_[rank].cells[number_ % 2];
    const auto here = [&] { return cell.arrived.load(std::memory_order_acquire) == number_; };
    for (int i = 0; i < spins; ++i) {
        if (here()) return;
        pause();
    }
    for (int i = 0; i < yields; ++i) {
        if (here()) return;
        sched_yield();
    }
    while (!here()) {
        cell.sleepers.fetch_add(1);
        const std::uint32_t seen = cell.arrived.load();
        const bool woken = seen == number_ || sleep_while(cell.arrived, seen);
        cell.sleepers.fetch_sub(1);
        if (!woken) look_around();
    }
}

void Meeting::look_around() {
    if (look_ != nullptr && look_() != 0) {
        slots_[rank_].state.store(gave_up);
        throw Interrupted();
    }
    for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        // One that has arrived here may well have gone on and left already.
        const bool arrived = slots_[r].cells[number_ % 2].arrived.load() == number_;
        const std::string name = "rank " + std::to_string(r) + " of this node";
        if (slots_[r].state.load() == gave_up) give_up(name + " gave up");
        if (arrived) continue;
        if (slots_[r].state.load() == left) give_up(name + " has ended, while others wait for it");
        if (died(r)) give_up(name + " (process " + std::to_string(process_[static_cast<std::size_t>(r)]) + ") died");
    }
}

bool Meeting::died(int rank) const {
    const auto i = static_cast<std::size_t>(rank);
    if (watched_[i] >= 0) {
        pollfd end{watched_[i], POLLIN, 0};
        return poll(&end, 1, 0) > 0;
    }
    return process_[i] != 0 && kill(process_[i], 0) != 0 && errno == ESRCH;
}

void Meeting::give_up(const std::string& why) {
    slots_[rank_].state.store(gave_up);  // those who wait for this rank follow
    throw MeetingFailed(why);
}

void Meeting::leave() noexcept {
    std::uint32_t expected = present;
    slots_[rank_].state.compare_exchange_strong(expected, left);
}

}  // namespace pyddl::comm::node
