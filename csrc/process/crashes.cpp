#include "process/crashes.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>

#include "process/mapped_file.hpp"

namespace pyddl::process {
namespace {

constexpr std::array fatal = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
std::array<struct sigaction, fatal.size()> before;
std::array<char, 64> text;

std::atomic<bool> watching{false}, passed_on{false};
struct sigaction before_watching;

void write_name() { static_cast<void>(!::write(STDERR_FILENO, text.data(), strnlen(text.data(), text.size()))); }

void say_name(int number) {
    write_name();
    for (std::size_t i = 0; i < fatal.size(); ++i) {
        if (fatal[i] != number) continue;
        sigaction(number, &before[i], nullptr);
        if ((before[i].sa_flags & SA_SIGINFO) != 0) return;  // the instruction fails again, under that handler
        if (before[i].sa_handler != SIG_DFL && before[i].sa_handler != SIG_IGN)
            before[i].sa_handler(number);  // reports, then raises the signal again
        else
            raise(number);  // ends the process when this handler returns
    }
}

void say_file(int number, siginfo_t* about, void*) {
    const char* who = text[0] == '\0' ? "pyddl: " : text.data();
    if (about->si_code > 0 && knows_mapped_file(about->si_addr)) {
        static_cast<void>(!::write(STDERR_FILENO, who, strnlen(who, text.size())));
        say_mapped_file(about->si_addr);
        _exit(1);
    }
    if (passed_on.exchange(true))
        signal(number, SIG_DFL);  // it came back
    else
        sigaction(number, &before_watching, nullptr);
    if (about->si_code <= 0) raise(number);  // sent by somebody; else the instruction fails again
}

void put_watch_first() {
    struct sigaction now{}, action{};
    sigaction(SIGBUS, nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == say_file) return;
    before_watching = now;
    action.sa_sigaction = say_file;
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    sigaction(SIGBUS, &action, nullptr);
}

}  // namespace

void watch_mapped_files() {
    watching = true;
    put_watch_first();
}

void name_crashes(const std::string& name) {
    const bool first = text[0] == '\0';
    std::strncpy(text.data(), name.c_str(), text.size() - 1);
    if (!first) return;
    struct sigaction action{};
    action.sa_handler = say_name;
    action.sa_flags = SA_ONSTACK;  // faulthandler's own stack: this one may have overflowed
    for (std::size_t i = 0; i < fatal.size(); ++i) sigaction(fatal[i], &action, &before[i]);
    if (watching) put_watch_first();
}

}  // namespace pyddl::process
