"""Layers in NumPy and in double, one function per kind: what the compiled ones are compared with."""

import numpy as np

from pyddl import _core, random
from pyddl.layout import Layout
from pyddl.models import layers
from pyddl.models.network import Network

LEAK = float(np.float32(0.01))
ACTIVATE = {
    "linear": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, LEAK * x),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
}


def dense(layer, x, tensors, **_):
    return ACTIVATE[layer.activation](x @ tensors["weight"].T + tensors.get("bias", 0))


def transposed(layer, x, tensors, of=None, **_):
    return ACTIVATE[layer.activation](x @ of(layer.of)["weight"] + tensors.get("bias", 0))


def passed(layer, x, tensors, **_):
    return x


def reshape(layer, x, tensors, **_):
    if not layer.planes:
        return x.reshape(len(x), *layer.shape)
    height, width, channels = layer.shape
    return x.reshape(len(x), channels, height, width).transpose(0, 2, 3, 1)


def flatten(layer, x, tensors, **_):
    return (x.transpose(0, 3, 1, 2) if layer.planes else x).reshape(len(x), int(np.prod(x.shape[1:])))


def conv(layer, x, tensors, **_):
    k, s, p, weight = layer.kernel, layer.stride, layer._padding, tensors["weight"]
    height, width, _ = layer.output(x.shape[1:])
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    total = 0
    for a in range(k):
        for b in range(k):
            seen = x[:, a : a + s * (height - 1) + 1 : s, b : b + s * (width - 1) + 1 : s]
            total = total + seen @ weight[a, b]
    return ACTIVATE[layer.activation](total + tensors.get("bias", 0))


def conv_transpose(layer, x, tensors, **_):
    k, s, p, weight = layer.kernel, layer.stride, layer._padding, tensors["weight"]
    n, h, w, _ = x.shape
    height, width, channels = layer.output(x.shape[1:])
    total = np.zeros((n, height + 2 * p + k, width + 2 * p + k, channels))
    for a in range(k):
        for b in range(k):
            total[:, a : a + s * (h - 1) + 1 : s, b : b + s * (w - 1) + 1 : s] += x @ weight[a, b].T
    return ACTIVATE[layer.activation](total[:, p : p + height, p : p + width] + tensors.get("bias", 0))


def pool(layer, x, tensors, **_):
    height, width, channels = layer.output(x.shape[1:])
    k = layer.size
    x = x[:, : height * k, : width * k].reshape(len(x), height, k, width, k, channels)
    return x.max(axis=(2, 4)) if layer.kind == "max" else x.mean(axis=(2, 4))


def resize(layer, x, tensors, **_):
    def matrix(size):
        m = np.zeros((size * layer.factor, size))
        for i in range(len(m)):
            at = min(max((i + 0.5) / layer.factor - 0.5, 0), size - 1)
            if layer.kind == "nearest":
                m[i, i // layer.factor] = 1
            else:
                m[i, int(at)] += 1 - at % 1
                m[i, min(int(at) + 1, size - 1)] += at % 1
        return m

    return np.einsum("yh,bhwc,xw->byxc", matrix(x.shape[1]), x, matrix(x.shape[2]))


def normalised(x, axes, tensors, activation, epsilon, statistics=None):
    if len(x) == 0:
        return x
    mean, variance = statistics or (x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True))
    return ACTIVATE[activation]((x - mean) / np.sqrt(variance + epsilon) * tensors["scale"] + tensors["shift"])


def batch_norm(layer, x, tensors, training=True, statistics=None, name="", **_):
    given = None if training else (statistics or {}).get(name, (0.0, 1.0))
    return normalised(x, tuple(range(x.ndim - 1)), tensors, layer.activation, layer.epsilon, given)


def layer_norm(layer, x, tensors, **_):
    return normalised(x, tuple(range(1, x.ndim)), tensors, layer.activation, layer.epsilon)


def _drawn(draw, purpose, x, batch, number, slot):
    out = np.empty((len(x), int(np.prod(x.shape[1:]))), np.float32)
    draw(out, batch.index, batch.seed, purpose, batch.step, batch.turn << 12 | slot << 8 | number)
    return out.reshape(x.shape).astype(float)


def dropout(layer, x, tensors, training=True, batch=None, number=0, slot=0, **_):
    if not training:
        return x
    return x * (_drawn(_core.uniform, random.DROPOUT, x, batch, number, slot) >= np.float32(layer.p)) / (1 - layer.p)


def corrupt(layer, x, tensors, training=True, batch=None, number=0, slot=0, **_):
    if not training:
        return x
    if layer.kind == "masking":
        return x * (_drawn(_core.uniform, random.CORRUPT, x, batch, number, slot) >= np.float32(layer.amount))
    return x + layer.amount * _drawn(_core.normal, random.CORRUPT, x, batch, number, slot)


def gaussian(layer, x, tensors, training=True, sampling=False, batch=None, number=0, slot=0, **_):
    mean, log_variance = np.split(x, 2, axis=1)
    if not training and not sampling:
        return mean
    return mean + np.exp(log_variance / 2) * _drawn(_core.normal, random.NOISE, mean, batch, number, slot)


ORACLES = {layers.Dense: dense, layers.Reshape: reshape, layers.Flatten: flatten, layers.Conv: conv,
           layers.ConvTranspose: conv_transpose, layers.Pool: pool, layers.Resize: resize,
           layers.BatchNorm: batch_norm, layers.LayerNorm: layer_norm, layers.Dropout: dropout,
           layers.Corrupt: corrupt, layers.Gaussian: gaussian, layers.Transposed: transposed,
           layers.Sparsity: passed}


class InDouble:
    """A network's outputs in NumPy, on vectors of its layouts."""

    def __init__(self, network, layout, buffers=None, **how):
        self.network, self.layout, self.buffers, self.how = network, layout, buffers, how

    def tensors(self, vector, name):
        return {s.name.removeprefix(f"{name}."): vector[s.begin : s.end].reshape(s.shape)
                for s in self.layout if s.name.startswith(f"{name}.")}

    def outputs(self, parameters, rows):
        x = rows.astype(float).reshape(len(rows), *self.network.shapes[0])
        for number, (name, layer) in enumerate(zip(self.network.names, self.network.layers, strict=True)):
            x = ORACLES[type(layer)](layer, x, self.tensors(parameters, name), number=number, name=name,
                                     of=lambda other: self.tensors(parameters, other), **self.how)
        return x.reshape(len(rows), int(np.prod(self.network.output)))


def made(chain, inputs, seed=1, **options):
    network = Network(chain, inputs, **options)
    layout, buffers = Layout(network.slices), Layout(network.buffers)
    network.compile(layout, buffers)
    parameters = layout.zeros()
    network.initialise(parameters, seed)
    for s in layout:
        parameters[s.begin : s.end] += np.random.default_rng([seed, s.begin]).normal(0, 0.1, s.size)
    return network, layout, parameters, buffers.zeros()


def rows_of(n, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)


def assert_close(got, expected, rtol=2e-5):
    """To a part of the largest element."""
    scale = max(np.abs(expected).max(initial=0), 1e-6)
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * scale)


def differences(value, at, places, step=1e-6):
    """The derivatives of ``value`` at the vector ``at`` by these of its elements: central differences."""
    found = []
    for place in places:
        ends = []
        for sign in (1, -1):
            moved = at.copy()
            moved[place] += sign * step
            ends.append(value(moved))
        found.append((ends[0] - ends[1]) / (2 * step))
    return np.array(found)


def assert_derivative(value, at, gradient, rtol=2e-4, directions=4, step=1e-6):
    """``gradient`` is that of ``value`` at ``at``, along some directions and some axes, by central differences."""
    rng = np.random.default_rng(3)
    flat = at.astype(float)
    for i in range(directions):
        if i % 2:
            places = rng.choice(flat.size, min(flat.size, 5), replace=False)
            v = np.zeros(flat.size)
            v[places] = rng.normal(size=len(places))
        else:
            v = rng.normal(size=flat.size)
        v = v.reshape(flat.shape)
        found = (value(flat + step * v) - value(flat - step * v)) / (2 * step)
        expected = float((gradient.astype(float) * v).sum())
        assert abs(found - expected) <= rtol * np.linalg.norm(gradient[v != 0]) * np.linalg.norm(v) + 1e-6, (i, found,
                                                                                                            expected)
