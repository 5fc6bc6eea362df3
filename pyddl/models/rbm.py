"""Restricted Boltzmann machine.

Sources: Hinton (2002), Training products of experts by minimizing contrastive divergence, Neural Computation 14(8),
1771-1800; Tieleman (2008), Training restricted Boltzmann machines using approximations to the likelihood gradient,
ICML; Melchior, Fischer, Wiskott (2016), How to center deep Boltzmann machines, JMLR 17(99).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from pyddl import _check, _core, names, random
from pyddl.data.batch import Batch, Chains
from pyddl.data.statistics import Statistics
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import Layout, Slice
from pyddl.models.likelihood import Measure, likelihood
from pyddl.models.stages import Phase, Stage
from pyddl.models.table import check_effects
from pyddl.models.tempering import MOST_RUNGS, RESERVOIR, Ladder, climb_and_measure, ladder_slices
from pyddl.models.together import together

__all__ = ["RBM", "SAMPLE_STEPS"]

DEVIATION = 0.01  # of the first weights
LEAST_MEAN = 1e-3  # of a visible unit, whose bias begins as the logit of its mean
OFFSET_RATE = 0.01  # of the running means of units
UNITS = 32  # whose conditional probabilities are looked at in each test row
SAMPLE_STEPS = 1000  # of a chain, before it is a sample


class RBM:
    """Restricted Boltzmann machine, trained by contrastive divergence, with chains that may persist.

    With visible units v, hidden units h of 0 and 1, weights W, biases b and c::

        bernoulli   E(v, h) = -v'Wh - b'v - c'h
        gaussian    E(v, h) = sum_i (v_i - b_i)^2 / (2 s_i^2) - u'Wh - c'h      u_i = v_i / s_i^2

    Hidden units may be a Gaussian code: then ``|h - c|^2 / 2`` stands for ``-c'h`` [1]_.

    Parameters
    ----------
    inputs : int
        Visible units.
    hidden : sequence of int, default=(256,)
        One number: hidden units.
    visible : {"bernoulli", "gaussian"}
        Bernoulli units take data in [0, 1].
    variance : {"fixed", "learned"}
        Of Gaussian units: both begin as the mean variance of the data's features.
    binarise : {"none", "threshold", "sample"}
        What Bernoulli units see of a value x: x, a probability; 1 where x is at least 1/2; or 1 with probability x,
        drawn anew in each step. In `evaluate` a row's draw is always the same; codes and free energies of rows without
        a number are those of their probabilities.
    chain : {"pcd", "cd", "ptt"}
        Persistent chains; chains that begin at the rows of the step; or persistent chains that exchange states along
        the run's own past, so that they come from mode to mode: see `pyddl.models.tempering`.
    gibbs_steps : int, default=1
    chains : int, default=100
        Persistent ones, of all workers together.
    ladder : int, default=16
        Machines of the past that "ptt" keeps, at most.
    centering : bool, default=True
        Take the gradient of the machine whose units have their running means subtracted. Parameters are those of the
        plain energy always. Without it biases begin at 0 (visible ones of Gaussian units: at the data's mean).
    reconstruction : {"sampled", "mean"}
        The last visible units of a chain of "cd".
    sparsity : float, optional
        Mean wanted of each hidden unit, over the rows of a step.
    sparsity_cost : float, default=0.1
        The loss that is minimised has ``sparsity_cost * sum_j KL(sparsity || mean_j)`` besides; it is not reported.
    hidden_units : {"bernoulli", "gaussian"}
        Gaussian ones are a code, over Bernoulli visible units: their means are linear in these, their variances 1. The
        loss is then the squared error of the reconstruction. They bear small rates only.
    dtype : {"float32", "bfloat16"}
        Of the products.

    Attributes
    ----------
    layout : Layout
        ``weights`` (inputs, hidden), ``visible_bias`` (inputs,), ``hidden_bias`` (hidden,); of Gaussian units also
        ``log_variance`` (inputs,). All of the plain energy.
    buffers : Layout
        ``chains`` (chains, hidden): hidden units of persistent chains; ``visible_offsets``, ``hidden_offsets``: running
        means of u and of the hidden units, where centered; the ladder of "ptt" and what belongs to it.

    References
    ----------
    .. [1] Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313.
    """

    name = "rbm"
    range_cure = "use visible gaussian"

    def __init__(self, inputs: int, hidden: Sequence[int] = (256,), *, visible: str = "bernoulli",
                 variance: str = "fixed", binarise: str = "none", chain: str = "pcd", gibbs_steps: int = 1,
                 chains: int = 100, ladder: int = 16, centering: bool = True, reconstruction: str = "sampled",
                 sparsity: float | None = None, sparsity_cost: float = 0.1, hidden_units: str = "bernoulli",
                 dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        units = _check.integers("hidden", hidden, at_least=1)
        if len(units) != 1:
            raise ParameterError(f"hidden is {list(units)}; expected one number, the hidden units of a Boltzmann "
                                 "machine: for example 256")
        self.hidden = units[0]
        self.visible = _check.one_of("visible", visible, ("bernoulli", "gaussian"))
        self.variance = _check.one_of("variance", variance, ("fixed", "learned"))
        self.binarise = _check.one_of("binarise", binarise, ("none", "threshold", "sample"))
        self.chain = _check.one_of("chain", chain, ("cd", "pcd", "ptt"))
        self.gibbs_steps = _check.integer("gibbs_steps", gibbs_steps, at_least=1, at_most=2000)
        self.chains = _check.integer("chains", chains, at_least=1)
        self.ladder = _check.integer("ladder", ladder, at_least=2, at_most=MOST_RUNGS)
        self.centering = bool(centering)
        self.reconstruction = _check.one_of("reconstruction", reconstruction, ("sampled", "mean"))
        self.sparsity = None if sparsity is None else _check.number("sparsity", sparsity, above=0, below=1)
        self.sparsity_cost = _check.number("sparsity_cost", sparsity_cost, above=0)
        self.hidden_units = _check.one_of("hidden_units", hidden_units, ("bernoulli", "gaussian"))
        self.dtype = _check.one_of("dtype", dtype, names.DTYPES)
        check_effects("rbm", RBM.options(self))
        code = self.hidden_units == "gaussian"
        gaussian = self.visible == "gaussian"
        if code and gaussian:
            raise ParameterError("hidden_units are 'gaussian', and visible units too: that is no more than a Gaussian, "
                                 "and none where weights are large; let one side be bernoulli")
        if code and self.chain == "ptt":
            raise ParameterError("chain is 'ptt', which is of binary hidden units, and hidden_units are 'gaussian': "
                                 "choose chain pcd or cd")
        if code and self.sparsity is not None:
            raise ParameterError("sparsity is a mean of hidden units of 0 and 1, and hidden_units are 'gaussian': "
                                 "leave one of the two out")
        if self.dtype == "bfloat16" and not _core.has_bfloat16():
            raise ParameterError("dtype is bfloat16, but this processor has no instructions for it: use float32")
        slices = [Slice("weights", (self.inputs, self.hidden)), Slice("visible_bias", (self.inputs,), decay=False),
                  Slice("hidden_bias", (self.hidden,), decay=False)]
        if gaussian:
            slices.append(Slice("log_variance", (self.inputs,), "variance", decay=False))
        self.layout = Layout(slices)
        kept = [Slice("chains", (self.chains, self.hidden), merge="rows")] if self.persistent else []
        if self.chain == "ptt":
            kept += ladder_slices(self.chains, self.hidden, self.layout.size, self.ladder)
        if self.centering:
            kept += [Slice("visible_offsets", (self.inputs,)), Slice("hidden_offsets", (self.hidden,))]
        self.buffers = Layout(kept)
        if gaussian and self.variance == "fixed":
            self.stages = (Stage((Phase("all", ("all",)),)),)
        self.native = _core.Rbm({
            "visible": self.inputs, "hidden": self.hidden, "kind": self.visible, "code": code,
            "learned": self.variance == "learned", **{s.name: s.begin for s in self.layout},
            **({} if gaussian else {"log_variance": -1})}, self.dtype)
        self.input_range = None if gaussian else (0.0, 1.0)
        self.squared_loss = gaussian or code
        self.takes_rounded = self.dtype == "bfloat16"
        self.rate_scale = 1.0 if gaussian else 3.0 if code else 10.0
        self.flops = self.native.flops(self.gibbs_steps)
        tempered = partial(climb_and_measure, self) if self.chain == "ptt" else None
        self.measures: dict[str, Measure] = {} if code else {
            "likelihood": partial(likelihood, self, tempered=tempered)}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RBM, **self.options()), ()

    @property
    def persistent(self) -> bool:
        """Whether chains go on from step to step."""
        return self.chain != "cd"

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``RBM(**options)``. As earlier runs have none, bernoulli hidden
        units go without saying."""
        return {"inputs": self.inputs, "hidden": [self.hidden], "visible": self.visible, "variance": self.variance,
                "binarise": self.binarise, "chain": self.chain, "gibbs_steps": self.gibbs_steps, "chains": self.chains,
                "ladder": self.ladder, "centering": self.centering, "reconstruction": self.reconstruction,
                "sparsity": self.sparsity, "sparsity_cost": self.sparsity_cost, "dtype": self.dtype,
                **({"hidden_units": "gaussian"} if self.hidden_units == "gaussian" else {})}

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """Weights from N(0, 0.01^2); biases as the class says; chains at random; offsets at the data's means, and at
        those of hidden units without inputs."""
        views, kept, key = self.layout.views(parameters), self.buffers.views(buffers), seed % random.SEEDS
        _core.normal(views["weights"], np.arange(self.inputs), key, random.INITIALISE)
        views["weights"] *= np.float32(DEVIATION)
        views["visible_bias"][:] = views["hidden_bias"][:] = 0
        precision = 1.0
        if self.visible == "gaussian":
            variance = float(np.mean(data.variance))
            variance = variance if variance > 1e-12 else 1.0  # rows are all alike
            views["log_variance"][:] = np.log(variance)
            views["visible_bias"][:] = data.mean
            precision = 1 / variance
        elif self.centering:
            mean = np.clip(data.mean, LEAST_MEAN, 1 - LEAST_MEAN)
            views["visible_bias"][:] = np.log(mean / (1 - mean))
        if self.centering:
            kept["visible_offsets"][:] = data.mean * precision
            kept["hidden_offsets"][:] = 0.5 if self.hidden_units == "bernoulli" else 0
        if self.persistent:
            kept["chains"][:] = self._hidden_at_random(np.arange(self.chains), key, random.GIBBS)
        if self.chain == "ptt":
            Ladder(self, buffers).begin(self.layout, parameters, key)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch) -> float:
        """Overwrite ``gradients`` with the sum over the batch's rows; move chains and offsets.

        Returns
        -------
        float
            Sum over rows, in nats, of an estimate, without bias, of what `evaluate` calls ``loss``: from one visible
            unit of each row, which is drawn. Of Gaussian units the squared error itself.
        """
        kept = self.buffers.views(buffers)
        key = batch.seed % random.SEEDS
        chains = numbers = None
        weight: float = 1.0
        past: dict[str, Any] = {}
        if self.persistent:
            own = Chains(0, self.chains, self.chains) if batch.chains is None else batch.chains
            chains, numbers = kept["chains"][own.begin : own.end], np.arange(own.begin, own.end)
            weight = batch.total / own.total
            if self.chain == "ptt":
                past = self._past(parameters, buffers, batch, own)
        return self.native.gradient(
            parameters, gradients, self.seen(batch.rows, batch.index, key, batch.step), batch.index, chains, numbers,
            weight=weight, gibbs_steps=self.gibbs_steps, mean_reconstruction=self.reconstruction == "mean",
            visible_offsets=kept.get("visible_offsets"), hidden_offsets=kept.get("hidden_offsets"),
            offset_rate=OFFSET_RATE, sparsity=self.sparsity or 0.0,
            sparsity_cost=0.0 if self.sparsity is None else self.sparsity_cost, seed=key, purpose=random.GIBBS,
            step=batch.step, turn=batch.turn, sum=batch.sum, ready=batch.ready, rounded=batch.rounded, **past)

    def _past(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch, own: Chains) -> dict[str, Any]:
        """The last rung of the ladder, and states of it for this worker's chains."""
        ladder = Ladder(self, buffers)
        ladder.follow(parameters, batch, own)
        mine = slice(own.begin, own.end)
        return {"below": ladder.machines[-1], "parity": int(ladder.kept["updates"][0]),
                "works": ladder.kept["works"][mine],
                "reservoir": ladder.kept["reservoir"][mine].reshape(own.end - own.begin, RESERVOIR * self.hidden),
                "reservoir_energies": ladder.kept["reservoir_energies"][mine]}

    def seen(self, rows: np.ndarray, index: np.ndarray | None = None, seed: int = 0, step: int = 0) -> np.ndarray:
        """What the visible units see of ``rows``; drawn by their numbers ``index``, or without them probabilities."""
        if self.binarise == "threshold":
            return (rows >= 0.5).astype(np.float32)
        if self.binarise == "sample" and index is not None:
            out = np.empty_like(rows)
            _core.bernoulli(out, rows, index, seed, random.CORRUPT, step)
            return out
        return rows

    # ---- what a trained machine says

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows.

        ``loss``
            Bernoulli: cross-entropy of each visible unit given all others, nats, summed over the units: minus the
            logarithm of the pseudo-likelihood where values are 0 and 1. Estimated without bias from 32 units of each
            row, evenly spaced from a place that is drawn. Gaussian: squared error.
        ``squared_error``
            Between a row and the mean of its reconstruction from the hidden units' means.
        ``free_energy``
            -log sum_h exp(-E(v, h)), nats.
        ``pseudo_likelihood``
            Bernoulli: minus ``loss``, per feature.
        ``log_likelihood``
            Of chain "ptt": minus the free energy and log Z as the ladder has it, a running mean; nats. A logarithm of a
            probability where rows are binary.
        """
        rows = self.seen(batch.rows, batch.index)
        units = min(self.inputs, UNITS)
        loss, squared_error, energy = self.native.evaluate(parameters, rows, batch.index, 0, random.LIKELIHOOD, 0,
                                                           units)
        scores = {"loss": loss, "squared_error": squared_error, "free_energy": energy}
        if not self.squared_loss:
            scores["pseudo_likelihood"] = -loss / self.inputs
        if self.chain == "ptt":
            scores["log_likelihood"] = -energy - len(rows) * Ladder(self, buffers).log_partition
        return scores

    def encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Probabilities of the hidden units: (n, inputs) -> (n, hidden). A row's do not depend on how many others come
        with it (but to rounding, where the processor lacks AVX-512)."""
        rows = self.seen(self._rows(rows, self.inputs))
        return together(partial(self.native.hidden_mean, parameters), rows, self.hidden)

    def decode(self, parameters: np.ndarray, buffers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Means of the visible units for hidden units ``codes`` (n, hidden) -> (n, inputs)."""
        codes = self._rows(codes, self.hidden)
        return together(partial(self.native.visible_mean, parameters), codes, self.inputs)

    def reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`decode` of `encode`: (n, inputs) -> (n, inputs)."""
        return self.decode(parameters, buffers, self.encode(parameters, buffers, rows))

    def free_energy(self, parameters: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """-log sum_h exp(-E(v, h)) of ``rows`` (n, inputs) -> (n,), nats, float64."""
        rows = self.seen(self._rows(rows, self.inputs))
        out = np.empty(len(rows))
        self.native.free_energy(parameters, rows, out)
        return out

    def pseudo_likelihood(self, parameters: np.ndarray, rows: np.ndarray, seed: int = 0,
                          units: int | None = None) -> np.ndarray:
        """Minus the cross-entropy of each visible unit given all others, (n, inputs) -> (n,), nats per row, float64.

        Exact where all ``units`` are looked at, as by default; else an estimate from so many, without bias.
        """
        if self.squared_loss:
            raise ParameterError("the pseudo-likelihood is of bernoulli units on both sides; some of these are "
                                 "gaussian: use the free energy")
        rows = self.seen(self._rows(rows, self.inputs))
        out = np.empty(len(rows))
        self.native.conditional_loss(parameters, rows, np.arange(len(rows)), seed % random.SEEDS, random.LIKELIHOOD,
                                     0, self.inputs if units is None else units, out)
        return -out

    def gibbs(self, parameters: np.ndarray, rows: np.ndarray, steps: int = 1, seed: int = 0,
              first: int = 0) -> np.ndarray:
        """Chains that begin at ``rows`` (n, inputs), after ``steps`` Gibbs steps. A row's number is its chain's;
        ``first`` is the number of the first step, so that a chain can go on with other random numbers."""
        moved = np.array(self._rows(rows, self.inputs))
        self.native.gibbs(parameters, moved, np.arange(len(moved)), seed % random.SEEDS, random.NOISE, first, steps)
        return moved

    def sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int,
               steps: int = SAMPLE_STEPS) -> np.ndarray:
        """``count`` samples (count, inputs): visible units after ``steps`` Gibbs steps from the persistent chains, in
        turn, or from units at random where there are none."""
        number = np.arange(count)
        if self.persistent:
            hidden = self.buffers.views(buffers)["chains"][number % self.chains]
        else:
            hidden = self._hidden_at_random(number, seed % random.SEEDS, random.NOISE, 2)
        return self.gibbs(parameters, self.decode(parameters, buffers, hidden), steps, seed)

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``filters``: the weights of each hidden unit; ``chains``: means of the persistent chains' visible units."""
        shown = {"filters": np.ascontiguousarray(self.layout.views(parameters)["weights"].T)}
        if self.persistent:
            shown["chains"] = self.decode(parameters, buffers, self.buffers.views(buffers)["chains"])
        return shown

    def _hidden_at_random(self, numbers: np.ndarray, key: int, purpose: int, substep: int = 0) -> np.ndarray:
        """States (numbers, hidden) of hidden units without inputs."""
        hidden = np.full((len(numbers), self.hidden), 0.5, np.float32)
        if self.hidden_units == "gaussian":
            _core.normal(hidden, numbers, key, purpose, 0, substep)
        else:
            _core.bernoulli(hidden, hidden.copy(), numbers, key, purpose, 0, substep)
        return hidden

    def _rows(self, rows: np.ndarray, columns: int) -> np.ndarray:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != columns:
            raise ShapeError(f"rows have shape {rows.shape}; expected (n, {columns})")
        return rows
