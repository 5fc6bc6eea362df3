/// Group: the ranks of one node, and their collective operations in shared memory.
/// Letters: P ranks, n elements. Everything but construction and destruction of vectors is collective over
/// the node.
///
///     operation                        meetings   bytes moved per rank (4 n is the vector)
///     sum, vector in shared memory     2          reads 4 n, writes 4 n
///     sum, small private vector        1          writes 4 n, reads P 4 n
///     sum, large private vector        2 a chunk  copies in and out on top of the first line
///     sum to owners, shared memory     2          reads 4 n, writes 4 n / P
///     gather from owners, the same     2          reads and writes 4 n (P-1) / P
///
/// Each rank adds up its part of all vectors and writes the sum into all of them: no byte is copied anywhere.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/node/meeting.hpp"
#include "comm/node/node_sum.hpp"
#include "comm/node/shared_memory.hpp"

namespace pyddl::comm::node {

/// Ranks of a node called different operations, or with different vectors.
struct Mismatch : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Operation : std::int32_t {
    none,
    sum,
    barrier,
    gather,
    gather_objects,
    broadcast,
    allocate,
    written,
    sum_to_owners,
    gather_from_owners
};

/// One vector per rank, in one piece of shared memory; what a rank's NumPy views keep alive.
class Vectors {
  public:
    Vectors(const std::string& name, std::int64_t length, int rank, int size, SharedMemory::Role role);
    Vectors(std::shared_ptr<SharedMemory> memory, std::int64_t length, int rank);

    static std::int64_t bytes(std::int64_t length, int size);
    void reserve() { memory_->reserve(rank_ * stride_, stride_); }
    std::string place() const { return memory_->place(); }
    float* of(int rank) const { return reinterpret_cast<float*>(memory_->data() + rank * stride_); }
    float* mine() const { return of(rank_); }
    std::int64_t length() const { return length_; }

  private:
    std::shared_ptr<SharedMemory> memory_;
    std::int64_t stride_;
    std::int64_t length_;
    int rank_;
};

class Group {
  public:
    /// Elements of a private vector that are summed at a time, by way of shared memory.
    static constexpr std::int64_t chunk = 1 << 15;

    Group(const std::string& name, int rank, int size, SharedMemory::Role role, int (*look)());
    /// As in a test, where the ranks are threads and share the mapping too.
    Group(std::shared_ptr<SharedMemory> memory, int rank, int size, int (*look)());

    static std::int64_t bytes(int size);
    std::string place() const { return memory_->place(); }
    /// The steps after construction, each when all ranks have done the one before: allocate memory (which may
    /// fail), take one's place in it, begin to watch the others.
    void reserve();
    void enter();
    void watch() { meeting_->watch(); }
    void leave() noexcept {
        if (meeting_) meeting_->leave();
    }
    int rank() const { return rank_; }
    int size() const { return size_; }

    /// Meet for `operation` on n elements, and check that the others do the same.
    /// @throws Mismatch, PeerLost, Interrupted
    void meet(Operation operation, std::int64_t n) { arrive(operation, {}, n, 0); }

    /// Register vectors under a number that is the same on all ranks; forget them when their memory goes.
    void add(std::int32_t number, const Vectors* vectors);
    void forget(const Vectors* vectors);

    /// Replace x by its sum over the node, and return the sum of the counts: the whole of a sum where there
    /// is one node.
    std::int64_t sum(float* x, std::int64_t n, std::int64_t count);

    /// The same, of x in shared vectors, in this rank's share alone; what others then have in theirs stays there.
    std::int64_t sum_to_owners(float* x, std::int64_t n, std::int64_t count);
    /// Each share of x, in shared vectors, becomes what its owner has there.
    void gather_from_owners(float* x, std::int64_t n);

    /// The steps of a sum over several nodes. x lies in one chunk of staging memory or in shared vectors.
    struct Part {
        float* data;  ///< the sum over the node, of this rank's part
        std::int64_t length;
    };
    /// Meet, and add up this rank's part, of `lanes` parts in all; ranks above have none.
    Part begin_sum(float* x, std::int64_t n, std::int64_t count, int lanes);
    std::int64_t count() const { return count_; }  ///< sum of the counts of the latest begin_sum
    /// Hand the part, by now the sum over all nodes, to the ranks of the node, with a number for those
    /// without a part.
    std::int64_t finish_sum(float* x, std::int64_t n, Part part, std::int64_t total);
    /// The same without a meeting, of x in shared vectors: copies the part only. Others see it after the next meeting.
    void hand_round(const float* x, std::int64_t n, Part part);
    /// Whether x lies in registered vectors.
    bool is_shared(const float* x, std::int64_t n) const { return place_of(x, n).vectors != nullptr; }
    /// Elements that begin_sum takes at a time: n for shared vectors, a chunk for private ones.
    std::int64_t at_a_time(const float* x, std::int64_t n) const;

    /// Float64 vectors of all ranks, in rank order; counts receives their lengths. False when one is too long
    /// for staging memory: then nothing was gathered.
    bool gather(const double* x, std::int64_t n, std::vector<std::int64_t>& counts, std::vector<double>& all);

    double arrived_at() const { return arrived_at_; }  ///< when the ranks had met for the latest sum

  private:
    struct Entry {
        std::int32_t number;
        const Vectors* vectors;
    };
    struct Place {
        std::int32_t number = 0;
        std::int64_t offset = 0;
        const Vectors* vectors = nullptr;
    };

    Place place_of(const float* x, std::int64_t n) const;
    std::int64_t arrive(Operation operation, const Place& place, std::int64_t n, std::int64_t count);
    float* staging(int rank, unsigned turn) const;
    void locate(const Place& place);
    void copy_to_others(Part part);
    static std::int64_t begin_of(int part, int parts, std::int64_t n);
    /// Shares begin on cache lines, as pyddl/comm/group.py cuts a vector of any length.
    static std::int64_t share_begin(int share, int shares, std::int64_t n);

    int rank_;
    int size_;
    int (*look_)();
    std::shared_ptr<SharedMemory> memory_;
    std::unique_ptr<Meeting> meeting_;
    TreeSum tree_;
    mutable std::mutex mutex_;  ///< of the entries: any thread may drop the last view of a vector
    std::vector<Entry> entries_;
    std::vector<float*> vectors_;  ///< of all ranks, for the sum at hand
    std::int64_t count_ = 0;
    double arrived_at_ = 0;
    unsigned turn_ = 0;  ///< which half of staging memory comes next
};

}  // namespace pyddl::comm::node
