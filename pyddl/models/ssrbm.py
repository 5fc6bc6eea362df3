"""Spike-and-slab restricted Boltzmann machine.

Sources: Courville, Bergstra, Bengio (2011), A spike and slab restricted Boltzmann machine, AISTATS; Courville,
Bergstra, Bengio (2011), Unsupervised models of images by spike-and-slab RBMs, ICML (the mu form).
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
from pyddl.models.likelihood import Measure
from pyddl.models.ssrbm_likelihood import likelihood
from pyddl.models.stages import Phase, Stage
from pyddl.models.table import check_effects
from pyddl.models.together import together

__all__ = ["SpikeSlabRBM"]

NORM = {"plain": 0.8, "mu": 0.3}  # of a slab's weights, at first
PRECISION = {"plain": 3.0, "mu": 1.0}  # of the visible units, standardised, at first
LOG_PHI, SPIKE_INPUT = -3.0, -1.0  # at first; the latter on average over rows
REACH = 1.2  # the ball's radius, times the largest distance of a training row from the mean
SAMPLE_STEPS = 1000  # of a chain, before it is a sample
PICTURED, PICTURE_STEPS = 50, 200


class SpikeSlabRBM:
    """Spike-and-slab Boltzmann machine: binary spikes h, each with slabs s of real values, and real visible units.

    With u = (v - mean) / scale of a row v, diagonal L and, in form mu, diagonal P_i::

        E(v, s, h) = u'(L + sum_i h_i P_i)u / 2 - sum_i b_i h_i
                     + sum_ik a_ik (s_ik - m_ik h_i)^2 / 2 - sum_ik h_i s_ik u'w_ik

    Slabs summed out, a spike that is on changes the covariance of the visible units. In the plain form (P = 0, m = 0)
    it stretches along w, beyond any bound where w is long, so that the visible units must stay within a ball. In form
    mu every state has a proper Gaussian, because P has a part that outweighs the weights, whatever these are::

        precision diagonal    P_i,d = exp(log_phi_di) + sum_k |w_dik| sum_e |w_eik| / a_ik
        precision scalar      P_i,d = exp(log_phi_i) + sum_k |w_ik|^2 / a_ik

    Parameters
    ----------
    inputs : int
        Visible units.
    hidden : sequence of int, default=(256,)
        One number: spikes.
    form : {"plain", "mu"}
    pool : int, default=1
        Slabs of each spike.
    precision : {"diagonal", "scalar"}
        Of L, and of P_i: one number for each visible unit, or one for all.
    slab_precision : {"fixed", "scalar", "diagonal"}
        a: 1, one learned number for all slabs, or one for each. It is redundant: only weights divided by its root and
        means times its root matter. Learned values stay within exp(-2) and exp(2).
    radius : float, optional
        Of the ball around the data's mean, in the data's unit. By default 1.2 times the largest distance of a training
        row from it; in form mu there is no ball then.
    standardise : bool, default=True
        ``mean`` is that of the training rows, ``scale`` the root of their features' mean variance; else 0 and 1.
    code : {"probability", "input"}
        What `encode` gives: P(h_i = 1 | v), or what that is the sigmoid of.
    chain : {"cd", "pcd"}
        Chains that begin at the rows of the step, or persistent ones.
    gibbs_steps : int, default=1
    chains : int, default=100
        Persistent ones, of all workers together.
    dtype : {"float32", "bfloat16"}
        Of the products with the weights.

    Attributes
    ----------
    layout : Layout
        ``weights`` (inputs, pool, hidden), ``spike_bias`` (hidden,), ``log_precision`` of L (inputs,) or (1,); in form
        mu ``slab_mean`` (pool, hidden) and ``log_phi`` (inputs, hidden) or (hidden,); learned ``log_slab_precision``
        (pool, hidden) or (1,). Not trained, but set by the data: ``mean`` (inputs,), ``scale`` (1,), ``radius`` (1,),
        0 where there is no ball.
    buffers : Layout
        ``chains`` (chains, inputs): u of persistent chains.
    """

    name = "ssrbm"

    def __init__(self, inputs: int, hidden: Sequence[int] = (256,), *, form: str = "plain", pool: int = 1,
                 precision: str = "diagonal", slab_precision: str = "fixed", radius: float | None = None,
                 standardise: bool = True, code: str = "probability", chain: str = "cd", gibbs_steps: int = 1,
                 chains: int = 100, dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        units = _check.integers("hidden", hidden, at_least=1)
        if len(units) != 1:
            raise ParameterError(f"hidden is {list(units)}; expected one number, the spikes of a Boltzmann machine: "
                                 "for example 256")
        self.hidden = units[0]
        self.form = _check.one_of("form", form, ("plain", "mu"))
        self.pool = _check.integer("pool", pool, at_least=1)
        self.precision = _check.one_of("precision", precision, ("diagonal", "scalar"))
        self.slab_precision = _check.one_of("slab_precision", slab_precision, ("fixed", "scalar", "diagonal"))
        self.radius = None if radius is None else _check.number("radius", radius, above=0)
        self.standardise = bool(standardise)
        self.code = _check.one_of("code", code, ("probability", "input"))
        self.chain = _check.one_of("chain", chain, ("cd", "pcd"))
        self.gibbs_steps = _check.integer("gibbs_steps", gibbs_steps, at_least=1, at_most=2000)
        self.chains = _check.integer("chains", chains, at_least=1)
        self.dtype = _check.one_of("dtype", dtype, names.DTYPES)
        check_effects("ssrbm", SpikeSlabRBM.options(self))
        if self.dtype == "bfloat16" and not _core.has_bfloat16():
            raise ParameterError("dtype is bfloat16, but this processor has no instructions for it: use float32")
        self.layout = Layout(self._slices())
        kept = [Slice("chains", (self.chains, self.inputs), merge="rows")] if self.chain == "pcd" else []
        self.buffers = Layout(kept)
        self.stages = (Stage((Phase("all", ("all",)),)),)
        begins = {s.name: s.begin for s in self.layout}
        self.native = _core.Ssrbm({
            "visible": self.inputs, "hidden": self.hidden, "pool": self.pool,
            **{name: begins[name] for name in ("weights", "spike_bias", "log_precision")},
            **{name: begins.get(name, -1) for name in ("slab_mean", "log_phi")},
            "log_alpha": begins.get("log_slab_precision", -1), "diagonal_precision": self.precision == "diagonal",
            "diagonal_alpha": self.slab_precision == "diagonal"}, self.dtype)
        self.takes_rounded = self.dtype == "bfloat16"
        self.rate_scale = 5.0
        self.flops = self.native.flops(self.gibbs_steps)
        self.measures: dict[str, Measure] = {"likelihood": partial(likelihood, self)}

    def _slices(self) -> list[Slice]:
        diagonal, slabs = self.precision == "diagonal", (self.pool, self.hidden)
        slices = [Slice("weights", (self.inputs, *slabs)), Slice("spike_bias", (self.hidden,), decay=False),
                  Slice("log_precision", (self.inputs if diagonal else 1,), decay=False)]
        if self.form == "mu":
            slices += [Slice("slab_mean", slabs, decay=False),
                       Slice("log_phi", (self.inputs, self.hidden) if diagonal else (self.hidden,), decay=False)]
        if self.slab_precision != "fixed":
            slices.append(Slice("log_slab_precision", slabs if self.slab_precision == "diagonal" else (1,),
                                decay=False))
        return slices + [Slice(name, (size,), "data", decay=False)
                         for name, size in (("mean", self.inputs), ("scale", 1), ("radius", 1))]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SpikeSlabRBM, **self.options()), ()

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``SpikeSlabRBM(**options)``."""
        return {"inputs": self.inputs, "hidden": [self.hidden], "form": self.form, "pool": self.pool,
                "precision": self.precision, "slab_precision": self.slab_precision, "radius": self.radius,
                "standardise": self.standardise, "code": self.code, "chain": self.chain,
                "gibbs_steps": self.gibbs_steps, "chains": self.chains, "dtype": self.dtype}

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """Weights and chains from normal distributions; the rest as the source's top and the class say.

        Raises
        ------
        ParameterError
            A training row lies outside the ball.
        """
        views, kept, key = self.layout.views(parameters), self.buffers.views(buffers), seed % random.SEEDS
        _core.normal(views["weights"].reshape(self.inputs, -1), np.arange(self.inputs), key, random.INITIALISE)
        views["weights"] *= np.float32(NORM[self.form] / np.sqrt(self.inputs))
        views["spike_bias"][:] = 0
        views["log_precision"][:] = np.log(PRECISION[self.form])
        if self.form == "mu":
            views["slab_mean"][:] = 0
            views["log_phi"][:] = LOG_PHI
        if self.slab_precision != "fixed":
            views["log_slab_precision"][:] = 0
        views["mean"][:] = data.mean if self.standardise else 0
        views["scale"][:] = np.sqrt(max(float(np.mean(data.variance)), 1e-12)) if self.standardise else 1
        views["radius"][:] = self._radius(data)
        if self.form == "mu":  # else spikes might begin, and stay, at probabilities of 0
            squares = (data.variance + (data.mean - views["mean"]) ** 2) / views["scale"] ** 2  # mean ones, of u
            w = views["weights"]
            guard = (abs(w) * abs(w).sum(axis=0)).sum(axis=1) if self.precision == "diagonal" else \
                (w**2).sum(axis=(0, 1))
            views["spike_bias"][:] = SPIKE_INPUT + squares @ (guard + np.exp(LOG_PHI) - (w**2).sum(axis=1)) / 2
        if self.chain == "pcd":
            _core.normal(kept["chains"], np.arange(self.chains), key, random.GIBBS)
            if views["radius"] > 0:  # within the ball
                most = 0.5 * float(views["radius"][0] / views["scale"][0])
                norms = np.linalg.norm(kept["chains"], axis=1, keepdims=True)
                kept["chains"] *= np.minimum(1, most / np.maximum(norms, 1e-6)).astype(np.float32)

    def _radius(self, data: Statistics) -> float:
        if self.radius is None and self.form == "mu":
            return 0.0
        reach = data.largest_distance if self.standardise else data.largest_norm
        if self.radius is None:
            return REACH * reach or 1.0
        if self.radius <= reach:
            origin = "the data's mean" if self.standardise else "0"
            raise ParameterError(f"radius is {self.radius:g}, but training rows lie up to {reach:g} away from "
                                 f"{origin}: give a larger one ({REACH * reach:.3g}, say), or leave radius out")
        return self.radius

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch) -> float:
        """Overwrite ``gradients`` with the sum over the batch's rows; move chains.

        Returns
        -------
        float
            Sum over rows of squared errors of `reconstruct`: an estimate, without bias, from 8 visible units of each
            row, evenly spaced from a place that is drawn.
        """
        chains = numbers = None
        weight = 1.0
        if self.chain == "pcd":
            own = Chains(0, self.chains, self.chains) if batch.chains is None else batch.chains
            chains, numbers = self.buffers.views(buffers)["chains"][own.begin : own.end], np.arange(own.begin, own.end)
            weight = batch.total / own.total
        return self.native.gradient(
            parameters, gradients, batch.rows, batch.index, chains, numbers, **self._ball(parameters), weight=weight,
            gibbs_steps=self.gibbs_steps, seed=batch.seed % random.SEEDS, purpose=random.GIBBS, step=batch.step,
            turn=batch.turn, ready=batch.ready, rounded=batch.rounded)

    def _seen(self, parameters: np.ndarray) -> dict[str, Any]:
        """How rows become u. Vectors that nobody has filled yet have no scale."""
        views = self.layout.views(parameters)
        return {"mean": views["mean"], "scale": float(views["scale"][0]) or 1.0}

    def _ball(self, parameters: np.ndarray) -> dict[str, Any]:
        return {**self._seen(parameters), "radius": float(self.layout.views(parameters)["radius"][0])}

    # ---- what a trained machine says

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows.

        ``loss``, ``squared_error``
            Between a row and the mean of its reconstruction from the means of spikes and slabs.
        ``free_energy``
            `free_energy`.
        ``rejection_rate``
            Where there is a ball: whether the first visible units that a Gibbs step from the row proposes lie outside.
        """
        squared_error, energy, rejected = self.native.evaluate(
            parameters, batch.rows, batch.index, **self._ball(parameters), seed=0, purpose=random.LIKELIHOOD, step=0)
        scores = {"loss": squared_error, "squared_error": squared_error, "free_energy": energy}
        return scores if self.form == "mu" and self.radius is None else {**scores, "rejection_rate": rejected}

    def encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Spike probabilities, or inputs, as ``code`` says: (n, inputs) -> (n, hidden)."""
        spikes = partial(self.native.spikes, parameters, **self._seen(parameters), probability=self.code != "input")
        return together(spikes, self._rows(rows), self.hidden)

    def reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Means of the visible units for the means of spikes and slabs: (n, inputs) -> (n, inputs)."""
        return together(partial(self.native.reconstruct, parameters, **self._seen(parameters)), self._rows(rows),
                        self.inputs)

    def free_energy(self, parameters: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """-log of the integral over s of sum_h exp(-E(v, s, h)) of ``rows`` (n, inputs) -> (n,), nats, float64."""
        rows = self._rows(rows)
        out = np.empty(len(rows))
        self.native.free_energy(parameters, rows, out, **self._seen(parameters))
        return out

    def gibbs(self, parameters: np.ndarray, rows: np.ndarray, steps: int = 1, seed: int = 0,
              first: int = 0) -> np.ndarray:
        """Chains that begin at ``rows`` (n, inputs), after ``steps`` Gibbs steps. A row's number is its chain's;
        ``first`` is the number of the first step, so that a chain can go on with other random numbers."""
        moved = np.array(self._rows(rows))
        self.native.gibbs(parameters, moved, np.arange(len(moved)), **self._ball(parameters),
                          seed=seed % random.SEEDS, purpose=random.NOISE, step=first, steps=steps)
        return moved

    def sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int,
               steps: int = SAMPLE_STEPS) -> np.ndarray:
        """``count`` samples (count, inputs): visible units after ``steps`` Gibbs steps from the persistent chains, in
        turn, or from the data's mean where there are none."""
        views = self.layout.views(parameters)
        start = np.zeros((count, self.inputs), np.float32)
        if self.chain == "pcd":
            start = self.buffers.views(buffers)["chains"][np.arange(count) % self.chains]
        seen = self._seen(parameters)
        return self.gibbs(parameters, start * np.float32(seen["scale"]) + views["mean"], steps, seed)

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``filters``: the weights of each slab, those of a spike side by side; ``samples``, of short chains."""
        filters = self.layout.views(parameters)["weights"].transpose(2, 1, 0).reshape(-1, self.inputs)
        return {"filters": np.ascontiguousarray(filters),
                "samples": self.sample(parameters, buffers, PICTURED, 0, PICTURE_STEPS)}

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.inputs:
            raise ShapeError(f"rows have shape {rows.shape}; expected (n, {self.inputs})")
        return rows
