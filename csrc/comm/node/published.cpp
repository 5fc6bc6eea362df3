#include "comm/node/published.hpp"

#include <new>

#include "comm/node/shared_memory.hpp"

namespace pyddl::comm::node {
namespace {

constexpr int most_buffers = 8;

}  // namespace

struct Published::Head {
    alignas(cache_line) std::atomic<std::uint32_t> current;
    std::atomic<std::int64_t> progress;
    Futex published;
    alignas(cache_line) Futex unpinned;
    /// Of each buffer: written before it is published, read while it is pinned.
    alignas(cache_line) std::int64_t versions[most_buffers];
};

/// Index of a pinned buffer and 1, or 0.
struct alignas(cache_line) Published::Hazard {
    std::atomic<std::uint32_t> buffer;
};

std::int64_t Published::bytes(std::int64_t length, int readers, int buffers) {
    return static_cast<std::int64_t>(sizeof(Head) + static_cast<std::size_t>(readers) * sizeof(Hazard)) +
           buffers * bytes_of_vector(length);
}

Published::Published(std::byte* memory, std::int64_t length, int readers, int buffers)
    : head_(reinterpret_cast<Head*>(memory)),
      hazards_(reinterpret_cast<Hazard*>(memory + sizeof(Head))),
      buffers_(reinterpret_cast<float*>(hazards_ + readers)),
      stride_(bytes_of_vector(length) / static_cast<std::int64_t>(sizeof(float))),
      readers_(readers),
      count_(buffers) {
    static_assert(std::atomic<std::int64_t>::is_always_lock_free);
}

void Published::initialise() {
    new (head_) Head{};
    head_->versions[0] = -1;
    head_->progress.store(-1);
}

int Published::current() const { return static_cast<int>(head_->current.load(std::memory_order_relaxed)); }

int Published::try_free() const {
    for (int index = 0; index < count_; ++index) {
        bool taken = index == current();
        for (int r = 0; r < readers_ && !taken; ++r) taken = hazard(r).load() == static_cast<std::uint32_t>(index) + 1;
        if (!taken) return index;
    }
    return -1;
}

Futex& Published::unpinned() { return head_->unpinned; }

std::int64_t Published::publish(int index, std::int64_t progress) {
    std::int64_t version = head_->versions[current()];
    if (index != current()) {
        head_->versions[index] = ++version;
        head_->current.store(static_cast<std::uint32_t>(index));
    }
    head_->progress.store(progress);  // who sees it sees this version or a later one
    head_->published.advance();
    return version;
}

std::int64_t Published::progress() const { return head_->progress.load(); }

Futex& Published::published() { return head_->published; }

Published::Pinned Published::pin(int reader) {
    for (std::uint32_t index = head_->current.load();;) {
        hazard(reader).store(index + 1);
        const std::uint32_t still = head_->current.load();
        if (still == index) return {buffer(static_cast<int>(index)), head_->versions[index]};
        index = still;
    }
}

void Published::unpin(int reader) {
    hazard(reader).store(0);
    head_->unpinned.advance();
}

std::atomic<std::uint32_t>& Published::hazard(int reader) const { return hazards_[reader].buffer; }

}  // namespace pyddl::comm::node
