#include "comm/network/collectives.hpp"

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>

#include "comm/network/mpi_error.hpp"

namespace pyddl::comm::network {
namespace {

constexpr std::int64_t largest_message = std::int64_t{1} << 30;  // elements; MPI counts are ints
constexpr std::int64_t summed_at_once = std::int64_t{1} << 23;   // floats, 32 MB: MPI takes up to as much for itself
constexpr std::int64_t block = std::int64_t{1} << 20;            // floats: keeps the scratch space at 2 MB
constexpr std::int64_t small = 4096;                             // floats; below, fewer steps beat fewer bytes
constexpr int sum_tag = 1;

int ranks(MPI_Comm comm) {
    int size = 0;
    check(MPI_Comm_size(comm, &size), "MPI_Comm_size");
    return size;
}

int my_rank(MPI_Comm comm) {
    int rank = 0;
    check(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
    return rank;
}

void swap_floats(MPI_Comm comm, int partner, const float* out, std::int64_t n_out, float* in, std::int64_t n_in) {
    check(MPI_Sendrecv(out, static_cast<int>(n_out), MPI_FLOAT, partner, sum_tag, in, static_cast<int>(n_in), MPI_FLOAT,
                       partner, sum_tag, comm, MPI_STATUS_IGNORE),
          "MPI_Sendrecv");
}

void add(float* x, const float* y, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) x[i] += y[i];  // a + b has the bits of b + a: both partners agree
}

void recursive_doubling(MPI_Comm comm, int rank, int size, float* x, std::int64_t n, float* scratch) {
    for (int distance = 1; distance < size; distance *= 2) {
        swap_floats(comm, rank ^ distance, x, n, scratch, n);
        add(x, scratch, n);
    }
}

/// Halve the range with ever farther partners until each rank holds its part of the sum; then double it back.
void halve_and_double(MPI_Comm comm, int rank, int size, float* x, std::int64_t n, float* scratch) {
    struct Range {
        std::int64_t begin, end;
    };
    Range mine{0, n};
    Range before[31];
    int depth = 0;
    for (int distance = 1; distance < size; distance *= 2, ++depth) {
        before[depth] = mine;
        const std::int64_t middle = mine.begin + (mine.end - mine.begin) / 2;
        const bool lower = (rank & distance) == 0;
        const Range theirs = lower ? Range{middle, mine.end} : Range{mine.begin, middle};
        mine = lower ? Range{mine.begin, middle} : Range{middle, mine.end};
        swap_floats(comm, rank ^ distance, x + theirs.begin, theirs.end - theirs.begin, scratch, mine.end - mine.begin);
        add(x + mine.begin, scratch, mine.end - mine.begin);
    }
    while (depth-- > 0) {
        const Range whole = before[depth];
        const Range theirs = mine.begin == whole.begin ? Range{mine.end, whole.end} : Range{whole.begin, mine.begin};
        swap_floats(comm, rank ^ (1 << depth), x + mine.begin, mine.end - mine.begin, x + theirs.begin,
                    theirs.end - theirs.begin);
        mine = whole;
    }
}

}  // namespace

std::int64_t sum(MPI_Comm comm, std::int64_t value) {
    check(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_SUM, comm), "MPI_Allreduce");
    return value;
}

void sum(MPI_Comm comm, float* x, std::int64_t n) {
    for (std::int64_t at = 0; at < n; at += summed_at_once) {
        const auto count = static_cast<int>(std::min(summed_at_once, n - at));
        check(MPI_Allreduce(MPI_IN_PLACE, x + at, count, MPI_FLOAT, MPI_SUM, comm), "MPI_Allreduce");
    }
}

void ordered_sum(MPI_Comm comm, float* x, std::int64_t n, std::vector<float>& scratch) {
    const int size = ranks(comm);
    if ((size & (size - 1)) != 0)
        throw std::invalid_argument("an ordered sum needs 1, 2, 4, 8, ... ranks; got " + std::to_string(size));
    const int rank = my_rank(comm);
    scratch.resize(static_cast<std::size_t>(std::max(small, std::min(n, block) / 2 + 1)));
    for (std::int64_t at = 0; at < n; at += block) {
        const std::int64_t count = std::min(block, n - at);
        const auto sum_block = count <= small ? recursive_doubling : halve_and_double;
        sum_block(comm, rank, size, x + at, count, scratch.data());
    }
}

void broadcast(MPI_Comm comm, void* x, std::int64_t bytes, int root) {
    for (std::int64_t at = 0; at < bytes; at += largest_message) {
        const auto count = static_cast<int>(std::min(largest_message, bytes - at));
        check(MPI_Bcast(static_cast<char*>(x) + at, count, MPI_BYTE, root, comm), "MPI_Bcast");
    }
}

void gather(MPI_Comm comm, const double* x, std::int64_t n, std::vector<std::int64_t>& counts,
            std::vector<double>& all) {
    const auto size = static_cast<std::size_t>(ranks(comm));
    counts.resize(size);
    check(MPI_Allgather(&n, 1, MPI_INT64_T, counts.data(), 1, MPI_INT64_T, comm), "MPI_Allgather");
    std::vector<int> lengths(size), starts(size);
    std::int64_t total = 0;
    for (std::size_t r = 0; r < size; ++r) {
        if (total + counts[r] > INT_MAX)
            throw std::length_error("the gathered vectors have more than " + std::to_string(INT_MAX) +
                                    " elements in all; gather smaller pieces");
        lengths[r] = static_cast<int>(counts[r]);
        starts[r] = static_cast<int>(total);
        total += counts[r];
    }
    all.resize(static_cast<std::size_t>(total));
    check(
        MPI_Allgatherv(x, static_cast<int>(n), MPI_DOUBLE, all.data(), lengths.data(), starts.data(), MPI_DOUBLE, comm),
        "MPI_Allgatherv");
}

void barrier(MPI_Comm comm) { check(MPI_Barrier(comm), "MPI_Barrier"); }

}  // namespace pyddl::comm::network
