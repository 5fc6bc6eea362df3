"""ParameterServer: rank 0 keeps a model and applies updates, the other ranks compute them; or one process does both."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pyddl import _check
from pyddl.callbacks.link import Link, Packed, birth_of
from pyddl.callbacks.loops import Serving, train_alone, work_on
from pyddl.callbacks.messages import Failed
from pyddl.callbacks.served import Descent, Gradient, Replica, Report, Served
from pyddl.callbacks.work import Job
from pyddl.comm.abort import end_without_mpi, leave
from pyddl.comm.world import World, world
from pyddl.errors import CommError, ParameterError, PeerLost

__all__ = ["ParameterServer"]

SERVER = 0  # its rank


class ParameterServer:
    """Trains any Python object by two callbacks: rank 0 serves the model, the other ranks work on it.

    ``gradient(model, items)`` runs on the workers, on a replica of the model, and returns an update; ``descent(model,
    update)`` applies it to the model that is served. Updates are asynchronous, as in Downpour SGD [1]_: no worker waits
    for another. Alone, one process does both in turn, with a replica of its own, so that the program means the same.

    An *update* is an array, a dictionary of arrays (also of dictionaries), or anything else that pickle takes. In place
    of an array there may be a pair ``(rows, values)``. An empty update (``{}``, no rows) is legal: ``descent`` is not
    called.

    Before every ``fetch_every`` of its units a worker fetches the model, where there is a newer version. It gets one
    whole version, and all updates of its own are in it. ``gradient`` may change its replica: that lasts until the next
    fetch.

    Use it as a context manager; both ends, and `train`, are collective. An exception in a callback ends training on
    every rank, under the failing rank's name.

    Parameters
    ----------
    model : object
        The server's is the one that counts. Without ``parameters`` it must be picklable, and travels whole.
    parameters : callable, optional
        ``parameters(model)`` gives the arrays that change: one, or a dictionary, also of dictionaries. Then these alone
        travel, and are moved in place in every rank's model; updates are checked against them, by name and shape.
    on_failure : {"end", "continue"}, default="end"
        Whether to go on when a worker dies, whose work others then do. The launcher must leave the others alive: Open
        MPI 5 does with ``mpirun --with-ft ulfm``. After a loss nothing else that is collective works.
    timeout : float, default=600
        Seconds after which training ends with an error when no worker has sent anything; 0 waits for ever.

    Attributes
    ----------
    model : object
        On the server the model itself; on a worker its replica, after `train` of the last version.
    version : int
        Updates that have led to ``model``.

    Raises
    ------
    ParameterError
        An argument is out of range, or no callable.

    References
    ----------
    .. [1] Dean et al. (2012), Large scale distributed deep networks, NIPS 25.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(8.0)
    >>> model = {"slope": np.zeros(1)}
    >>> def gradient(model, x):
    ...     return {"slope": np.array([np.sum((model["slope"] * x - 3 * x) * x)])}
    >>> def descent(model, update):
    ...     model["slope"] -= 0.01 * update["slope"]
    >>> with pyddl.ParameterServer(model) as server:
    ...     report = server.train(x, gradient, descent, batch_size=4, epochs=20)
    >>> report.updates, model["slope"].round(3).tolist()
    (40, [3.0])
    """

    def __init__(self, model: Any, *, parameters: Callable[[Any], Any] | None = None, on_failure: str = "end",
                 timeout: float = 600):
        if parameters is not None:
            _check.function("parameters", parameters, "(model)")
        self.parameters = parameters
        self.on_failure = _check.one_of("on_failure", on_failure, ("end", "continue"))
        self.timeout = _check.number("timeout", timeout, at_least=0)
        self.model, self.version = model, 0
        self._epochs = 0  # trained so far
        self._here: World | None = None
        self._comm: Any = None
        self._links: dict[int, Link] = {}
        self._failed = False  # some rank has left training by an exception
        self._lost: list[int] = []  # ranks that have died

    def __enter__(self) -> ParameterServer:
        self._here = here = world()
        if here.mpi is not None and here.size > 1:
            self._comm = here.mpi.Dup()
            identities = self._comm.allgather((os.uname().nodename, os.getpid(), birth_of(os.getpid())))
            peers = range(1, here.size) if here.rank == SERVER else [SERVER]
            for peer in peers:
                node, process, birth = identities[peer]
                self._links[peer] = Link(self._comm, peer, process if node == os.uname().nodename else 0, birth)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._here = None
        for link in self._links.values():
            link.abandon()
        self._links.clear()
        if self._comm is not None and kind is None and not (self._failed or self._lost):  # freeing is collective
            self._comm.Free()
        self._comm = None

    def train(self, data: Any, gradient: Gradient, descent: Descent, *,
              batch_size: int | None = None, partitions: int | None = None, epochs: int = 1, fetch_every: int = 1,
              shuffle: bool = False, seed: int = 0) -> Report:
        """Train on ``data``. Collective.

        The data is cut into units, of which the server gives each to the next worker that is free.

        Parameters
        ----------
        data : sequence, ndarray, DataFrame, Series, Source, iterable, or DataFrame or RDD of Spark
            The whole, the same on every rank, which reads by itself what it works on. Items of an array are its rows,
            and so ``gradient`` gets an array of some of them; pandas' objects are taken as their ``to_numpy()``. From
            an iterable without length (a generator, a file) the server draws, and sends items; the other ranks' are not
            touched. Of Spark's data each worker reads the partitions that it works on, in a session of its own, and
            items are rows of a DataFrame or elements of an RDD; the server has them counted once.
        gradient, descent : callable
        batch_size : int, optional
            Items per minibatch, of all workers together, as everywhere in pyddl: a unit is one worker's part of it,
            batch_size / workers. By default a unit is a whole partition. Of Spark's data, units do not reach beyond a
            partition, and a worker does all of one before another.
        partitions : int, optional
            Parts that the data is cut into, by default one for each worker; not together with ``batch_size``.
        epochs : int, default=1
            Times that the data is gone through.
        fetch_every : int, default=1
            Units between two fetches of the model. Above 1 a worker waits less, with gradients from an older model.
        shuffle : bool, default=False
            A new order each epoch, the same on any number of ranks; for data with a length.
        seed : int, default=0
            Of that order.

        Returns
        -------
        Report

        Raises
        ------
        ParameterError, ShapeError, DataError
            Arguments, data or an update are not as described.
        NotFiniteError
            An update holds NaN or an infinity.
        PeerLost, CommError
            Another rank failed or died; no worker has sent anything for ``timeout`` seconds.
        """
        here = self._here
        if here is None:
            raise ParameterError("train was called outside of the server's with block; expected "
                                 "with pyddl.ParameterServer(model) as server: server.train(...)")
        if self._failed:
            raise CommError("training failed earlier in this with block; begin another")
        try:
            _check.function("gradient", gradient, "(model, items)")
            _check.function("descent", descent, "(model, update)")
            options = self._options(batch_size, partitions, epochs, fetch_every, shuffle, seed, here.size)
            job = Job(data, gradient, descent, options)
            if partitions is not None and job.partitions is not None:
                raise ParameterError(f"partitions is {partitions}, but data has {job.partitions.count} of its own; "
                                     "leave it out, or give data.repartition(...)")
            if here.rank == SERVER:
                served = Served(self.model, self.parameters, self.version, self._links or [SERVER])
                if here.size == 1:
                    report = train_alone(job, served)
                else:
                    report = Serving(job, served, self._links, self.on_failure, self.timeout).run()
                self.version = served.version
            else:
                replica = Replica(self.model, self.parameters, here.rank)
                report = work_on(job, replica, self._links[SERVER])
                self.model, self.version = replica.model, replica.version
        except BaseException as failure:
            self._failed = here.size > 1
            self._tell(failure)
            if isinstance(failure, SystemExit) and here.size > 1:
                leave(failure.code)
            raise
        if report.lost:
            links = list(self._links.values())
            # The server ends first, when all workers have done what they do after training; then they end.
            end_without_mpi(lambda: any(link.works() if here.rank == SERVER else link.lives() for link in links))
        self._lost += report.lost
        self._epochs += epochs
        return report

    def _options(self, batch_size: int | None, partitions: int | None, epochs: int, fetch_every: int, shuffle: bool,
                 seed: int, size: int) -> dict[str, Any]:
        if batch_size is not None and partitions is not None:
            raise ParameterError(f"batch_size {batch_size} and partitions {partitions} are both given; one of the two "
                                 "cuts the data: leave the other out")
        if seed and not shuffle:
            raise ParameterError(f"seed is {seed}, and nothing is drawn without shuffle: leave it out, or give "
                                 "shuffle=True")
        for name, count in (("batch_size", batch_size), ("partitions", partitions)):
            if count is not None:
                _check.integer(name, count, at_least=1)
        return {"batch_size": batch_size, "parts": partitions or max(1, size - 1), "first": self._epochs,
                "epochs": _check.integer("epochs", epochs, at_least=1),
                "fetch_every": _check.integer("fetch_every", fetch_every, at_least=1), "shuffle": bool(shuffle),
                "seed": _check.integer("seed", seed, at_least=0)}

    def _tell(self, failure: BaseException) -> None:
        """Tell the other ranks that this one leaves, as they may wait for it, whatever becomes of its exception."""
        if isinstance(failure, PeerLost) and SERVER in self._links:
            return  # a worker has it from the server
        why = failure if isinstance(failure, PeerLost) else f"{type(failure).__name__}: {failure}"
        for link in self._links.values():
            with contextlib.suppress(PeerLost):
                link.send(Packed(Failed(str(why)[:1000])))
