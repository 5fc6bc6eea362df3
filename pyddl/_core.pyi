"""Compute kernels (csrc/kernels), one section per family. Arrays are C-contiguous, never copied or cast."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# ---- simd.hpp

def simd_level() -> int:
    """x86-64 level the vectorised kernels run on: 4, 3, 2; 0 on other processors."""

# ---- process/crashes.hpp

def name_crashes(name: str) -> None:
    """Write ``name`` to standard error when a fatal signal comes, before faulthandler's report."""

# ---- process/mapped_file.hpp

def map_file(path: bytes, offset: int, bytes: int) -> NDArray[np.uint8]:
    """A part of a file, mapped, read-only, without a file descriptor. Where the file is cut while it is read, the
    process ends with a line that names it."""

# ---- process/stacks.hpp

def write_native_stacks(descriptor: int) -> None:
    """Write the native stacks of all threads but this one to an open file: for a report, as calls they wait in may be
    interrupted."""

# ---- rows.hpp

def gather_rows(source: np.ndarray, index: np.ndarray, out: np.ndarray, scale: float = 1.0) -> int:
    """out[i] = float32(source[index[i]]) * scale; source (N, F) of uint8, float32 or float64, any strides.

    Returns the flat position in ``out`` of the first NaN or infinity, or -1. IndexError for an index outside.
    """

def random_rows(rows: int, index: np.ndarray, out: np.ndarray) -> None:
    """out[i] = uniform numbers of [0, 1) that depend on index[i], from 0 to rows - 1, and their column only."""

def reference_gather_rows(
    source: np.ndarray, index: np.ndarray, out: np.ndarray, scale: float = 1.0
) -> None: ...

# ---- order.hpp

def order(positions: np.ndarray, out: np.ndarray, n: int, seed: int, epoch: int) -> None:
    """out[i] = sample at positions[i] of the epoch's pseudo-random order of n samples, int64. May be in place."""

def reference_order(position: int, n: int, seed: int, epoch: int) -> int: ...

# ---- network.hpp, layers/: letters B rows, I inputs and O outputs of a layer; dense weights are (O, I)

class Network:
    """A chain of layers, run in one call; see `pyddl.models.network.Network`, which declares it.

    Keeps oneDNN primitives by batch size, memory for activations, and passes in slots, but no parameter from one call
    to the next. Calls from several threads wait for each other.

    Parameters
    ----------
    layers : sequence of dict
        Each has a ``kind``; `pyddl.models.layers` says what belongs to each. Of a dense one: ``inputs``, ``outputs``
        (of all parts), ``activation`` (linear, sigmoid, relu, leaky_relu with slope 0.01, tanh, softplus), offsets of
        ``weight`` and ``bias`` in floats in the flat vector (without bias, or with -1: none), and, where it is split,
        ``cuts`` (first output of every part, and ``outputs``) and ``part``.
    dtype : {"float32", "bfloat16"}
        Of the operands of products; vectors, sums and results are float32. Without
        convolutions, batches of up to 12 rows are float32 throughout, which is faster there.

    Notes
    -----
    ``batch`` is any object with ``seed``, ``step``, ``turn``, ``index``, ``sum``, ``ready``, ``rounded`` and ``group``
    (`pyddl.data.batch.Batch`), or None: none of these. ``add`` adds to the gradients, which else are overwritten;
    ``ready(begin, end)`` is called when a layer's range is final, last layer first, unless ``final`` is false.

    Raises
    ------
    ValueError
        Two layers do not fit together; a name is unknown; the processor has no bfloat16.
    """

    def __init__(self, layers: Sequence[dict[str, Any]], dtype: str = "float32") -> None: ...
    def forward(
        self,
        parameters: Floats,
        buffers: Floats | None,
        batch: Any,
        rows: Floats,
        out: Floats,
        first: int = 0,
        last: int = -1,
        slot: int = -1,
        training: bool | None = None,
        sampling: bool = False,
    ) -> None:
        """out := layers [first, last) of rows (B, inputs of layer first); last = -1: all; slot = -1: not kept.

        ``training`` None: where the pass is kept.
        """

    def gradient(
        self,
        parameters: Floats,
        gradients: Floats,
        buffers: Floats | None,
        batch: Any,
        rows: Floats,
        targets: np.ndarray,
        loss: str,
        first: int = 0,
        add: bool = False,
        final: bool = True,
        below: Floats | None = None,
    ) -> float:
        """Slices of layers [first, end) of ``gradients`` := sum over rows; the sum of the losses.

        ``below`` := the gradient with respect to what entered layer first.

        Parameters
        ----------
        loss : {"mse", "bce", "softmax"}
            Squared error, binary cross-entropy from logits, or cross-entropy of a softmax from logits in nats (for both
            the last layer must be linear); summed over outputs and rows.
        targets : ndarray of shape (B, O), float32; for softmax of shape (B,), int64, from 0 to O - 1
            May be ``rows`` itself. No rows at all is legal: zeros, 0.0.
        """

    def evaluate(
        self,
        parameters: Floats,
        buffers: Floats | None,
        batch: Any,
        rows: Floats,
        targets: np.ndarray,
        loss: str,
        sampling: bool = False,
    ) -> dict[str, float]:
        """Sums: ``loss``, and ``squared_error`` (for bce: of sigmoids of the logits); for softmax ``accuracy``.

        Where layers sample, ``kl`` besides.
        """

    def backward(
        self,
        parameters: Floats,
        gradients: Floats | None,
        buffers: Floats | None,
        batch: Any,
        rows: Floats,
        deltas: Floats,
        below: Floats | None = None,
        slot: int = 0,
        first: int = -1,
        add: bool = False,
        final: bool = True,
    ) -> None:
        """Gradients of a kept pass of ``rows`` from its outputs' deltas; ``below`` := those of layer first's inputs."""

    def tangent(
        self,
        parameters: Floats,
        gradients: Floats,
        buffers: Floats | None,
        batch: Any,
        rows: Floats,
        directions: Floats,
        slot: int = 0,
        add: bool = False,
        final: bool = True,
    ) -> None:
        """The gradient of the derivative along ``directions`` of what the kept pass has gone backward from."""

    @property
    def flops(self) -> int:
        """Floating-point operations of one gradient, per row: of its products."""

# ---- rbm.hpp: letters B rows, N chains, V visible and H hidden units; weights are (V, H)

class Rbm:
    """Restricted Boltzmann machine: conditionals, chains, gradients, and what a likelihood needs.

    Keeps oneDNN primitives by number of rows, and memory, but no parameter from one call to the next. Calls from
    several threads wait for each other.

    Parameters
    ----------
    shape : dict
        ``visible`` and ``hidden`` units, ``kind`` (bernoulli or gaussian), and where in the parameters ``weights``,
        ``visible_bias``, ``hidden_bias`` and ``log_variance`` (-1: variances are 1) begin; whether variances are
        ``learned``, and perhaps ``code``: whether hidden units are Gaussian.
    dtype : {"float32", "bfloat16"}
        Of the products.
    """

    def __init__(self, shape: dict[str, Any], dtype: str = "float32") -> None: ...
    def gradient(
        self,
        parameters: Floats,
        gradients: Floats,
        rows: Floats,
        index: np.ndarray,
        chains: Floats | None,
        numbers: np.ndarray | None,
        *,
        weight: float,
        gibbs_steps: int,
        mean_reconstruction: bool,
        visible_offsets: Floats | None,
        hidden_offsets: Floats | None,
        offset_rate: float,
        sparsity: float,
        sparsity_cost: float,
        seed: int,
        purpose: int,
        step: int,
        turn: int,
        sum: Any,
        ready: Any,
        rounded: np.ndarray | None,
        below: Floats | None = None,
        reservoir: Floats | None = None,
        reservoir_energies: Floats | None = None,
        works: Floats | None = None,
        parity: int = 0,
    ) -> float:
        """Overwrites ``gradients`` with the sum over ``rows``, moves ``chains`` (N, H) and offsets; the loss.

        Every second chain changes places with a state of the machine ``below``, which stand in ``reservoir`` (N, R * H)
        with their ``reservoir_energies`` (N, R); ``works`` (N, 2) says what an exchange would cost.
        """

    def hidden_mean(self, parameters: Floats, v: Floats, out: Floats) -> None: ...
    def visible_mean(self, parameters: Floats, h: Floats, out: Floats) -> None: ...
    def free_energy(self, parameters: Floats, v: Floats, out: Doubles) -> None: ...
    def hidden_free_energy(self, parameters: Floats, h: Floats, out: Doubles) -> None:
        """out (B,) := -log of the sum over v of exp(-energy) of hidden units h (B, H)."""

    def climb(
        self,
        rungs: Floats,
        states: Floats,
        numbers: np.ndarray,
        seed: int,
        purpose: int,
        step: int,
        first: int,
        sweeps: int,
        works: Doubles,
        energies: Doubles,
    ) -> None:
        """Gibbs steps on each of L rungs (L, parameters) of chains (N, at least L * H), and exchanges of neighbours.

        ``works`` (sweeps * (L - 1) * 2 * N,) and ``energies`` (sweeps, N): see kernels/rbm.hpp.
        """

    def conditional_loss(
        self,
        parameters: Floats,
        v: Floats,
        index: np.ndarray,
        seed: int,
        purpose: int,
        step: int,
        count: int,
        out: Doubles,
    ) -> None:
        """out (B,) := cross-entropy of ``count`` visible units given all others, times V / count."""

    def evaluate(
        self, parameters: Floats, v: Floats, index: np.ndarray, seed: int, purpose: int, step: int, count: int
    ) -> tuple[float, float, float]:
        """Sums over rows of loss, squared error of the mean-field reconstruction, and free energy."""

    def gibbs(
        self,
        parameters: Floats,
        v: Floats,
        numbers: np.ndarray,
        seed: int,
        purpose: int,
        step: int,
        steps: int,
        energies: Doubles | None = None,
        mean: Floats | None = None,
    ) -> None:
        """Moves v (N, V); ``energies`` (steps, N) gets free energies, ``mean`` the last means of visible units."""

    def anneal(
        self,
        parameters: Floats,
        base: Floats,
        betas: Doubles,
        v: Floats,
        numbers: np.ndarray,
        seed: int,
        purpose: int,
        step: int,
        log_weights: Doubles,
    ) -> None:
        """Annealed importance sampling from betas[0] to betas[-1]; adds to ``log_weights``, moves v."""

    def pieces(self, of_hidden: bool) -> int:
        """Into how many pieces an enumeration can be cut."""

    def log_sum(self, parameters: Floats, of_hidden: bool, begin: int, end: int) -> float:
        """log of the sum of exp(-energy) over these pieces of the states of one side."""

    def flops(self, gibbs_steps: int) -> int:
        """Floating-point operations of one gradient, per row: of its products."""

# ---- ssrbm.hpp: letters B rows, N chains, V visible units, H spikes, K slabs of each; weights are (V, K, H)

class Ssrbm:
    """Spike-and-slab Boltzmann machine: conditionals, chains, gradients, and exact normalisers.

    Keeps oneDNN primitives by shape, and memory, but no parameter from one call to the next. Calls from several threads
    wait for each other. Rows v are seen as (v - ``mean``) / ``scale``, within a ball of ``radius``, 0: anywhere.

    Parameters
    ----------
    shape : dict
        ``visible`` and ``hidden`` units and ``pool``; where in the parameters ``weights``, ``spike_bias``,
        ``log_precision``, and, -1: not there, ``slab_mean``, ``log_phi`` and ``log_alpha`` begin; whether precisions
        are ``diagonal_precision`` and ``diagonal_alpha``.
    dtype : {"float32", "bfloat16"}
        Of the products with the weights.
    """

    def __init__(self, shape: dict[str, Any], dtype: str = "float32") -> None: ...
    def gradient(
        self,
        parameters: Floats,
        gradients: Floats,
        rows: Floats,
        index: np.ndarray,
        chains: Floats | None,
        numbers: np.ndarray | None,
        *,
        mean: Floats,
        scale: float,
        radius: float,
        weight: float,
        gibbs_steps: int,
        seed: int,
        purpose: int,
        step: int,
        turn: int,
        ready: Any,
        rounded: np.ndarray | None,
    ) -> float:
        """Overwrites ``gradients`` with the sum over ``rows``, moves ``chains`` (N, V); the loss."""

    def spikes(
        self, parameters: Floats, v: Floats, out: Floats, *, mean: Floats, scale: float, probability: bool
    ) -> None:
        """out (B, H) := inputs of the spikes, or their probabilities."""

    def reconstruct(self, parameters: Floats, v: Floats, out: Floats, *, mean: Floats, scale: float) -> None: ...
    def free_energy(self, parameters: Floats, v: Floats, out: Doubles, *, mean: Floats, scale: float) -> None: ...
    def evaluate(
        self,
        parameters: Floats,
        v: Floats,
        index: np.ndarray,
        *,
        mean: Floats,
        scale: float,
        radius: float,
        seed: int,
        purpose: int,
        step: int,
    ) -> tuple[float, float, float]:
        """Sums over rows of squared error, free energy, and rows whose next step first leaves the ball."""

    def gibbs(
        self,
        parameters: Floats,
        v: Floats,
        numbers: np.ndarray,
        *,
        mean: Floats,
        scale: float,
        radius: float,
        seed: int,
        purpose: int,
        step: int,
        steps: int,
    ) -> None:
        """Moves v (N, V)."""

    def log_normalisers(
        self, parameters: Floats, begin: int, end: int, shift: float = 0.0
    ) -> tuple[float, int]:
        """log of the sum of these states' normalisers, precisions less ``shift``, and how many states have none."""

    def flops(self, gibbs_steps: int) -> int:
        """Floating-point operations of one gradient, per row: of its products."""

# ---- layers/noise.hpp: codes (B, 2 n) of n means, then n log variances; noise and samples (B S, n), a row's together

def sample_codes(codes: Floats, noise: Floats, out: Floats) -> None:
    """out (B S, n) := mean + exp(log variance / 2) noise; may be the noise."""

def codes_backward(codes: Floats, noise: Floats, deltas: Floats, weight: float, out: Floats) -> None:
    """out (B, 2 n) := gradient of what has ``deltas`` at the samples, and of ``weight`` times the divergence."""

def codes_divergence(codes: Floats) -> float:
    """Sum over rows of the Kullback-Leibler divergence from a standard normal distribution, nats."""

def codes_log_ratios(codes: Floats, noise: Floats, out: Doubles) -> None:
    """out (B S,) := log N(z; 0, 1) - log N(z; mean, variance) of each sample z."""

# ---- threads.hpp, product.hpp

def set_threads(n: int) -> None:
    """Threads of all kernels of this process; at first what OMP_NUM_THREADS or the affinity mask gives."""

def threads() -> int: ...
def onednn_version() -> str: ...
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware."""

def product_peak(dtype: str = "float32", seconds: float = 0.2) -> float:
    """GFLOP/s of the best of a few large products on these threads; 0 for bfloat16 without hardware."""

# ---- losses.hpp: sums over features and rows

def loss_gradient(
    outputs: Floats,
    targets: Floats,
    loss: str,
    activation: str,
    deltas: Floats,
    bias_gradients: Floats | None = None,
) -> float:
    """Sum of the losses; ``deltas`` := their gradient at the last pre-activations.

    ``deltas`` may be ``outputs`` itself; ``bias_gradients`` gets its column sums.
    """

def loss_sums(outputs: Floats, targets: Floats, loss: str) -> tuple[float, float]:
    """Sum of the losses and sum of squared errors; for bce ``outputs`` are logits."""

def loss_of_rows(outputs: Floats, targets: Floats, loss: str, out: Doubles) -> None:
    """out (B S,) := losses of the rows of ``outputs`` (B S, N); S next to each other share a row of targets (B, N)."""

def softmax_gradient(
    logits: Floats, labels: np.ndarray, deltas: Floats, bias_gradients: Floats | None = None
) -> float:
    """The same for loss softmax; labels (B,) int64."""

def softmax_sums(logits: Floats, labels: np.ndarray) -> tuple[float, float]:
    """Sum of the losses, and number of rows whose largest logit, the first of equal ones, is the label's."""

# ---- reference/: the same by plain loops in double, for tests

def reference_dense_forward(
    rows: Doubles, weights: Doubles, bias: Doubles | None, activation: str, out: Doubles
) -> None: ...
def reference_dense_backward(
    rows: Doubles,
    weights: Doubles,
    outputs: Doubles,
    activation: str,
    deltas: Doubles,
    weight_gradients: Doubles,
    bias_gradients: Doubles | None,
    row_gradients: Doubles | None = None,
) -> None: ...
def reference_network_gradient(
    layers: Sequence[dict[str, Any]],
    parameters: Doubles,
    gradients: Doubles,
    rows: Doubles,
    targets: Doubles,
    loss: str,
) -> float: ...
def reference_loss_sums(
    outputs: Doubles, targets: Doubles, loss: str, derivatives: Doubles | None = None
) -> tuple[float, float]: ...

def reference_rbm_hidden_inputs(
    v: Doubles, w: Doubles, c: Doubles, variances: Doubles | None, out: Doubles
) -> None: ...
def reference_rbm_free_energy(
    v: Doubles, w: Doubles, b: Doubles, c: Doubles, variances: Doubles | None, out: Doubles
) -> None: ...
def reference_rbm_log_partition(w: Doubles, b: Doubles, c: Doubles, variances: Doubles | None) -> float: ...
def reference_softmax_sums(
    logits: Doubles, labels: np.ndarray, derivatives: Doubles | None = None
) -> tuple[float, float]: ...

# ---- random.hpp; index and the key fields say which numbers, see pyddl/random.py

def philox4x32(counter: np.ndarray, key: np.ndarray, out: np.ndarray) -> None:
    """Philox4x32-10 itself. counter, out (n, 4) uint32, key (n, 2) uint32."""

def uniform(
    out: np.ndarray, index: np.ndarray, seed: int, purpose: int, step: int = 0, substep: int = 0
) -> None:
    """Uniform in [0, 1), multiples of 2**-24. out (B, U) float32, index (B,) int64."""

def normal(
    out: np.ndarray, index: np.ndarray, seed: int, purpose: int, step: int = 0, substep: int = 0
) -> None:
    """Standard normal. out (B, U) float32, index (B,) int64."""

def bernoulli(
    out: np.ndarray,
    p: np.ndarray,
    index: np.ndarray,
    seed: int,
    purpose: int,
    step: int = 0,
    substep: int = 0,
) -> None:
    """1 where `uniform` of the same key is below p, else 0. out, p (B, U) float32, may be the same array."""

def bernoulli_of_logits(
    out: np.ndarray,
    mean: np.ndarray,
    x: np.ndarray,
    index: np.ndarray,
    seed: int,
    purpose: int,
    step: int = 0,
    substep: int = 0,
) -> None:
    """mean := sigmoid(x), and out := `bernoulli` of that, in one pass; all (B, U) float32."""

reference_philox4x32 = philox4x32
reference_uniform = uniform
reference_normal = normal
reference_bernoulli = bernoulli
reference_bernoulli_of_logits = bernoulli_of_logits

# ---- vectors.hpp; float32, results do not depend on threads

def add(into: np.ndarray, x: np.ndarray) -> None:
    """into += x"""

def add_scaled(into: np.ndarray, x: np.ndarray, scale: float) -> None:
    """into += scale * x"""

def approach(into: np.ndarray, x: np.ndarray, weight: float) -> None:
    """into += weight * (x - into)"""

def scale(x: np.ndarray, factor: float) -> None:
    """x *= factor"""

def sum_of_squares(x: np.ndarray) -> float:
    """Sum of x**2 in double precision, in a fixed order."""

def first_not_finite(x: np.ndarray) -> int:
    """Index of the first NaN or infinity; -1 if there is none."""

reference_add = add
reference_add_scaled = add_scaled
reference_approach = approach
reference_scale = scale
reference_sum_of_squares = sum_of_squares
reference_first_not_finite = first_not_finite

# ---- optimizers.hpp; vectors are float32, state is zero at first, all arguments positional.
# In this order: parameters, gradients, state..., ranges, learning_rate, scale, bound, the rule's own, and a uint16
# vector that receives the parameters in bfloat16.

class Ranges:
    """Which elements to update: (begin, end, weight_decay) of each range."""

    def __init__(self, ranges: list[tuple[int, int, float]]) -> None: ...

class _Rule(Protocol):
    """One update. After ``gradients``: the rule's state vectors, then ``ranges: Ranges, learning_rate, scale, bound``,
    the rule's own numbers, and at the end perhaps ``rounded``, a vector of uint16 that receives the parameters in
    bfloat16."""

    def __call__(self, parameters: np.ndarray, gradients: np.ndarray, /,
                 *rest: np.ndarray | Ranges | float | None) -> None: ...

sgd: _Rule  # no state, no number
momentum: _Rule  # velocity; momentum
nesterov: _Rule  # velocity; momentum, next_momentum
adagrad: _Rule  # sum; epsilon
rmsprop: _Rule  # square; decay, epsilon
adadelta: _Rule  # square, change_square; decay, epsilon
adam: _Rule  # first, second; beta1, beta2, epsilon, step
adamw: _Rule  # as adam

reference_sgd: _Rule
reference_momentum: _Rule
reference_nesterov: _Rule
reference_adagrad: _Rule
reference_rmsprop: _Rule
reference_adadelta: _Rule
reference_adam: _Rule
reference_adamw: _Rule
