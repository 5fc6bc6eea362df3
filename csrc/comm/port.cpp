#include "comm/port.hpp"

#include <utility>

#include "comm/network/backoff.hpp"

namespace pyddl::comm {

Port::Port(std::shared_ptr<node::SharedMemory> memory, std::int64_t length, const std::vector<int>& seats,
           const std::vector<int>& ranks, MPI_Comm comm, std::int64_t chunk, int (*look)())
    : server(std::move(memory), length, seats, ranks, look), look_(look) {
    std::vector<network::Server::Peer> outside;
    for (std::size_t w = 0; w < seats.size(); ++w) {
        mailboxes_.push_back(server.mailbox(static_cast<int>(w)));
        if (seats[w] < 0) outside.push_back({static_cast<int>(w), ranks[w]});
    }
    if (outside.empty()) return;
    network::Desk& desk = *this;
    messages_ = std::make_unique<network::Server>(comm, outside, length, chunk, desk);
    server.set_outside(this);
}

void Port::close() {
    server.leave();
    if (messages_ == nullptr) return;
    network::Backoff backoff(look_);
    messages_->close([&] { backoff.pause(); });
}

void Port::post(int worker, std::int64_t samples, std::int64_t version, std::int64_t note) {
    mailbox(worker).post(samples, version, note);
    server.ring();
}

network::Desk::Pinned Port::pin(int worker, std::int64_t progress) {
    node::Published& published = server.published();
    if (published.progress() < progress) return {};
    const node::Published::Pinned pinned = published.pin(worker);
    return {pinned.data, pinned.version};
}

std::int64_t Port::claim(std::int64_t epoch) {
    return server.tickets().epoch() < epoch ? not_begun : server.tickets().claim();
}

void Port::finish(int worker, std::int64_t epoch) {
    server.finish(worker, static_cast<std::uint32_t>(epoch));
    server.ring();
}

void Port::leave(int worker) {
    server.leave(worker);
    server.ring();
}

void Port::lose(int worker, const std::string& why) {
    server.lose(worker, why);
    server.ring();
}

}  // namespace pyddl::comm
