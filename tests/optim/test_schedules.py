"""Schedules: values at chosen steps, the choice by name, errors."""

import math

import pytest

from pyddl.errors import ParameterError
from pyddl.optim import Constant, Cosine, Linear, MomentumSchedule, StepDecay, WarmUp, schedule


def test_constant():
    assert Constant(0.3)(0) == Constant(0.3)(10**6) == 0.3


def test_step_decay():
    rate = StepDecay(1.0, every=10, factor=0.5)
    assert [rate(s) for s in (0, 9, 10, 19, 20)] == [1, 1, 0.5, 0.5, 0.25]


def test_cosine():
    rate = Cosine(1.0, total=100, minimum=0.2)
    assert rate(0) == 1.0
    assert rate(50) == pytest.approx(0.6)
    assert rate(25) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(100) == rate(1000) == pytest.approx(0.2)


def test_linear():
    rate = Linear(1.0, total=100, minimum=0.2)
    assert [rate(s) for s in (0, 25, 50)] == pytest.approx([1, 0.8, 0.6])
    assert rate(100) == rate(1000) == pytest.approx(0.2)


def test_warm_up():
    rate = WarmUp(4, StepDecay(1.0, every=2, factor=0.5))
    assert [rate(s) for s in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert WarmUp(0, Constant(0.1))(0) == 0.1


def test_momentum_schedule_is_the_papers_formula():
    momentum = MomentumSchedule(0.995)
    for step in (0, 1, 249, 250, 499, 500, 1000, 5000, 10**6):
        expected = min(1 - 2 ** (-1 - math.log2(step // 250 + 1)), 0.995)
        assert momentum(step) == pytest.approx(expected, abs=1e-15)
    assert momentum(0) == 0.5 and momentum(250) == 0.75 and momentum(10**6) == 0.995


def test_by_name():
    assert schedule("constant", 0.1) == Constant(0.1)
    assert schedule("step", 0.1, step_every=7, step_factor=0.3) == StepDecay(0.1, 7, 0.3)
    assert schedule("cosine", 0.1, total_steps=50, minimum=0.01) == Cosine(0.1, 50, 0.01)
    assert schedule("linear", 0.1, total_steps=50, minimum=0.01) == Linear(0.1, 50, 0.01)
    warm = schedule("cosine", 0.1, warmup_steps=10, total_steps=50)
    assert warm == WarmUp(10, Cosine(0.1, 40)) and warm(50) == 0


@pytest.mark.parametrize("make", [
    lambda: schedule("cosin", 0.1),
    lambda: schedule("cosine", 0.1),
    lambda: schedule("linear", 0.1),
    lambda: Linear(0.1, 10, 0.2),
    lambda: schedule("step", 0.1),
    lambda: schedule("constant", -0.1),
    lambda: schedule("constant", 0.1, warmup_steps=-1),
    lambda: StepDecay(0.1, 0),
    lambda: StepDecay(0.1, 5, 1.5),
    lambda: Cosine(0.1, 10, 0.2),
    lambda: MomentumSchedule(1.0),
    lambda: WarmUp(5, 0.1),
])
def test_wrong_values_are_refused(make):
    with pytest.raises(ParameterError):
        make()


def test_errors_name_the_cure():
    with pytest.raises(ParameterError, match="did you mean 'cosine'"):
        schedule("cosin", 0.1)
    for name in ("cosine", "linear"):
        with pytest.raises(ParameterError, match=f"'{name}' needs total_steps"):
            schedule(name, 0.1)


def test_options_are_plain_and_complete():
    assert WarmUp(5, StepDecay(0.1, 10, 0.5)).options() == {
        "name": "warmup", "steps": 5, "then": {"name": "step", "value": 0.1, "every": 10, "factor": 0.5}}
    assert repr(Cosine(0.1, 5)) == "Cosine(value=0.1, total=5, minimum=0.0)"
