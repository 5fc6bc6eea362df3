"""The desk: who gets which trial, and what becomes of it; no process but this one."""

import json
import os

import pytest

from pyddl.comm.abort import STOPPED
from pyddl.errors import ParameterError
from pyddl.tune import Search, Space, Study
from pyddl.tune.desk import PATIENCE, Desk, folder_of
from pyddl.tune.estimate import asha_share
from pyddl.tune.groups import groups_of
from pyddl.tune.messages import Outcome, Over, Split, Task
from pyddl.tune.table import Table

SPACE = Space({"model": "autoencoder"}, {"batch_size": {"low": 1, "high": 1000}})


@pytest.fixture
def desk_of(tmp_path):
    """``desk_of(groups, idle=(), trials=3, ...)``; ``desk_of.clock[0]`` is the time."""
    made, clock = [], [0.0]

    def make(groups, *, idle=(), **search):
        for other in made:
            other.study.close()
        study = Study(tmp_path, SPACE, Search.of({"trials": 3, "sampler": "random", "pruner": "none", **search}))
        clock[0] = 0.0
        made.append(Desk(study, tmp_path, groups, Table(study), lambda: None, idle=idle, until=6000,
                         clock=lambda: clock[0]))
        return made[-1]

    make.clock = clock
    yield make
    for desk in made:
        desk.study.close()


def complete(loss=1.0):
    return Outcome("complete", {"epoch": 1, "test_loss": loss})


def numbers(answers):
    return {rank: answer.number if isinstance(answer, Task) else type(answer).__name__ for rank, answer in answers}


def states(desk):
    return [row["state"] for row in desk.study.rows()]


@pytest.mark.parametrize(("nodes", "size", "groups", "left"), [
    ([0, 0, 0, 0], 2, [[0, 1], [2, 3]], []),
    ([0, 0, 0], 2, [[0, 1]], [2]),
    ([0, 0, 0, 1, 1, 1], 2, [[0, 1], [2, 5], [3, 4]], []),  # one of the nodes' last ranks
    ([0, 1, 0, 1], 2, [[0, 2], [1, 3]], []),
    ([0, 1], 2, [[0, 1]], []),
    ([0], 1, [[0]], []),
])
def test_ranks_are_grouped_within_nodes(nodes, size, groups, left):
    assert groups_of(nodes, size) == (groups, left)


def test_more_ranks_to_a_trial_than_there_are_is_refused():
    with pytest.raises(ParameterError, match="--ranks-per-trial is 3, and there are 2 ranks: give at most 2"):
        groups_of([0, 0], 3)


def test_a_trial_begins_when_all_ranks_of_the_group_are_there(desk_of):
    desk = desk_of([[0, 1], [2, 3]], idle=[4])
    assert desk.next(0, None) == [] and desk.next(2, None) == []
    assert numbers(desk.next(1, None)) == {0: 0, 1: 0}
    assert numbers(desk.next(3, None)) == {2: 1, 3: 1}
    assert desk.next(0, complete()) == []
    assert numbers(desk.next(1, complete())) == {0: 2, 1: 2}
    desk.next(2, complete())
    assert desk.next(3, complete()) == []  # the last trial is under way
    desk.next(0, complete())
    assert desk.next(1, complete()) == []
    answers = desk.next(4, None)
    assert sorted(rank for rank, _ in answers) == [0, 1, 2, 3, 4]
    assert all(answer == Over(0) for _, answer in answers)
    assert states(desk) == ["complete"] * 3


def test_what_is_left_after_a_trial(desk_of, tmp_path):
    desk = desk_of([[0]], trials=4)
    folders = [folder_of(tmp_path, number) for number in range(4)]
    for folder in folders:
        (folder / "checkpoints/step-1").mkdir(parents=True)
        (folder / "model.safetensors").touch()
    desk.next(0, None)
    desk.next(0, complete(2.0))
    assert os.readlink(tmp_path / "best") == "trials/0000"
    desk.next(0, complete(1.0))
    assert os.readlink(tmp_path / "best") == "trials/0001"
    desk.next(0, Outcome("failed", why="diverged"))
    desk.next(0, Outcome("pruned", {"epoch": 1, "test_loss": 0.5}))
    assert os.readlink(tmp_path / "best") == "trials/0001"
    assert [(folder / "model.safetensors").exists() for folder in folders] == [True, True, False, False]
    assert not any((folder / "checkpoints").exists() for folder in folders)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"] and summary["best"]["number"] == 1
    assert [summary[state] for state in ("complete", "pruned", "failed", "running")] == [2, 1, 1, 0]


def test_asha_ends_a_trial_that_is_not_among_the_best(desk_of):
    desk = desk_of([[0], [1]], pruner="asha", trials=2)
    desk.next(0, None)
    desk.next(1, None)
    assert desk.epoch(0, {"epoch": 1, "test_loss": 1.0}) == "on"
    assert desk.epoch(1, {"epoch": 1, "test_loss": 2.0}) == "prune"


@pytest.mark.parametrize(("asked", "status"), [(True, STOPPED), (False, 0)])
def test_a_stopped_search_goes_on_with_the_trials_under_way(desk_of, tmp_path, asked, status):
    """By a signal, or when its minutes are over."""
    desk = desk_of([[0], [1]])
    desk.next(0, None)
    desk.next(1, None)
    if not asked:
        desk_of.clock[0] = 1e6
    assert desk.next(0, Outcome("stopped", asked=asked)) == []
    assert desk.epoch(1, {"epoch": 1, "test_loss": 2.0}) == "stop"  # one that has not heard of it
    answers = desk.next(1, Outcome("stopped", {"epoch": 1, "test_loss": 2.0}))
    assert dict(answers) == {0: Over(status), 1: Over(status)}
    assert json.loads((tmp_path / "summary.json").read_text())["finished"] is None
    desk = desk_of([[0]])
    for number, resume in enumerate([True, True, False]):
        (_, task), = desk.next(0, None if number == 0 else complete())
        assert (task.number, task.resume) == (number, resume)


def test_a_trial_that_takes_its_job_with_it_twice_is_given_up(desk_of):
    for attempt in range(2):
        desk = desk_of([[0]])
        (_, task), = desk.next(0, None)
        assert task.number == 0 and task.resume == (attempt > 0)
    desk = desk_of([[0]])
    (_, task), = desk.next(0, None)
    assert task.number == 1
    assert desk.study.rows()[0]["why"] == "was under way when its job died, 2 times"


def test_epochs_of_earlier_stages_are_no_values(desk_of):
    """Nor is a goal missed that only the last stage has, as a deep belief net's accuracy."""
    desk = desk_of([[0]], goal="test_accuracy", pruner="asha")
    desk.next(0, None)
    assert desk.epoch(0, {"epoch": 0, "stage": 1, "train_loss": 9.0}) == "on"
    assert desk.epoch(0, {"epoch": 1, "stage": 2, "train_loss": 3.0, "test_accuracy": 0.5}) == "on"
    assert desk.study.curves() == {0: [(1, 0.5)]}
    desk._asked = True
    assert desk.epoch(0, {"epoch": 0, "stage": 1, "train_loss": 9.0}) == "stop"


def test_the_others_of_a_group_go_on_without_a_rank_that_died(desk_of):
    desk = desk_of([[0, 1, 2]])
    for rank in (0, 1, 2):
        answers = desk.next(rank, None)
    desk.next(0, Outcome("failed", why="rank 1 left", lost=True, learn=False))
    desk.silent(1)
    assert desk.next(2, Outcome("failed", why="rank 1 left", lost=True, learn=False)) == []
    answers = desk.gone(1)
    assert numbers(answers) == {0: 1, 2: 1} and all(task.deaths for _, task in answers)
    assert desk.study.rows()[0]["why"] == "rank 1 died"
    desk.next(0, complete())
    assert all(not task.deaths for _, task in desk.next(2, complete()))


def test_a_group_that_has_died_out_is_missed_by_nobody(desk_of):
    desk = desk_of([[0], [1]], trials=2)
    desk.next(0, None)
    desk.next(1, None)
    assert desk.next(0, complete()) == []
    desk.silent(1)
    assert dict(desk.gone(1)) == {0: Over(0, deaths=True)}
    assert states(desk) == ["complete", "failed"]


def test_the_rank_that_knows_why_is_believed(desk_of):
    desk = desk_of([[0, 1]])
    desk.next(0, None)
    desk.next(1, None)
    desk.next(0, Outcome("failed", why="rank 1 left while this one waited", lost=True, learn=False))
    desk.next(1, Outcome("failed", why="no such file"))
    assert desk.study.rows()[0]["why"] == "no such file"


def test_ranks_that_fail_alone_end_and_leave_the_others_to_go_on(desk_of):
    desk = desk_of([[0, 1], [2]], trials=3)
    for rank in (0, 1, 2):
        desk.next(rank, None)
    desk.next(1, Outcome("failed", why="no such file"))
    assert desk.waits and desk.tick() == []
    desk_of.clock[0] = PATIENCE + 1
    assert desk.tick() == [(1, Split("trial 0: no such file"))]
    assert not desk.waits and desk.study.rows()[0]["why"] == "no such file"
    desk.silent(1)
    desk.gone(1)
    (_, task), = desk.next(0, Outcome("failed", why="rank 1 died", lost=True))
    assert task.number == 2 and task.deaths


@pytest.mark.parametrize(("outcome", "status", "said"), [
    (Outcome("failed", why="cannot write: no space left", fatal=True), 1, "no space left"),
    (Outcome("complete", {"epoch": 1, "train_loss": 1.0, "test_accuracy": 0.5}), 2, "goal is 'test_accuracc'"),
])
def test_what_would_fail_every_trial_ends_the_search(desk_of, outcome, status, said):
    desk = desk_of([[0]], goal="test_accuracc")
    desk.next(0, None)
    ((_, over),) = desk.next(0, outcome)
    assert over.status == status and said in over.error
    assert states(desk) == ["running"]  # it goes on when that has been mended


def test_a_search_in_which_all_has_failed_has_failed(desk_of):
    desk = desk_of([[0]], trials=1)
    desk.next(0, None)
    ((_, over),) = desk.next(0, Outcome("failed", why="diverged"))
    assert over == Over(1, "all 1 trials have failed, trial 0: diverged")


@pytest.mark.parametrize(("epochs", "first", "factor", "share"), [(1, 1, 3, 1), (10, 1, 3, 0.4), (4, 2, 2, 0.75),
                                                                  (5, 9, 3, 1)])
def test_what_asha_lets_be_trained(epochs, first, factor, share):
    """Of 10 epochs: all trials 1, a third 2 more, a ninth 6 more, and a 27th the last."""
    expected = share if epochs != 10 else (1 + 2 / 3 + 6 / 9 + 1 / 27) / 10
    assert asha_share(epochs, first, factor) == pytest.approx(expected)
