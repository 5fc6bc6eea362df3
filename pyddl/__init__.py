"""pyddl: distributed training of unsupervised deep models over MPI ranks on CPU machines.

In a shell:

    pyddl train autoencoder --data mnist --ranks 2
    pyddl --help

As in scikit-learn:

    >>> import pyddl
    >>> digits = pyddl.data.load("digits")
    >>> codes = pyddl.Autoencoder(hidden=(32, 8), epochs=2).fit_transform(digits)
    >>> codes.shape
    (1500, 8)

With a model and a trainer:

    >>> model = pyddl.models.Autoencoder(digits.features, hidden=(32, 8))
    >>> result = pyddl.train.Trainer(model, strategy="local", epochs=2).fit(digits)
    >>> result.metrics[1]["train_loss"] < result.metrics[0]["train_loss"]
    True

A program that runs alone runs on four ranks as it is, under mpirun -n 4. The main names:

Autoencoder, VAE, RBM, SpikeSlabRBM, DBN, GAN, Classifier, LinearRegression, ZCA
    estimators, with scikit-learn's conventions
load                a finished run directory, as an estimator
data                data sets: data.load("mnist"), files, arrays
models              the models themselves, functions on a flat vector; layers, to build one
train               Trainer, and the Result that it leaves; simulate, evaluate, load_run
tune                the search over runs: Space, Study
strategies          how ranks work together: allreduce, averaging, server, ...
optim               update rules and schedules
ParameterServer     asynchronous training of any Python object, by two callbacks
world, use          the ranks that train together
Layout, Slice       for a model of one's own
errors              what pyddl raises
options, effects    every option, with unit, range and default; beside which others it counts

README.md and docs/ say more: docs/models.md, docs/strategies.md, docs/own_models.md, docs/own_strategies.md.
"""

from typing import Any

from pyddl._names import lazily as _lazily
from pyddl._names import offers as _offers

__version__ = "0.1.0"

# Names appear on first use, so that `import pyddl` stays light: a thousand ranks may start from one file
# system.
_HOMES = {
    **{name: f"pyddl.{name}" for name in ("callbacks", "cli", "comm", "data", "effects", "errors", "estimators",
                                          "models", "optim", "options", "strategies", "train", "tune")},
    "Layout": "pyddl.layout", "ParameterServer": "pyddl.callbacks", "Slice": "pyddl.layout",
    "ZCA": "pyddl.estimators", "load": "pyddl.estimators", "use": "pyddl.comm", "world": "pyddl.comm"}


def __getattr__(name: str) -> Any:
    if name == "server":  # its former name
        return _lazily(__name__, name, {name: "pyddl.server"})
    more = _estimators() if name not in _HOMES and name[:1].isupper() else {}
    return _lazily(__name__, name, {**_HOMES, **more})


def _estimators() -> dict[str, str]:
    """Those of models, each with its module: their table knows them."""
    return {name: module for module, name in _lazily(__name__, "estimators", _HOMES).TABLE.values()}


__dir__ = _offers(__name__, lambda: {*_HOMES, *_estimators(), "__version__"})
