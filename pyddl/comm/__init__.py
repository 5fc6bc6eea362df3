"""Ranks and what travels between them. Importing this starts no MPI; `world` does, where a launcher started
ranks."""

from pyddl._names import offers
from pyddl.comm import operations
from pyddl.comm.abort import run_main
from pyddl.comm.machine import Machine
from pyddl.comm.transport import Alone, MPITransport, Transport
from pyddl.comm.world import World, use, world

__all__ = ["Alone", "MPITransport", "Machine", "Transport", "World", "operations", "run_main", "use", "world"]

__dir__ = offers(__name__)
