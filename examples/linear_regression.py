"""Linear regression by map-reduce: each rank sums gradients over its rows, the sums are added, all make the same step.

    python examples/linear_regression.py
    mpirun -n 4 python examples/linear_regression.py

With the whole data set as one batch this is gradient descent on the least squares problem. However many ranks there
are, the gradient is the one of all rows, and the weights go where the normal equations say.
"""

import numpy as np

import pyddl


class LinearRegression:
    """Squared error (x w + b - y)^2 / 2, summed over rows; the last column of a row is y."""


    def __init__(self, inputs):
        self.inputs = inputs + 1  # of a row, y included
        self.layout = pyddl.Layout([pyddl.Slice("weight", (inputs,)), pyddl.Slice("bias", (1,), decay=False)])
        self.buffers = pyddl.Layout()

    def initialise(self, parameters, buffers, seed, data):
        parameters[:] = 0

    def gradient(self, parameters, gradients, buffers, batch):
        weight, bias = self.layout.views(parameters).values()
        x, y = batch.rows[:, :-1], batch.rows[:, -1]
        error = x @ weight + bias - y
        gradients[:] = 0
        views = self.layout.views(gradients)
        views["weight"][:] = error @ x
        views["bias"][:] = error.sum()
        return float(error @ error) / 2


def made_up_rows(rows=1003, inputs=6, seed=0):
    """Rows [x, y] with y = x w + b + noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, inputs))
    y = x @ random.normal(size=inputs) + 0.5 + 0.1 * random.normal(size=rows)
    return np.column_stack([x, y]).astype(np.float32)


def normal_equations(rows):
    """The weights and the bias of least squares."""
    x = np.column_stack([rows[:, :-1], np.ones(len(rows))]).astype(np.float64)
    return np.linalg.solve(x.T @ x, x.T @ rows[:, -1].astype(np.float64))


def main():
    rows = made_up_rows()
    model = LinearRegression(rows.shape[1] - 1)
    trainer = pyddl.train.Trainer(model, strategy="allreduce", optimizer="sgd", learning_rate=0.5,
                                  batch_size=len(rows), epochs=60)
    result = trainer.fit(rows)
    weight, bias = model.layout.views(result.parameters).values()
    distance = np.abs(np.append(weight, bias) - normal_equations(rows)).max()
    if pyddl.comm.world().rank == 0:
        print(f"largest distance to the normal equations {distance:.1e} on {result.summary['ranks']} ranks")
    return distance


if __name__ == "__main__":
    main()
