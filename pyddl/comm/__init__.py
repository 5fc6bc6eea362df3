"""Ranks and what travels between them. Importing this starts no MPI; `world` does, where a launcher started
ranks."""

from pyddl.comm.abort import run_main
from pyddl.comm.transport import Alone, MPITransport, Transport
from pyddl.comm.world import World, use, world

__all__ = ["Alone", "MPITransport", "Transport", "World", "run_main", "use", "world"]
