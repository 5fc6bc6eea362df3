"""Errors in three families: yours to mend (values, shapes, files), the machine's, and ours.

Each message says what was wrong, what was expected and what to do.
"""

from pyddl._names import offers

__all__ = [
    "CheckpointError",
    "CommError",
    "DataError",
    "InternalError",
    "NoRowsError",
    "NotANumberError",
    "NotFiniteError",
    "ParameterError",
    "PeerLost",
    "PyddlError",
    "ShapeError",
    "StrategyError",
]

__dir__ = offers(__name__)


class PyddlError(Exception):
    """Base of all errors that pyddl raises on purpose."""

    on_all_ranks = False  # whether every rank raises it, by agreement
    of_users_code = False  # whether what caused it was raised by code of the user's, who wants to see its traceback


class ParameterError(PyddlError, ValueError):
    """An option or argument has a value outside its range."""


class ShapeError(PyddlError, ValueError):
    """An array has the wrong shape or element type."""


class DataError(PyddlError, ValueError):
    """A file or data set is missing, damaged or not what it claims to be."""


class NoRowsError(DataError):
    """A file of data is whole, and has no rows: among others in a folder that is a part like any."""


class NotANumberError(DataError, TypeError):
    """A value is no number; also for those who look for what NumPy raises."""


class CheckpointError(PyddlError, OSError):
    """A checkpoint, or another file of a run, cannot be written; or no checkpoint can be read."""


class NotFiniteError(PyddlError, ArithmeticError):
    """Training diverged: a loss, a parameter or a buffer is NaN or infinite."""


class StrategyError(PyddlError, RuntimeError):
    """A strategy does not keep to the rules of its operations."""


class CommError(PyddlError, RuntimeError):
    """Ranks, the launcher or MPI failed or disagree."""


class PeerLost(CommError):
    """Another rank died, left or gave up while this one waited for it."""


class InternalError(PyddlError, RuntimeError):
    """A bug in pyddl: please report it."""
