/// The parameter server over the network: messages between a server and the workers that do not share its memory.
///
///     message    tag      from    content
///     request    request  worker  kind and three numbers
///     push       vector   worker  the vector, in chunks, after its request
///     answer     answer   server  the version or ticket
///     fetched    vector   server  the vector, in chunks, after its answer
///     taken      taken    server  a push has left its mailbox: there is room for another
///
/// Letters: n elements. A push or a fetch sends 4 n bytes and two small messages. Nothing here waits inside MPI:
/// requests are tested, so that signals are seen, and a death where MPI reports it. No message is received from
/// "any source": after a death MPI would refuse that.
#pragma once
#include <mpi.h>

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pyddl::comm::network {

/// Requests that are under way together.
class Transfer {
  public:
    MPI_Request& add() { return requests_.emplace_back(MPI_REQUEST_NULL); }
    bool empty() const { return requests_.empty(); }
    /// MPI_SUCCESS or an error code; `done` when all are over.
    int test(bool& done);
    void cancel();
    /// Of a process that died: nothing comes any more.
    void forget() { requests_.clear(); }

  private:
    std::vector<MPI_Request> requests_;
};

/// What messages ask of a server.
class Desk {
  public:
    virtual ~Desk() = default;
    virtual float* slot(int worker) = 0;  ///< where the worker's next push goes
    virtual void post(int worker, std::int64_t samples, std::int64_t version, std::int64_t note) = 0;
    struct Pinned {
        const float* data = nullptr;  ///< null: the progress has not been published
        std::int64_t version = 0;
    };
    virtual Pinned pin(int worker, std::int64_t progress) = 0;
    virtual void unpin(int worker) = 0;
    static constexpr std::int64_t not_begun = -2;
    /// A ticket, -1 when all have been given, or not_begun.
    virtual std::int64_t claim(std::int64_t epoch) = 0;
    virtual void close_tickets() = 0;
    virtual void finish(int worker, std::int64_t epoch) = 0;
    virtual void leave(int worker) = 0;  ///< in order
    virtual void lose(int worker, const std::string& why) = 0;
};

using Request = std::array<std::int64_t, 4>;  // kind, and what belongs to it
using Answer = std::array<std::int64_t, 1>;

/// The server's side.
class Server {
  public:
    struct Peer {
        int worker;
        int rank;
    };

    /// @param comm for these messages alone, over which errors return
    /// @param chunk elements in a message; MPI counts are ints
    Server(MPI_Comm comm, const std::vector<Peer>& peers, std::int64_t length, std::int64_t chunk, Desk& desk);

    /// Do whatever can be done now for those who asked.
    void serve();
    /// A push of this worker has left its mailbox.
    void taken(int worker);
    /// Answer that the service has ended until all have left or died; calls `pause` between.
    void close(const std::function<void()>& pause);

    std::int64_t bytes_sent() const { return bytes_sent_; }

  private:
    struct Member {
        int worker;
        int rank;
        Request request;     ///< the one that is received, or carried out
        bool asked = false;  ///< it waits for its answer
        Transfer pushed;     ///< into the mailbox
        Answer answer;
        Transfer answered;
        bool pinned = false;
        // Two at most have not been received: a push waits for the message before the last. One more says the end.
        std::array<Answer, 3> taken;
        std::array<Transfer, 3> told;
        std::int64_t takes = 0;
        bool gone = false;
    };

    void receive_requests();
    void receive_request(std::size_t i);
    void begin(Member& member);
    void go_on(std::size_t i);
    void answer(Member& member);
    void tell(Member& member, std::int64_t content);
    /// Whether the transfer is over; a worker that died loses its place.
    bool over(Member& member, Transfer& transfer);
    void lose(Member& member, const std::string& why);

    MPI_Comm comm_;
    std::int64_t length_;
    std::int64_t chunk_;
    Desk& desk_;
    std::vector<Member> members_;
    std::vector<MPI_Request> requests_;  ///< one receive for each member
    bool closing_ = false;
    std::int64_t bytes_sent_ = 0;
};

/// A worker's side.
class Worker {
  public:
    /// @param server its rank, and its name for messages: "server 0 (rank 0)"
    Worker(MPI_Comm comm, int server, const std::string& name, int number, std::int64_t length, std::int64_t chunk,
           int (*look)());

    void push(const float* vector, std::int64_t samples, std::int64_t version, std::int64_t note = 0);
    /// Once the server is through with this worker's pushes, ask for the vector; then wait for it. `out` must stay
    /// where it is.
    void request(float* out, std::int64_t progress);
    std::int64_t fetch();
    std::int64_t claim();
    void close_tickets();
    void finish();
    /// Leave in order, as the server does.
    void close();

    double wait_seconds() const { return wait_seconds_; }
    double communication_seconds() const { return communication_seconds_; }
    std::int64_t bytes_sent() const { return bytes_sent_; }

  private:
    static constexpr std::size_t requests_under_way = 8;

    void send(const Request& request);
    std::int64_t receive_answer();
    void receive_taken();
    void wait(Transfer& transfer);
    [[noreturn]] void lose(const std::string& why);

    MPI_Comm comm_;
    int server_;
    std::string name_;
    int number_;
    std::int64_t length_;
    std::int64_t chunk_;
    int (*look_)();
    std::array<Request, requests_under_way> requests_;
    std::array<Transfer, requests_under_way> requested_;
    std::size_t sent_ = 0;
    std::array<std::vector<float>, 2> vectors_;  ///< of the pushes under way
    std::array<Transfer, 2> pushed_;
    std::int64_t pushes_ = 0;
    std::int64_t taken_ = 0;  ///< pushes that have left their mailbox
    Answer content_;
    Answer answer_;
    Transfer answered_;
    Transfer fetched_;
    bool closed_ = false;
    std::int64_t epoch_ = 1;
    double wait_seconds_ = 0;
    double communication_seconds_ = 0;
    std::int64_t bytes_sent_ = 0;
};

}  // namespace pyddl::comm::network
