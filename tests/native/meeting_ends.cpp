/// Meetings that cannot take place: a rank leaves, gives up, or dies, while others spin, yield or sleep. All others
/// must learn of it; and who has only met for the last time and left must harm nobody. Usage: meeting_ends ROUNDS.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comm/node/meeting.hpp"

namespace {

using namespace pyddl::comm::node;

constexpr int ranks = 4;
std::atomic<int> failures{0};

void expect(bool holds, const std::string& what) {
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "failed: %s\n", what.c_str());
}

/// Zeroed memory for the meetings of one round and for a counter, shared with child processes too.
struct Memory {
    Memory() {
        void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (start == MAP_FAILED) std::abort();
        data = static_cast<std::byte*>(start);
        entered = new (data + Meeting::bytes(ranks)) std::atomic<int>(0);
    }
    ~Memory() { munmap(data, bytes); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    const std::size_t bytes = static_cast<std::size_t>(Meeting::bytes(ranks)) + sizeof(std::atomic<int>);
    std::byte* data;
    std::atomic<int>* entered;
};

thread_local bool wants_to_stop = false;
int look() { return wants_to_stop ? 1 : 0; }

/// Run `of_rank(meeting)` on all ranks, once all have begun to watch each other.
void on_all_ranks(const std::function<void(Meeting&)>& of_rank) {
    Memory memory;
    std::barrier<> start(ranks);
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks; ++r)
        threads.emplace_back([&, r] {
            Meeting meeting(memory.data, r, ranks, look);
            start.arrive_and_wait();
            meeting.watch();
            of_rank(meeting);
            meeting.leave();
            start.arrive_and_wait();  // the memory stays until all have left
        });
    for (auto& thread : threads) thread.join();
}

/// Meet; what the error says, or nothing.
std::string met(Meeting& meeting, std::int64_t length = 0) {
    try {
        meeting.meet({.length = length});
        for (int r = 0; r < ranks; ++r)
            expect(meeting.message(r).length == length, "message of rank " + std::to_string(r));
        return "";
    } catch (const std::exception& error) {
        return error.what();
    }
}

/// Up to 3 ms: others spin, yield, or sleep meanwhile.
void dawdle(std::mt19937& draw) {
    if (draw() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(draw() % 3000));
}

void meets_and_leaves(int rounds) {
    for (int round = 0; round < rounds; ++round)
        on_all_ranks([&](Meeting& meeting) {
            std::mt19937 draw(static_cast<unsigned>(round * ranks + meeting.rank()));
            for (int i = 1; i <= 10; ++i) {
                dawdle(draw);
                const std::string error = met(meeting, i);
                expect(error.empty(), "all come, but: " + error);
            }
        });
}

void leaves(int rounds) {
    for (int round = 0; round < rounds; ++round)
        on_all_ranks([&](Meeting& meeting) {
            std::mt19937 draw(static_cast<unsigned>(round));
            dawdle(draw);
            if (meeting.rank() == round % ranks) return;
            const std::string error = met(meeting);
            // Who looks late may find one of those who have given up already.
            expect(error.ends_with("has ended, while others wait for it") || error.ends_with("gave up"),
                   "one has left: " + error);
        });
}

/// One is interrupted while it waits for the last; the last, who comes then, learns of it at the next meeting.
void is_interrupted(int rounds) {
    for (int round = 0; round < rounds; ++round) {
        std::atomic<bool> interrupted = false;
        on_all_ranks([&](Meeting& meeting) {
            const int number = (meeting.rank() + round) % ranks;
            if (number == 0) {
                wants_to_stop = true;
                const std::string error = met(meeting);
                expect(error == Interrupted().what(), "interrupted: " + error);
                interrupted = true;
            } else if (number == 1) {
                while (!interrupted) std::this_thread::yield();
                const std::string first = met(meeting);
                expect(first.empty() ? met(meeting).ends_with("gave up") : first.ends_with("gave up"),
                       "late: " + first);
            } else {
                const std::string error = met(meeting);
                expect(error.empty() ? met(meeting).ends_with("gave up") : error.ends_with("gave up"),
                       "one gave up: " + error);
            }
        });
    }
}

/// Ranks are processes here; one is killed while the others wait for it, or before they do.
void dies(int rounds) {
    for (int round = 0; round < rounds; ++round) {
        Memory memory;
        const auto of_rank = [&](int rank) {
            Meeting meeting(memory.data, rank, ranks, nullptr);
            ++*memory.entered;
            while (*memory.entered < ranks) sched_yield();
            meeting.watch();
            const std::string first = met(meeting);
            expect(first.empty(), "all live, but: " + first);
            std::mt19937 draw(static_cast<unsigned>(round * ranks + rank));
            dawdle(draw);
            if (rank == 1 + round % (ranks - 1)) kill(getpid(), SIGKILL);
            const std::string second = met(meeting);
            expect(second.ends_with(") died") || second.ends_with("gave up"), "one has died: " + second);
        };
        std::vector<pid_t> children;
        for (int r = 1; r < ranks; ++r) {
            const pid_t child = fork();
            if (child == 0) {
                of_rank(r);
                _exit(failures.load() != 0);
            }
            children.push_back(child);
        }
        // A dead rank is seen as long as its parent has not asked for its status, too.
        of_rank(0);
        for (int r = 1; r < ranks; ++r) {
            int status = 0;
            waitpid(children[static_cast<std::size_t>(r - 1)], &status, 0);
            const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
            expect(killed == (r == 1 + round % (ranks - 1)) && (killed || WEXITSTATUS(status) == 0),
                   "status " + std::to_string(status) + " of rank " + std::to_string(r));
        }
    }
}

}  // namespace

int main(int, char** arguments) {
    const int rounds = std::atoi(arguments[1]);
    dies(rounds);  // first: it forks, which threads do not survive
    meets_and_leaves(rounds);
    leaves(rounds);
    is_interrupted(rounds);
    std::printf("%d failures\n", failures.load());
    return failures.load() != 0;
}
