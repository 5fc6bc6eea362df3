#include "comm/node/wait.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <ctime>

namespace pyddl::comm::node {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void yield() { sched_yield(); }

void Futex::wake() { syscall(SYS_futex, &word_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

bool Futex::sleep_while(std::uint32_t seen, long nanoseconds) {
    const timespec most{0, nanoseconds};
    const long result = syscall(SYS_futex, &word_, FUTEX_WAIT, seen, &most, nullptr, 0);
    return result == 0 || errno == EAGAIN;
}

}  // namespace pyddl::comm::node
