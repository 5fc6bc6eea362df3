/// Sums over the ranks of a node, whole or in owners' shares that are gathered then, at many lengths, in private and in
/// shared memory, by ranks that come at different times. Usage: sums RANKS STEPS.
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

#include "comm/node/group.hpp"

namespace {

using namespace pyddl::comm::node;

std::atomic<int> wrong{0};

/// All ranks use one mapping: memory mapped twice would look like two memories to a race detector.
struct Node {
    explicit Node(int ranks)
        : size(ranks),
          memory(map("group", Group::bytes(ranks))),
          vectors(map("vectors", Vectors::bytes(longest, ranks))),
          start(ranks) {}

    static std::shared_ptr<SharedMemory> map(const std::string& what, std::int64_t bytes) {
        const std::string name = "/pyddl-" + std::to_string(getpid()) + "-" + what;
        return std::make_shared<SharedMemory>(name, bytes, SharedMemory::Role::creates);
    }

    static constexpr std::int64_t longest = 3 * Group::chunk;
    int size;
    std::shared_ptr<SharedMemory> memory, vectors;
    std::barrier<> start;  // under MPI this is MPI's matter
};

void run(Node& node, int rank, int steps) {
    Group group(node.memory, rank, node.size, nullptr);
    group.enter();
    node.start.arrive_and_wait();
    const Vectors vectors(node.vectors, Node::longest, rank);
    group.add(1, &vectors);
    std::vector<float> own(Node::longest);
    std::mt19937 draw(7);  // the same on every rank
    std::mt19937 mine(static_cast<unsigned>(rank));
    for (int step = 0; step < steps; ++step) {
        const std::int64_t lengths[] = {0, 1, 100, 1024, 1025, 5000, Group::chunk + 1, Node::longest};
        const std::int64_t n = lengths[draw() % std::size(lengths)];
        float* x = draw() % 2 == 0 ? own.data() : vectors.mine();
        std::fill(x, x + n, static_cast<float>(rank + step % 100));
        if (mine() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(mine() % 500));
        const std::int64_t count = group.sum(x, n, rank);
        const auto expected = static_cast<float>(node.size * (node.size - 1) / 2 + node.size * (step % 100));
        const bool right = count == node.size * (node.size - 1) / 2 &&
                           std::all_of(x, x + n, [&](float value) { return value == expected; });
        if (!right) ++wrong;
        if (x != own.data() && draw() % 2 == 0) {
            std::fill(x, x + n, static_cast<float>(rank + step % 100));
            group.sum_to_owners(x, n, 0);
            group.gather_from_owners(x, n);
            if (!std::all_of(x, x + n, [&](float value) { return value == expected; })) ++wrong;
        }
        if (draw() % 4 == 0) group.meet(Operation::barrier, 0);
    }
    group.meet(Operation::barrier, 0);
}

}  // namespace

int main(int, char** arguments) {
    Node node(std::atoi(arguments[1]));
    std::vector<std::thread> ranks;
    for (int r = 0; r < node.size; ++r) ranks.emplace_back(run, std::ref(node), r, std::atoi(arguments[2]));
    for (auto& rank : ranks) rank.join();
    std::printf("%d wrong sums\n", wrong.load());
    return wrong.load() != 0;
}
