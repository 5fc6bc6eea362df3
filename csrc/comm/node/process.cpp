#include "comm/node/process.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace pyddl::comm::node {

void Presence::enter() {
    state.store(present);
    process.store(getpid());
}

Process::~Process() {
    if (descriptor_ >= 0) close(descriptor_);
}

void Process::watch(int number) {
    if (number == 0 || kill(number, 0) != 0) return;
    number_ = number;
#if defined(SYS_pidfd_open)
    descriptor_ = static_cast<int>(syscall(SYS_pidfd_open, number, 0));
#endif
}

bool Process::died() const {
    if (descriptor_ >= 0) {
        pollfd end{descriptor_, POLLIN, 0};
        return poll(&end, 1, 0) > 0;
    }
    return number_ != 0 && kill(number_, 0) != 0 && errno == ESRCH;
}

}  // namespace pyddl::comm::node
