"""Two networks in turn: a generator of numbers and a critic of them, trained on samples of N(4, 1/2).

    python examples/adversarial_pair.py
    mpirun -n 4 python examples/adversarial_pair.py

A generative adversarial net (Goodfellow et al. 2014, NeurIPS) with the loss that does not saturate: two `Network`s in
one flat vector, two phases with an optimizer each, noise that belongs to a row and a step, so that any number of ranks
trains the same pair, and an averaged copy of the generator (Yazici et al. 2019, ICLR), from which samples are drawn.
The data are standardised first: a critic's kinks must lie where they are.
"""

import numpy as np

import pyddl
from pyddl.models import Network, Phase, Stage
from pyddl.models.layers import Dense

MEAN, DEVIATION = 4.0, 0.5
LATENT = 2


class Pair:
    """The critic learns to tell rows from samples; the generator, every second step, to be taken for rows."""

    def __init__(self, inputs):
        self.inputs = inputs
        self.generator = Network([Dense(32, "relu"), Dense(inputs)], LATENT, name="generator", group="generator")
        self.critic = Network([Dense(32, "leaky_relu"), Dense(32, "leaky_relu"), Dense(1)], inputs, name="critic",
                              group="critic", number=2)
        self.layout = pyddl.Layout([*self.generator.slices, *self.critic.slices])
        self.buffers = pyddl.Layout()
        for network in (self.generator, self.critic):
            network.compile(self.layout)
        own = {"optimizer": "adam", "beta1": 0.5, "learning_rate": 1e-3}
        self.stages = (Stage([Phase("critic", ("critic",), optimizer=own),
                              Phase("generator", ("generator",), every=2, optimizer=own, average=0.99)]),)

    def initialise(self, parameters, buffers, seed, data):
        for network in (self.generator, self.critic):
            network.initialise(parameters, seed)

    def gradient(self, parameters, gradients, buffers, batch):
        made, count = self.samples(parameters, noise_of(batch)), len(batch)
        judged, below = np.empty((count, 1), np.float32), np.empty((count, self.inputs), np.float32)
        self.critic.forward(parameters, None, batch, made, judged, slot=0)
        if batch.phase == "generator":  # softplus(-D(G(z)))
            self.critic.backward(parameters, None, None, batch, -sigmoid(-judged), slot=0, below=below)
            self.generator.backward(parameters, gradients, None, batch, below, slot=0)
            return float(np.logaddexp(0, -judged, dtype=np.float64).sum())
        real = np.empty((count, 1), np.float32)  # softplus(D(G(z))) + softplus(-D(x))
        self.critic.forward(parameters, None, batch, batch.rows, real, slot=1)
        self.critic.backward(parameters, gradients, None, batch, sigmoid(judged), slot=0, final=False)
        self.critic.backward(parameters, gradients, None, batch, -sigmoid(-real), slot=1, add=True)
        return float((np.logaddexp(0, judged, dtype=np.float64) + np.logaddexp(0, -real, dtype=np.float64)).sum())

    def samples(self, parameters, noise):
        out = np.empty((len(noise), self.inputs), np.float32)
        self.generator.forward(parameters, None, None, noise, out, slot=0)
        return out


def noise_of(batch):
    """Normal numbers for each row, keyed by seed, step, turn and row: who holds the row does not matter."""
    streams = (np.random.Generator(np.random.Philox(key=batch.seed, counter=[0, row, batch.turn, batch.step]))
               for row in batch.index.tolist())
    return np.array([each.normal(size=LATENT) for each in streams], np.float32).reshape(len(batch), LATENT)


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def main(epochs=150):
    rows = np.random.default_rng(0).normal(MEAN, DEVIATION, (1024, 1))
    data = ((rows - rows.mean()) / rows.std()).astype(np.float32)
    model = Pair(1)
    result = pyddl.train.Trainer(model, strategy="allreduce", batch_size=128, epochs=epochs, seed=0).fit(data)
    noise = np.random.default_rng(1).normal(size=(10_000, LATENT)).astype(np.float32)
    made = model.samples(result.averaged, noise) * rows.std() + rows.mean()
    if pyddl.world().rank == 0:
        print(f"samples have mean {made.mean():.2f} and deviation {made.std():.2f} on {result.summary['ranks']} ranks; "
              f"losses of critic {result.metrics[-1]['train_loss_critic']:.2f}, "
              f"generator {result.metrics[-1]['train_loss_generator']:.2f}")
    return made, result


if __name__ == "__main__":
    main()
