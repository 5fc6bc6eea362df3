#include "comm/node/group.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace pyddl::comm::node {
namespace {

constexpr std::int64_t small = 1024;  // floats: below, reading all vectors beats a second meeting
constexpr std::int64_t line = 16;     // floats in a cache line: two ranks never write to the same one

std::int64_t staging_bytes() { return whole_pages(2 * Group::chunk * static_cast<std::int64_t>(sizeof(float))); }

std::int64_t meeting_bytes(int size) { return whole_pages(Meeting::bytes(size)); }

std::string told(int rank, const Message& message) {
    const char* const names[] = {"nothing",   "sum",      "barrier", "gather",        "gather_objects",
                                 "broadcast", "allocate", "sum",     "sum to owners", "gather from owners"};
    std::string text = "rank " + std::to_string(rank) + " of this node calls " + names[message.operation];
    if (message.length > 0) text += " of " + std::to_string(message.length) + " elements";
    const auto operation = static_cast<Operation>(message.operation);
    if (operation == Operation::sum || operation == Operation::sum_to_owners ||
        operation == Operation::gather_from_owners)
        text += message.vectors == 0 ? " of private memory"
                                     : " of vector " + std::to_string(message.vectors) + ", from element " +
                                           std::to_string(message.offset);
    return text;
}

void copy(float* to, const float* from, std::int64_t n) {
    if (n > 0) std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
}

}  // namespace

Vectors::Vectors(const std::string& name, std::int64_t length, int rank, int size, SharedMemory::Role role)
    : Vectors(std::make_shared<SharedMemory>(name, bytes(length, size), role), length, rank) {}

Vectors::Vectors(std::shared_ptr<SharedMemory> memory, std::int64_t length, int rank)
    : memory_(std::move(memory)), stride_(bytes(length, 1)), length_(length), rank_(rank) {}

std::int64_t Vectors::bytes(std::int64_t length, int size) {
    return size * whole_pages(std::max<std::int64_t>(1, length * static_cast<std::int64_t>(sizeof(float))));
}

Group::Group(const std::string& name, int rank, int size, SharedMemory::Role role, int (*look)())
    : Group(std::make_shared<SharedMemory>(name, bytes(size), role), rank, size, look) {}

Group::Group(std::shared_ptr<SharedMemory> memory, int rank, int size, int (*look)())
    : rank_(rank),
      size_(size),
      look_(look),
      memory_(std::move(memory)),
      tree_(size),
      vectors_(static_cast<std::size_t>(size)) {}

std::int64_t Group::bytes(int size) { return meeting_bytes(size) + size * staging_bytes(); }

void Group::reserve() {
    const std::int64_t begin = rank_ == 0 ? 0 : meeting_bytes(size_) + rank_ * staging_bytes();
    memory_->reserve(begin, meeting_bytes(size_) + (rank_ + 1) * staging_bytes() - begin);
}

void Group::enter() { meeting_ = std::make_unique<Meeting>(memory_->data(), rank_, size_, look_); }

void Group::add(std::int32_t number, const Vectors* vectors) {
    const std::scoped_lock lock(mutex_);
    entries_.push_back({number, vectors});
}

void Group::forget(const Vectors* vectors) {
    const std::scoped_lock lock(mutex_);
    std::erase_if(entries_, [&](const Entry& entry) { return entry.vectors == vectors; });
}

Group::Place Group::place_of(const float* x, std::int64_t n) const {
    const std::scoped_lock lock(mutex_);
    for (const Entry& entry : entries_) {
        const auto begin = reinterpret_cast<std::uintptr_t>(entry.vectors->mine());
        const auto bytes = reinterpret_cast<std::uintptr_t>(x) - begin;  // wraps around when x lies before
        const auto offset = static_cast<std::int64_t>(bytes / sizeof(float));
        if (offset <= entry.vectors->length() - n) return {entry.number, offset, entry.vectors};
    }
    return {};
}

std::int64_t Group::arrive(Operation operation, const Place& place, std::int64_t n, std::int64_t count) {
    const Message mine{static_cast<std::int32_t>(operation), place.number, place.offset, n, count};
    meeting_->meet(mine);
    std::int64_t total = 0;
    for (int r = 0; r < size_; ++r) {
        const Message& theirs = meeting_->message(r);
        const bool same = theirs.operation == mine.operation && theirs.vectors == mine.vectors &&
                          theirs.offset == mine.offset &&
                          (theirs.length == mine.length || operation == Operation::gather);
        if (!same)
            throw Mismatch(told(rank_, mine) + ", but " + told(r, theirs) +
                           ": all ranks must call the same operations in the same order");
        total += theirs.count;
    }
    return total;
}

float* Group::staging(int rank, unsigned turn) const {
    std::byte* of_rank = memory_->data() + meeting_bytes(size_) + rank * staging_bytes();
    return reinterpret_cast<float*>(of_rank) + (turn % 2) * chunk;
}

void Group::locate(const Place& place) {
    for (int r = 0; r < size_; ++r)
        vectors_[static_cast<std::size_t>(r)] =
            place.vectors != nullptr ? place.vectors->of(r) + place.offset : staging(r, turn_);
}

std::int64_t Group::share_begin(int share, int shares, std::int64_t n) {
    const std::int64_t lines = (n + line - 1) / line;
    return std::min(lines * share / shares * line, n);
}

/// A short vector is one part.
std::int64_t Group::begin_of(int part, int parts, std::int64_t n) {
    if (n < small) return part == 0 ? 0 : n;
    return share_begin(part, parts, n);
}

std::int64_t Group::sum(float* x, std::int64_t n, std::int64_t count) {
    const Place place = place_of(x, n);
    if (n <= small) {
        copy(staging(rank_, turn_), x, n);
        const std::int64_t total = arrive(Operation::sum, place, n, count);
        arrived_at_ = now();
        locate({});
        tree_.in_one(vectors_.data(), 0, n, x);
        ++turn_;
        return total;
    }
    if (place.vectors != nullptr) {
        const std::int64_t total = arrive(Operation::sum, place, n, count);
        arrived_at_ = now();
        locate(place);
        tree_.in_all(vectors_.data(), begin_of(rank_, size_, n), begin_of(rank_ + 1, size_, n));
        arrive(Operation::written, place, n, 0);
        return total;
    }
    // Each meeting says both that a chunk has been summed and that the next one has been brought.
    copy(staging(rank_, turn_), x, std::min(chunk, n));
    const std::int64_t total = arrive(Operation::sum, place, n, count);
    arrived_at_ = now();
    for (std::int64_t at = 0; at < n; at += chunk, ++turn_) {
        locate(place);
        const std::int64_t length = std::min(chunk, n - at);
        tree_.in_all(vectors_.data(), begin_of(rank_, size_, length), begin_of(rank_ + 1, size_, length));
        const std::int64_t next = at + chunk;
        if (next < n) copy(staging(rank_, turn_ + 1), x + next, std::min(chunk, n - next));
        arrive(Operation::written, place, n, 0);
        copy(x + at, staging(rank_, turn_), length);
    }
    return total;
}

std::int64_t Group::sum_to_owners(float* x, std::int64_t n, std::int64_t count) {
    const Place place = place_of(x, n);
    const std::int64_t total = arrive(Operation::sum_to_owners, place, n, count);
    arrived_at_ = now();
    locate(place);
    const std::int64_t begin = share_begin(rank_, size_, n), end = share_begin(rank_ + 1, size_, n);
    tree_.in_one(vectors_.data(), begin, end, x + begin);
    arrive(Operation::written, place, n, 0);  // none may write to what another still reads
    return total;
}

void Group::gather_from_owners(float* x, std::int64_t n) {
    const Place place = place_of(x, n);
    arrive(Operation::gather_from_owners, place, n, 0);
    arrived_at_ = now();
    locate(place);
    // Each reads what is others': were owners to write it, a step would take up to a fifth longer wherever two cores do
    // not share a cache (some of the time on a virtual machine). Each begins with another owner.
    for (int step = 1; step < size_; ++step) {
        const int owner = (rank_ + step) % size_;
        const std::int64_t begin = share_begin(owner, size_, n), end = share_begin(owner + 1, size_, n);
        copy(x + begin, vectors_[static_cast<std::size_t>(owner)] + begin, end - begin);
    }
    arrive(Operation::written, place, n, 0);
}

std::int64_t Group::at_a_time(const float* x, std::int64_t n) const { return is_shared(x, n) ? n : chunk; }

Group::Part Group::begin_sum(float* x, std::int64_t n, std::int64_t count, int lanes) {
    const Place place = place_of(x, n);
    if (place.vectors == nullptr) copy(staging(rank_, turn_), x, n);
    count_ = arrive(Operation::sum, place, n, count);
    arrived_at_ = now();
    locate(place);
    if (rank_ >= lanes) return {nullptr, 0};
    const std::int64_t begin = begin_of(rank_, lanes, n);
    const std::int64_t end = begin_of(rank_ + 1, lanes, n);
    float* data = vectors_[static_cast<std::size_t>(rank_)] + begin;
    tree_.in_one(vectors_.data(), begin, end, data);
    return {data, end - begin};
}

void Group::hand_round(const float* x, std::int64_t n, Part part) {
    locate(place_of(x, n));
    copy_to_others(part);
}

void Group::copy_to_others(Part part) {
    const float* const mine = vectors_[static_cast<std::size_t>(rank_)];
    for (int r = 0; r < size_ && part.length > 0; ++r)
        if (r != rank_) copy(vectors_[static_cast<std::size_t>(r)] + (part.data - mine), part.data, part.length);
}

std::int64_t Group::finish_sum(float* x, std::int64_t n, Part part, std::int64_t total) {
    copy_to_others(part);
    const float* const mine = vectors_[static_cast<std::size_t>(rank_)];
    meeting_->meet({static_cast<std::int32_t>(Operation::written), 0, 0, n, total});
    if (x != mine) {
        copy(x, mine, n);
        ++turn_;
    }
    return meeting_->message(0).count;
}

bool Group::gather(const double* x, std::int64_t n, std::vector<std::int64_t>& counts, std::vector<double>& all) {
    constexpr std::int64_t most = chunk / 2;  // doubles
    if (n > 0 && n <= most) std::memcpy(staging(rank_, turn_), x, static_cast<std::size_t>(n) * sizeof(double));
    arrive(Operation::gather, {}, n, 0);
    counts.clear();
    all.clear();
    for (int r = 0; r < size_; ++r) counts.push_back(meeting_->message(r).length);
    if (std::any_of(counts.begin(), counts.end(), [](std::int64_t length) { return length > most; })) return false;
    for (int r = 0; r < size_; ++r) {
        const auto* values = reinterpret_cast<const double*>(staging(r, turn_));
        all.insert(all.end(), values, values + counts[static_cast<std::size_t>(r)]);
    }
    ++turn_;
    return true;
}

}  // namespace pyddl::comm::node
