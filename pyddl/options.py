"""Every option of training, once: the trainer's keywords, the flags and the TOML keys are made from this table.

It stands beside `errors.py` rather than in `cli/`, because the trainer reads it too and must not import the command
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyddl import _check
from pyddl.errors import ParameterError

__all__ = ["TABLE", "Option", "defaults_of", "of_section", "of_strategy", "resolve"]


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name : str
        Python keyword and TOML key; the flag is ``--name`` with dashes.
    kind : str
        ``str``, ``int``, ``float``, ``bool`` or ``ints`` (whole numbers, with commas on the command line).
    default : object
        None means that the default depends on another option; the help says how.
    section : str
        ``data``, ``model``, ``training``, ``machine``, ``simulation`` or ``output``.
    help, unit : str
    choices : tuple of str
        The values allowed, where there are few.
    also : tuple of str
        Other spellings of the flag.
    at_least, at_most, above, below : float, optional
        Range of a number.
    trainer : bool
        Whether the trainer takes it as a keyword.
    of : tuple of str
        The strategies whose constructors take it; with others it is refused. Empty: it is no strategy's own.
    """

    name: str
    kind: str
    default: Any
    section: str
    help: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    trainer: bool = True
    of: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """Return ``value`` in the option's type and range, or raise `ParameterError`."""
        if value is None and self.default is None:
            return None
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise ParameterError(f"{self.name} is {value!r}; expected true or false")
            return value
        if self.kind == "int":
            bounds = {"at_least": self.at_least, "at_most": self.at_most}
            return _check.integer(self.name, value, **{k: None if v is None else int(v) for k, v in bounds.items()})
        if self.kind == "float":
            return _check.number(self.name, value, above=self.above, at_least=self.at_least, at_most=self.at_most,
                                 below=self.below)
        if self.kind == "ints":
            return _check.integers(self.name, parse_ints(self.name, value) if isinstance(value, str) else value,
                                   at_least=1)
        if not isinstance(value, str) or not value:
            raise ParameterError(f"{self.name} is {value!r}; expected text")
        return _check.one_of(self.name, value, self.choices) if self.choices else value


def parse_ints(name: str, text: str) -> tuple[int, ...]:
    """``"256,64"`` -> (256, 64)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(f"{name} is {text!r}; expected whole numbers with commas, for example 256,64") from None


_RULES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw")
_ACTIVATIONS = ("linear", "sigmoid", "relu", "leaky_relu", "tanh", "softplus")

TABLE: tuple[Option, ...] = (
    # ---- data
    Option("data", "str", "digits", "data",
           "digits, mnist, cifar10; a .npy, IDX, HDF5, Parquet or CIFAR-10 file, or a folder of such; or "
           "random:ROWSxCOLS",
           trainer=False),
    Option("test", "str", None, "data", "test data; a named set brings its own test part", trainer=False),
    # ---- model
    Option("hidden", "ints", (256, 64), "model", "units of the encoder's layers, the code last", trainer=False),
    Option("activation", "str", "relu", "model", "of all layers but code and output", choices=_ACTIVATIONS,
           trainer=False),
    Option("code_activation", "str", "linear", "model", "of the code layer", choices=_ACTIVATIONS, trainer=False),
    Option("loss", "str", "bce", "model",
           "bce: cross-entropy, for data in [0, 1]; mse: squared error, with a linear output", choices=("bce", "mse"),
           trainer=False),
    Option("initialiser", "str", "auto", "model", "of the weights",
           choices=("auto", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "normal", "uniform",
                    "sparse"), trainer=False),
    Option("dtype", "str", "float32", "model", "of the matrix products; sums, weights and updates are float32 always",
           choices=("float32", "bfloat16"), trainer=False),
    # ---- training
    Option("strategy", "str", "allreduce", "training", "how ranks work together",
           choices=("local", "allreduce", "averaging", "server", "elastic", "gossip", "sequential", "split", "auto")),
    Option("epochs", "int", 10, "training", "passes over the training data", at_least=1),
    Option("batch_size", "int", 256, "training", "samples per step of all ranks together", "samples", at_least=1),
    Option("optimizer", "str", "adam", "training", "update rule", choices=_RULES),
    Option("learning_rate", "float", None, "training", "step size; each optimizer has its own default", also=("--lr",),
           above=0),
    Option("schedule", "str", "constant", "training", "of the learning rate", choices=("constant", "step", "cosine")),
    Option("momentum", "float", None, "training", "of momentum, nesterov and rmsprop; the largest of a schedule",
           at_least=0, below=1),
    Option("momentum_schedule", "str", "constant", "training",
           "sutskever: 1/2, 3/4, 5/6, ... for 250 steps each, up to momentum", choices=("constant", "sutskever")),
    Option("warmup", "int", 0, "training", "steps in which the learning rate grows from 0", "steps", at_least=0),
    Option("step_every", "int", 1000, "training", "schedule step: steps between two cuts", "steps", at_least=1),
    Option("step_factor", "float", 0.5, "training", "schedule step: factor of a cut", above=0),
    Option("minimum_rate", "float", 0.0, "training", "schedule cosine: learning rate at the end", at_least=0),
    Option("weight_decay", "float", None, "training", "L2 decay of weights, not of biases; 0, or 0.01 in adamw",
           at_least=0),
    Option("clip_norm", "float", None, "training", "largest norm of the mean gradient; longer ones are shortened",
           above=0),
    Option("validation", "float", None, "training",
           "fraction of the training rows, drawn by the seed, to test on instead of training", above=0, below=1),
    Option("patience", "int", None, "training", "stop when the test loss has not fallen for this many epochs", "epochs",
           at_least=1),
    Option("seed", "int", 0, "training", "of everything random", at_least=0),
    Option("reproducible", "bool", False, "training", "bit-identical results on 1, 2, 4 and 8 ranks"),
    Option("split", "int", 1, "training",
           "adjacent ranks that hold one copy of the model together, each some outputs of every layer", at_least=1),
    # ---- strategies
    Option("period", "int", None, "training", "steps between two averages: 16 in averaging, 1 in gossip", "steps",
           at_least=1, of=("averaging", "gossip")),
    Option("sync_steps", "int", 0, "training", "so many steps of allreduce first", "steps", at_least=0,
           of=("averaging",)),
    Option("node_period", "int", None, "training", "steps between two averages within each node, below period", "steps",
           at_least=1, of=("averaging",)),
    Option("outer", "str", "none", "training", "what moves the average: momentum as in SlowMo, nesterov as in DiLoCo",
           choices=("none", "momentum", "nesterov"), of=("averaging",)),
    Option("outer_momentum", "float", None, "training", "of outer: 0.6 for momentum, 0.9 for nesterov", at_least=0,
           below=1, of=("averaging",)),
    Option("outer_rate", "float", None, "training", "step size of outer: 1 for momentum, 0.7 for nesterov", above=0,
           of=("averaging",)),
    Option("mode", "str", "sync", "training",
           "sync: all workers meet at each step; ssp: none is more than bound ahead; async: each at its own pace",
           choices=("sync", "ssp", "async"), of=("server", "elastic")),
    Option("bound", "int", None, "training", "ssp: pushes that a worker may be ahead of the slowest; 3", "pushes",
           at_least=0, of=("server",)),
    Option("push_every", "int", 1, "training", "ssp, async: minibatches between two pushes", "minibatches", at_least=1,
           of=("server",)),
    Option("fetch_every", "int", 1, "training",
           "ssp, async: minibatches between two fetches; between them the worker moves its own copy", "minibatches",
           at_least=1, of=("server",)),
    Option("server_optimizer", "str", None, "training", "update rule on the servers; by default that of the workers",
           choices=_RULES, of=("server",)),
    Option("servers", "int", 1, "training", "ranks that serve a share of the parameters each, and compute nothing",
           at_least=1, of=("server",)),
    Option("backup", "int", 0, "training", "sync: workers whose pushes a step does not wait for", "workers", at_least=0,
           of=("server",)),
    Option("solo_steps", "int", 0, "training", "async: steps that one worker takes alone at first", "steps", at_least=0,
           of=("server",)),
    Option("staleness", "str", "scaled", "training", "ssp, async: whether learning rates are divided by it",
           choices=("scaled", "ignored"), of=("server",)),
    Option("tau", "int", 10, "training", "steps between two meetings with the centre", "steps", at_least=1,
           of=("elastic",)),
    Option("alpha", "float", None, "training", "share of its distance by which a worker moves; 0.9 / workers", above=0,
           of=("elastic",)),
    Option("elastic_momentum", "float", 0.0, "training", "momentum of the workers, as in EAMSGD", at_least=0, below=1,
           of=("elastic",)),
    Option("replicas", "int", 2, "training", "how many take turns in each step", at_least=1, of=("sequential",)),
    Option("shard_optimizer", "bool", False, "training",
           "each rank keeps optimizer state for its share of the parameters only, as in ZeRO-1", of=("allreduce",)),
    Option("allow", "str", "synchronous", "training",
           "what may be chosen: strategies with the result of one process, or any", choices=("synchronous", "any"),
           of=("auto",)),
    # ---- machine
    Option("ranks", "int", None, "machine", "start this many MPI ranks on this machine; by default train where started",
           at_least=1, trainer=False),
    Option("threads", "int", None, "machine",
           "threads per rank; by default OMP_NUM_THREADS, else cores / ranks, or fewer for small steps", at_least=1,
           at_most=_check.MOST_THREADS),
    Option("timeout", "float", 600.0, "machine",
           "end the job when no rank has made progress for so long; 0: wait for ever", "seconds", at_least=0,
           at_most=1e9),
    Option("on_failure", "str", "end", "machine", "when a rank dies: end all, or let the others go on without it",
           choices=("end", "continue")),
    Option("debug", "bool", False, "machine", "before each collective, compare what the ranks are about to do"),
    # ---- simulation
    Option("workers", "ints", (4, 16, 64), "simulation", "how many to simulate; several numbers with commas",
           trainer=False),
    Option("sample_seconds", "float", 20e-6, "simulation", "a gradient's time per row", "s", at_least=0, trainer=False),
    Option("step_seconds", "float", 100e-6, "simulation", "a gradient's time beside its rows, and the update's", "s",
           at_least=0, trainer=False),
    Option("jitter", "float", 0.1, "simulation", "relative standard deviation of each compute and latency", at_least=0,
           trainer=False),
    Option("uneven", "float", 0.0, "simulation", "relative standard deviation of the workers' own speeds", at_least=0,
           trainer=False),
    Option("latency", "float", 30e-6, "simulation", "of a message between nodes", "s", at_least=0, trainer=False),
    Option("bandwidth", "float", 1.2e9, "simulation", "between nodes", "bytes/s", above=0, trainer=False),
    Option("node_latency", "float", 2e-6, "simulation", "of a message within a node", "s", at_least=0, trainer=False),
    Option("node_bandwidth", "float", 10e9, "simulation", "within a node", "bytes/s", above=0, trainer=False),
    Option("straggler", "float", 1.0, "simulation", "worker 0 computes so many times slower", above=0, trainer=False),
    Option("update_bandwidth", "float", 1.5e9, "simulation", "a server's: parameters that it updates", "bytes/s",
           above=0, trainer=False),
    Option("worker_update_bandwidth", "float", None, "simulation",
           "a worker's; by default its updates are part of step_seconds", "bytes/s", above=0, trainer=False),
    Option("workers_per_node", "int", 1, "simulation", "how many share a node", at_least=1, trainer=False),
    # ---- output
    Option("out", "str", None, "output", "run directory; by default runs/MODEL-DATE-TIME"),
    Option("overwrite", "bool", False, "output", "replace what an earlier run left in the run directory"),
    Option("resume", "bool", False, "output", "go on after the newest checkpoint in the run directory"),
    Option("checkpoint_every", "int", 1, "output", "epochs between two checkpoints; the best is always kept", "epochs",
           at_least=1),
    Option("quiet", "bool", False, "output", "no progress display and no table"),
)

_BY_NAME = {option.name: option for option in TABLE}


def of_section(*sections: str) -> list[Option]:
    """The options of these sections, in the table's order."""
    return [option for option in TABLE if option.section in sections]


def resolve(given: Mapping[str, Any], accept: Callable[[Option], bool] = lambda option: True, *,
            where: str = "", strategy: str | None = None) -> dict[str, Any]:
    """All options that ``accept`` takes: checked values where given, defaults elsewhere.

    Parameters
    ----------
    strategy : str, optional
        Whose own options are among them; by default the ``strategy`` that is given, or that option's default.

    Raises
    ------
    ParameterError
        A name is unknown (the nearest one is offered), a value is out of range, or an option is another strategy's.
        ``where`` begins the message.
    """
    strategy = strategy or given.get("strategy", _BY_NAME["strategy"].default)
    accepted = {option.name: option for option in TABLE if accept(option)}
    check_names(given, accepted, where=where)
    for name in given:
        of = accepted[name].of
        if of and strategy not in of:
            raise ParameterError(f"{where}{name} is an option of strategy {' and '.join(of)}; the strategy here is "
                                 f"{strategy}: leave it out, or choose strategy {of[0]}")
    accepted = {name: option for name, option in accepted.items() if not option.of or strategy in option.of}
    values = {name: option.default for name, option in accepted.items()}
    for name, value in given.items():
        try:
            values[name] = accepted[name].check(value)
        except ParameterError as error:
            raise ParameterError(where + str(error)) from None
    return values


def check_names(given: Iterable[str], accepted: Iterable[str], *, where: str = "") -> None:
    """Raise `ParameterError` for the first name that is not accepted, with the nearest one that is."""
    accepted = list(accepted)
    for name in given:
        if name not in accepted:
            raise ParameterError(f"{where}there is no option {name!r}{_check.nearest(name, accepted)}")


def defaults_of(strategy: str) -> dict[str, Any]:
    """Defaults of the options that are the strategy's own."""
    return {option.name: option.default for option in TABLE if strategy in option.of}


def of_strategy(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that are options of the strategy's own, for its constructor; it fills in those of None."""
    return {key: value for key, value in values.items() if name in _BY_NAME[key].of and value is not None}
