"""Options that have an effect only where others have certain values: which, once, and what is said where they have not.

`pyddl.options.TABLE` says whose an option is, this table what it takes besides. The command line, space files, the
trainer, models and strategies read it. A value that is no default, and would change nothing, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyddl._names import offers
from pyddl.errors import ParameterError
from pyddl.names import STRATEGIES

__all__ = ["TABLE", "Effect", "check", "effective", "reads", "why_none"]

__dir__ = offers(__name__)

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Effect:
    """What some options take to have an effect.

    Attributes
    ----------
    names : tuple of str
        The options.
    reads : tuple of str
        The others that it is about. Where one of them has no value here, the options are taken to have an effect.
    holds : callable
        ``holds(values)``: whether there is an effect.
    says : callable
        ``says(name, values)``: why there is none, as a sentence.
    """

    names: tuple[str, ...]
    reads: tuple[str, ...]
    holds: Callable[[Values], bool]
    says: Callable[[str, Values], str]

    def lacks(self, name: str, values: Values) -> str | None:
        """Why the option has no effect among these values; None where it has."""
        if any(other not in values for other in self.reads) or self.holds(values):
            return None
        return self.says(name, values)


def _belongs(names: Iterable[str], **wanted: tuple[str, ...]) -> Effect:
    """Options that count where another one has one of these values."""
    (other, among), = wanted.items()

    *first, last = among
    listed = f"{', '.join(first)} and {last}" if first else last

    def says(name: str, values: Values) -> str:
        return (f"{name} belongs to {other} {listed}; the {other} here is {values[other]}: leave it out, "
                f"or choose {other} {among[-1]}")

    return Effect(tuple(names), (other,), lambda values: values[other] in among, says)


def _with(names: Iterable[str], other: str, why: str = "") -> Effect:
    """Options that say more of another one, which must be given: ``why`` it is needed."""

    def says(name: str, values: Values) -> str:
        return (f"{name} is {values.get(name)!r}, and {why or f'{other} is not given'}: leave {name} out, or give "
                f"{other}, too")

    return Effect(tuple(names), (other,), lambda values: bool(values[other]), says)


def _unless(names: Iterable[str], reads: tuple[str, ...], holds: Callable[[Values], bool], why: str) -> Effect:
    """Options in the place of which something else counts: ``why`` follows their name."""
    return Effect(tuple(names), reads, holds, lambda name, values: f"{name} {why}")


def _layers(values: Values, network: str) -> bool:
    """Whether a network of an adversarial pair has hidden layers that are made from options."""
    given = values[network]
    if given is None or isinstance(given, str):
        return True
    if any(not isinstance(each, int) for each in given):
        return False  # layers as they are
    return bool(given) or bool(values["channels"])


def _made(values: Values, network: str) -> bool:
    """Whether convolutions of ``channels`` are in it."""
    return bool(values["channels"]) and not isinstance(values[network], str) and (
        values[network] is None or all(isinstance(each, int) for each in values[network]))


def _normalised(values: Values) -> bool:
    texts = [values[network] for network in _PAIR if isinstance(values[network], str)]
    return _made(values, "generator") or any("norm" in text for text in texts)


def _between(values: Values) -> bool:
    """Whether an autoencoder has layers between rows and code, that are made from options."""
    convolutions = values["conv"].count("conv") if isinstance(values["conv"], str) else 0
    return convolutions + len(values["hidden"]) > 1


def _serves(values: Values) -> bool:
    """Whether there are servers, or may be."""
    strategy = values["strategy"]
    return strategy not in STRATEGIES or strategy in ("server", "auto") or values.get("mode") == "async"


def _one_is_left(own: str) -> Callable[[Values], bool]:
    """Whether a network of an adversarial pair has no ``own`` value."""
    return lambda values: None in (values[f"generator_{own}"], values[f"discriminator_{own}"])


def _moves(own: str) -> Callable[[Values], bool]:
    """Whether workers of strategy server move their own copy, or the servers have no ``own`` value."""
    return lambda values: values["fetch_every"] > 1 or values[own] is None


_PAIR = ("generator", "discriminator")
_RULE = ("optimizer", "learning_rate", "schedule", "momentum", "momentum_schedule", "warmup", "step_every",
         "step_factor", "minimum_rate", "weight_decay", "clip_norm")
_ADAM = ("adam", "adamw")

TABLE: tuple[Effect, ...] = (
    # ---- training
    _belongs(("step_every", "step_factor"), schedule=("step",)),
    _belongs(("minimum_rate", "minimum"), schedule=("cosine", "linear")),  # the latter in `optim.schedule`
    _belongs(_RULE, finetune=("autoencoder", "classifier")),  # machines of a stack have rules of their own
    *(_unless((name,), (f"generator_{own}", f"discriminator_{own}"),
              _one_is_left(own),
              f"is given, and generator_{own} and discriminator_{own}, which stand for it, are too: leave one of the "
              "three out")
      for name, own in (("learning_rate", "rate"), ("optimizer", "optimizer"))),
    # ---- strategies
    _belongs(("outer_momentum", "outer_rate"), outer=("momentum", "nesterov")),
    _belongs(("bound",), mode=("ssp",)),
    _belongs(("push_every", "fetch_every", "staleness"), mode=("ssp", "async")),
    _belongs(("backup",), mode=("sync",)),
    _belongs(("solo_steps",), mode=("async",)),
    *(_unless((name,), (own, "fetch_every"), _moves(own),
              f"is given, and {own} stands for it: with fetch_every 1 workers make no updates; leave one of the two "
              "out")
      for name, own in (("learning_rate", "server_rate"), ("optimizer", "server_optimizer"),
                        ("momentum", "server_momentum"))),
    # ---- layers
    _unless(("activation",), ("hidden", "conv"), _between,
            "is of layers between the rows and the code, and there are none that it could be of: leave it out, or give "
            "hidden more layers"),
    _unless(("activation",), ("hidden", "freeze"), lambda values: bool(values["hidden"]),  # freeze: of heads alone
            "is of hidden layers, and there are none: leave it out, or give hidden, for example 64"),
    _unless(("batch_norm",), ("conv", "hidden"), lambda values: not values["conv"] or isinstance(values["conv"], str),
            "is given, and conv is a list of layers, which have their own: leave it out, or give conv as a text"),
    _unless(("code_activation",), ("conv", "hidden"),
            lambda values: bool(values["hidden"]) or isinstance(values["conv"], str),
            "is given, and conv is a list of layers, which have their own: leave it out"),
    _with(("corruption",), "corrupt"),
    _with(("sparsity_cost",), "sparsity"),
    _with(("frozen_epochs", "freeze"), "encoder", "there is no encoder that could be frozen"),
    _belongs(("output_variance",), loss=("mse",)),
    _with(("kl_warmup",), "kl_weight", "kl_weight, to which it would grow, is 0"),
    # ---- Boltzmann machines
    _belongs(("corrupt",), finetune=("autoencoder", "classifier")),
    _belongs(("variance",), visible=("gaussian",)),
    _belongs(("binarise",), visible=("bernoulli",)),
    _belongs(("reconstruction",), chain=("cd",)),
    _belongs(("chains",), chain=("ptt", "pcd")),
    _belongs(("ladder",), chain=("ptt",)),
    # ---- adversarial pairs
    _belongs(("penalty", "penalty_end"), objective=("r3gan", "non_saturating", "minimax", "wgan_gp")),
    _belongs(("clip_weights",), objective=("wgan",)),
    _belongs(("label_smoothing",), objective=("minimax", "non_saturating")),
    _unless(("generator_activation",), ("generator", "channels"), lambda values: _layers(values, "generator"),
            "is of hidden layers, and the generator has none that it could be of: leave it out"),
    _unless(("activation",), (*_PAIR, "channels"), lambda values: any(_layers(values, each) for each in _PAIR),
            "is of hidden layers, and there are none that it could be of: leave it out"),
    _unless(("upsample",), ("generator", "channels"), lambda values: _made(values, "generator"),
            "is of the convolutions that mirror channels: leave it out, or give channels, for example 64,128, and no "
            "layers of the generator but units"),
    _unless(("batch_norm",), (*_PAIR, "channels"), _normalised,
            "is of convolutions that mirror channels, and of norm in a text of layers: leave it out, or give channels, "
            "for example 64,128"),
    _unless(("beta1", "beta2"), ("optimizer", "generator_optimizer", "discriminator_optimizer"),
            lambda values: any((values[f"{each}_optimizer"] or values["optimizer"]) in _ADAM for each in _PAIR),
            "is of rules adam and adamw, and neither network has one of them: leave it out, or choose optimizer adam"),
    # ---- simulation
    _unless(("node_latency", "node_bandwidth"), ("workers_per_node",), lambda values: values["workers_per_node"] > 1,
            "is between workers of one node, and each has a node of its own: give workers_per_node, too, or leave it "
            "out"),
    _unless(("latency", "bandwidth"), ("workers_per_node", "workers"),
            lambda values: max(values["workers"]) > values["workers_per_node"],
            "is between nodes, and all workers are on one: leave it out, or give more workers"),
    _unless(("update_bandwidth",), ("strategy",), _serves,
            "is of servers, and strategy has none: leave it out, or choose strategy server"),
    # ---- search
    _belongs(("first", "factor"), pruner=("asha",)),
    # ---- output
    _with(("overwrite",), "out"),
    _unless(("verbose",), ("ranks",), lambda values: (values["ranks"] or 1) > 1,
            "shows the line that starts the ranks, and none are started: give ranks, too, or leave it out"),
)
"""A row may be added for an option of a model of one's own: ``pyddl.effects.TABLE += (...)``."""


def why_none(name: str, values: Values) -> str | None:
    """Why the option has no effect among these values, as a sentence; None where it has.

    Examples
    --------
    >>> why_none("step_every", {"schedule": "cosine"})
    'step_every belongs to schedule step; the schedule here is cosine: leave it out, or choose schedule step'
    """
    return next((why for each in TABLE if name in each.names and (why := each.lacks(name, values))), None)


def reads(name: str | None = None) -> list[str]:
    """The options that decide whether this one, or any, has an effect."""
    return list(dict.fromkeys(
        other for each in TABLE if name is None or name in each.names for other in each.reads))


def check(values: Values, usual: Callable[[str], Container[Any]], among: Container[str] | None = None) -> None:
    """Refuse a value that is not usual and has no effect.

    Parameters
    ----------
    values : mapping
        All options, also those that were not given.
    usual : callable
        ``usual(name)``: values of the option that it may have without being given.
    among : container of str, optional
        Only these options; by default all.

    Raises
    ------
    ParameterError
    """
    for name, value in values.items():
        if (among is None or name in among) and (why := why_none(name, values)) and not _one_of(value, usual(name)):
            raise ParameterError(why)


def effective(values: Values, default: Callable[[str], Any], keep: Container[str] = ()) -> dict[str, Any]:
    """``values`` with defaults where a value has no effect, but for options to ``keep``."""
    found = dict(values)
    for _ in range(len(found)):  # what reads another option may follow it
        idle = [name for name, value in found.items()
                if name not in keep and why_none(name, found) and not _one_of(value, (default(name),))]
        if not idle:
            break
        found.update((name, default(name)) for name in idle)
    return found


def _one_of(value: Any, usual: Container[Any]) -> bool:
    return (tuple(value) if isinstance(value, list) else value) in usual
