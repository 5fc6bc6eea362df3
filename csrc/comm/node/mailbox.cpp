#include "comm/node/mailbox.hpp"

#include "comm/node/shared_memory.hpp"

namespace pyddl::comm::node {
namespace {

enum State : std::uint32_t { empty = 0, posted = 1 };

}  // namespace

struct alignas(cache_line) Mailbox::Slot {
    Futex state;
    Push push;
};

std::int64_t Mailbox::bytes(std::int64_t length) {
    return slots * (static_cast<std::int64_t>(sizeof(Slot)) + bytes_of_vector(length));
}

Mailbox::Mailbox(std::byte* memory, std::int64_t length)
    : slots_(reinterpret_cast<Slot*>(memory)),
      vectors_(reinterpret_cast<float*>(slots_ + slots)),
      stride_(bytes_of_vector(length) / static_cast<std::int64_t>(sizeof(float))) {}

float* Mailbox::vector(int slot) const { return vectors_ + slot * stride_; }

bool Mailbox::has_room() const { return slots_[slot_of(clock_)].state.poll() == empty; }

Futex& Mailbox::emptied() { return slots_[slot_of(clock_)].state; }

bool Mailbox::all_used() const { return slots_[slot_of(clock_ + slots - 1)].state.poll() == empty; }

Futex& Mailbox::latest() { return slots_[slot_of(clock_ + slots - 1)].state; }

void Mailbox::post(std::int64_t samples, std::int64_t version, std::int64_t note) {
    Slot& slot = slots_[slot_of(clock_)];
    slot.push = {samples, version, note, clock_++};
    slot.state.set(posted);
}

const Mailbox::Push* Mailbox::full() const {
    const Slot& slot = slots_[slot_of(clock_)];
    return slot.state.poll() == posted ? &slot.push : nullptr;
}

void Mailbox::release(int slot) { slots_[slot].state.set(empty); }

}  // namespace pyddl::comm::node
