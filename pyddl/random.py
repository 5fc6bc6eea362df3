"""What random numbers are for: the ``purpose`` constants of the counter-based generator.

Every random number is a function of (seed, purpose, step, index, unit, substep), computed by Philox4x32-10
[1]_ in `pyddl._core.uniform`, `normal` and `bernoulli`. It does not depend on what was drawn before, on the
batch around the row, on ranks or on threads. The fields, and the bits they have in the 64-bit key and the
128-bit counter:

========  ====  =======  ================================================================================
field     bits  where    meaning
========  ====  =======  ================================================================================
seed      48    key      the user's seed
purpose   16    key      one of the constants below: different uses never share a number
step      40    counter  the training step, or the epoch, or the slice of an initialiser
index     40    counter  the global number of the row: a sample, a Gibbs chain, a row of a matrix
unit      34    counter  the column: block of four (32 bits) and the word of the block
substep   16    counter  Gibbs step, or the second, third, ... draw for the same unit
========  ====  =======  ================================================================================

The word-by-word layout is in ``csrc/kernels/random.hpp``. Constants are never renumbered: that would change
every result that a seed gives.

References
----------
.. [1] Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11, article 16.
"""

__all__ = ["CORRUPT", "DATA", "DROPOUT", "GIBBS", "INITIALISE", "LIKELIHOOD", "NOISE", "SEEDS", "SEED_OF_LEVEL",
           "SHUFFLE", "STRATEGY", "TEMPERING"]

SEEDS = 1 << 48
"""Seeds are below this number."""

SEED_OF_LEVEL = 1 << 40
"""Added to a seed for each level of a stack: levels of one shape must neither begin nor be drawn alike."""

SHUFFLE = 1
"""Order of the samples in an epoch."""
INITIALISE = 2
"""First values of parameters."""
CORRUPT = 3
"""Corruption of the input of a denoising autoencoder."""
DROPOUT = 4
"""Units left out of a step."""
GIBBS = 5
"""Gibbs chains of Boltzmann machines."""
NOISE = 6
"""Latent noise of generators and variational autoencoders."""
DATA = 7
"""Made-up data and random splits."""
STRATEGY = 8
"""Choices of a strategy, such as partners of a gossip."""
LIKELIHOOD = 9
"""Chains that estimate a likelihood."""
TEMPERING = 10
"""Chains on a ladder of Boltzmann machines."""
