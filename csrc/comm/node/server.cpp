#include "comm/node/server.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace pyddl::comm::node {
namespace {

constexpr long first_sleep = 20'000;  // nanoseconds, where messages may come that ring no bell
constexpr long longest_sleep = 1'000'000;
constexpr double look_every_seconds = 1e-9 * look_every;

int buffers_for(int workers) { return std::min(workers + 2, 4); }  // R + 2 would never wait; memory is dear, too

int seats_of(const std::vector<int>& seats) {
    return static_cast<int>(std::count_if(seats.begin(), seats.end(), [](int seat) { return seat >= 0; }));
}

std::string ended(const Presence& presence, const Process& process) {
    const std::uint32_t state = presence.state.load();
    if (state == Presence::gave_up) return " gave up";
    if (state == Presence::left) return " has ended";
    if (process.died()) return " died (process " + std::to_string(process.number()) + ")";
    return "";
}

}  // namespace

// ---- Shard

struct Shard::Head {
    alignas(cache_line) Futex bell;
    alignas(cache_line) Tickets tickets;
    alignas(cache_line) Presence server;
};

std::int64_t Shard::bytes(Shape shape) {
    const auto mates = static_cast<std::size_t>(shape.mates);
    return static_cast<std::int64_t>(sizeof(Head) + mates * sizeof(Seat)) +
           Published::bytes(shape.length, shape.workers, buffers_for(shape.workers)) +
           shape.mates * Mailbox::bytes(shape.length);
}

Shard::Shard(std::byte* memory, Shape shape) : Shard(memory, shape, reinterpret_cast<Head*>(memory)) {}

Shard::Shard(std::byte* memory, Shape shape, Head* head)
    : shape(shape),
      bell(head->bell),
      tickets(head->tickets),
      server(head->server),
      published(memory + sizeof(Head) + static_cast<std::size_t>(shape.mates) * sizeof(Seat), shape.length,
                shape.workers, buffers_for(shape.workers)),
      seats_(reinterpret_cast<Seat*>(memory + sizeof(Head))),
      mailboxes_(memory + bytes(shape) - shape.mates * Mailbox::bytes(shape.length)) {}

// ---- Server

Server::Server(std::shared_ptr<SharedMemory> memory, std::int64_t length, std::vector<int> seats,
               std::vector<int> ranks, int (*look)())
    : memory_(std::move(memory)),
      shard_(memory_->data(), {length, static_cast<int>(seats.size()), seats_of(seats)}),
      look_(look) {
    shard_.server.enter();
    shard_.published.initialise();
    const auto workers = static_cast<std::int64_t>(seats.size());
    const std::int64_t outside = workers - shard_.shape.mates;
    const auto seat_bytes = static_cast<std::int64_t>(sizeof(Shard::Seat));
    if (outside > 0) private_ = std::make_unique<SharedMemory>(outside * (seat_bytes + Mailbox::bytes(length)));
    std::byte* place = outside > 0 ? private_->data() : nullptr;
    members_.reserve(seats.size());
    for (std::size_t w = 0; w < seats.size(); ++w) {
        const std::string name = "worker " + std::to_string(w) + " (rank " + std::to_string(ranks[w]) + ")";
        if (seats[w] >= 0) {
            members_.push_back({shard_.mailbox(seats[w]), &shard_.seat(seats[w]), name, true, {}, {}});
        } else {
            auto* seat = new (place) Shard::Seat{};
            members_.push_back({{place + seat_bytes, length}, seat, name, false, {}, {}});
            place += seat_bytes + Mailbox::bytes(length);
        }
    }
}

void Server::watch() {
    for (Member& member : members_)
        if (member.mate) member.process.watch(member.seat->presence.process.load());
}

int Server::free() {
    if (free_ < 0) wait(shard_.published.unpinned(), [&] { return (free_ = shard_.published.try_free()) >= 0; });
    return free_;
}

std::int64_t Server::publish(std::int64_t progress) {
    const int index = std::exchange(free_, -1);
    const std::int64_t version = shard_.published.publish(index >= 0 ? index : current(), progress);
    if (outside_ != nullptr) outside_->pump();
    return version;
}

Server::Event Server::receive() {
    release();
    if (now() - looked_at_ > look_every_seconds) look_around();
    const int workers = shard_.shape.workers;
    for (;;) {
        if (outside_ != nullptr) outside_->pump();
        const std::uint32_t rung = shard_.bell.value();
        const std::uint32_t epoch = shard_.tickets.epoch();
        // Before the mailboxes: a worker's last push comes before the end of its epoch.
        const bool over = std::all_of(members_.begin(), members_.end(), [&](const Member& member) {
            return !member.gone.empty() || member.finished(epoch);
        });
        for (int w = 0; w < workers; ++w) {
            Member& member = members_[static_cast<std::size_t>(w)];
            const bool gone = member.is_news();
            const bool finished = member.gone.empty() && member.finished(epoch) && member.told_of < epoch;
            if ((!gone && !finished) || member.mailbox.full() != nullptr) continue;
            member.told = gone;
            member.told_of = epoch;
            return {gone ? Event::left : Event::finished, w, 0, {}, gone ? member.name + member.gone : ""};
        }
        for (int step = 0; step < workers; ++step) {
            const int w = (next_ + step) % workers;
            Mailbox& mailbox = members_[static_cast<std::size_t>(w)].mailbox;
            const Mailbox::Push* push = mailbox.full();
            if (push == nullptr) continue;
            next_ = w + 1;
            held_worker_ = w;
            const Mailbox::Push about = *push;
            held_slot_ = mailbox.take();
            return {Event::push, w, held_slot_, about, ""};
        }
        if (over) return {Event::over, -1, 0, {}, ""};
        const auto lost = [](const Member& member) { return !member.gone.empty() && !member.told; };
        wait(shard_.bell,
             [&] { return shard_.bell.value() != rung || std::any_of(members_.begin(), members_.end(), lost); });
    }
}

void Server::begin_epoch(std::int64_t tickets) { shard_.tickets.begin(tickets); }

void Server::lose(int worker, const std::string& why) {
    Member& member = members_[static_cast<std::size_t>(worker)];
    if (!member.gone.empty()) return;
    member.gone = why;
    shard_.published.clear(worker);
}

void Server::release() {
    if (held_worker_ < 0) return;
    const int worker = std::exchange(held_worker_, -1);
    Member& member = members_[static_cast<std::size_t>(worker)];
    member.mailbox.release(held_slot_);
    if (!member.mate && outside_ != nullptr) outside_->released(worker);
}

/// As wait_until. Messages from outside ring no bell, so where there may be some it sleeps for short times only.
template <class Ready>
void Server::wait(Futex& futex, const Ready& ready) {
    const double began = now();
    if (outside_ == nullptr) {
        wait_until(futex, ready, [&] { look_around(); });
    } else {
        const auto served = [&] {
            outside_->pump();
            return ready();
        };
        if (!spin_until(served))
            for (long most = first_sleep; !served(); most = std::min(2 * most, longest_sleep))
                if (!futex.sleep_unless(ready, most) && now() - looked_at_ > look_every_seconds) look_around();
    }
    wait_seconds_ += now() - began;
}

void Server::look_around() {
    looked_at_ = now();
    if (look_ != nullptr && look_() != 0) {
        shard_.server.state.store(Presence::gave_up);
        throw Interrupted();
    }
    for (std::size_t w = 0; w < members_.size(); ++w) {
        Member& member = members_[w];
        if (!member.gone.empty()) continue;
        const std::string why = ended(member.seat->presence, member.process);
        if (why.empty()) continue;
        // Who leaves in order between two epochs is missed by nobody.
        member.told = member.seat->presence.state.load() == Presence::left && member.finished(shard_.tickets.epoch());
        lose(static_cast<int>(w), why);
    }
}

// ---- Worker

Worker::Worker(std::shared_ptr<SharedMemory> memory, Shard::Shape shape, int number, int seat,
               const std::string& server, int (*look)())
    : memory_(std::move(memory)),
      shard_(memory_->data(), shape),
      seat_(shard_.seat(seat)),
      mailbox_(shard_.mailbox(seat)),
      number_(number),
      server_(server),
      look_(look) {
    seat_.presence.enter();
}

void Worker::push(const float* vector, std::int64_t samples, std::int64_t version, std::int64_t note) {
    const double began = wait(mailbox_.emptied(), [&] { return mailbox_.has_room(); });
    const std::int64_t bytes = shard_.shape.length * static_cast<std::int64_t>(sizeof(float));
    if (bytes > 0) std::memcpy(mailbox_.next(), vector, static_cast<std::size_t>(bytes));
    mailbox_.post(samples, version, note);
    shard_.bell.advance();
    communication_seconds_ += now() - began;
    bytes_sent_ += bytes;
}

std::int64_t Worker::fetch(float* out, std::int64_t progress) {
    Published& published = shard_.published;
    wait(mailbox_.latest(), [&] { return mailbox_.all_used(); });
    const double began = wait(published.published(), [&] { return published.progress() >= progress; });
    const Published::Pinned pinned = published.pin(number_);
    const std::int64_t bytes = shard_.shape.length * static_cast<std::int64_t>(sizeof(float));
    if (bytes > 0) std::memcpy(out, pinned.data, static_cast<std::size_t>(bytes));
    published.unpin(number_);
    communication_seconds_ += now() - began;
    return pinned.version;
}

std::int64_t Worker::claim() {
    wait(shard_.tickets.begun(), [&] { return shard_.tickets.epoch() >= epoch_; });
    return shard_.tickets.claim();
}

void Worker::finish() {
    seat_.finished.store(epoch_++);
    shard_.bell.advance();
}

/// Returns the time when the wait was over. Mostly it is for one update of the server, to whom a yield leaves the core.
template <class Ready>
double Worker::wait(Futex& futex, const Ready& ready) {
    const double began = now();
    wait_until(futex, ready, [&] { look_around(); }, many_yields);
    const double ended = now();
    wait_seconds_ += ended - began;
    return ended;
}

void Worker::look_around() {
    if (look_ != nullptr && look_() != 0) {
        seat_.presence.state.store(Presence::gave_up);
        throw Interrupted();
    }
    const std::string why = ended(shard_.server, process_);
    if (why.empty()) return;
    seat_.presence.state.store(Presence::gave_up);
    throw PeerLost(server_ + why + ", while worker " + std::to_string(number_) + " waits for it");
}

}  // namespace pyddl::comm::node
