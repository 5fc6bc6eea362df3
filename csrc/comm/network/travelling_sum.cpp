#include "comm/network/travelling_sum.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "comm/network/mpi_error.hpp"

namespace pyddl::comm::network {
namespace {

constexpr std::int64_t largest_message = std::int64_t{1} << 30;  // elements; MPI counts are ints
constexpr std::int64_t most_buckets = 1 << 12;                   // each has two tags, and 32767 is sure to be one
constexpr std::int64_t under_way = 1 << 22;                      // elements: 16 MB, and what is received takes as much
constexpr int first_tag = 16;

/// v[0] := the sum of v[0], ..., v[count - 1], along the tree; the others are lost.
void add_tree(float* const* v, int count, std::int64_t n) {
    if (count < 2) return;
    const int half = static_cast<int>(std::bit_ceil(static_cast<unsigned>(count)) / 2);
    add_tree(v, half, n);
    add_tree(v + half, count - half, n);
    float* const to = v[0];
    const float* const from = v[half];
    for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace

Range BucketSum::share(int rank) const { return {n_ * rank / size_, n_ * (rank + 1) / size_}; }

void BucketSum::start(MPI_Comm comm, int tag, float* x, std::int64_t n) {
    if (comm != comm_) {
        check(MPI_Comm_rank(comm, &rank_), "MPI_Comm_rank");
        check(MPI_Comm_size(comm, &size_), "MPI_Comm_size");
        comm_ = comm;
    }
    tag_ = tag, x_ = x, n_ = n;
    const std::int64_t mine = share(rank_).length();
    received_.resize(static_cast<std::size_t>(mine * (size_ - 1)));
    parts_.resize(static_cast<std::size_t>(size_));
    float* next = received_.data();
    for (int r = 0; r < size_; ++r) {
        if (r == rank_) {
            parts_[static_cast<std::size_t>(r)] = x_ + share(rank_).begin;
        } else {
            parts_[static_cast<std::size_t>(r)] = next;
            next += mine;
        }
    }
    step_ = Step::to_owners;
    exchange();
}

/// To and from every other rank. Each begins with the rank above its own, so that no one is everybody's first.
void BucketSum::exchange() {
    const bool to_owners = step_ == Step::to_owners;
    const int tag = to_owners ? tag_ : tag_ + 1;
    requests_.clear();
    const Range mine = share(rank_);
    for (int i = 1; i < size_; ++i) {
        const int r = (rank_ + i) % size_;
        const Range theirs = share(r);
        float* const in = to_owners ? parts_[static_cast<std::size_t>(r)] : x_ + theirs.begin;
        requests_.push_back(MPI_REQUEST_NULL);
        check(MPI_Irecv(in, static_cast<int>((to_owners ? mine : theirs).length()), MPI_FLOAT, r, tag, comm_,
                        &requests_.back()),
              "MPI_Irecv");
    }
    for (int i = 1; i < size_; ++i) {
        const int r = (rank_ + i) % size_;
        const Range out = to_owners ? share(r) : mine;
        requests_.push_back(MPI_REQUEST_NULL);
        check(MPI_Isend(x_ + out.begin, static_cast<int>(out.length()), MPI_FLOAT, r, tag, comm_, &requests_.back()),
              "MPI_Isend");
    }
}

void BucketSum::next_step() {
    if (step_ == Step::to_owners) {
        const Range mine = share(rank_);
        add_tree(parts_.data(), size_, mine.length());
        if (rank_ > 0) std::memcpy(x_ + mine.begin, parts_[0], static_cast<std::size_t>(mine.length()) * sizeof(float));
        step_ = Step::from_owners;
        exchange();
    } else {
        step_ = Step::none;
    }
}

bool BucketSum::advance() {
    while (step_ != Step::none) {
        int done = 0;
        check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
              "MPI_Testall");
        if (!done) return false;
        next_step();
    }
    return true;
}

void BucketSum::wait(Step step) {
    if (step_ != step) return;
    check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
    next_step();
}

TravellingSum::TravellingSum(std::int64_t n, const std::vector<Range>& slices, std::int64_t bucket)
    : n_(n), size_(std::clamp(bucket, (n + most_buckets - 1) / most_buckets, largest_message)) {
    missing_.resize(static_cast<std::size_t>((n + size_ - 1) / size_));
    for (const Range& slice : slices) announce(slice);
    for (const std::int64_t announced : missing_) all_.push_back(-announced);
    sums_.resize(std::min(all_.size(), static_cast<std::size_t>(std::max<std::int64_t>(2, under_way / size_))));
    begin();
}

Range TravellingSum::bucket(std::size_t i) const {
    if (i >= all_.size()) return {0, 0};
    const std::int64_t end = n_ - static_cast<std::int64_t>(i) * size_;
    return {std::max<std::int64_t>(0, end - size_), end};
}

void TravellingSum::begin() {
    wait();
    missing_ = all_;
    next_ = oldest_ = 0;
    early_ = 0;
}

void TravellingSum::announce(Range slice) {
    if (slice.begin < 0 || slice.begin > slice.end || slice.end > n_)
        throw std::invalid_argument("ready was called with " + std::to_string(slice.begin) + " and " +
                                    std::to_string(slice.end) + "; expected a range within the " + std::to_string(n_) +
                                    " elements of the gradient");
    while (slice.length() > 0) {
        const auto i = static_cast<std::size_t>((n_ - slice.end) / size_);
        const std::int64_t begin = std::max(slice.begin, n_ - static_cast<std::int64_t>(i + 1) * size_);
        missing_[i] -= slice.end - begin;
        slice.end = begin;
    }
}

Range TravellingSum::next_final() {
    if (next_ >= all_.size() || missing_[next_] > 0) return {0, 0};
    ++early_;
    return next();
}

Range TravellingSum::next() { return next_ < all_.size() ? bucket(next_++) : Range{0, 0}; }

void TravellingSum::start(MPI_Comm comm, float* x, std::int64_t n) {
    const std::size_t i = next_ - 1;
    if (i >= oldest_ + sums_.size()) wait(i + 1 - sums_.size());  // the others do so too: each bucket ends in its turn
    sum_of(i).start(comm, first_tag + 2 * static_cast<int>(i), x, n);
}

void TravellingSum::progress() {
    for (std::size_t i = oldest_; i < next_; ++i)
        if (sum_of(i).advance() && i == oldest_) ++oldest_;
}

void TravellingSum::wait(std::size_t end) {
    for (std::size_t i = oldest_; i < end; ++i) sum_of(i).wait(BucketSum::Step::to_owners);
    for (std::size_t i = oldest_; i < end; ++i) sum_of(i).wait(BucketSum::Step::from_owners);
    oldest_ = end;
}

}  // namespace pyddl::comm::network
