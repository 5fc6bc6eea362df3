"""Objectives of adversarial pairs: what a discriminator D learns, what a generator G, and the penalty on D's slopes.

Letters: x a row of the data, z noise, r = D(x) and f = D(G(z)), numbers without bound. Row i is paired with its own
sample i, which depends on nothing but the row's number, so that pairs are the same on any number of ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

__all__ = ["OBJECTIVES", "R3GAN", "Minimax", "NonSaturating", "Objective", "Wasserstein", "WassersteinPenalty"]

Judged = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Losses of rows, and their slopes with respect to r and to f."""


class Objective(ABC):
    """Base of the objectives; each is a game with its paper.

    Attributes
    ----------
    name : str
    paired : bool
        The generator's loss depends on r as well.
    of_differences : bool
        Losses depend on differences of r and f only: a constant added to D changes nothing.
    penalised : {"", "real", "both", "between"}
        Where D's slopes with respect to its inputs are penalised: at rows, at rows and samples, at points between a row
        and its sample.
    penalty : float
        Its weight by default; 0: there is none.
    """

    name: ClassVar[str]
    paired: ClassVar[bool] = False
    of_differences: ClassVar[bool] = False
    penalised: ClassVar[str] = ""
    penalty: ClassVar[float] = 0.0

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = smoothing

    @abstractmethod
    def of_discriminator(self, r: np.ndarray, f: np.ndarray) -> Judged:
        """Losses (B,) that the discriminator lowers, without the penalty, and their slopes."""

    @abstractmethod
    def of_generator(self, r: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses (B,) that the generator lowers, and their slopes with respect to f. Unless paired, r is not read."""

    def right(self, r: np.ndarray, f: np.ndarray) -> dict[str, np.ndarray]:
        """Which the discriminator gets right: of pairs, where only differences mean anything."""
        return {"pairs_right": r > f}

    def at_slopes(self, g: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """The penalty of slopes g (B, I) for each row, and its own slopes with respect to g."""
        return 0.5 * weight * np.einsum("ij,ij->i", g, g), weight * g


class NonSaturating(Objective):
    """D tells rows from samples by cross-entropy, G raises the odds that its samples pass for rows [1]_.

    With a penalty, that of R1 [2]_: ``weight / 2 |dD/dx|^2`` at rows.

    .. [1] Goodfellow et al. (2014), Generative adversarial nets, NeurIPS.
    .. [2] Mescheder, Geiger, Nowozin (2018), Which training methods for GANs do actually converge?, ICML.
    """

    name = "non_saturating"
    penalised = "real"

    def of_discriminator(self, r: np.ndarray, f: np.ndarray) -> Judged:
        wanted = 1 - self.smoothing  # of rows alone (Salimans et al. 2016, Improved techniques for training GANs)
        losses = _softplus(-r) + self.smoothing * r + _softplus(f)
        return losses, _sigmoid(r) - np.float32(wanted), _sigmoid(f)

    def of_generator(self, r: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _softplus(-f), -_sigmoid(-f)

    def right(self, r: np.ndarray, f: np.ndarray) -> dict[str, np.ndarray]:
        return {"real_right": r > 0, "fake_right": f < 0}


class Minimax(NonSaturating):
    """The same D; G lowers what D raises, ``log(1 - sigmoid(f))``: the game as it was first written (Goodfellow et al.
    2014), which gives G little to learn from where D is sure."""

    name = "minimax"

    def of_generator(self, r: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -_softplus(f), -_sigmoid(f)


class Wasserstein(Objective):
    """The means of r and f are driven apart by a D whose weights are clipped after each update [1]_.

    .. [1] Arjovsky, Chintala, Bottou (2017), Wasserstein generative adversarial networks, ICML.
    """

    name = "wgan"
    of_differences = True

    def of_discriminator(self, r: np.ndarray, f: np.ndarray) -> Judged:
        return f - r, np.full_like(r, -1), np.ones_like(f)

    def of_generator(self, r: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -f, np.full_like(f, -1)


class WassersteinPenalty(Wasserstein):
    """The same without clipping, and ``weight (|dD/dx| - 1)^2`` at a point between each row and its sample [1]_.

    .. [1] Gulrajani et al. (2017), Improved training of Wasserstein GANs, NeurIPS.
    """

    name = "wgan_gp"
    penalised = "between"
    penalty = 1.0

    def at_slopes(self, g: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        norms = np.sqrt(np.einsum("ij,ij->i", g, g))
        excess = norms - 1
        return weight * excess**2, (2 * weight * excess / np.maximum(norms, 1e-12))[:, None] * g


class R3GAN(Objective):
    """D sees each row above its sample, G the sample above the row; slopes are penalised at both, in every step [1]_.

    ``softplus(f - r)``, ``softplus(r - f)``, and ``weight / 2 |dD/dx|^2`` (R1 at rows, R2 at samples).

    .. [1] Huang et al. (2024), The GAN is dead; long live the GAN! A modern GAN baseline, NeurIPS.
    """

    name = "r3gan"
    paired = True
    of_differences = True
    penalised = "both"
    penalty = 1.0

    def of_discriminator(self, r: np.ndarray, f: np.ndarray) -> Judged:
        slopes = _sigmoid(f - r)
        return _softplus(f - r), -slopes, slopes

    def of_generator(self, r: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _softplus(r - f), -_sigmoid(r - f)


OBJECTIVES: dict[str, type[Objective]] = {
    each.name: each for each in (R3GAN, NonSaturating, Minimax, Wasserstein, WassersteinPenalty)}
"""By name."""


@np.errstate(invalid="ignore")  # the trainer finds what is not finite, and says so in its own words
def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(np.float32(0), x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-_softplus(-x))
