#include "process/crashes.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace pyddl::process {
namespace {

constexpr std::array fatal = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
std::array<struct sigaction, fatal.size()> before;
std::array<char, 64> text;

void say_name(int number) {
    static_cast<void>(!::write(STDERR_FILENO, text.data(), strnlen(text.data(), text.size())));
    for (std::size_t i = 0; i < fatal.size(); ++i) {
        if (fatal[i] != number) continue;
        sigaction(number, &before[i], nullptr);
        if (before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN)
            before[i].sa_handler(number);  // reports, then raises the signal again
        else
            raise(number);  // ends the process when this handler returns
    }
}

}  // namespace

void name_crashes(const std::string& name) {
    const bool first = text[0] == '\0';
    std::strncpy(text.data(), name.c_str(), text.size() - 1);
    if (!first) return;
    struct sigaction action{};
    action.sa_handler = say_name;
    action.sa_flags = SA_ONSTACK;  // faulthandler's own stack: this one may have overflowed
    for (std::size_t i = 0; i < fatal.size(); ++i) sigaction(fatal[i], &action, &before[i]);
}

}  // namespace pyddl::process
