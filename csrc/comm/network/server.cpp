#include "comm/network/server.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "comm/errors.hpp"
#include "comm/network/backoff.hpp"
#include "comm/network/mpi_error.hpp"

namespace pyddl::comm::network {
namespace {

enum Tag { request_tag = 11, vector_tag, answer_tag, taken_tag };
enum Kind : std::int64_t { push, fetch, claim_ticket, no_more_tickets, finish_epoch, leave };

constexpr std::int64_t ended = -3;  // an answer: the service has

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <std::size_t n>
void send(MPI_Comm comm, int rank, Tag tag, const std::array<std::int64_t, n>& content, Transfer& transfer) {
    check(MPI_Isend(content.data(), static_cast<int>(n), MPI_INT64_T, rank, tag, comm, &transfer.add()), "MPI_Isend");
}

/// Chunks of one message keep their order, as they have one source, tag and communicator.
void send_vector(MPI_Comm comm, int rank, const float* x, std::int64_t n, std::int64_t chunk, Transfer& transfer) {
    for (std::int64_t at = 0; at < n; at += chunk)
        check(MPI_Isend(x + at, static_cast<int>(std::min(chunk, n - at)), MPI_FLOAT, rank, vector_tag, comm,
                        &transfer.add()),
              "MPI_Isend");
}

void receive_vector(MPI_Comm comm, int rank, float* x, std::int64_t n, std::int64_t chunk, Transfer& transfer) {
    for (std::int64_t at = 0; at < n; at += chunk)
        check(MPI_Irecv(x + at, static_cast<int>(std::min(chunk, n - at)), MPI_FLOAT, rank, vector_tag, comm,
                        &transfer.add()),
              "MPI_Irecv");
}

}  // namespace

// ---- Transfer

int Transfer::test(bool& done) {
    int all = 1;
    int code = MPI_SUCCESS;
    for (MPI_Request& request : requests_) {  // one by one: each call gives the error of its request
        int over = 1;
        code = MPI_Test(&request, &over, MPI_STATUS_IGNORE);
        all &= over;
        if (code != MPI_SUCCESS || over == 0) break;
    }
    done = all != 0 || code != MPI_SUCCESS;
    if (done) requests_.clear();
    return code;
}

void Transfer::cancel() {
    for (MPI_Request& request : requests_)
        if (request != MPI_REQUEST_NULL && MPI_Cancel(&request) == MPI_SUCCESS) MPI_Wait(&request, MPI_STATUS_IGNORE);
    requests_.clear();
}

// ---- Server

Server::Server(MPI_Comm comm, const std::vector<Peer>& peers, std::int64_t length, std::int64_t chunk, Desk& desk)
    : comm_(comm),
      length_(length),
      chunk_(chunk),
      desk_(desk),
      members_(peers.size()),
      requests_(peers.size(), MPI_REQUEST_NULL) {
    for (std::size_t i = 0; i < peers.size(); ++i) {
        members_[i].worker = peers[i].worker;
        members_[i].rank = peers[i].rank;
        receive_request(i);
    }
}

void Server::receive_request(std::size_t i) {
    Member& member = members_[i];
    check(MPI_Irecv(member.request.data(), static_cast<int>(member.request.size()), MPI_INT64_T, member.rank,
                    request_tag, comm_, &requests_[i]),
          "MPI_Irecv");
}

void Server::serve() {
    receive_requests();
    for (std::size_t i = 0; i < members_.size(); ++i)
        if (!members_[i].gone) go_on(i);
}

void Server::receive_requests() {
    for (;;) {
        int i = MPI_UNDEFINED;
        int any = 0;
        const int code = MPI_Testany(static_cast<int>(requests_.size()), requests_.data(), &i, &any, MPI_STATUS_IGNORE);
        if (i == MPI_UNDEFINED) return check(code, "MPI_Testany");
        Member& member = members_[static_cast<std::size_t>(i)];
        if (says_died(code)) {
            lose(member, " died");
        } else {
            check(code, "MPI_Testany");
            if (any == 0) return;
            begin(member);
        }
    }
}

void Server::begin(Member& member) {
    switch (member.request[0]) {
        case push:
            receive_vector(comm_, member.rank, desk_.slot(member.worker), length_, chunk_, member.pushed);
            break;
        case no_more_tickets:
            desk_.close_tickets();
            break;
        case finish_epoch:
            desk_.finish(member.worker, member.request[1]);
            break;
        case leave:
            if (!closing_) tell(member, ended);
            member.gone = true;  // what it was sent has arrived
            desk_.leave(member.worker);
            return;
        default:
            break;
    }
    member.asked = true;
}

/// Carry on with what a worker asked for, and receive its next request when that is over.
void Server::go_on(std::size_t i) {
    Member& member = members_[i];
    if (!member.answered.empty()) {
        if (!over(member, member.answered)) return;
        if (member.pinned) desk_.unpin(member.worker);
        member.pinned = false;
    }
    if (member.gone || !member.asked) return;
    const std::int64_t kind = member.request[0];
    if (kind == push) {
        if (!over(member, member.pushed) || member.gone) return;
        desk_.post(member.worker, member.request[1], member.request[2], member.request[3]);
        member.asked = false;
    } else if (kind == fetch || kind == claim_ticket) {
        answer(member);
    } else {
        member.asked = false;
    }
    if (!member.asked) receive_request(i);
}

void Server::answer(Member& member) {
    Desk::Pinned pinned;
    if (closing_) {
        member.answer = {ended};
    } else if (member.request[0] == fetch) {
        pinned = desk_.pin(member.worker, member.request[1]);
        if (pinned.data == nullptr) return;
        member.answer = {pinned.version};
    } else {
        member.answer = {desk_.claim(member.request[1])};
        if (member.answer[0] == Desk::not_begun) return;
    }
    member.asked = false;
    send(comm_, member.rank, answer_tag, member.answer, member.answered);
    if (pinned.data == nullptr) return;
    member.pinned = true;
    send_vector(comm_, member.rank, pinned.data, length_, chunk_, member.answered);
    bytes_sent_ += length_ * static_cast<std::int64_t>(sizeof(float));
}

void Server::taken(int worker) {
    for (Member& member : members_)
        if (member.worker == worker && !member.gone) tell(member, 0);
}

void Server::tell(Member& member, std::int64_t content) {
    const auto i = static_cast<std::size_t>(member.takes++ % member.told.size());
    while (!member.gone && !over(member, member.told[i])) continue;  // it was received: this only tells us so
    if (member.gone) return;
    member.taken[i] = {content};
    send(comm_, member.rank, taken_tag, member.taken[i], member.told[i]);
}

void Server::close(const std::function<void()>& pause) {
    closing_ = true;
    for (Member& member : members_)
        if (!member.gone) tell(member, ended);
    const auto settled = [this](Member& member) {
        bool all = over(member, member.answered);
        for (Transfer& told : member.told) all &= over(member, told);
        return all && member.gone;
    };
    for (;; pause()) {
        serve();
        if (std::all_of(members_.begin(), members_.end(), settled)) return;
    }
}

bool Server::over(Member& member, Transfer& transfer) {
    bool done = false;
    const int code = transfer.test(done);
    if (says_died(code))
        lose(member, " died");
    else
        check(code, "MPI_Test");
    return done;
}

void Server::lose(Member& member, const std::string& why) {
    if (member.gone) return;
    member.gone = true;
    for (Transfer* transfer : {&member.pushed, &member.answered, &member.told[0], &member.told[1], &member.told[2]})
        transfer->forget();
    desk_.lose(member.worker, why);
}

// ---- Worker

Worker::Worker(MPI_Comm comm, int server, const std::string& name, int number, std::int64_t length, std::int64_t chunk,
               int (*look)())
    : comm_(comm), server_(server), name_(name), number_(number), length_(length), chunk_(chunk), look_(look) {}

void Worker::push(const float* vector, std::int64_t samples, std::int64_t version, std::int64_t note) {
    const double began = now();
    while (pushes_ - taken_ == 2) receive_taken();
    const auto i = static_cast<std::size_t>(pushes_ % 2);
    wait(pushed_[i]);
    const double free = now();
    wait_seconds_ += free - began;
    vectors_[i].assign(vector, vector + length_);
    send({network::push, samples, version, note});
    ++pushes_;
    send_vector(comm_, server_, vectors_[i].data(), length_, chunk_, pushed_[i]);
    communication_seconds_ += now() - free;
    bytes_sent_ += length_ * static_cast<std::int64_t>(sizeof(float));
}

void Worker::request(float* out, std::int64_t progress) {
    const double began = now();
    while (taken_ < pushes_) receive_taken();
    wait_seconds_ += now() - began;
    receive_vector(comm_, server_, out, length_, chunk_, fetched_);
    send({network::fetch, progress, 0, 0});
}

std::int64_t Worker::fetch() {
    const double began = now();
    const std::int64_t version = receive_answer();
    const double answered = now();
    wait(fetched_);
    wait_seconds_ += answered - began;
    communication_seconds_ += now() - answered;
    return version;
}

std::int64_t Worker::claim() {
    const double began = now();
    send({claim_ticket, epoch_, 0, 0});
    const std::int64_t ticket = receive_answer();
    wait_seconds_ += now() - began;
    return ticket;
}

void Worker::close_tickets() { send({no_more_tickets, 0, 0, 0}); }

void Worker::finish() { send({finish_epoch, epoch_++, 0, 0}); }

void Worker::close() {
    try {
        send({leave, 0, 0, 0});
        for (Transfer& requested : requested_) wait(requested);
        for (Transfer& pushed : pushed_) wait(pushed);
        while (!closed_) receive_taken();
    } catch (const PeerLost&) {
        return;  // it has left, too
    }
}

void Worker::send(const Request& request) {
    const std::size_t i = sent_++ % requests_under_way;
    wait(requested_[i]);
    requests_[i] = request;
    network::send(comm_, server_, request_tag, requests_[i], requested_[i]);
}

std::int64_t Worker::receive_answer() {
    check(MPI_Irecv(answer_.data(), 1, MPI_INT64_T, server_, answer_tag, comm_, &answered_.add()), "MPI_Irecv");
    wait(answered_);
    if (answer_[0] == ended) lose(" has ended");
    return answer_[0];
}

void Worker::receive_taken() {
    Transfer received;
    check(MPI_Irecv(content_.data(), 1, MPI_INT64_T, server_, taken_tag, comm_, &received.add()), "MPI_Irecv");
    wait(received);
    if (content_[0] == ended) {
        closed_ = true;
        lose(" has ended");
    }
    ++taken_;
}

void Worker::wait(Transfer& transfer) {
    Backoff backoff(look_);
    try {
        for (;; backoff.pause()) {
            bool done = false;
            const int code = transfer.test(done);
            if (says_died(code)) lose(" died");
            check(code, "MPI_Test");
            if (done) return;
        }
    } catch (const Interrupted&) {
        fetched_.cancel();  // its memory belongs to the caller
        throw;
    }
}

void Worker::lose(const std::string& why) {
    fetched_.cancel();
    throw PeerLost(name_ + why + ", while worker " + std::to_string(number_) + " waits for it");
}

}  // namespace pyddl::comm::network
