"""Data: which rows belong to which step of which worker, and where they come from."""

from pyddl._names import offers
from pyddl.data.batch import Batch
from pyddl.data.joined import JoinedSource, split
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.data.source import ArraySource, RandomSource, Source
from pyddl.data.spec import fetch, find, load

__all__ = ["ArraySource", "Batch", "JoinedSource", "Loader", "RandomSource", "Sampler", "Source", "fetch", "find",
           "load", "split"]

__dir__ = offers(__name__)
