"""Every option of training, once: the trainer's keywords, the flags and the TOML keys are made from this table.

It stands beside `errors.py` rather than in `cli/`, because the trainer reads it too and must not import the command
line. It knows models by their names only; what a model's defaults are, `models.TABLE` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyddl import _check, _own, effects, names
from pyddl._names import offers
from pyddl.errors import ParameterError

__all__ = ["OF_TRAIN", "TABLE", "Option", "add", "check_effects", "check_names", "defaults_of", "fitting", "named",
           "of_model", "of_section", "of_strategy", "resolve", "share", "stranger", "with_runs"]

__dir__ = offers(__name__)


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name : str
        Python keyword and TOML key; the flag is ``--name`` with dashes.
    kind : str
        ``str``, ``int``, ``float``, ``bool``, ``ints`` or ``floats`` (numbers, with commas on the command line),
        ``layers`` (``ints``, or a text of layers), ``values`` (plain values by name; ``NAME=VALUE`` with commas on the
        command line), or ``run`` (the path of a finished run, in whose place a model gets a `models.Trained`).
    default : object
        None means that the default depends on another option; the help says how.
    section : str
        ``data``, ``model``, ``training``, ``machine``, ``simulation`` or ``output``.
    help : str
        What it is, beginning with a noun that makes sense without the name; or, of a switch, what it does.
    unit : str
    choices : tuple of str
        The values allowed, where there are few; ``FILE.py:Class`` and ``FILE.py:make_model`` stand for any of this
        form.
    also : tuple of str
        Other spellings of the flag.
    at_least, at_most, above, below : float, optional
        Range of a number.
    trainer : bool
        Whether the trainer takes it as a keyword.
    of : tuple of str
        In section ``model`` the models that take it, in section ``training`` the strategies whose constructors do; with
        others it is refused. Empty: it is nobody's own.
    empty : bool
        Whether ``ints`` may be none at all, spelled ``none`` on the command line.
    simulated : bool
        Whether it has a meaning in a simulation.
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
    empty: bool = False
    simulated: bool = True

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
        if self.kind == "layers" and isinstance(value, str) and any(map(str.isalpha, value)) and value != "none":
            return value
        if self.kind in ("ints", "layers"):
            return self._integers(value)
        if self.kind == "floats":
            return self._numbers(value)
        if self.kind == "values":
            return self._values(value)
        if not isinstance(value, str) or not value:
            what = "the path of a run, or in Python a fitted estimator" if self.kind == "run" else "text"
            raise ParameterError(f"{self.name} is {value!r}; expected {what}")
        if not self.choices or (_own.is_named(value) and {_own.PATTERN, _own.FUNCTION} & set(self.choices)):
            return value
        if self.choices == (_own.FUNCTION,):
            raise ParameterError(f"{self.name} is {value!r}; expected {_own.FUNCTION}: a Python file, and a function "
                                 "in it")
        return _check.one_of(self.name, value, self.choices)

    def _values(self, value: Any) -> dict[str, Any]:
        if isinstance(value, str):  # "first=2,by=halves" -> {"first": 2, "by": "halves"}
            parts = [part.partition("=") for part in value.split(",")]
            if not all(name.strip() and sign for name, sign, _ in parts):
                raise ParameterError(f"{self.name} is {value!r}; expected NAME=VALUE with commas, for example "
                                     "first=2,longest=64")
            value = {name.strip(): _plain(text.strip()) for name, _, text in parts}
        if not isinstance(value, Mapping):
            raise ParameterError(f"{self.name} is {value!r}; expected values by name, for example {{'first': 2}}")
        return dict(value)

    def _numbers(self, value: Any) -> tuple[float, ...]:
        if isinstance(value, str):  # "0.1,0.01" -> (0.1, 0.01)
            try:
                value = tuple(float(part) for part in value.split(","))
            except ValueError:
                raise ParameterError(f"{self.name} is {value!r}; expected numbers with commas, for example "
                                     "0.1,0.01") from None
        if not isinstance(value, Iterable) or not (values := tuple(value)):
            raise ParameterError(f"{self.name} is {value!r}; expected at least one number, for example [0.1, 0.01]")
        return tuple(_check.number(self.name, each, above=self.above, at_least=self.at_least, at_most=self.at_most,
                                   below=self.below) for each in values)

    def _integers(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, str):  # "256,64" -> (256, 64)
            try:
                value = () if self.empty and value in ("", "none") else tuple(int(part) for part in value.split(","))
            except ValueError:
                raise ParameterError(f"{self.name} is {value!r}; expected whole numbers with commas, for example "
                                     f"256,64{', or none' if self.empty else ''}") from None
        values = _check.integers(self.name, value, at_least=1)
        if not values and not self.empty:
            raise ParameterError(f"{self.name} is empty; expected at least one whole number")
        return values


def _plain(text: str) -> Any:
    """A number, true or false, or a text, as it is written."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


_NETWORKS = ("autoencoder", "classifier", "vae")  # models that are made of layers
_CONVOLUTIONAL = ("autoencoder", "vae")
_SUPERVISED = ("classifier", "linear")
_BOLTZMANN = ("rbm",)
_SPIKES = ("ssrbm",)
_STACKED = ("rbm", "dbn")  # those that may stand on one another
_CHAINED = (*_STACKED, *_SPIKES)  # which have chains
_PAIRS = ("stacked_gan",)  # of several adversarial pairs
_SINGLE = ("gan", "dcgan", "wgan")  # the last two are presets of the first
_ADVERSARIAL = (*_SINGLE, *_PAIRS)

TABLE: list[Option] = [
    # ---- data
    Option("data", "str", "digits", "data",
           "training data: digits, mnist, cifar10; a .npy, IDX, HDF5, Parquet, ORC, CSV or CIFAR-10 file, or a folder "
           "of such; a folder of pictures; an address of one of these; or random:ROWSxCOLS", trainer=False),
    Option("labels", "str", None, "data",
           "labels of the training rows: as data; of a column FILE.csv:COLUMN, or FILE.parquet:COLUMN. Named sets and "
           "pictures in sub folders bring their own", trainer=False),
    Option("test", "str", None, "data", "test data; a named set brings its own test part", trainer=False),
    Option("test_labels", "str", None, "data", "labels of the rows of test: as labels", trainer=False),
    Option("image_size", "str", None, "data", "height and width to which pictures are scaled, such as 28x28",
           trainer=False),
    Option("grey", "bool", False, "data", "make grey pictures of coloured ones", trainer=False),
    Option("scale", "str", None, "data",
           "scale of the data's columns, learned from the training rows and kept by the run; minmax: from 0 to 1; "
           "standard: mean 0, deviation 1; pixels: values of 0 to 255 divided by 255. Pictures have one for all "
           "pixels; a column of one value becomes 0. Codes and errors are those of scaled rows; reconstructions and "
           "samples are scaled back",
           choices=names.SCALES, trainer=False),
    # ---- model
    Option("hidden", "ints", (256, 64), "model",
           "units of the hidden layers; of an autoencoder or a vae those of the encoder, the code last", trainer=False,
           of=(*_NETWORKS, *_CHAINED), empty=True),
    Option("conv", "str", None, "model",
           "convolutions before the dense layers, as a text such as conv32,pool2,conv64k5s2; convN: N channels, kK: "
           "kernel K, by default 3, sS: stride S; poolN, meanN: largest value or mean of N by N places; dropoutP",
           trainer=False, of=_CONVOLUTIONAL),
    Option("image_shape", "ints", None, "model",
           "shape of a row as a picture, for convolutions: HEIGHT,WIDTH, or with CHANNELS last or first; by default "
           "the data's",
           trainer=False, of=(*_CONVOLUTIONAL, *_ADVERSARIAL)),
    Option("batch_norm", "str", "none", "model",
           "batch norm after the convolutions; own: statistics of each rank's rows; synchronised: of all ranks'",
           choices=("none", "own", "synchronised"), trainer=False, of=(*_CONVOLUTIONAL, *_ADVERSARIAL)),
    Option("activation", "str", "relu", "model", "activation of all layers but code and output",
           choices=names.ACTIVATIONS, trainer=False, of=(*_NETWORKS, *_ADVERSARIAL)),
    Option("code_activation", "str", "linear", "model", "activation of the code layer", choices=names.ACTIVATIONS,
           trainer=False, of=("autoencoder",)),
    Option("loss", "str", "bce", "model",
           "loss of a reconstruction: bce, cross-entropy, for data in [0, 1]; mse, squared error, with a linear output",
           choices=names.LOSSES, trainer=False, of=("autoencoder", "vae")),
    Option("corrupt", "float", 0.0, "model",
           "noise of the rows that a network is trained on: probability that a value is masked, or standard deviation",
           at_least=0, trainer=False, of=("autoencoder", "dbn")),
    Option("corruption", "str", "masking", "model",
           "kind of that noise; masking: values become 0; gaussian: normal numbers are added",
           choices=("masking", "gaussian"), trainer=False, of=("autoencoder", "dbn")),
    Option("tied", "bool", False, "model", "let the decoder's weights be the transposes of the encoder's",
           trainer=False, of=("autoencoder",)),
    Option("initialiser", "str", "auto", "model", "initialiser of the weights", choices=("auto", *names.INITIALISERS),
           trainer=False, of=(*_NETWORKS, *_ADVERSARIAL)),
    Option("encoder", "run", None, "model",
           "path of a finished run whose encoder the rows pass first, or a stacked_gan inverts", trainer=False,
           of=(*_SUPERVISED, *_PAIRS)),
    Option("frozen_epochs", "int", 0, "model",
           "epochs in which the head alone is trained first; then the encoder moves too", "epochs", at_least=0,
           trainer=False, of=_SUPERVISED),
    Option("freeze", "bool", False, "model", "leave the encoder as it is: the head alone is trained", trainer=False,
           of=_SUPERVISED),
    Option("dtype", "str", "float32", "model",
           "element type of the matrix products; sums, weights and updates are float32 always", choices=names.DTYPES,
           trainer=False, of=(*_NETWORKS, "linear", *_CHAINED, *_ADVERSARIAL, "torch")),
    # ---- PyTorch modules
    Option("module", "str", None, "model",
           "function that makes a PyTorch module, and the file that it is in; or, in Python, a module",
           choices=(_own.FUNCTION,), trainer=False, of=("torch",)),
    Option("arguments", "values", None, "model", "arguments of that function: NAME=VALUE, with commas", trainer=False,
           of=("torch",)),
    # ---- variational autoencoders
    Option("kl_weight", "float", 1.0, "model",
           "weight of the divergence of the codes in what is minimised; loss and elbo are reported with weight 1",
           at_least=0, trainer=False, of=("vae",)),
    Option("kl_warmup", "int", 0, "model", "steps in which the weight of the divergence grows from 0", "steps",
           at_least=0, trainer=False, of=("vae",)),
    Option("samples", "int", 1, "model", "samples of each row's code in training", at_least=1, trainer=False,
           of=("vae",)),
    Option("output_variance", "float", 0.1, "model", "variance of the outputs with loss mse, which are normal",
           "squared units of the data", above=0, trainer=False, of=("vae",)),
    # ---- deep belief nets
    Option("finetune", "str", "none", "model",
           "network that the stack of Boltzmann machines becomes in the end; none; autoencoder: unrolled; classifier: "
           "with a softmax on top, for rows with labels", choices=("none", "autoencoder", "classifier"), trainer=False,
           of=("dbn",)),
    Option("code_units", "str", None, "model",
           "kind of the last layer's units: gaussian, a linear code; or bernoulli; by default gaussian where finetune "
           "is autoencoder", choices=("bernoulli", "gaussian"), trainer=False, of=("dbn",)),
    Option("pretrain_epochs", "ints", (10,), "model",
           "epochs of each Boltzmann machine or level of a stack, or one number for all; with finetune none the last "
           "machine has epochs", "epochs", trainer=False, of=("dbn", *_PAIRS)),
    Option("pretrain_learning_rate", "floats", None, "model",
           "step size of each Boltzmann machine, or one for all, which falls to 0 under momentum 0.9; by default 10 / "
           "its hidden units, at most 0.05, or 0.005 where units are gaussian; learning_rate is the network's",
           also=("--pretrain-lr",), above=0, trainer=False, of=("dbn",)),
    # ---- Boltzmann machines
    Option("visible", "str", "bernoulli", "model",
           "kind of the visible units: bernoulli, for data in [0, 1]; gaussian, for any numbers",
           choices=("bernoulli", "gaussian"), trainer=False, of=_STACKED),
    Option("variance", "str", "fixed", "model",
           "variances of gaussian units; both begin as the data's, one for all units; learned: each unit's moves",
           choices=("fixed", "learned"), trainer=False, of=_BOLTZMANN),
    Option("binarise", "str", "none", "model",
           "binary values of bernoulli units; none: values in [0, 1] as they are; threshold: 1 from 1/2 on; sample: "
           "drawn anew in each step", choices=("none", "threshold", "sample"), trainer=False, of=_BOLTZMANN),
    Option("chain", "str", "pcd", "model",
           "chains of the negative statistics; cd: begin at the rows of a step; pcd: go on from step to step; ptt: "
           "go on, and exchange states with earlier machines of the run", choices=("cd", "pcd", "ptt"), trainer=False,
           of=_CHAINED),
    Option("gibbs_steps", "int", 1, "model", "steps of Gibbs sampling that each chain takes in a step",
           at_least=1, at_most=2000, trainer=False, of=_CHAINED),
    Option("chains", "int", 100, "model", "persistent chains of all ranks together", at_least=1, trainer=False,
           of=_CHAINED),
    Option("ladder", "int", 16, "model", "earlier machines of the run that chain ptt keeps, at most", at_least=2,
           at_most=256, trainer=False, of=_BOLTZMANN),
    Option("centering", "bool", True, "model",
           "subtract means of the units in the gradient: better likelihood and samples; without: sparser features",
           trainer=False, of=_STACKED),
    Option("reconstruction", "str", "sampled", "model",
           "last visible units of a chain of cd: sampled, or their probabilities (mean)", choices=("sampled", "mean"),
           trainer=False, of=_BOLTZMANN),
    Option("sparsity", "float", None, "model", "mean wanted of each hidden unit, or of each unit of a sigmoid code",
           above=0, below=1, trainer=False, of=(*_BOLTZMANN, "autoencoder")),
    Option("sparsity_cost", "float", 0.1, "model",
           "factor of the divergence between wanted and found mean, in nats, per unit", above=0, trainer=False,
           of=(*_BOLTZMANN, "autoencoder")),
    # ---- spike-and-slab machines
    Option("form", "str", "plain", "model",
           "kind of machine; plain: within a ball; mu: slabs have means, and spikes precisions of the visible units; "
           "it needs no ball", choices=("plain", "mu"), trainer=False, of=_SPIKES),
    Option("pool", "int", 1, "model", "slab units of each spike", at_least=1, trainer=False, of=_SPIKES),
    Option("precision", "str", "diagonal", "model",
           "precisions of the visible units; diagonal: one for each; scalar: one for all",
           choices=("diagonal", "scalar"), trainer=False, of=_SPIKES),
    Option("slab_precision", "str", "fixed", "model",
           "precisions of the slabs, which are redundant; fixed: 1; scalar: one learned; diagonal: one learned for "
           "each; within exp(-2) and exp(2)", choices=("fixed", "scalar", "diagonal"), trainer=False,
           of=_SPIKES),
    Option("radius", "float", None, "model",
           "largest distance from the data's mean, without standardise from 0, that visible units may have; by default "
           "1.2 times that of the training rows, in form mu without end", above=0, trainer=False, of=_SPIKES),
    Option("standardise", "bool", True, "model",
           "subtract the mean of the training rows, and divide by one standard deviation, first", trainer=False,
           of=_SPIKES),
    Option("code", "str", "probability", "model",
           "code of a row; probability: of each spike; input: of which that is the sigmoid, better for a linear "
           "classifier", choices=("probability", "input"), trainer=False, of=_SPIKES),
    # ---- adversarial pairs
    Option("generator", "layers", None, "model",
           "units of the generator's dense hidden layers, by default 128,128,128, or with channels none; or its layers "
           "as a text such as 3136,reshape7x7x64,norm,up32,up1: upN: transposed convolution; resizeN; norm: batch "
           "norm; others as in the discriminator", trainer=False, of=_ADVERSARIAL, empty=True),
    Option("discriminator", "layers", None, "model",
           "units of the discriminator's dense hidden layers, by default 128,128, or with channels none; or its layers "
           "as a text such as conv32k4s2,conv64k4s2,dropout0.2,128, with words as in --conv of an autoencoder",
           trainer=False, of=_ADVERSARIAL, empty=True),
    Option("channels", "ints", None, "model",
           "channels of convolutions of stride 2 at the discriminator's beginning, which the generator mirrors: "
           "64,128 for pictures of 28 by 28 and 32 by 32", trainer=False, of=_ADVERSARIAL),
    Option("upsample", "str", "transposed", "model",
           "way in which the generator's pictures grow: by transposed convolutions, or resized and convolved",
           choices=("transposed", "resize"), trainer=False, of=_ADVERSARIAL),
    Option("noise", "int", None, "model",
           "normal numbers that a sample is made of; by default as many as features, from 2 to 64; of each level of a "
           "stack 16", at_least=1,
           trainer=False, of=_ADVERSARIAL),
    Option("objective", "str", "r3gan", "model",
           "what the two play for: r3gan, relativistic pairs with penalties at rows and samples; non_saturating, with "
           "or without R1; minimax; wgan, with clipped weights; wgan_gp, with a penalty between rows and samples",
           choices=names.OBJECTIVES, trainer=False, of=_ADVERSARIAL),
    Option("penalty", "float", None, "model",
           "weight of the penalty on the discriminator's slopes; by default 1 in r3gan and wgan_gp, else 0",
           at_least=0, trainer=False, of=_ADVERSARIAL),
    Option("penalty_end", "float", None, "model", "weight to which the penalty falls within penalty_steps", above=0,
           trainer=False, of=_SINGLE),
    Option("penalty_steps", "int", None, "model", "steps in which the penalty falls to penalty_end", "steps",
           at_least=1, trainer=False, of=_SINGLE),
    Option("clip_weights", "float", None, "model",
           "bound of the discriminator's weights in objective wgan; by default 0.01", above=0, trainer=False,
           of=_ADVERSARIAL),
    Option("label_smoothing", "float", 0.0, "model",
           "by how much rows count as real with less than 1, in objectives non_saturating and minimax", at_least=0,
           below=1, trainer=False, of=_ADVERSARIAL),
    Option("generator_every", "int", 1, "model",
           "steps between two updates of the generator: the discriminator's own for each of them", "steps",
           also=("--critic-steps",), at_least=1, trainer=False, of=_ADVERSARIAL),
    Option("packing", "int", 1, "model",
           "rows, and samples, that the discriminator judges together, so that it sees how varied they are",
           at_least=1, trainer=False, of=_SINGLE),
    Option("pretrain_steps", "int", 0, "model", "steps at the beginning in which the discriminator alone is trained",
           "steps", at_least=0, trainer=False, of=_SINGLE),
    Option("average", "float", 0.999, "model",
           "share of itself that the averaged generator, which samples are drawn from, keeps in each update; 0: none",
           at_least=0, below=1, trainer=False, of=_ADVERSARIAL),
    Option("conditional", "bool", False, "model", "let both networks see the label of a row; samples are of a class",
           trainer=False, of=_SINGLE),
    Option("generator_activation", "str", None, "model",
           "activation of the generator's layers but its output; by default that of activation",
           choices=names.ACTIVATIONS, trainer=False, of=_SINGLE),
    Option("output", "str", None, "model",
           "activation of the generator's outputs; by default sigmoid for data within [0, 1], else linear",
           choices=("linear", "sigmoid", "tanh"), trainer=False, of=_ADVERSARIAL),
    Option("generator_optimizer", "str", None, "model", "update rule of the generator; by default that of training",
           choices=names.RULES, trainer=False, of=_ADVERSARIAL),
    Option("discriminator_optimizer", "str", None, "model",
           "update rule of the discriminator; by default that of training", choices=names.RULES, trainer=False,
           of=_ADVERSARIAL),
    Option("generator_rate", "float", None, "model", "learning rate of the generator; by default that of training",
           above=0, trainer=False, of=_ADVERSARIAL),
    Option("discriminator_rate", "float", None, "model",
           "learning rate of the discriminator; by default that of training", above=0, trainer=False, of=_ADVERSARIAL),
    Option("beta1", "float", 0.0, "model", "decay of the mean of gradients in rules adam and adamw", at_least=0,
           below=1, trainer=False, of=_ADVERSARIAL),
    Option("beta2", "float", 0.99, "model", "decay of the mean of squared gradients in rules adam and adamw",
           at_least=0, below=1, trainer=False, of=_ADVERSARIAL),
    # ---- stacks of adversarial pairs
    Option("conditional_weight", "float", 1.0, "model",
           "weight of the loss that a sample's next level in the encoder is not what the sample was made of",
           at_least=0, trainer=False, of=_PAIRS),
    Option("entropy_weight", "float", 1.0, "model",
           "weight of the loss that the noise cannot be told from a sample", at_least=0, trainer=False, of=_PAIRS),
    # ---- training
    Option("strategy", "str", "allreduce", "training", f"how ranks work together; {_own.PATTERN}: one of your own",
           choices=(*names.STRATEGIES, _own.PATTERN)),
    Option("epochs", "int", 10, "training", "passes over the training data", at_least=1),
    Option("batch_size", "int", 256, "training", "samples per step of all ranks together", "samples", at_least=1),
    Option("optimizer", "str", "adam", "training", "update rule", choices=names.RULES),
    Option("learning_rate", "float", None, "training", "step size; each optimizer has its own default", also=("--lr",),
           above=0),
    Option("schedule", "str", "constant", "training", "schedule of the learning rate", choices=names.SCHEDULES),
    Option("momentum", "float", None, "training",
           "momentum of the rules momentum and nesterov; with a schedule, the largest", at_least=0, below=1),
    Option("momentum_schedule", "str", "constant", "training",
           "schedule of the momentum; sutskever: 1/2, 3/4, 5/6, ... for 250 steps each, up to momentum",
           choices=names.MOMENTUM_SCHEDULES),
    Option("warmup", "int", 0, "training", "steps in which the learning rate grows from 0", "steps", at_least=0),
    Option("step_every", "int", 1000, "training", "steps between two cuts of the learning rate in schedule step",
           "steps", at_least=1),
    Option("step_factor", "float", 0.5, "training", "factor of a cut in schedule step", above=0),
    Option("minimum_rate", "float", 0.0, "training", "learning rate at the end of schedules cosine and linear",
           at_least=0),
    Option("weight_decay", "float", None, "training",
           "L2 decay of weights, not of biases; by default 0, or 0.01 in adamw", at_least=0),
    Option("clip_norm", "float", None, "training", "largest norm of the mean gradient; longer ones are shortened",
           above=0),
    Option("validation", "float", None, "training",
           "fraction of the training rows, drawn by the seed, to test on instead of training", above=0, below=1),
    Option("labelled", "int", None, "training",
           "training rows, drawn by the seed, of which labels are known: a model that needs labels is trained on these "
           "alone; each class has its share of them", "rows", at_least=1, simulated=False),
    Option("patience", "int", None, "training", "epochs without a lower test loss after which training stops", "epochs",
           at_least=1, simulated=False),
    Option("seed", "int", 0, "training", "seed of everything random", at_least=0),
    Option("reproducible", "bool", False, "training", "make results bit-identical on 1, 2, 4 and 8 ranks",
           simulated=False),
    Option("split", "int", 1, "training",
           "adjacent ranks that hold one copy of the model together, each some outputs of every layer", at_least=1,
           simulated=False),
    # ---- strategies
    Option("period", "int", None, "training", "steps between two averages: 16 in averaging, 1 in gossip", "steps",
           at_least=1, of=("averaging", "gossip")),
    Option("sync_steps", "int", 0, "training", "steps of allreduce at the beginning", "steps", at_least=0,
           of=("averaging",)),
    Option("node_period", "int", None, "training", "steps between two averages within each node, below period", "steps",
           at_least=1, of=("averaging",)),
    Option("outer", "str", "none", "training",
           "outer optimizer, which moves the average: momentum as in SlowMo, nesterov as in DiLoCo",
           choices=("none", "momentum", "nesterov"), of=("averaging",)),
    Option("outer_momentum", "float", None, "training",
           "momentum of the outer optimizer: 0.6 for momentum, 0.9 for nesterov", at_least=0, below=1,
           of=("averaging",)),
    Option("outer_rate", "float", None, "training",
           "step size of the outer optimizer: 1 for momentum, 0.7 for nesterov", above=0, of=("averaging",)),
    Option("mode", "str", "sync", "training",
           "how workers keep together; sync: all meet at each step; ssp: none is more than bound ahead; async: each at "
           "its own pace", choices=("sync", "ssp", "async"), of=("server", "elastic")),
    Option("bound", "int", None, "training",
           "pushes that a worker of mode ssp may be ahead of the slowest; by default 3", "pushes", at_least=0,
           of=("server",)),
    Option("push_every", "int", 1, "training", "minibatches between two pushes in modes ssp and async", "minibatches",
           at_least=1, of=("server",)),
    Option("fetch_every", "int", 1, "training",
           "minibatches between two fetches in modes ssp and async; between them the worker moves its own copy",
           "minibatches", at_least=1, of=("server",)),
    Option("server_optimizer", "str", None, "training", "update rule on the servers; by default that of the workers",
           choices=names.RULES, of=("server",)),
    Option("server_rate", "float", None, "training", "learning rate on the servers; by default that of the workers",
           above=0, of=("server",)),
    Option("server_momentum", "float", None, "training",
           "momentum on the servers; by default that of the workers, if they have the same rule", at_least=0, below=1,
           of=("server",)),
    Option("servers", "int", 1, "training", "ranks that serve a share of the parameters each, and compute nothing",
           at_least=1, of=("server",)),
    Option("backup", "int", 0, "training", "workers whose pushes a step of mode sync does not wait for", "workers",
           at_least=0, of=("server",)),
    Option("solo_steps", "int", 0, "training", "steps that one worker of mode async takes alone at first", "steps",
           at_least=0, of=("server",)),
    Option("staleness", "str", "scaled", "training",
           "scaled: in modes ssp and async a push moves as far as its part of a step; ignored: as far as a whole step",
           choices=("scaled", "ignored"), of=("server",)),
    Option("tau", "int", 10, "training", "steps between two meetings with the centre", "steps", at_least=1,
           of=("elastic",)),
    Option("alpha", "float", None, "training",
           "share of its distance to the centre by which a worker moves; by default 0.9 / workers", above=0,
           of=("elastic",)),
    Option("elastic_momentum", "float", 0.0, "training", "momentum of the workers, as in EAMSGD", at_least=0, below=1,
           of=("elastic",)),
    Option("replicas", "int", 2, "training", "replicas that take turns in each step", at_least=1, of=("sequential",)),
    Option("strategy_options", "values", None, "training",
           "arguments of a strategy of your own, for its constructor: NAME=VALUE, with commas", of=(_own.PATTERN,)),
    Option("shard_optimizer", "bool", False, "training",
           "let each rank keep optimizer state for its share of the parameters only, as in ZeRO-1", of=("allreduce",)),
    Option("allow", "str", "synchronous", "training",
           "strategies that may be chosen: those with the result of one process, or any",
           choices=("synchronous", "any"), of=("auto",)),
    # ---- machine
    Option("ranks", "int", None, "machine", "MPI ranks to start on this machine; by default train where started",
           at_least=1, trainer=False),
    Option("threads", "int", None, "machine",
           "threads per rank; by default OMP_NUM_THREADS, else cores / ranks, or fewer for small steps", at_least=1,
           at_most=_check.MOST_THREADS),
    Option("timeout", "float", 600.0, "machine",
           "time without progress of any rank after which the job is ended; 0: wait for ever", "seconds", at_least=0,
           at_most=1e9),
    Option("on_failure", "str", "end", "machine",
           "what follows when a rank dies: end all, or let the others go on without it", choices=("end", "continue")),
    Option("debug", "bool", False, "machine", "compare before each collective what the ranks are about to do"),
    # ---- simulation
    Option("workers", "ints", (4, 16, 64), "simulation", "numbers of workers to simulate, with commas", trainer=False),
    Option("sample_seconds", "float", 20e-6, "simulation", "time of a gradient per row", "s", at_least=0,
           trainer=False),
    Option("step_seconds", "float", 100e-6, "simulation", "time of a gradient beside its rows, and of the update", "s",
           at_least=0, trainer=False),
    Option("jitter", "float", 0.1, "simulation", "relative standard deviation of each compute and latency", at_least=0,
           trainer=False),
    Option("uneven", "float", 0.0, "simulation", "relative standard deviation of the workers' own speeds", at_least=0,
           trainer=False),
    Option("latency", "float", 30e-6, "simulation", "latency of a message between nodes", "s", at_least=0,
           trainer=False),
    Option("bandwidth", "float", 1.2e9, "simulation", "bandwidth between nodes", "bytes/s", above=0, trainer=False),
    Option("node_latency", "float", 2e-6, "simulation", "latency of a message within a node", "s", at_least=0,
           trainer=False),
    Option("node_bandwidth", "float", 10e9, "simulation", "bandwidth within a node", "bytes/s", above=0, trainer=False),
    Option("straggler", "float", 1.0, "simulation", "factor by which worker 0 computes more slowly", above=0,
           trainer=False),
    Option("update_bandwidth", "float", 1.5e9, "simulation", "parameters that a server updates in a second", "bytes/s",
           above=0, trainer=False),
    Option("worker_update_bandwidth", "float", None, "simulation",
           "parameters that a worker updates in a second; by default updates are part of step_seconds", "bytes/s",
           above=0, trainer=False),
    Option("workers_per_node", "int", 1, "simulation", "workers that share a node", at_least=1, trainer=False),
    # ---- output
    Option("out", "str", None, "output", "run directory; by default runs/MODEL-DATE-TIME"),
    Option("overwrite", "bool", False, "output", "replace what an earlier run left in the run directory"),
    Option("resume", "bool", False, "output", "go on after the newest checkpoint in the run directory"),
    Option("checkpoint_every", "int", 1, "output", "epochs between two checkpoints; the best is always kept", "epochs",
           at_least=1),
    Option("quiet", "bool", False, "output", "show no progress and no table", trainer=False),
    Option("verbose", "bool", False, "output", "show the line that starts the ranks", trainer=False),
]
"""In the order of flags and keys. `add` puts in more."""

_BY_NAME = {option.name: option for option in TABLE}

OF_TRAIN = ("data", "model", "training", "machine", "output")
"""The sections of `pyddl train`."""

_KINDS = {"model": "model", "training": "strategy"}  # section -> what an option's `of` names there


def named(name: str) -> Option:
    """The option of this name.

    Raises
    ------
    ParameterError
        There is none; the nearest name is offered.
    """
    check_names([name], _BY_NAME)
    return _BY_NAME[name]


def add(*added: Option) -> None:
    """Put options into the table, each behind the others of its section: for a model of one's own.

    Raises
    ------
    ParameterError
        The table has an option of this name or flag already (`share` lets a model take it), or the default does not
        pass its own check.

    Examples
    --------
    >>> add(Option("width", "int", 3, "model", "width of it", trainer=False, of=("mine",)))
    >>> resolve({"width": 4}, lambda option: option.section == "model", model="mine")
    {'width': 4}
    >>> _remove("width")
    """
    for option in added:
        taken = {flag for other in TABLE for flag in (other.flag, *other.also)}
        if clash := taken & {option.flag, *option.also}:
            raise ParameterError(f"option {option.name} has the flag {min(clash)} of another one: let the model share "
                                 "that one (pyddl.options.share), or choose another name")
        sections = [index for index, other in enumerate(TABLE) if other.section == option.section]
        if not sections:
            raise ParameterError(f"option {option.name} is of section {option.section!r}; expected one of "
                                 f"{', '.join(dict.fromkeys(other.section for other in TABLE))}")
        option.check(option.default)
        TABLE.insert(sections[-1] + 1, option)
        _BY_NAME[option.name] = option


def share(model: str, *options: str) -> None:
    """Let a model of one's own take options that others have: ``share("mine", "activation", "dtype")``."""
    for name in options:
        old = named(name)
        if old.section != "model":
            raise ParameterError(f"{name} is an option of section {old.section}; expected one of section model")
        if model not in old.of:
            _BY_NAME[name] = TABLE[TABLE.index(old)] = replace(old, of=(*old.of, model))


def _remove(name: str) -> None:
    TABLE.remove(_BY_NAME.pop(name))


def of_section(*sections: str) -> list[Option]:
    """The options of these sections, in the table's order."""
    return [option for option in TABLE if option.section in sections]


def of_model(name: str) -> list[Option]:
    """The options that this model takes, in the table's order."""
    return [option for option in TABLE if option.section == "model" and (name in option.of or not option.of)]


def stranger(name: str, *, model: str | None = None, strategy: str | None = None) -> str | None:
    """Why the option does not belong to this model or strategy, as a sentence; None where it does, or None is asked."""
    option = _BY_NAME.get(name)
    if option is None:
        return None
    kind = _KINDS.get(option.section)
    here = {"model": model, "strategy": strategy}.get(kind or "")
    if here is None or not option.of or _who(here) in option.of:
        return None
    *others, last = option.of
    named = f"{', '.join(others)} and {last}" if others else last
    return (f"{name} is an option of {kind} {named}; the {kind} here is {here}: leave it out, or "
            f"choose {kind} {option.of[0]}")


def _who(name: str) -> str:
    """What stands in an option's ``of`` for a model or strategy of that name."""
    return _own.PATTERN if _own.is_named(name) else name


def resolve(given: Mapping[str, Any], accept: Callable[[Option], bool] = lambda option: True, *, where: str = "",
            model: str | None = None, strategy: str | None = None, defaults: Mapping[str, Any] | None = None,
            below: Mapping[str, Any] | None = None, usual: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """All options that ``accept`` takes: checked values where given, defaults elsewhere.

    Parameters
    ----------
    model : str, optional
        Whose own options are among them; by default those of all models.
    strategy : str, optional
        Whose own options are among them; by default the ``strategy`` that is given, or that option's default.
    defaults : mapping, optional
        Those that differ from the table's, for example the model's.
    below : mapping, optional
        Values over which those ``given`` win, for example a file's. Those that have no effect beside them are left out.
    usual : iterable of mapping, optional
        Values besides the defaults that are not refused where they have no effect: nobody may have asked for them.

    Raises
    ------
    ParameterError
        A name is unknown (the nearest one is offered), a value is out of range or has no effect (see `pyddl.effects`),
        or an option is another model's or strategy's. ``where`` begins the message.
    """
    own, asked = defaults or {}, frozenset(given)
    given = {**(below or {}), **given}
    strategy = strategy or given.get("strategy", own.get("strategy", _BY_NAME["strategy"].default))
    accepted = {option.name: option for option in TABLE if accept(option)}
    check_names(given, accepted, where=where)
    strangers = {name: why for name in accepted if (why := stranger(name, model=model, strategy=strategy))}
    for name in given:
        if name in strangers:
            raise ParameterError(where + strangers[name])
    values = {name: own.get(name, option.default) for name, option in accepted.items() if name not in strangers}
    for name, value in given.items():
        try:
            values[name] = accepted[name].check(value)
        except ParameterError as error:
            raise ParameterError(where + str(error)) from None
    alone = values if model is not None else {  # of several models one says nothing of another
        name: value for name, value in values.items() if accepted[name].section != "model"}

    def default(name: str) -> Any:
        return own.get(name, _BY_NAME[name].default)

    if below:
        alone = effects.effective(alone, default, keep=asked)
    try:
        effects.check(alone, lambda name: [default(name), *(each[name] for each in usual if name in each)], asked)
    except ParameterError as error:
        raise ParameterError(where + str(error)) from None
    return {**values, **alone}


def check_effects(values: Mapping[str, Any], *usual: Mapping[str, Any]) -> None:
    """Refuse values that have no effect (see `pyddl.effects`) and are neither defaults nor ``usual``.

    Raises
    ------
    ParameterError
    """
    effects.check(values, lambda name: [_BY_NAME[name].default, *(each[name] for each in usual if name in each)])


def fitting(recorded: Mapping[str, Any], defaults: Mapping[str, Any], *, model: str | None = None,
            strategy: str | None = None, instead: Iterable[str] = ()) -> dict[str, Any]:
    """Those of ``recorded`` that need not be refused where another model or strategy was chosen than in the record.

    A run records every option: those of its own model or strategy that were never changed from ``defaults`` must not
    stand in the way of the other one. Nor must options ``instead``, of which the other model has its own defaults.
    """
    return {name: value for name, value in recorded.items()
            if not (name in instead or stranger(name, model=model, strategy=strategy))
            or not _same(value, defaults.get(name, _BY_NAME[name].default))}


def _same(value: Any, default: Any) -> bool:
    return (tuple(value) if isinstance(value, list) else value) == default


def check_names(given: Iterable[str], accepted: Iterable[str], *, where: str = "") -> None:
    """Raise `ParameterError` for the first name that is not accepted, with the nearest one that is."""
    accepted = list(accepted)
    for name in given:
        if name not in accepted:
            raise ParameterError(f"{where}there is no option {name!r}{_check.nearest(name, accepted)}")


def defaults_of(strategy: str) -> dict[str, Any]:
    """Defaults of the options that are the strategy's own."""
    return {option.name: option.default for option in TABLE
            if option.section == "training" and _who(strategy) in option.of}


def of_strategy(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that are options of the strategy's own, for its constructor; it fills in those of None."""
    if _own.is_named(name):
        return dict(values.get("strategy_options") or {})
    own = defaults_of(name)
    return {key: value for key, value in values.items() if key in own and value is not None}


def with_runs(values: Mapping[str, Any], read: Callable[[str], Any]) -> dict[str, Any]:
    """``values`` with what ``read`` makes of each path of a run."""
    return {name: read(value) if value is not None and name in _BY_NAME and _BY_NAME[name].kind == "run" else value
            for name, value in values.items()}
