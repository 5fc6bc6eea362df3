"""What estimators leave and take over: run directories, reconstructions, encoders that are estimators."""

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import pyddl
from pyddl.errors import ParameterError
from pyddl.train import load_run

X = np.random.default_rng(0).random((120, 6)).astype(np.float32)
LABELS = np.where(X[:, 0] > X[:, 1], 7, 3)
FRAME = pandas.DataFrame(X, columns=list("abcdef"))


def encoder(**params):
    return pyddl.Autoencoder(**{"hidden": (4, 3), "epochs": 2, "batch_size": 30, "random_state": 0, **params})


def test_what_is_saved_is_loaded_again(tmp_path):
    fitted = encoder(tied=True).fit(FRAME)
    fitted.save(tmp_path / "r")
    again = pyddl.load(tmp_path / "r")
    assert again.get_params() == fitted.get_params() and again.feature_names_in_.tolist() == list("abcdef")
    np.testing.assert_array_equal(again.transform(FRAME), fitted.transform(FRAME))
    np.testing.assert_array_equal(again.reconstruct(FRAME), fitted.inverse_transform(fitted.transform(FRAME)))
    again.partial_fit(FRAME)
    assert len(again.metrics_) == 3 and load_run(tmp_path / "r").summary["finished"]
    with pytest.raises(ParameterError, match=r"already holds a run \(config.toml\); say overwrite=True to replace it"):
        fitted.save(tmp_path / "r")
    again.save(tmp_path / "r", overwrite=True)
    assert len(pyddl.load(tmp_path / "r").metrics_) == 3


def test_classes_keep_their_type(tmp_path):
    fitted = pyddl.Classifier(epochs=2, random_state=0).fit(X, LABELS)
    fitted.save(tmp_path / "r")
    again = pyddl.load(tmp_path / "r")
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    assert again.predict(X).dtype == LABELS.dtype


@pytest.mark.parametrize("make", [lambda: pyddl.RBM(hidden=5, epochs=1, random_state=0),
                                  lambda: pyddl.DBN(hidden=(5, 3), pretrain_epochs=1, epochs=1, random_state=0),
                                  lambda: pyddl.VAE(hidden=(5, 2), epochs=1, random_state=0),
                                  lambda: pyddl.SpikeSlabRBM(hidden=4, epochs=1, random_state=0)])
def test_others_save_and_reconstruct_too(tmp_path, make):
    fitted = make().fit(X)
    fitted.save(tmp_path / "r")
    again = pyddl.load(tmp_path / "r")
    np.testing.assert_array_equal(again.reconstruct(X), fitted.reconstruct(X))
    assert fitted.reconstruct(X).shape == X.shape


def test_an_estimator_may_be_the_encoder_of_a_classifier(tmp_path):
    below = encoder().fit(X)
    below.save(tmp_path / "r")
    params = {"freeze": True, "epochs": 3, "random_state": 0}
    of_estimator = pyddl.Classifier(encoder=below, **params).fit(X, LABELS)
    of_run = pyddl.Classifier(encoder=str(tmp_path / "r"), **params).fit(X, LABELS)
    np.testing.assert_array_equal(of_estimator.predict_proba(X), of_run.predict_proba(X))
    assert clone(of_estimator).encoder is below, "a copy that is not fitted would be none"
    search = GridSearchCV(pyddl.Classifier(encoder=below, **params), {"learning_rate": [0.001, 0.01]}, cv=2)
    assert search.fit(X, LABELS).best_score_ > 0
    with pytest.raises(Exception, match="this Autoencoder is not fitted yet"):
        pyddl.Classifier(encoder=encoder(), **params).fit(X, LABELS)


def test_an_encoder_s_scale_goes_with_it():
    far = X * 100
    below = encoder().fit(pyddl.data.load(far, scale="minmax"))
    above = pyddl.Classifier(encoder=below, epochs=2, random_state=0).fit(far, LABELS)
    whole = pyddl.data.load(far, labels=LABELS.astype(str), scale="minmax")
    of_source = pyddl.Classifier(encoder=below, epochs=2, random_state=0).fit(whole)
    np.testing.assert_allclose(above.predict_proba(far), of_source.predict_proba(far), atol=1e-5)
