"""Strategies: every way to train together, one file each."""

from pyddl._names import offers
from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.auto import Auto
from pyddl.strategies.averaging import Averaging
from pyddl.strategies.base import Me, Served, Steps, Strategy, Turn, average
from pyddl.strategies.elastic import Elastic
from pyddl.strategies.given import NAMES, strategy
from pyddl.strategies.gossip import Gossip
from pyddl.strategies.local import Local
from pyddl.strategies.sequential import Sequential
from pyddl.strategies.server import Server
from pyddl.strategies.split import Split

__all__ = ["NAMES", "Allreduce", "Auto", "Averaging", "Elastic", "Gossip", "Local", "Me", "Sequential", "Served",
           "Server", "Split", "Steps", "Strategy", "Turn", "average", "strategy"]

__dir__ = offers(__name__)
