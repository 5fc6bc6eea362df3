"""Rows in clusters that no Gibbs chain crosses between: random patterns of 64 bits, of which 3 in 100 are flipped."""

import numpy as np

WEIGHTS = {2: (0.8, 0.2), 4: (0.4, 0.3, 0.2, 0.1)}  # of the patterns


def clusters(patterns, seed, count, bits=64, flips=0.03):
    """Rows (count, bits) and the logarithm of each one's probability, nats."""
    rng = np.random.default_rng([seed, patterns])
    of = rng.random((patterns, bits)) < 0.5
    rows = of[rng.choice(patterns, count, p=WEIGHTS[patterns])] ^ (rng.random((count, bits)) < flips)
    off = (rows[:, None] != of).sum(axis=2)
    logs = np.log(WEIGHTS[patterns]) + off * np.log(flips) + (bits - off) * np.log(1 - flips)
    return rows.astype(np.float32), np.logaddexp.reduce(logs, axis=1)
