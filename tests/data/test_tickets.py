"""Tickets: every row of an epoch once, whatever the cut; loaders that read what they are given."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyddl.data import ArraySource
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.data.tickets import SliceLoader, TicketLoader, Tickets

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


@given(rows=st.integers(1, 200), batch=st.integers(1, 60), slices=st.integers(1, 9), data=st.data())
def test_tickets_are_the_rows_that_are_left_each_once(rows, batch, slices, data):
    row = data.draw(st.integers(0, rows))
    sampler = Sampler(rows, batch)
    tickets = Tickets(sampler, slices, row)
    parts = [tickets.part(ticket) for ticket in range(tickets.count)]
    assert [at for part in parts for at in range(*part)] == list(range(row, rows))
    for ticket, (begin, end) in enumerate(parts):
        first, last = sampler.rows_of(tickets.step(ticket))
        assert first <= begin <= end <= last
        assert tickets.done(ticket) == begin
    assert tickets.done(tickets.count) == rows
    if row == 0:
        assert parts == [sampler.part(step, part, slices) for step in range(sampler.steps_per_epoch)
                         for part in range(slices)]


@given(rows=st.integers(1, 100), batch=st.integers(1, 40), steps=st.integers(0, 300))
def test_reached_is_the_inverse_of_consumed(rows, batch, steps):
    sampler = Sampler(rows, batch)
    assert sampler.reached(sampler.consumed(steps)) == steps
    assert sampler.reached(sampler.consumed(steps + 1) - 1) == steps


def counted(count):
    tickets = iter(range(count))
    return lambda: next(tickets, None)


def test_a_ticket_loader_gives_the_rows_of_its_tickets_in_the_epochs_order():
    sampler = Sampler(20, 6, seed=3)
    for epoch, row in ((0, 0), (2, 7)):
        count = Tickets(sampler, 4, row).count
        with TicketLoader(ArraySource(ROWS), sampler, 4, counted(count)) as loader:
            loader.begin_epoch(epoch, row)
            seen = []
            while (batch := loader.next()) is not None:
                assert len(batch) > 0
                assert np.array_equal(batch.rows, ROWS[batch.index])
                assert sampler.epoch_of(batch.step) == epoch and batch.seed == 3
                seen += batch.index.tolist()
        assert seen == sampler.index(epoch, row, 20).tolist()


def test_a_slice_loader_ends_with_the_epoch_and_with_its_permits():
    sampler = Sampler(20, 6)
    plain = Loader(ArraySource(ROWS), sampler, 1, 2, steps=8, background=False)
    with SliceLoader(Loader(ArraySource(ROWS), sampler, 1, 2, steps=8, background=False), counted(7)) as loader:
        given = []
        for epoch in range(2):
            loader.begin_epoch(epoch)
            while (batch := loader.next()) is not None:
                assert np.array_equal(batch.index, plain.next().index)
                given.append(batch.step)
            assert loader.given == (4, 3)[epoch]
    assert given == list(itertools.chain(range(4), range(4, 7)))
