/// A sum over ranks that begins before its vector is complete: finished buckets travel while the rest is computed.
/// Letters: P ranks, n elements. No Python and no atomics, as in collectives.hpp.
///
/// The vector is cut into buckets from its end, since a backward pass finishes the last slices first. They start in
/// this order and no other, so that all ranks start the same ones; a bucket that is final waits for those before it.
/// Each rank owns a share of every bucket: it receives the others' values there, adds them, and sends them the sum.
///
///     steps                bytes sent per rank    order of addition
///     2 for each bucket    2 (P-1)/P 4 n          ((0+1)+(2+3))+(4+5) ..., the same bits on every rank
///
/// MPI's own non-blocking sums were tried: Open MPI's go up and down a tree, which for two ranks takes twice as long.
/// MPI moves bytes only when it is called: each announcement lets it. A long vector has no more than 16 MB, or two
/// buckets, under way at a time, since what a rank receives takes memory of its own.
#pragma once
#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pyddl::comm::network {

struct Range {
    std::int64_t begin, end;
    std::int64_t length() const { return end - begin; }
};

/// The sum of one bucket, by way of owners, without blocking. Its memory can be used again and again.
class BucketSum {
  public:
    enum class Step { none, to_owners, from_owners };

    /// Begin to sum x over the ranks, in place. Nobody may touch x before it is done.
    /// @param tag this and the next one belong to no other message on this communicator meanwhile
    void start(MPI_Comm comm, int tag, float* x, std::int64_t n);
    /// Let bytes move; true when there is nothing left to do.
    bool advance();
    /// Wait for the end of this step, if it is at it.
    void wait(Step step);

  private:
    Range share(int rank) const;
    void exchange();
    void next_step();

    MPI_Comm comm_ = MPI_COMM_NULL;
    int tag_ = 0, rank_ = 0, size_ = 1;
    float* x_ = nullptr;
    std::int64_t n_ = 0;
    Step step_ = Step::none;
    std::vector<float> received_;
    std::vector<float*> parts_;  ///< values of each rank in this rank's share
    std::vector<MPI_Request> requests_;
};

class TravellingSum {
  public:
    /// @param slices those elements of [0, n) that will be announced; others are final from the beginning
    /// @param bucket elements, at least 1
    TravellingSum(std::int64_t n, const std::vector<Range>& slices, std::int64_t bucket);

    /// Begin anew: nothing is final, nothing has started. Waits for what an abandoned sum left on its way.
    void begin();

    /// Elements of `slice` are final, each announced once at the most.
    /// @throws std::invalid_argument when it is no part of the vector
    void announce(Range slice);

    /// The next bucket to start, if it is final; an empty one otherwise.
    Range next_final();
    /// The next bucket to start, final or not; an empty one after the last.
    Range next();

    /// Start the sum of x over the ranks, in place: the bucket that was the latest next. Collective.
    void start(MPI_Comm comm, float* x, std::int64_t n);
    /// Let MPI move on.
    void progress();
    /// Until all that have started are done.
    void wait() { wait(next_); }

    /// Buckets that started by `next_final` since `begin`.
    std::int64_t early() const { return early_; }

  private:
    Range bucket(std::size_t i) const;
    BucketSum& sum_of(std::size_t i) { return sums_[i % sums_.size()]; }
    void wait(std::size_t end);  ///< for the buckets before `end`, which have started

    std::int64_t n_, size_;
    std::vector<std::int64_t> all_;      ///< of each bucket: its elements that will be announced
    std::vector<std::int64_t> missing_;  ///< of each bucket: those that have not been
    std::vector<BucketSum> sums_;        ///< of those under way, which take turns
    std::size_t next_ = 0;               ///< of the buckets: the first that has not started
    std::size_t oldest_ = 0;             ///< the first that may not be done
    std::int64_t early_ = 0;
};

}  // namespace pyddl::comm::network
