/// A parameter server with workers in shared memory and over the network: messages become what the mates do.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "comm/network/server.hpp"
#include "comm/node/server.hpp"

namespace pyddl::comm {

class Port final : private node::Server::Outside, private network::Desk {
  public:
    /// @param seats of the workers among the mates; -1 for those who come by messages
    /// @param ranks of the workers in `comm`, which is for these messages alone
    /// @param chunk elements in a message
    Port(std::shared_ptr<node::SharedMemory> memory, std::int64_t length, const std::vector<int>& seats,
         const std::vector<int>& ranks, MPI_Comm comm, std::int64_t chunk, int (*look)());

    node::Server server;

    /// Wait until all who come by messages have left or died. To be called before the end, for MPI writes to this
    /// object until then.
    void close();
    std::int64_t bytes_sent() const { return messages_ ? messages_->bytes_sent() : 0; }

  private:
    void pump() override { messages_->serve(); }
    void released(int worker) override { messages_->taken(worker); }

    float* slot(int worker) override { return mailbox(worker).next(); }
    void post(int worker, std::int64_t samples, std::int64_t version, std::int64_t note) override;
    Pinned pin(int worker, std::int64_t progress) override;
    void unpin(int worker) override { server.published().unpin(worker); }
    std::int64_t claim(std::int64_t epoch) override;
    void close_tickets() override { server.tickets().close(); }
    void finish(int worker, std::int64_t epoch) override;
    void leave(int worker) override;
    void lose(int worker, const std::string& why) override;

    node::Mailbox& mailbox(int worker) { return mailboxes_[static_cast<std::size_t>(worker)]; }

    std::vector<node::Mailbox> mailboxes_;  ///< as the workers would see them
    std::unique_ptr<network::Server> messages_;
    int (*look_)();
};

}  // namespace pyddl::comm
