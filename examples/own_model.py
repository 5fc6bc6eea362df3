"""A model of your own, in NumPy, trained like pyddl's: on one process, or on MPI ranks.

    python examples/own_model.py
    mpirun -n 4 python examples/own_model.py

The model is a linear autoencoder with tied weights, x' = (x W') W; its best code spans the first principal components
(Baldi and Hornik 1989, Neural Networks 2(1), 53-58), so PCA tells how low the error can get.
"""

import numpy as np

import pyddl


class TiedLinearAutoencoder:
    """Squared error |x - x W'W|^2, summed over rows. W has shape (code, inputs)."""


    def __init__(self, inputs, code):
        self.inputs = inputs
        self.layout = pyddl.Layout([pyddl.Slice("weight", (code, inputs))])
        self.buffers = pyddl.Layout()

    def initialise(self, parameters, buffers, seed, data):
        weight = self.layout.views(parameters)["weight"]
        weight[:] = np.random.default_rng(seed).normal(0, self.inputs**-0.5, weight.shape)

    def gradient(self, parameters, gradients, buffers, batch):
        weight = self.layout.views(parameters)["weight"]
        codes = batch.rows @ weight.T
        error = codes @ weight - batch.rows
        self.layout.views(gradients)["weight"][:] = 2 * (codes.T @ error + (error @ weight.T).T @ batch.rows)
        return float(np.sum(error**2, dtype=np.float64))

    def evaluate(self, parameters, buffers, batch):
        weight = self.layout.views(parameters)["weight"]
        squared_error = float(np.sum((batch.rows @ weight.T @ weight - batch.rows) ** 2, dtype=np.float64))
        return {"loss": squared_error, "squared_error": squared_error}


def main():
    digits = pyddl.data.load("digits")
    model = TiedLinearAutoencoder(digits.features, code=8)
    trainer = pyddl.train.Trainer(
        model, strategy="allreduce", optimizer="adam", learning_rate=0.01, batch_size=64, epochs=30
    )
    result = trainer.fit(digits)
    if pyddl.world().rank == 0:
        print(f"test squared error {result.metrics[-1]['test_squared_error']:.3f} on {result.summary['ranks']} ranks")
    return result


if __name__ == "__main__":
    main()
