"""A model of layers, in ten lines: a convolutional autoencoder of the digits, on one process or on MPI ranks.

    python examples/layers.py
    mpirun -n 4 python examples/layers.py

Batch norm is synchronised: its statistics are those of all ranks' rows, so that any number of ranks trains the same
model under ``allreduce``.
"""

import pyddl
from pyddl.models import Network
from pyddl.models.layers import BatchNorm, Conv, Dense, Flatten, Pool, Reshape, Resize
from pyddl.models.network import NetworkModel


def autoencoder():
    """8 x 8 pixels to 10 numbers, and back."""
    return NetworkModel(Network([
        Conv(8, 3, bias=False), BatchNorm("relu", synchronised=True), Pool(2),
        Conv(16, 3, activation="relu"), Flatten(), Dense(10),
        Dense(4 * 4 * 16, "relu"), Reshape((4, 4, 16)), Resize(2),
        Conv(8, 3, bias=False), BatchNorm("relu", synchronised=True), Conv(1, 3), Flatten(),
    ], (8, 8, 1)), loss="mse")


def main(epochs=15, strategy="allreduce", **options):
    digits = pyddl.data.load("digits")
    trainer = pyddl.train.Trainer(autoencoder(), strategy=strategy, optimizer="adam", learning_rate=0.003,
                                  batch_size=64, epochs=epochs, **options)
    result = trainer.fit(digits)
    if pyddl.world().rank == 0:
        print(f"test squared error {result.metrics[-1]['test_squared_error']:.3f} on {result.summary['ranks']} ranks")
    return result


if __name__ == "__main__":
    main()
