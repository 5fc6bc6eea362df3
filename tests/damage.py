"""Damage to files, as a bad disk, a broken transfer or an editor do it: what the tests of all readers share."""

from __future__ import annotations

import numpy as np


def damage(random: np.random.Generator, content: bytes) -> bytes:
    """``content`` cut short, one time in five, and changed in one to four places: a byte lost, replaced, or added."""
    damaged = bytearray(content[: random.integers(len(content) + 1)] if random.random() < 0.2 else content)
    for at in random.integers(max(len(damaged), 1), size=random.integers(1, 5)):
        damaged[at : at + 1] = random.bytes(random.integers(3))
    return bytes(damaged)


def damage_text(random: np.random.Generator, content: str, pieces: str) -> str:
    """``content`` with one to four runs of up to three characters replaced by as many of ``pieces``, or fewer."""
    damaged = list(content)
    for at in random.integers(len(damaged), size=random.integers(1, 5)):
        new = random.choice(list(pieces), size=random.integers(4))
        damaged[at : at + random.integers(4)] = new.tolist()
    return "".join(damaged)
