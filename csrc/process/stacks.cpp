#include "process/stacks.hpp"

#include <execinfo.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace pyddl::process {
namespace {

std::atomic<int> target{-1};  // -1: nobody asks any more, so a late thread must not write
sem_t answered;

void answer(int) {
    const int saved = errno;
    const int descriptor = target.load();
    if (descriptor >= 0) {
        std::array<void*, 64> frames;
        const int count = backtrace(frames.data(), static_cast<int>(frames.size()));
        backtrace_symbols_fd(frames.data(), count, descriptor);
        sem_post(&answered);
    }
    errno = saved;
}

/// The signal this file takes: from the upper end of the real-time ones, which libraries rarely use.
int stack_signal() { return SIGRTMAX - 3; }

void install() {
    sem_init(&answered, 0, 0);
    void* frame;
    backtrace(&frame, 1);  // loads the unwinder now: a handler must not
    struct sigaction action{};
    action.sa_handler = answer;
    action.sa_flags = SA_RESTART;
    sigaction(stack_signal(), &action, nullptr);
}

bool wait_for_answer() {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 300'000'000;
    if (until.tv_nsec >= 1'000'000'000) {
        until.tv_nsec -= 1'000'000'000;
        ++until.tv_sec;
    }
    int code;
    do {
        code = sem_timedwait(&answered, &until);
    } while (code != 0 && errno == EINTR);
    return code == 0;
}

void write(int descriptor, std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = ::write(descriptor, text.data(), text.size());
        if (n <= 0) return;
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

std::string first_line(const std::filesystem::path& file) {
    std::ifstream stream(file);
    std::string line;
    std::getline(stream, line);
    return line;
}

}  // namespace

void write_stacks(int descriptor) {
    static const bool installed = (install(), true);
    static_cast<void>(installed);
    const auto self = syscall(SYS_gettid);
    target = descriptor;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
        const std::string number = entry.path().filename();
        const long thread = std::stol(number);
        if (thread == self) continue;
        while (sem_trywait(&answered) == 0) {  // answers that came late
        }
        write(descriptor, "thread " + number + " (" + first_line(entry.path() / "comm") + "), kernel function " +
                              first_line(entry.path() / "wchan") + "\n");
        if (syscall(SYS_tgkill, getpid(), thread, stack_signal()) == 0 && !wait_for_answer())
            write(descriptor, "  no answer: it hangs inside the kernel, or blocks signals\n");
        write(descriptor, "\n");
    }
    target = -1;
}

}  // namespace pyddl::process
