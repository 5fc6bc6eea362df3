"""AdaGrad on whole arrays and on rows: the same as the dense rule of `pyddl.optim`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyddl.callbacks import AdaGradDescent
from pyddl.errors import ParameterError, ShapeError
from pyddl.optim import AdaGrad

whole = {"parameters": lambda model: model, "learning_rate": 0.3}


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=4), st.integers(0, 99))
def test_rows_move_as_the_dense_rule_says_and_named_twice_add_up(steps, seed):
    random = np.random.default_rng(seed)
    start = random.standard_normal((6, 3)).astype(np.float32)
    sparse, dense = {"w": start.copy()}, {"w": start.copy()}
    by_row, by_array = AdaGradDescent(**whole), AdaGradDescent(**whole)
    for rows in steps:
        values = random.standard_normal((len(rows), 3)).astype(np.float32)
        gradient = np.zeros_like(start)
        np.add.at(gradient, rows, values)
        by_row(sparse, {"w": (np.array(rows, dtype=np.int64), values)})
        by_array(dense, {"w": gradient})
    np.testing.assert_allclose(sparse["w"], dense["w"], rtol=1e-4, atol=1e-5)


def test_it_is_the_rule_of_pyddl_optim():
    random = np.random.default_rng(1)
    ours = random.standard_normal(50).astype(np.float32)
    theirs, rule, state = ours.copy(), AdaGrad(0.3), [np.zeros_like(ours)]
    descent = AdaGradDescent(**whole)
    for step in range(5):
        gradient = random.standard_normal(50).astype(np.float32)
        descent(ours, gradient)
        rule.update(theirs, gradient, state, [(0, 50, False)], scale=1.0, step=step)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_empty_updates_and_nested_models_are_legal():
    model = {"a": {"b": np.ones((2, 2)), "c": np.ones(3)}}
    descent = AdaGradDescent(lambda model: model)
    descent(model, {})
    descent(model, {"a": {"b": (np.zeros(0, int), np.zeros((0, 2)))}})
    assert not descent.squared_sums
    descent(model, {"a": {"c": np.full(3, 5.0)}})
    np.testing.assert_allclose(model["a"]["c"], 0.99)
    assert list(descent.squared_sums) == ["a.c"] and (model["a"]["b"] == 1).all()


def test_what_does_not_fit_is_refused():
    model = {"w": np.ones((2, 2))}
    descent = AdaGradDescent(lambda model: model)
    with pytest.raises(ShapeError, match=r"update\['w'\].* of shape \(3,\); expected the shape \(2, 2\)"):
        descent(model, {"w": np.ones(3)})
    with pytest.raises(ParameterError, match=r"update\['v'\] has no place"):
        descent(model, {"v": np.ones(3)})
    with pytest.raises(ParameterError, match="learning_rate is 0"):
        AdaGradDescent(lambda model: model, learning_rate=0)
