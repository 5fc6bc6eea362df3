/// A parameter server and its workers, in the memory of one node. The server publishes a vector and has a
/// mailbox for each worker, and workers take tickets for their minibatches.
///
/// Letters: n elements, W workers, M of them mates: on the server's node. Each worker has a number below W, each
/// mate also a seat below M.
///
///     operation   bytes moved            waits while
///     push        4 n, into the mailbox  both slots of the mailbox are full
///     fetch       4 n, out of a buffer   the worker's own pushes are in use, or the progress has not been published
///     claim       -                      the epoch has not begun
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/node/mailbox.hpp"
#include "comm/node/process.hpp"
#include "comm/node/published.hpp"
#include "comm/node/shared_memory.hpp"
#include "comm/node/tickets.hpp"

namespace pyddl::comm::node {

/// What a server shares with its mates: places in one piece of memory, the same for all sides.
class Shard {
  public:
    struct Shape {
        std::int64_t length;
        int workers;
        int mates;
    };
    struct alignas(cache_line) Seat {
        Presence presence;
        std::atomic<std::uint32_t> finished;  ///< the latest epoch that the worker is through with
    };

    static std::int64_t bytes(Shape shape);
    Shard(std::byte* memory, Shape shape);

    Shape shape;
    Futex& bell;  ///< changes when there is something to do for the server
    Tickets& tickets;
    Presence& server;
    Published published;
    Seat& seat(int mate) const { return seats_[mate]; }
    Mailbox mailbox(int mate) const { return {mailboxes_ + mate * Mailbox::bytes(shape.length), shape.length}; }

  private:
    struct Head;
    explicit Shard(std::byte* memory, Shape shape, Head* head);

    Seat* seats_;
    std::byte* mailboxes_;
};

/// The server's side.
class Server {
  public:
    /// Workers that are not mates: something else carries their messages, and moves them on when it is pumped.
    struct Outside {
        virtual ~Outside() = default;
        virtual void pump() = 0;
        virtual void released(int worker) = 0;  ///< a slot of the worker's mailbox is empty again
    };
    struct Event {
        enum Kind { over, push, finished, left } kind;
        int worker;
        int slot;             ///< of a push, see vector
        Mailbox::Push about;  ///< of a push
        std::string why;      ///< one left
    };

    /// @param seats of the workers; -1 for those outside
    /// @param ranks of the workers, for messages
    Server(std::shared_ptr<SharedMemory> memory, std::int64_t length, std::vector<int> seats, std::vector<int> ranks,
           int (*look)());
    ~Server() { leave(); }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// After all mates have entered: begin to watch them.
    void watch();
    void set_outside(Outside* outside) { outside_ = outside; }

    int buffers() const { return shard_.published.buffers(); }
    float* buffer(int index) const { return shard_.published.buffer(index); }
    int current() const { return shard_.published.current(); }
    /// A buffer to write the next version to, the same until it is published. Waits while all are pinned.
    int free();
    /// What was written to the free buffer becomes the current version, which is returned; without a call of free
    /// only the progress changes.
    std::int64_t publish(std::int64_t progress);

    /// The next push; or the news that a worker has finished the epoch, or that it has died or left before it had; or
    /// that the epoch is over: all who are left have finished it, and no mailbox holds a push. A push's vector stays
    /// until the next call.
    Event receive();
    float* vector(int worker, int slot) const {
        return members_[static_cast<std::size_t>(worker)].mailbox.vector(slot);
    }
    void begin_epoch(std::int64_t tickets);
    Tickets& tickets() { return shard_.tickets; }
    void leave() noexcept { shard_.server.leave(); }

    double wait_seconds() const { return wait_seconds_; }

    // ---- for those outside

    /// A worker's side of its mailbox, before the first push.
    Mailbox mailbox(int worker) const { return members_[static_cast<std::size_t>(worker)].mailbox; }
    Published& published() { return shard_.published; }
    void ring() { shard_.bell.advance(); }
    void finish(int worker, std::uint32_t epoch) { members_[static_cast<std::size_t>(worker)].seat->finished = epoch; }
    void leave(int worker) { members_[static_cast<std::size_t>(worker)].seat->presence.leave(); }
    void lose(int worker, const std::string& why);

  private:
    struct Member {
        Mailbox mailbox;
        Shard::Seat* seat;
        std::string name;
        bool mate;
        Process process;
        std::string gone;           ///< why, or nothing
        bool told = false;          ///< it is no news
        std::uint32_t told_of = 0;  ///< the latest epoch that it is known to have finished

        bool finished(std::uint32_t epoch) const { return seat->finished.load() >= epoch; }
        bool is_news() const { return !gone.empty() && !told; }
    };

    template <class Ready>
    void wait(Futex& futex, const Ready& ready);

    void look_around();
    void look_at_mates();
    void release();

    std::shared_ptr<SharedMemory> memory_;
    Shard shard_;
    std::unique_ptr<SharedMemory> private_;  ///< seats and mailboxes of those outside
    std::vector<Member> members_;
    int (*look_)();
    Outside* outside_ = nullptr;
    int free_ = -1;
    int held_worker_ = -1;
    int held_slot_ = 0;
    int next_ = 0;  ///< whose mailbox to look into first
    double looked_at_ = 0;
    double wait_seconds_ = 0;
};

/// A mate's side.
class Worker {
  public:
    /// @param server its name for messages: "server 0 (rank 0)"
    Worker(std::shared_ptr<SharedMemory> memory, Shard::Shape shape, int number, int seat, const std::string& server,
           int (*look)());
    ~Worker() { leave(); }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// After the server and all mates have entered.
    void watch() { process_.watch(shard_.server.process.load()); }

    void push(const float* vector, std::int64_t samples, std::int64_t version, std::int64_t note = 0);
    /// Copy the newest version once the server is through with this worker's pushes and the progress is reached; the
    /// version.
    std::int64_t fetch(float* out, std::int64_t progress);
    std::int64_t claim();
    void close_tickets() { shard_.tickets.close(); }
    void finish();
    void leave() noexcept { seat_.presence.leave(); }

    double wait_seconds() const { return wait_seconds_; }
    double communication_seconds() const { return communication_seconds_; }
    std::int64_t bytes_sent() const { return bytes_sent_; }

  private:
    template <class Ready>
    double wait(Futex& futex, const Ready& ready);
    void look_around();

    std::shared_ptr<SharedMemory> memory_;
    Shard shard_;
    Shard::Seat& seat_;
    Mailbox mailbox_;
    Process process_;
    int number_;
    std::string server_;
    int (*look_)();
    std::uint32_t epoch_ = 1;
    double wait_seconds_ = 0;
    double communication_seconds_ = 0;
    std::int64_t bytes_sent_ = 0;
};

}  // namespace pyddl::comm::node
