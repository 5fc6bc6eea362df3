"""Stages and phases that are not right are refused, with what to do."""

import numpy as np
import pytest
from phased_models import Kept, Pair
from phased_runs import simulated, train

from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.stages import Phase, Stage, stages_of
from pyddl.strategies import strategy

BOTH = ("critic", "generator")


class Three(Pair):
    """Three groups, the last of which has no elements."""

    layout = Layout([*Pair.layout, Slice("other", (3,), "other"), Slice("none", (0,), "none")])


def staged(*stages, model=Pair):
    made = model()
    made.stages = stages
    return made


def one(*phases, **lasts):
    return Stage(phases, **lasts)


@pytest.mark.parametrize(("stages", "message"), [
    ((), "Three has no stages; expected at least one"),
    ((one(Phase("critic", ("critik",))),), "phase critic has no slices of group 'critik': the layout's groups are "
                                           "generator, critic, other, none; did you mean 'critic'"),
    (("critik",), "has no slices of group 'critik'.*did you mean 'critic'"),
    ((one(Phase("critic", BOTH), Phase("generator", ("generator",))),),
     "phases critic and generator of one stage both train group generator"),
    ((one(Phase("all"), Phase("generator", ("generator",))),), "both train group generator"),
    ((one(Phase("ends", ("generator", "other"))),), "groups generator, other are no neighbours in the layout"),
    ((one(Phase("none", ("none",))),), "phase none has no elements to train"),
    ((one(Phase("twice", ("critic",)), Phase("twice", ("generator",))),), "named twice, twice; names must differ"),
    ((one(Phase("critic", ("critic",)), epochs=2),), "stage 1 of 1 has an end: the last stage lasts for the epochs"),
    ((one(Phase("critic", ("critic",))), one(Phase("generator", ("generator",)))), "stage 1 of 2 has no end: "),
    ((one(Phase("critic", ("critic",)), steps=3), one(Phase("generator", ("generator",)), steps=3)),
     "stage 2 of 2 has an end"),
])
def test_bad_stages_are_named(stages, message):
    model = staged(*stages, model=Three)
    with pytest.raises(ParameterError, match=message):
        stages_of(model)
    with pytest.raises(ParameterError, match=message):
        train(model)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Phase("critic", every=0), "every of phase critic is 0; expected a whole number at least 1"),
    (lambda: Phase("a critic"), "a phase is named 'a critic'; expected a word"),
    (lambda: Phase("critic", average=1.0), "average of phase critic is 1.0; expected a number above 0 and below 1"),
    (lambda: Stage(()), "a stage has no phases; expected at least one"),
    (lambda: one(Phase("critic"), epochs=0), "epochs of a stage is 0"),
    (lambda: one(Phase("critic"), epochs=1, steps=1), "a stage has epochs and steps; expected one of the two"),
])
def test_what_cannot_be_is_refused_at_once(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


def test_names_are_short_for_stages():
    assert [phase.groups for stage in stages_of(staged("generator")) for phase in stage.phases] == [("generator",)]
    assert stages_of(staged("all"))[0].phases[0].groups == ()
    assert Phase("critic", "critic").groups == ("critic",)
    assert len(stages_of(Kept())) == 1


@pytest.mark.parametrize(("own", "message"), [
    ({"optimizer": "sdg"}, "did you mean 'sgd'"),
    ({"learning_rat": 0.1}, "has no option 'learning_rat'.*did you mean 'learning_rate'"),
    ({"bound": 0}, "bound is 0; expected a number above 0"),
])
def test_a_rule_that_cannot_be_is_refused_before_training(own, message):
    model = staged(one(Phase("critic", ("critic",), optimizer=own), Phase("generator", ("generator",))))
    for run in (train, lambda model: simulated(strategy("local"), 1, model)):
        with pytest.raises(ParameterError, match=message):
            run(model)


def test_a_phase_s_own_rule_does_not_get_what_belongs_to_the_other():
    model = staged(one(Phase("critic", ("critic",), optimizer={"optimizer": "sgd"}),
                       Phase("generator", ("generator",))))
    result = train(model, optimizer="momentum", momentum=0.5, learning_rate=0.01, epochs=1)
    assert set(result.state) == {"generator.momentum"}


def test_backup_workers_and_phases_do_not_go_together():
    with pytest.raises(ParameterError, match=r"backup drops pushes of a step as a whole, .* stages of 2 phases"):
        simulated(strategy("server", backup=1), 3)


@pytest.mark.mpi(min_size=3)
def test_backup_workers_and_phases_do_not_go_together_by_mpi(world):
    with pytest.raises(ParameterError, match="leave backup out"):
        train(strategy="server", backup=1)


def test_tables_of_chains_are_of_one_length():
    model = Kept(merged=False)
    model.buffers = Layout([Slice("chain", (5, 20), merge="rows"), Slice("age", (4,), merge="rows")])
    for run in (train, lambda model: simulated(strategy("local"), 1, model)):
        with pytest.raises(ParameterError, match="buffers chain, age are tables of chains, but their numbers of rows"):
            run(model)
    model.buffers = Layout([Slice("chain", (), merge="rows")])
    with pytest.raises(ParameterError, match="every chain has a row in each"):
        train(model)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{"strategy": "averaging"}, {"strategy": "gossip"}], ids=str)
def test_a_worker_that_is_alone_with_its_rows_needs_chains_of_its_own(world, options):
    with pytest.raises(ParameterError, match=r"1 persistent chain for [234] workers, .*give at least"):
        train(Kept(chains=1), **options)


def test_a_gap_is_no_slice_and_stays_zero():
    result = train(Pair())
    inside = np.zeros(Pair.layout.size, dtype=bool)
    for s in Pair.layout:
        inside[s.begin : s.end] = True
    assert not result.parameters[~inside].any() and result.parameters[inside].all()
