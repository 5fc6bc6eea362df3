#include "comm/node/tickets.hpp"

namespace pyddl::comm::node {

void Tickets::begin(std::int64_t count) {
    next_.store(0);
    count_.store(count);
    begun_.advance();
}

std::int64_t Tickets::claim() {
    std::int64_t next = next_.load();
    while (next < count_.load())
        if (next_.compare_exchange_weak(next, next + 1)) return next;
    return -1;
}

}  // namespace pyddl::comm::node
