/// Published: the vector that one writer serves and many readers copy. A copy is one version, never torn, and
/// neither side locks the other out.
///
/// The writer fills a free buffer and makes it the current one by storing its index. A reader pins the
/// current buffer: it stores the index in a hazard slot of its own, and checks that the buffer is current
/// still. Before the writer takes a buffer as free it scans the slots; since stores and loads of index and
/// slots are sequentially consistent, a pin that passed its check is seen by every scan after a later
/// publication. Michael (2004), Hazard pointers: safe memory reclamation for lock-free objects, IEEE TPDS
/// 15(6), 491-504, with a fixed set of buffers in place of an allocator.
///
/// Letters: n elements, R readers, B buffers, 3 at least. With B = R + 2 the writer never waits.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "comm/node/wait.hpp"

namespace pyddl::comm::node {

class Published {
  public:
    static std::int64_t bytes(std::int64_t length, int readers, int buffers);

    /// @param memory zero at first, aligned to a cache line, the same for all sides
    Published(std::byte* memory, std::int64_t length, int readers, int buffers);

    // ---- the writer

    /// Before anyone else comes: nothing has been published.
    void initialise();
    /// Index of the buffer that is current; the writer's own, so it needs no pin.
    int current() const;
    int buffers() const { return count_; }
    float* buffer(int index) const { return buffers_ + index * stride_; }
    /// Index of a buffer that is neither current nor pinned, or -1 while there is none.
    int try_free() const;
    /// Changes whenever a pin is taken away.
    Futex& unpinned();
    /// Make a buffer that try_free gave the current one; its version, from 0. With the current one itself,
    /// only the progress changes.
    std::int64_t publish(int index, std::int64_t progress);
    /// Take away the pin of a reader that has died.
    void clear(int reader) { unpin(reader); }

    // ---- readers

    std::int64_t progress() const;  ///< the writer's own number; -1 until something is published
    /// Changes with every publication.
    Futex& published();
    struct Pinned {
        const float* data;
        std::int64_t version;
    };
    /// The current buffer, which nobody writes to until unpin. One at a time for each reader.
    Pinned pin(int reader);
    void unpin(int reader);

  private:
    struct Head;
    struct Hazard;
    std::atomic<std::uint32_t>& hazard(int reader) const;

    Head* head_;
    Hazard* hazards_;
    float* buffers_;
    std::int64_t stride_;  ///< floats
    int readers_;
    int count_;
};

}  // namespace pyddl::comm::node
