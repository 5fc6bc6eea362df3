/// A parameter server and its workers, as threads: every fetched copy is looked at whole, every push arrives once,
/// every ticket is given once; and workers die or leave in the middle of it. Usage: server WORKERS STEPS.
#include "comm/node/server.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace pyddl::comm::node;

std::atomic<int> failures{0};

void expect(bool holds, const std::string& what) {
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "failed: %s\n", what.c_str());
}

bool all_equal(const float* x, std::int64_t n, double value) {
    return std::all_of(x, x + n, [&](float element) { return element == static_cast<float>(value); });
}

std::vector<int> numbers(int count) {
    std::vector<int> all;
    for (int i = 0; i < count; ++i) all.push_back(i);
    return all;
}

/// Up to 300 microseconds: others spin, yield, or sleep meanwhile.
void dawdle(std::mt19937& draw) {
    if (draw() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(draw() % 300));
}

/// All sides use one mapping: memory mapped twice would look like two memories to a race detector.
std::shared_ptr<SharedMemory> memory_for(Shard::Shape shape) {
    const std::string name = "/pyddl-" + std::to_string(getpid()) + "-server";
    return std::make_shared<SharedMemory>(name, Shard::bytes(shape), SharedMemory::Role::creates);
}

/// One writer and readers that never pause, with so few buffers that they meet all the time.
void readers_follow_a_writer(int readers, std::int64_t length, std::int64_t versions) {
    constexpr int buffers = 3;
    const SharedMemory memory(Published::bytes(length, readers, buffers));
    Published writer(memory.data(), length, readers, buffers);
    writer.initialise();
    std::vector<std::thread> threads;
    for (int r = 0; r < readers; ++r)
        threads.emplace_back([&, r] {
            Published reader(memory.data(), length, readers, buffers);
            std::int64_t latest = 0;
            while (latest < versions - 1) {
                if (reader.progress() < 0) continue;
                const Published::Pinned pinned = reader.pin(r);
                expect(all_equal(pinned.data, length, static_cast<double>(pinned.version)),
                       "a pinned buffer is one version");
                expect(pinned.version >= latest, "versions do not go back");
                latest = pinned.version;
                reader.unpin(r);
            }
        });
    for (std::int64_t version = 0; version < versions; ++version) {
        int index = -1;
        wait_until(writer.unpinned(), [&] { return (index = writer.try_free()) >= 0; }, [] {});
        std::fill_n(writer.buffer(index), length, static_cast<float>(version));
        expect(writer.publish(index, 0) == version, "versions are counted");
    }
    for (auto& thread : threads) thread.join();
}

/// Each push holds its ticket; each version is filled with its number.
void serve(Server& server, int workers, std::int64_t length, std::int64_t tickets, int epochs) {
    std::mt19937 draw(1);
    std::fill_n(server.buffer(server.free()), length, 0.F);
    std::int64_t version = server.publish(0);
    expect(version == 0, "the first version is " + std::to_string(version));
    std::vector<std::int64_t> clocks(static_cast<std::size_t>(workers));
    for (int epoch = 0; epoch < epochs; ++epoch) {
        server.begin_epoch(tickets);
        std::vector<int> seen(static_cast<std::size_t>(tickets));
        for (;;) {
            const Server::Event event = server.receive();
            if (event.kind == Server::Event::over) break;
            if (event.kind == Server::Event::finished) continue;
            expect(event.kind == Server::Event::push, "nobody has left, but: " + event.why);
            const auto worker = static_cast<std::size_t>(event.worker);
            expect(event.about.clock == clocks[worker]++, "pushes come in order");
            ++seen[static_cast<std::size_t>(event.about.samples)];
            expect(all_equal(server.vector(event.worker, event.slot), length, static_cast<double>(event.about.samples)),
                   "a push is whole");
            dawdle(draw);
            float* fresh = server.buffer(server.free());
            std::fill_n(fresh, length, static_cast<float>(version + 1));
            version = server.publish(version + 1);
            expect(all_equal(server.buffer(server.current()), length, static_cast<double>(version)),
                   "nobody else writes");
        }
        expect(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }), "every ticket comes once");
        expect(server.tickets().claimed() == tickets, "all tickets are given");
    }
}

void work(Worker& worker, int number, std::int64_t length, int epochs, std::barrier<>& fence) {
    std::mt19937 draw(static_cast<unsigned>(100 + number));
    std::vector<float> out(static_cast<std::size_t>(length)), push(static_cast<std::size_t>(length));
    std::int64_t latest = 0;
    for (int epoch = 0; epoch < epochs; ++epoch) {
        for (std::int64_t ticket = 0; (ticket = worker.claim()) >= 0;) {
            const std::int64_t wanted = draw() % 2 == 0 ? latest : 0;
            const std::int64_t version = worker.fetch(out.data(), wanted);
            expect(version >= latest, "versions do not go back");
            latest = version;
            expect(all_equal(out.data(), length, static_cast<double>(version)), "a copy is one version");
            dawdle(draw);
            std::fill(push.begin(), push.end(), static_cast<float>(ticket));
            worker.push(push.data(), ticket, version);
        }
        worker.finish();
        fence.arrive_and_wait();
    }
}

void all_go_on(int workers, std::int64_t length, std::int64_t tickets) {
    constexpr int epochs = 3;
    const Shard::Shape shape{length, workers, workers};
    const auto memory = memory_for(shape);
    std::barrier<> start(workers + 1), fence(workers);
    std::vector<std::thread> threads;
    Server server(memory, length, numbers(workers), numbers(workers), nullptr);
    for (int w = 0; w < workers; ++w)
        threads.emplace_back([&, w] {
            Worker worker(memory, shape, w, w, "server 0", nullptr);
            start.arrive_and_wait();
            worker.watch();
            work(worker, w, length, epochs, fence);
            start.arrive_and_wait();
        });
    start.arrive_and_wait();
    server.watch();
    serve(server, workers, length, tickets, epochs);
    start.arrive_and_wait();
    for (auto& thread : threads) thread.join();
}

/// A reader that pins a buffer and never comes back does not stop the writer once it is known to be dead; nor does one
/// that leaves while the server waits for its pushes.
void one_leaves(int workers, std::int64_t length) {
    const Shard::Shape shape{length, workers, workers};
    const auto memory = memory_for(shape);
    std::barrier<> start(workers + 1);
    std::vector<std::thread> threads;
    Server server(memory, length, numbers(workers), numbers(workers), nullptr);
    for (int w = 0; w < workers; ++w)
        threads.emplace_back([&, w] {
            Worker worker(memory, shape, w, w, "server 0", nullptr);
            start.arrive_and_wait();
            std::vector<float> x(static_cast<std::size_t>(length));
            worker.fetch(x.data(), 0);
            worker.push(x.data(), 1, 0);
            if (w == 0) {
                Shard(memory->data(), shape).published.pin(0);
                worker.leave();
            } else {
                worker.push(x.data(), 1, 0);
                worker.finish();
            }
            start.arrive_and_wait();
        });
    start.arrive_and_wait();
    server.begin_epoch(0);
    std::int64_t version = -1;
    int pushes = 0;
    int left = 0;
    const auto publish = [&] {
        std::fill_n(server.buffer(server.free()), length, 0.F);
        version = server.publish(0);
    };
    publish();
    for (;;) {
        const Server::Event event = server.receive();
        if (event.kind == Server::Event::over) break;
        if (event.kind == Server::Event::left) {
            expect(event.worker == 0 && event.why == "worker 0 (rank 0) has ended", "one has left: " + event.why);
            ++left;
        } else if (event.kind == Server::Event::push) {
            ++pushes;
        }
        publish();
    }
    expect(left == 1, "it is told once that one has left");
    expect(pushes == 2 * workers - 1, "all pushes arrive, the last of the one that left too");
    for (int i = 0; i < 10; ++i) publish();
    start.arrive_and_wait();
    for (auto& thread : threads) thread.join();
}

/// Workers are processes here, and one is killed at any point of its work; then the server is.
void dies(int round, std::int64_t length) {
    constexpr int workers = 3;
    const Shard::Shape shape{length, workers, workers};
    const auto memory = memory_for(shape);
    void* shared = mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) std::abort();
    auto* entered = new (shared) std::atomic<int>(0);
    Server server(memory, length, numbers(workers), numbers(workers), nullptr);
    std::vector<pid_t> children;
    for (int w = 0; w < workers; ++w) {
        const pid_t child = fork();
        if (child == 0) {
            int status = 0;
            try {
                Worker worker(memory, shape, w, w, "server 0", nullptr);
                ++*entered;
                while (*entered < workers + 1) std::this_thread::yield();
                worker.watch();
                std::vector<float> x(static_cast<std::size_t>(length));
                while (worker.claim() >= 0) worker.push(x.data(), 1, worker.fetch(x.data(), 0));
                worker.finish();
                worker.fetch(x.data(), 1'000'000'000);
                status = 2;  // such progress never comes
            } catch (const PeerLost& error) {
                status = std::string(error.what()).starts_with("server 0 has ended") ? 0 : 3;
            }
            _exit(status);
        }
        children.push_back(child);
    }
    ++*entered;
    while (*entered < workers + 1) std::this_thread::yield();
    server.watch();
    server.begin_epoch(3000);
    const auto victim = static_cast<std::size_t>(round % workers);
    int pushes = 0;
    int left = 0;
    for (;;) {
        std::fill_n(server.buffer(server.free()), length, 1.F);
        server.publish(0);
        if (pushes == 100 + round) kill(children[victim], SIGKILL);
        const Server::Event event = server.receive();
        if (event.kind == Server::Event::over) break;
        if (event.kind == Server::Event::push) {
            ++pushes;
            continue;
        }
        if (event.kind == Server::Event::finished) continue;
        ++left;
        expect(event.worker == round % workers && event.why.find(" died (process ") != std::string::npos, event.why);
    }
    expect(left == 1, "one has died: " + std::to_string(left) + " have");
    expect(pushes == 3000 || pushes == 2999, "its last push may be lost, no other: " + std::to_string(pushes));
    server.leave();
    for (std::size_t w = 0; w < children.size(); ++w) {
        int status = 0;
        waitpid(children[w], &status, 0);
        expect(w == victim ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0,
               "status " + std::to_string(status) + " of worker " + std::to_string(w));
    }
    munmap(shared, sizeof(std::atomic<int>));
}

}  // namespace

int main(int, char** arguments) {
    const int workers = std::atoi(arguments[1]);
    const int steps = std::atoi(arguments[2]);
    for (int round = 0; round < 6; ++round) dies(round, 5000);  // first: it forks, which threads do not survive
    readers_follow_a_writer(workers, 40, 100 * steps);
    for (const std::int64_t length : {0, 1, 17, 3000}) all_go_on(workers, length, steps);
    for (int round = 0; round < 5; ++round) one_leaves(workers, 100);
    std::printf("%d failures\n", failures.load());
    return failures.load() != 0;
}
