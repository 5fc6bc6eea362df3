"""Linear regression by map-reduce: each rank sums gradients over its rows, the sums are added, all make the same step.

    python examples/linear_regression.py
    mpirun -n 4 python examples/linear_regression.py

With the whole data set as one batch this is gradient descent on the least squares problem. However many ranks there
are, the gradient is the one of all rows, and the weights go where the normal equations say.
"""

import numpy as np

import pyddl


def made_up_rows(rows=1003, inputs=6, seed=0):
    """Rows x and labels y = x w + b + noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, inputs))
    y = x @ random.normal(size=inputs) + 0.5 + 0.1 * random.normal(size=rows)
    return x.astype(np.float32), y.astype(np.float32)


def normal_equations(x, y):
    """The weights and the bias of least squares."""
    x = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    return np.linalg.solve(x.T @ x, x.T @ y.astype(np.float64))


def main():
    x, y = made_up_rows()
    model = pyddl.models.Linear(x.shape[1])
    trainer = pyddl.train.Trainer(model, strategy="allreduce", optimizer="sgd", learning_rate=0.25, batch_size=len(x),
                                  epochs=60)
    result = trainer.fit(pyddl.data.ArraySource(x, labels=y))
    weight, bias = model.layout.views(result.parameters).values()
    distance = np.abs(np.append(weight, bias) - normal_equations(x, y)).max()
    if pyddl.world().rank == 0:
        print(f"largest distance to the normal equations {distance:.1e} on {result.summary['ranks']} ranks")
    return distance


if __name__ == "__main__":
    main()
