"""Strategy auto: the cost of each strategy follows from figures, and so does the choice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyddl.errors import ParameterError
from pyddl.strategies import NAMES, Allreduce, Auto, Averaging, Elastic, Gossip, Local, Sequential, Server, Split
from pyddl.strategies.auto import Choice, candidates
from pyddl.strategies.figures import Figures, Link

LINKS = {name: Link(1e-3, 1e9)
         for name in ("sum", "average", "replicas", "owners", "exchange", "pass", "served", "node")}
FIGURES = Figures(ranks=4, nodes=1, crowding=1.0, rows=64, nbytes=2_000_000, apart=10e-3, together=12e-3,
                  per_row=0.1e-3, update=2e-3, hidden=0.0, split=20e-3, links=LINKS)
MOVED = 3e-3  # of an operation on 2 MB by these links


def seconds(strategy, **changes):
    return strategy.step_seconds(replace(FIGURES, **changes))


def test_an_operation_takes_its_latency_and_its_bytes():
    assert Link(1e-3, 1e9).seconds(2_000_000) == pytest.approx(3e-3)
    through = Link.through((64, 2e-6), (1_000_000, 102e-6))
    assert through.seconds(64) == pytest.approx(2e-6)
    assert through.seconds(500_000) == pytest.approx(52e-6, rel=0.01)


@given(short=st.floats(1e-7, 1e-2), long=st.floats(1e-7, 1e-2))
def test_a_line_through_any_two_measurements_rises(short, long):
    line = Link.through((64, short), (4000, long))
    assert line.latency >= 0 and line.bandwidth > 0
    assert line.seconds(8000) > line.seconds(4000) >= 0.99 * long


def test_each_strategy_costs_what_its_operations_do():
    assert seconds(Local()) == 10e-3
    assert seconds(Allreduce()) == pytest.approx(12e-3 + MOVED)
    assert seconds(Allreduce(), hidden=0.5) == pytest.approx(12e-3 + MOVED / 2)
    assert seconds(Allreduce(shard_optimizer=True)) == pytest.approx(12e-3 - 0.75 * 2e-3 + MOVED)
    assert seconds(Averaging(period=1)) == pytest.approx(12e-3 + MOVED)
    assert seconds(Averaging(period=4)) == pytest.approx(11e-3 + MOVED / 4)
    assert seconds(Averaging(period=4, outer="nesterov")) == pytest.approx(11e-3 + 7 * MOVED / 4)
    assert seconds(Averaging(period=4, node_period=1), nodes=2) == pytest.approx(12e-3 + MOVED / 4 + 0.75 * MOVED)
    assert seconds(Elastic(tau=4)) == pytest.approx(11e-3 + 8 * MOVED / 4)
    assert seconds(Split()) == 20e-3
    assert seconds(Gossip(period=4)) == pytest.approx(11e-3 + 3 * MOVED / 4)


def test_replicas_take_turns():
    turn = 10e-3 + (128 - 64) * 0.1e-3  # 256 rows on two replicas, one at a time
    assert seconds(Sequential(replicas=2)) == pytest.approx(2 * (turn + MOVED) + MOVED)
    assert seconds(Sequential(replicas=4), crowding=2.0) == pytest.approx(4 * (5e-3 + MOVED) + MOVED)


def test_servers_serve_fewer_workers_with_more_rows():
    gradient = 8e-3 + (256 / 3 - 64) * 0.1e-3  # of one of three workers, who do not update
    update = 2e-3 + MOVED
    assert seconds(Server()) == pytest.approx(gradient + 2e-3 + MOVED + 3 * MOVED + update)
    for mode in ("ssp", "async"):
        assert seconds(Server(mode=mode), update=0.0) == pytest.approx(gradient + 2e-3 + 2 * MOVED)
    assert seconds(Server(mode="async"), update=9e-3) == pytest.approx(3 * (9e-3 + 2 * MOVED))  # server behind
    rare = Server(mode="async", push_every=4, fetch_every=4)
    assert seconds(rare) == pytest.approx(gradient + MOVED / 4 + update / 4)
    assert seconds(rare, crowding=2.0) == pytest.approx(gradient * 1.5 / 2 + MOVED / 4 + update / 4)
    assert seconds(Elastic(mode="async", tau=4)) == pytest.approx(gradient + 2e-3 + 4 * MOVED / 4)


def test_longer_periods_wait_less_for_the_slowest():
    times = [seconds(Averaging(period=period)) for period in (1, 2, 8, 64)]
    assert times == sorted(times, reverse=True)
    assert times[-1] > FIGURES.apart


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_strategy_is_offered_and_has_a_cost(nodes):
    offered = candidates(nodes)
    assert {each.name for each in offered} == set(NAMES) - {"auto"}
    assert all(each.strategy.step_seconds(FIGURES) > 0 for each in offered)
    assert (("averaging", {"node_period": 1}) in [each[:2] for each in offered]) == (nodes > 1)
    meanings = {str(each): each.meaning for each in offered}
    assert {name for name, meaning in meanings.items() if meaning == "as one process"} == {
        "allreduce", "allreduce, shard_optimizer", "server"}
    assert (meanings["local"], meanings["split"]) == ("replicas apart", "as one process, in parts")
    assert meanings["server, mode async"] == meanings["elastic, mode async"] == "another algorithm"


def choose(allow="synchronous", offered=None, **changes):
    return Auto(allow).choose(replace(FIGURES, **changes), offered or candidates(1))


def test_only_the_result_of_one_process_is_chosen_unless_told_otherwise():
    dear = {**LINKS, "sum": Link(1.0, 1e9), "owners": Link(2.0, 1e9), "served": Link(3.0, 1e9)}
    choice = choose(links=dear)
    assert (choice.strategy, choice.options) == ("allreduce", {})
    assert choice.predicted == pytest.approx(12e-3 + 1.002)
    assert "gives the result of one process; allreduce, shard_optimizer would take 1.9" in choice.reason
    other = choose("any", links=dear)
    assert other.strategy == "averaging" and "one process" not in other.reason


def test_sharded_state_wins_where_updates_are_dear():
    choice = choose(update=8e-3)
    assert (choice.strategy, choice.options) == ("allreduce", {"shard_optimizer": True})
    assert choice.build().shards


def test_what_leaves_ranks_with_parts_is_not_chosen():
    choice = choose("any", split=1e-6)
    assert choice.strategy != "split"
    assert [row["milliseconds"] for row in choice.table if row["strategy"] == "split"] == [pytest.approx(1e-3)]
    assert "split" not in replace(FIGURES, split=float("inf")).record()


def test_replicas_apart_are_never_chosen():
    fast = {name: Link(1e-9, 1e15) for name in LINKS}
    assert choose("any", links=fast, apart=1e-3).strategy != "local"


def test_equal_times_go_to_the_simpler_strategy():
    choice = choose(update=0.01e-3)  # sharding it saves a hundredth of a millisecond of 15
    assert choice.options == {} and "would take as long" in choice.reason


def test_what_is_refused_is_not_chosen():
    offered = [each for each in candidates(1) if not each.strategy.shards]
    choice = choose(update=8e-3, offered=offered)
    assert choice.options == {} and len(choice.table) == len(offered)


def test_the_table_says_all_that_the_choice_rests_on():
    choice = choose()
    row = next(row for row in choice.table if row["strategy"] == "allreduce")
    assert row["milliseconds"] == pytest.approx(15.0)
    assert row["samples_per_second"] == pytest.approx(256 / 15e-3)
    text = choice.text()
    assert text.count("\n") == 1 + len(choice.table)
    assert "15.000      17,067  as one process" in text
    assert "13.500      18,963  as one process" in text
    assert f"{(10 + 19.2) / 13.5:.2f} times the speed of one rank alone" in text  # 256 rows there


def test_a_choice_survives_its_record():
    choice = choose()
    again = Choice.recorded(choice.record())
    assert again.record() == choice.record()
    assert type(again.build()) is Allreduce
    assert again.build().shards
    assert again.text() == "auto: allreduce, as was chosen when training began"
    assert Choice.recorded(again.beside(1.0, 256, 4)).record() == choice.record()


def test_the_prediction_is_set_beside_reality():
    choice = choose()
    assert choice.beside(2.0, 25_600, ranks=4)["measured"] == pytest.approx(20e-3)
    assert "measured" not in choice.beside(2.0, 25_600, ranks=2)  # the prediction was of other ranks
    assert "measured" not in choice.beside(0.0, 0, ranks=4)
    assert "measured" not in Choice("local", {}, "one rank", 1).beside(2.0, 100, ranks=1)


def test_bad_options_are_refused():
    with pytest.raises(ParameterError, match=r"allow is 'all'; expected one of any, synchronous"):
        Auto(allow="all")
    with pytest.raises(ParameterError, match="name the strategy itself, for example allreduce"):
        Auto().check(4, 256)


def test_what_is_closer_than_could_be_measured_counts_as_equally_fast():
    near = replace(FIGURES, apart=9.5e-3, together=12e-3, update=1e-3)  # sharding the optimizer saves 5 %
    sure = Auto().choose(near, candidates(1))
    assert sure.options == {"shard_optimizer": True} and "measured to" not in sure.reason
    unsure = Auto().choose(replace(near, unsure=0.2, disturbed=0.4), candidates(1))
    assert (unsure.strategy, unsure.options) == ("allreduce", {})
    assert "shard_optimizer would take as long" in unsure.reason
    assert "steps are measured to 20%, and what is closer counts as equally fast" in unsure.reason
    assert "other work on the machine had the cores for 40% of the time" in unsure.reason
