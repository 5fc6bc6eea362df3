"""A name that is not known: the nearest one is offered, also where it is another library's for the same."""

import pytest

import pyddl
from pyddl.errors import ParameterError
from pyddl.models import Autoencoder
from pyddl.train import Trainer


@pytest.mark.parametrize(("given", "offered"), [("random_state", "seed"), ("lr", "learning_rate"), ("epoch", "epochs"),
                                                ("max_iter", "epochs")])
def test_the_trainer_offers_the_name_that_is_meant(given, offered):
    with pytest.raises(ParameterError, match=f"there is no option '{given}'; did you mean '{offered}'"):
        Trainer(Autoencoder(4, hidden=(2,)), **{given: 1})


@pytest.mark.parametrize(("given", "offered"), [("seed", "random_state"), ("lr", "learning_rate"),
                                                ("n_components", "hidden"), ("hiden", "hidden")])
def test_estimators_offer_the_name_that_is_meant(given, offered):
    with pytest.raises(TypeError, match=f"Autoencoder has no parameter '{given}'; did you mean '{offered}'"):
        pyddl.Autoencoder(**{given: 1})
    with pytest.raises(ParameterError, match=f"no parameter '{given}'; did you mean '{offered}'"):
        pyddl.Autoencoder().set_params(**{given: 1})


def test_a_descent_wants_a_function_of_the_model():
    with pytest.raises(ParameterError, match=r"parameters is \{'w': 1\}; expected a function of \(model\)"):
        pyddl.callbacks.AdaGradDescent({"w": 1}, 0.2)
