"""Digits, and copies of them moved by one pixel: what features of Boltzmann machines are compared on."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def nudged():
    """scikit-learn's example: digits, each moved by one pixel in four directions besides."""
    images, y = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16

    def moved(rows, columns):
        return np.roll(np.pad(images, ((0, 0), (1, 1), (1, 1))), (rows, columns), (1, 2))[:, 1:-1, 1:-1]

    all_of = np.concatenate([images, *(moved(*by) for by in ((0, -1), (0, 1), (-1, 0), (1, 0)))])
    return train_test_split(all_of.reshape(-1, 64).astype(np.float32), np.tile(y, 5), test_size=0.2, random_state=0)
