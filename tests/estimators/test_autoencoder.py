"""The autoencoder among scikit-learn's tools: its conventions, searches, pipelines, pickles, ranks."""

import copy
import inspect
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from support import assert_on_all_ranks

import pyddl
from pyddl import _core, options
from pyddl.errors import DataError, ParameterError, ShapeError

X = np.random.default_rng(0).random((60, 8))


def small(**params):
    return pyddl.Autoencoder(**{"hidden": (4, 2), "epochs": 2, "batch_size": 16, "random_state": 0, **params})


CHECKED = [pyddl.Autoencoder(), small(random_state=None), small(random_state=None, loss="mse", strategy="local"),
           small(random_state=None, corrupt=0.2, sparsity=0.1, code_activation="sigmoid", tied=True), pyddl.ZCA()]


every_check = parametrize_with_checks(CHECKED)  # from a generator, which pytest 10 refuses


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
@pytest.mark.filterwarnings("ignore:X reaches from")  # the checks' data are not scaled
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_convolutions_are_an_option_as_any_other():
    pictures = pyddl.data.ArraySource(X.reshape(60, 4, 2).astype(np.float32))
    of_source = small(conv="conv3,pool2", batch_norm="own", corrupt=0.1).fit(pictures)
    of_rows = small(conv="conv3,pool2", batch_norm="own", corrupt=0.1, image_shape=(4, 2)).fit(X)
    codes = of_rows.transform(X)
    np.testing.assert_allclose(codes, of_source.transform(X), rtol=1e-4, atol=1e-5)
    assert of_rows.inverse_transform(codes).shape == X.shape and np.isfinite(of_rows.score(X))
    again = pickle.loads(pickle.dumps(of_rows))
    np.testing.assert_array_equal(again.transform(X), codes)
    with pytest.raises(ParameterError, match="conv needs pictures, and X does not say the shape of one"):
        small(conv="conv3").fit(X)


# ---- parameters --------------------------------------------------------------------------------------------------

def test_the_option_table_is_the_home_of_names_order_and_defaults():
    others = [option for option in options.of_section("training", "machine") if option.name != "ranks"]
    table = [*options.of_model("autoencoder"), *others]
    expected = {option.name: option.default for option in table}
    expected = {"random_state" if name == "seed" else name: None if name == "seed" else default
                for name, default in expected.items()} | {"verbose": 0}
    assert list(pyddl.Autoencoder().get_params().items()) == list(expected.items())
    assert list(inspect.signature(pyddl.Autoencoder.__init__).parameters) == ["self", *expected]
    for name in expected:
        assert f"\n{name} : " in pyddl.Autoencoder.__doc__
    assert set(inspect.signature(pyddl.models.Autoencoder).parameters) - {"inputs"} <= set(expected)


def test_unknown_parameters_are_refused_with_the_nearest():
    with pytest.raises(TypeError, match="epoch"):
        pyddl.Autoencoder(epoch=3)
    with pytest.raises(TypeError, match="encoder is an option of model classifier, linear and stacked_gan; the model"):
        pyddl.Autoencoder(encoder="runs/ae")
    with pytest.raises(ParameterError, match=r"no parameter 'epoch'; did you mean 'epochs'\?"):
        pyddl.Autoencoder().set_params(epoch=3)


@pytest.mark.parametrize(("params", "message"), [
    ({"epochs": 0}, "epochs is 0; expected a whole number at least 1"),
    ({"hidden": ()}, "hidden is empty"),
    ({"hidden": 6.5}, "hidden is 6.5; expected whole numbers, for example"),
    ({"learning_rate": "0.1"}, "learning_rate is '0.1'; expected a number"),
    ({"verbose": "very"}, "verbose is 'very'; expected a whole number"),
    ({"loss": "bc"}, "did you mean 'bce'"),
    ({"strategy": "alreduce"}, "did you mean 'allreduce'"),
    ({"random_state": -1}, "random_state is -1"),
    ({"random_state": "x"}, "random_state is 'x'"),
    ({"validation": 1.5}, "validation is 1.5"),
    ({"period": 4}, "period is an option of strategy averaging.*; the strategy here is allreduce"),
])
def test_values_are_checked_in_fit_only(params, message):
    estimator = small(**params)
    with pytest.raises(ParameterError, match=message):
        estimator.fit(X)
    assert not hasattr(estimator, "result_")


def test_it_prints_what_differs_from_the_defaults():
    assert repr(pyddl.Autoencoder()) == "Autoencoder()"
    assert repr(clone(pyddl.Autoencoder(hidden=[3], loss="mse"))) == "Autoencoder(hidden=[3], loss='mse')"
    assert repr(pyddl.ZCA(epsilon=0.1)) == "ZCA(epsilon=0.1)"


def test_notebooks_show_it_as_scikit_learns_own():
    for estimator in (pyddl.Autoencoder(hidden=(3,), epochs=1), pyddl.ZCA()):
        page = estimator._repr_html_()
        assert "Not fitted" in page and type(estimator).__name__ in page
        assert "Not fitted" not in estimator.fit(np.random.default_rng(0).random((20, 4)))._repr_html_()
        assert type(estimator).__name__ in make_pipeline(MinMaxScaler(), estimator)._repr_html_()


# ---- fitting -----------------------------------------------------------------------------------------------------

def test_it_trains_as_the_trainer_does():
    estimator = small(epochs=3, learning_rate=0.01).fit(X)
    model = pyddl.models.Autoencoder(8, (4, 2))
    trained = pyddl.train.Trainer(model, epochs=3, batch_size=16, learning_rate=0.01, seed=0).fit(X)
    for name, view in model.layout.views(trained.parameters).items():
        np.testing.assert_array_equal(estimator.parameters_[name], view)
    assert estimator.loss_curve_ == [line["train_loss"] for line in trained.metrics]
    np.testing.assert_array_equal(estimator.transform(X), model.encode(trained.parameters, trained.buffers, X))


def test_the_same_seed_gives_the_same_and_none_another():
    states = [3, 3, None, None, np.random.RandomState(1), np.random.default_rng(1)]
    fitted = [small(random_state=state).fit(X) for state in states]
    codes = [estimator.transform(X).tobytes() for estimator in fitted]
    assert codes[0] == codes[1] and len(set(codes)) == 5
    again = small(random_state=fitted[2].seed_).fit(X)
    assert again.transform(X).tobytes() == codes[2], "seed_ says which one was drawn"


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_partial_fit_keeps_the_optimizers_state(optimizer):
    whole = small(epochs=3, optimizer=optimizer).fit(X)
    passes = small(epochs=7, optimizer=optimizer)
    for _ in range(3):
        assert passes.partial_fit(X) is passes
    np.testing.assert_array_equal(passes.result_.parameters, whole.result_.parameters)
    assert passes.loss_curve_ == whole.loss_curve_
    other = passes.partial_fit(X[:20])
    assert len(other.metrics_) == 4, "other rows of the same width go on as well"
    with pytest.raises(ShapeError, match="X has 3 features, but Autoencoder is expecting 8 features"):
        passes.partial_fit(X[:, :3])


def test_partial_fit_after_fit_goes_on_and_fit_begins_anew():
    estimator = small().fit(X)
    first = estimator.result_.parameters.copy()
    estimator.partial_fit(X)
    np.testing.assert_array_equal(estimator.result_.parameters, small(epochs=3).fit(X).result_.parameters)
    np.testing.assert_array_equal(estimator.fit(X).result_.parameters, first)


def test_a_changed_optimizer_cannot_take_over_the_state_of_another():
    with pytest.raises(ParameterError, match="use the optimizer that left them"):
        small().fit(X).set_params(optimizer="momentum").partial_fit(X)


def test_validation_rows_are_not_trained_on():
    estimator = small(validation=0.25, patience=1, epochs=50, learning_rate=0.5).fit(X)
    assert estimator.metrics_[0]["test_loss"] is not None
    assert len(estimator.metrics_) < 50, "patience looks at the validation part"


def test_sources_are_taken_as_they_are():
    digits = pyddl.data.load("digits")
    estimator = small(batch_size=256).fit(digits)
    np.testing.assert_array_equal(estimator.transform(digits.test), estimator.transform(np.asarray(digits.test)))
    assert estimator.score(digits.test) == pytest.approx(-estimator.metrics_[-1]["test_squared_error"], rel=1e-5)
    with pytest.raises(ParameterError, match=r"X is 'digits'; .*pyddl.data.load\('digits'\)"):
        estimator.fit("digits")
    with pytest.raises(ParameterError, match=r"pyddl.data.load\('rows.npy'\) gives those"):
        estimator.fit(Path("rows.npy"))


def test_large_inputs_pass_in_chunks():
    estimator = small().fit(X)
    rows = np.random.default_rng(1).random((9000, 8))
    np.testing.assert_allclose(estimator.transform(rows)[8990:], estimator.transform(rows[8990:]), rtol=1e-4, atol=1e-6)
    assert estimator.inverse_transform(estimator.transform(rows)).shape == (9000, 8)


def test_the_score_is_the_reconstruction_error_of_the_rows_as_given():
    estimator = small(loss="mse").fit(X)
    rebuilt = estimator.inverse_transform(estimator.transform(X))
    assert estimator.score(X) == pytest.approx(-np.square(X - rebuilt).sum(axis=1).mean(), rel=1e-5)


# ---- what X may be -----------------------------------------------------------------------------------------------

def test_values_out_of_range_are_clipped_with_one_warning():
    wide = X * 3 - 1
    estimator = small()
    with pytest.warns(UserWarning, match=r"X reaches from -0.9.* to 1.9.*: values outside are clipped") as caught:
        estimator.fit(wide)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(estimator.transform(wide), estimator.transform(wide.clip(0, 1)))
        small(loss="mse").fit(wide)
        small().fit(MinMaxScaler(clip=True).fit_transform(wide))
    with pytest.raises(ParameterError, match="this model's loss needs values in"):
        small().fit(pyddl.data.ArraySource(wide))


@pytest.mark.parametrize(("bad", "error", "message"), [
    (X[0], ShapeError, "Reshape your data"),
    (X.reshape(60, 2, 4), ShapeError, r"got 3D array .* X.reshape\(len\(X\), -1\) for images"),
    (X[:0], ShapeError, r"0 sample\(s\)"),
    (np.where(X[3, 2] == X, np.nan, X), DataError, "X has NaN in row 3, column 2"),
    (np.where(X[3, 2] == X, -np.inf, X), DataError, "X has infinity in row 3, column 2"),
    (np.where(X[3, 2] == X, 1e39, X), DataError, "infinity for a float32 in row 3"),
    (X.astype(str), ShapeError, "expected real numbers"),
    (X + 1j, ShapeError, "Complex data not supported"),
])
def test_other_inputs_are_refused(bad, error, message):
    with pytest.raises(error, match=message):
        small().fit(bad)


def test_codes_of_another_width_are_refused():
    with pytest.raises(ShapeError, match="X has 8 columns; expected codes of 2, as transform gives"):
        small().fit(X).inverse_transform(X)


def test_names_of_columns_are_remembered():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdefgh"))
    estimator = small().fit(frame)
    assert estimator.feature_names_in_.tolist() == list("abcdefgh")
    assert not hasattr(estimator.fit(X), "feature_names_in_")
    with pytest.raises(ShapeError, match="must be in the same order"):
        estimator.fit(frame).transform(frame[list("bacdefgh")])
    codes = estimator.set_output(transform="pandas").transform(frame)
    assert codes.columns.tolist() == ["autoencoder0", "autoencoder1"] and codes.index.equals(frame.index)
    whitened = make_pipeline(pyddl.ZCA(), MinMaxScaler()).set_output(transform="pandas").fit_transform(frame)
    assert whitened.columns.tolist() == list("abcdefgh")


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "score", "get_feature_names_out"])
def test_methods_need_fit(method):
    with pytest.raises(NotFittedError, match="call fit first"):
        getattr(small(), method)(X)


# ---- among scikit-learn's tools ----------------------------------------------------------------------------------

def test_bfloat16_falls_back_to_float32_with_one_warning(monkeypatch):
    monkeypatch.setattr(_core, "has_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="bfloat16 needs a processor with .*: computing in float32") as said:
        estimator = small(dtype="bfloat16").fit(X)
    assert len(said) == 1 and said[0].filename == __file__
    assert (estimator.dtype, estimator.result_.model.dtype) == ("bfloat16", "float32")


def test_in_a_pipeline_and_a_search_with_two_processes():
    pipeline = make_pipeline(MinMaxScaler(clip=True), small(learning_rate=0.01))
    grid = {"autoencoder__loss": ["bce", "mse"], "autoencoder__epochs": [1, 20]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2, error_score="raise").fit(X * 5)
    assert search.best_params_["autoencoder__epochs"] == 20
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.transform(X).shape == (60, 2)


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_work_and_go_on_alike(copied):
    estimator = small().fit(X)
    twin = copied(estimator)
    np.testing.assert_array_equal(twin.transform(X), estimator.transform(X))
    np.testing.assert_array_equal(twin.partial_fit(X).result_.parameters, estimator.partial_fit(X).result_.parameters)
    assert not hasattr(clone(estimator), "result_")


def test_importing_and_fitting_load_no_scikit_learn():
    code = ("import sys, numpy, pyddl; assert not {'sklearn', 'pyddl._core', 'pyddl.estimators'} & set(sys.modules);"
            "X = numpy.random.random((20, 4)); ae = pyddl.Autoencoder(hidden=(2,), epochs=1).fit(X); ae.score(X);"
            "ae.inverse_transform(ae.transform(X)); print(ae);"
            "heavy = {'sklearn', 'scipy', 'pandas', 'mpi4py', 'h5py', 'pyarrow'} & set(sys.modules);"
            "assert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Autoencoder(hidden=(2,), epochs=1)\n"), done.stderr


def test_verbose_prints_a_line_per_epoch(capsys):
    small(verbose=1).fit(X)
    assert capsys.readouterr().out.count("train_loss") == 2


# ---- a run directory ---------------------------------------------------------------------------------------------

def test_a_run_directory_becomes_an_estimator(tmp_path):
    digits = pyddl.data.load("digits")
    model = pyddl.models.Autoencoder(64, (16, 3), loss="mse")
    config = {name: value for name, value in model.options().items() if name != "inputs"}
    trained = pyddl.train.Trainer(model, out=str(tmp_path), epochs=2, seed=5, batch_size=100, config=config).fit(digits)
    estimator = pyddl.load(tmp_path)
    assert isinstance(estimator, pyddl.Autoencoder)
    params = estimator.get_params()
    assert {name: params[name] for name in ("hidden", "loss", "epochs", "random_state", "batch_size")} == {
        "hidden": (16, 3), "loss": "mse", "epochs": 2, "random_state": 5, "batch_size": 100}
    codes = model.encode(trained.parameters, trained.buffers, np.asarray(digits.test))
    np.testing.assert_array_equal(estimator.transform(digits.test), codes)
    assert estimator.loss_curve_ == [line["train_loss"] for line in trained.metrics]
    np.testing.assert_array_equal(clone(estimator).fit(digits).result_.parameters, trained.parameters)
    with pytest.raises(DataError, match="is no finished run"):
        pyddl.load(tmp_path / "plots")


def trained_run(out, epochs=2, **options):
    model = pyddl.models.Autoencoder(8, (4, 2))
    config = {name: value for name, value in model.options().items() if name != "inputs"}
    options = {"epochs": epochs, "batch_size": 16, **options}
    return pyddl.train.Trainer(model, out=out and str(out), config=config, **options).fit(X)


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{}, {"optimizer": "momentum"}, {"shard_optimizer": True}])
def test_a_loaded_run_goes_on_with_its_optimizer(world, tmp_path, options):
    out = world.transport.gather_objects(tmp_path / "run")[0]
    whole = trained_run(None, epochs=4, **options)
    trained_run(out, **options)
    estimator = pickle.loads(pickle.dumps(pyddl.load(out)))
    for _ in range(2):
        estimator.partial_fit(X)
    np.testing.assert_array_equal(estimator.result_.parameters, whole.parameters)
    assert estimator.loss_curve_ == [line["train_loss"] for line in whole.metrics]


def test_without_a_checkpoint_of_the_end_a_loaded_run_says_that_its_optimizer_starts_anew(tmp_path, caplog):
    trained_run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    estimator = pyddl.load(tmp_path).partial_fit(X)
    assert "the optimizer starts anew" in caplog.text
    assert len(estimator.metrics_) == 3 and estimator.result_.updates == {"all": 4}  # of this pass alone


# ---- several ranks -----------------------------------------------------------------------------------------------

@pytest.mark.mpi
def test_ranks_train_one_model_together(world):
    estimator = small(random_state=None).fit(X)
    found = world.transport.gather_objects((estimator.seed_, estimator.transform(X).tobytes()))
    assert_on_all_ranks(world, len(set(found)) == 1, "ranks drew different seeds or hold different weights")


@pytest.mark.mpi
@pytest.mark.parametrize(("unlike", "error", "message"), [
    (X + 1e-9, DataError, "checksums of the training data differ"),
    (X[:50], ShapeError, r"shapes of the training data differ .*\(60, 8\) on rank 0.*\(50, 8\) on rank {last}"),
    (X[:, :5], ShapeError, r"\(60, 5\) on rank {last}"),
    (np.full_like(X, np.nan), DataError, r"rank {last} of {size}: X has NaN"),
])
def test_a_different_x_on_one_rank_is_refused_on_all(world, unlike, error, message):
    if world.size == 1:
        pytest.skip("needs two ranks")
    last = world.rank == world.size - 1
    with pytest.raises(error, match=message.format(last=world.size - 1, size=world.size)):
        small().fit(unlike if last else X)
    small().fit(X)  # and the ranks are still together


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "on_rank_0", "elsewhere"), [
    ("epochs", 3, 2), ("optimizer", "sgd", "adam"), ("strategy", "local", "allreduce"), ("loss", "mse", "bce"),
    ("activation", "tanh", "relu"), ("hidden", (5, 2), (4, 2)),
    ("optimizer", pyddl.optim.Adam(learning_rate=0.1), pyddl.optim.Adam(learning_rate=0.2)),
])
def test_a_parameter_that_differs_on_one_rank_is_refused_on_all(world, name, on_rank_0, elsewhere):
    if world.size == 1:
        pytest.skip("needs two ranks")
    with pytest.raises(ParameterError, match=f"options differ between the ranks: {name} is .* on rank 0; .* on rank 1"):
        small(**{name: elsewhere if world.rank else on_rank_0}).fit(X)


@pytest.mark.mpi
def test_ranks_that_were_trained_apart_do_not_go_on_together(world):
    if world.size == 1:
        pytest.skip("needs two ranks")
    from mpi4py import MPI

    estimator = small(random_state=world.rank)
    with pyddl.use(MPI.COMM_SELF):
        estimator.fit(X).partial_fit(X)
    with pytest.raises(ParameterError, match="checksums of the parameters to go on from differ between the ranks"):
        estimator.partial_fit(X)
    apart = small(strategy="local").fit(X)
    assert len(apart.partial_fit(X).metrics_) == 3, "replicas of strategy local are apart on purpose"


SEARCH = """
import numpy as np
import pyddl
from sklearn.model_selection import GridSearchCV

if __name__ == "__main__":
    X = np.random.default_rng(0).random((60, 8))
    pyddl.world()
    estimator = pyddl.Autoencoder(hidden=(4, 2), batch_size=16, learning_rate=0.01, random_state=0)
    search = GridSearchCV(estimator, {"epochs": [20]}, n_jobs=2, cv=2, error_score="raise").fit(X)
    codes = pyddl.world().transport.gather_objects(search.transform(X).tobytes())
    print(pyddl.world().size, search.best_params_, len(set(codes)), flush=True)
"""


def test_a_search_by_threads_is_refused_under_mpirun(mpirun):
    """Its fits would run at once, and mix their messages."""
    done = mpirun(2, SEARCH.replace("n_jobs=2,", "").replace("search =", """
    import joblib
    joblib.parallel_backend("threading", n_jobs=2)
    search ="""), timeout=100)
    assert done.code not in (0, None), done
    assert "only the main thread may speak to them" in done.err, done.err


def test_a_search_under_mpirun_has_children_that_are_worlds_of_one(mpirun):
    done = mpirun(2, SEARCH, timeout=100)
    assert done.code == 0, done.err
    assert done.out.split("\n")[:-1] == ["2 {'epochs': 20} 1"] * 2
