"""Data of Spark: every item once in an epoch, read by the workers. A stand-in has what is asked of an RDD."""

from collections import Counter

import numpy as np
import pytest
from support import assert_on_all_ranks

import pyddl
from pyddl.callbacks.spark import Partitions, PartitionWork
from pyddl.errors import DataError, ParameterError, PeerLost

SIZES = [5, 0, 1, 40, 7, 3]


class Rdd:
    """Partitions of numbers."""

    def __init__(self, sizes=SIZES, fails=None):
        ends = np.cumsum(sizes)
        self.partitions = [list(range(end - size, end)) for size, end in zip(sizes, ends.tolist(), strict=True)]
        self.fails, self.jobs = fails, []
        self.context = self

    def getNumPartitions(self):
        return len(self.partitions)

    def mapPartitionsWithIndex(self, function):
        raise NotImplementedError

    def glom(self):
        return self

    def map(self, function):
        return Collected([function(part) for part in self.partitions])

    def runJob(self, rdd, function, partitions):
        self.jobs += partitions
        if partitions == [self.fails]:
            raise RuntimeError("An error occurred while calling runJob.\n: org.apache.SparkException: lost\n\tat x")
        return [item for each in partitions for item in function(self.partitions[each])]


class Collected:
    def __init__(self, values):
        self.collect = lambda: values


class Frame:
    """A DataFrame: its RDD is what counts."""

    def __init__(self, rdd):
        self.rdd = rdd


Rdd.__module__, Frame.__module__ = "pyspark.core.rdd", "pyspark.sql.classic.dataframe"


@pytest.mark.mpi
@pytest.mark.parametrize(("kind", "options"), [
    (lambda: Rdd(), {}), (lambda: Frame(Rdd()), {"batch_size": 6}), (lambda: Rdd(), {"shuffle": True}),
    (lambda: Rdd(), {"batch_size": 4, "shuffle": True}), (lambda: Frame(Rdd()), {"batch_size": 1, "fetch_every": 3})])
def test_every_item_is_worked_on_once_in_an_epoch(world, options, kind):
    data, model = kind(), {"seen": Counter(), "largest": 0}

    def gradient(model, items):
        return {"seen": np.array(items, dtype=np.float32)}

    def descent(model, update):
        model["seen"].update(update["seen"].astype(int).tolist())
        model["largest"] = max(model["largest"], len(update["seen"]))

    with pyddl.ParameterServer(model) as server:
        report = server.train(data, gradient, descent, epochs=2, **options)
    workers, jobs = max(1, world.size - 1), getattr(data, "rdd", data).jobs
    seen = server.model["seen"]
    assert_on_all_ranks(world, seen == Counter({item: 2 for item in range(56)}) and report.items == 112, seen)
    share = max(1, options["batch_size"] // workers) if "batch_size" in options else 40
    assert_on_all_ranks(world, server.model["largest"] == share, server.model["largest"])
    read = sum(world.transport.gather_objects(len(jobs)))
    assert_on_all_ranks(world, read <= 10 and (world.size == 1 or world.rank or not jobs), (read, jobs))


@pytest.mark.mpi
def test_a_partition_that_is_lost_ends_training_with_one_line(world):
    message = r"partition 3 cannot be had from Spark: An error occurred while calling runJob. : org.apache.SparkExc"
    with pytest.raises((DataError, PeerLost), match=message) as caught, pyddl.ParameterServer({}) as server:
        server.train(Rdd(fails=3), lambda model, items: {}, lambda model, update: None)
    assert_on_all_ranks(world, "\n" not in str(caught.value), caught.value)


def test_order_does_not_depend_on_the_workers():
    def given(workers, shuffle):
        def order(epoch, what, count):
            return np.random.default_rng([0, epoch, what]).permutation(count) if shuffle else None
        work, units = PartitionWork(SIZES, range(2), 10, order), []
        while found := [unit for worker in range(workers) for unit in work.claim(worker, 1)]:
            units += found
        return units
    assert len(given(1, False)) == 2 * (1 + 1 + 4 + 1 + 1)
    assert [unit.partition for unit in given(1, False)][:7] == [0, 2, 3, 3, 3, 3, 4]
    for shuffle in (False, True):
        assert set(given(1, shuffle)) == set(given(3, shuffle))
    by_epoch = [[unit.partition for unit in given(1, True) if unit.epoch == epoch] for epoch in (0, 1)]
    assert by_epoch[0] != by_epoch[1]


def test_what_a_lost_worker_held_is_done_by_others():
    work = PartitionWork([30, 30], range(1), 10, lambda *_: None)
    first = work.claim(1, 1) + work.claim(2, 1)
    work.done(2)
    work.lose(1)
    rest = []
    while found := work.claim(2, 1):
        rest += found
    assert sorted((unit.partition, unit.begin) for unit in rest) == [(0, 0), (0, 10), (0, 20), (1, 10), (1, 20)]
    assert [str(unit) for unit in first] == [f"items 0 to 9 of partition {each}, epoch 1" for each in (0, 1)]


def test_what_cannot_be_trained_on_is_refused():
    def train(data, **options):
        with pyddl.ParameterServer({}) as server:
            server.train(data, lambda model, items: {}, lambda model, update: None, **options)
    with pytest.raises(DataError, match="data is empty: its 2 partitions have no items"):
        train(Rdd([0, 0]))
    with pytest.raises(ParameterError, match=r"partitions is 3, but data has 6 of its own; leave it out, or"):
        train(Rdd(), partitions=3)
    drawn = Rdd([4, 4])
    drawn.glom = lambda: Rdd([4, 5])
    with pytest.raises(DataError, match="partition 1 has 4 items here, but 5 on the server; every rank needs the same"):
        train(drawn)
    assert Partitions.of([1]) is None and Partitions.of(np.zeros(3)) is None
