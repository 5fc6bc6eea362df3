"""The simulated transport: clocks that add up, runs that can be replayed, errors instead of waits for ever."""

from dataclasses import replace

import numpy as np
import pytest
from golden import Worker, assert_same, by_simulation

from pyddl.comm.machine import Machine
from pyddl.comm.operations import (
    Arrived,
    Average,
    BeginStep,
    Compute,
    Epoch,
    Exchange,
    Fetch,
    Gather,
    NextEpoch,
    Publish,
    Push,
    Receive,
    StepDone,
    Sum,
)
from pyddl.comm.simulated import Simulation
from pyddl.comm.simulated_servers import Published
from pyddl.errors import CommError, ParameterError, StrategyError
from pyddl.strategies import strategy

EXACT = Machine(sample_seconds=1.0, step_seconds=10.0, jitter=0, latency=0.5, bandwidth=8.0, node_latency=0.25,
                node_bandwidth=16.0, workers_per_node=2)


class Actor:
    """``work`` gradients of so many samples each."""

    def __init__(self, *work):
        self.work, self.samples, self.done = list(work), 0, 0

    def begin_step(self):
        if not self.work:
            return False
        self.samples = self.work.pop(0)
        return True

    def compute(self):
        pass

    def step_done(self):
        self.done += 1


def run(machine, actors, program):
    simulation = Simulation(machine)
    answers = [[] for _ in actors]
    simulation.run([program(number, answers[number]) for number in range(len(actors))], actors)
    return simulation.timelines, answers


def test_a_sum_waits_for_the_last_and_takes_its_time():
    def program(number, answers):
        vector = np.full(4, number + 1, dtype=np.float32)
        yield BeginStep()
        yield Compute()
        answers.append((yield Sum(vector, number)))
        answers.append(vector[0])
        yield StepDone()

    actors = [Actor(1), Actor(3), Actor(2), Actor(2)]
    timelines, answers = run(EXACT, actors, program)
    sending = 2 * 2 * 0.5 + 2 * 3 / 4 * 16 / 8
    assert [t.now for t in timelines] == [13 + sending] * 4
    assert [t.wait for t in timelines] == [2, 0, 1, 1]
    assert [t.compute for t in timelines] == [11, 13, 12, 12]
    assert all(t.communication == sending and t.bytes_sent == 24 for t in timelines)
    assert answers == [[6, 10]] * 4 and all(actor.done == 1 for actor in actors)


def test_within_a_node_its_own_latency_and_bandwidth_count():
    def program(number, answers):
        vector = np.full(4, number, dtype=np.float32)
        yield Average(vector, [vector], [1], level="node")
        answers.append(vector[0])
        yield Exchange(vector, vector2 := np.zeros(4, dtype=np.float32), number ^ 2)
        answers.append(vector2[0])

    timelines, answers = run(EXACT, [Actor() for _ in range(4)], program)
    assert answers == [[0.5, 2.5], [0.5, 2.5], [2.5, 0.5], [2.5, 0.5]]
    assert {t.now for t in timelines} == {2 * 0.25 + 16 / 16 + 0.5 + 16 / 8}


def test_who_is_faster_goes_first():
    order = []

    def program(number, answers):
        while (yield BeginStep()):
            yield Compute()
            order.append(number)
            yield StepDone()

    run(EXACT, [Actor(*[10] * 2), Actor(*[1] * 3)], program)
    assert order == [1, 0, 1, 1, 0]


# Between nodes: half a second of latency, 2 s for 4 floats; an update of them takes 4 s.
LINKED = Machine(sample_seconds=1.0, step_seconds=0.0, jitter=0, latency=0.5, bandwidth=8.0, update_bandwidth=4.0)


class Fenced(Actor):
    """Passes one epoch; as a server notes what it receives."""

    def __init__(self, *work):
        super().__init__(*work)
        self.epochs, self.arrived, self.versions = iter([Epoch(1, 0, 1)]), [], []

    def next_epoch(self):
        return next(self.epochs, None)

    def fetched(self, version):
        self.versions.append(version)

    def received(self, arrived):
        self.arrived.append((arrived.worker, arrived.samples, arrived.version, arrived.clock, arrived.vector.copy()))
        return arrived

    def published(self, version):
        self.versions.append(version)


def serve(machine, workers, server, worker):
    """Run a server and workers; their timelines and actors."""
    simulation, port = Simulation(machine), Published(np.zeros(4, dtype=np.float32))
    actors = [Fenced(), *(Fenced(*work) for work in workers)]
    simulation.run([server(port), *(worker(number) for number in range(len(workers)))], actors, [port])
    return simulation.timelines, actors


def add_up(port):
    assert (yield NextEpoch()).number == 1
    while (arrived := (yield Receive())) is not None:
        if isinstance(arrived, Arrived):
            port.free()[:] = port.current() + arrived.vector
            yield Publish(port.version + 1)
    assert (yield NextEpoch()) is None


def push_and_fetch(number):
    vector, out = np.full(4, number + 1, dtype=np.float32), np.zeros(4, dtype=np.float32)
    yield NextEpoch()
    version = yield Fetch(out)
    while (yield BeginStep()):
        yield Compute()
        yield Push(vector, 10, version)
        version = yield Fetch(out)
        vector += out
        yield StepDone()
    yield NextEpoch()


def test_a_push_and_a_fetch_take_latency_link_and_update():
    timelines, (server, worker) = serve(LINKED, [[3]], add_up, push_and_fetch)
    fence = 2 * 0.5  # of two ranks
    fetched = fence + 0.5 + 2 + 0.5
    pushed = fetched + 3 + 2
    updated = pushed + 0.5 + 4
    again = updated + 2 + 0.5  # it had asked before, and waited
    assert timelines[1].now == pytest.approx(again + fence + 0.5)  # the server sees its end half a second later
    assert timelines[1].wait == pytest.approx((updated - pushed - 0.5) + 0.5)
    assert timelines[1].bytes_sent == 16 and timelines[0].compute == 4
    assert worker.versions == [0, 1] and server.versions == [1]
    (who, samples, version, clock, vector), = server.arrived
    assert (who, samples, version, clock) == (0, 10, 0, 0) and (vector == 1).all()
    assert all(t.compute + t.wait + t.communication == pytest.approx(t.now) for t in timelines)


def test_a_servers_link_carries_one_vector_at_a_time():
    one, many = (serve(LINKED, [[3]] * workers, add_up, push_and_fetch)[0][1].now for workers in (1, 4))
    assert many >= one + 3 * 4 + 2  # updates one after another, after the fetches, which are so too


def test_a_worker_waits_while_both_slots_of_its_mailbox_are_full():
    def busy(number):
        yield NextEpoch()
        for clock in range(4):
            yield Push(np.full(4, clock, dtype=np.float32), 1, 0)
        yield NextEpoch()

    slow = replace(LINKED, update_bandwidth=0.16)  # an update takes 100 s
    timelines, (server, _) = serve(slow, [[]], add_up, busy)
    assert [clock for *_, clock, _ in server.arrived] == [0, 1, 2, 3]
    assert [vector[0] for *_, vector in server.arrived] == [0, 1, 2, 3]
    assert timelines[1].wait > 2 * 100


def test_a_fetch_for_which_nobody_publishes_is_an_error():
    def hopes(number):
        yield NextEpoch()
        yield Fetch(np.zeros(4, dtype=np.float32), 7)

    with pytest.raises(CommError, match=r"ranks \[1\] wait for progress, servers \[0\] wait for pushes"):
        serve(LINKED, [[]], add_up, hopes)


def test_progress_may_only_grow():
    def shrinks(port):
        yield NextEpoch()
        yield Publish(5)
        yield Publish(4)

    with pytest.raises(StrategyError, match="published progress 4 after 5"):
        serve(LINKED, [], shrinks, push_and_fetch)


def test_gathered_vectors_are_in_the_order_of_workers():
    def program(number, answers):
        answers.append((yield Gather(np.array([number]))))

    _, answers = run(EXACT, [Actor() for _ in range(3)], program)
    assert all(np.array_equal(np.concatenate(each[0]), [0, 1, 2]) for each in answers)


def test_a_run_is_replayed_by_its_seed_and_results_do_not_depend_on_times():
    def times(seed):
        simulation = Simulation(Machine(seed=seed, jitter=0.3, uneven=0.3))
        everyone = [Worker(number, 4, strategy("averaging")) for number in range(4)]
        simulation.run([strategy("averaging").worker(me) for me in everyone], everyone)
        return [t.now for t in simulation.timelines]

    assert times(1) == times(1) != times(2)
    for a, b in zip(by_simulation(strategy("gossip"), 5, machine=Machine(seed=1)),
                    by_simulation(strategy("gossip"), 5, machine=Machine(seed=2)), strict=True):
        assert_same(a, b)


def test_random_times_have_the_mean_and_the_spread_that_were_asked_for():
    machine = Machine(step_seconds=2.0, sample_seconds=0.0, jitter=0.25)
    times = np.array([machine.compute_seconds(3, number, 1) for number in range(4000)])
    assert times.mean() == pytest.approx(2, rel=0.02) and times.std() == pytest.approx(0.5, rel=0.1)
    uneven = Machine(step_seconds=1.0, sample_seconds=0.0, jitter=0, uneven=0.5)
    speeds = {uneven.compute_seconds(worker, number, 1) for worker in range(5) for number in range(3)}
    assert len(speeds) == 5


def test_workers_that_do_not_do_the_same_are_named():
    def program(number, answers):
        yield Sum(np.zeros(1, dtype=np.float32)) if number else Average(np.zeros(1, dtype=np.float32), [], [])

    with pytest.raises(StrategyError, match="worker 1 yielded Sum, but worker 0 Average"):
        run(EXACT, [Actor(), Actor()], program)


def test_a_wait_for_a_worker_that_has_ended_is_an_error():
    def program(number, answers):
        if number:
            yield Sum(np.zeros(1, dtype=np.float32))

    with pytest.raises(CommError, match=r"workers \[1, 2\] wait in Sum for \[0\], who have ended"):
        run(EXACT, [Actor(), Actor(), Actor()], program)


def test_an_unknown_operation_is_named():
    def program(number, answers):
        yield "guess"

    with pytest.raises(StrategyError, match="'guess', which is no operation"):
        run(EXACT, [Actor()], program)


@pytest.mark.parametrize(("options", "message"), [
    ({"latency": -1}, "latency is -1"),
    ({"bandwidth": 0}, "bandwidth is 0"),
    ({"workers_per_node": 0}, "workers_per_node is 0"),
    ({"straggler": 0}, "straggler is 0"),
    ({"update_bandwidth": 0}, "update_bandwidth is 0"),
])
def test_bad_machines_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        Machine(**options)
