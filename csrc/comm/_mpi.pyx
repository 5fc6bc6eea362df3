# cython: language_level=3, boundscheck=False, wraparound=False
"""Vectors over the ranks of one communicator: checks here, bytes in comm/network, policy in pyddl/comm."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t
from libcpp cimport bool as bool_t
from libcpp.memory cimport shared_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector

cimport mpi4py.MPI as MPI
from mpi4py.libmpi cimport MPI_Comm

import numpy as np

from pyddl.errors import CommError, PeerLost, ShapeError

cdef extern from "Python.h":
    int PyErr_CheckSignals()  # its error travels as the return value, through C++ that knows no Python

cdef extern from *:
    """
    #include <exception>
    #include "comm/node/wait.hpp"
    static PyObject* comm_error = nullptr;
    static PyObject* peer_lost = nullptr;
    static void raise_comm_error() {  // Cython calls this, with the GIL, where a C++ call has thrown
        if (PyErr_Occurred()) return;  // a signal handler has raised
        try {
            throw;
        } catch (const pyddl::comm::node::PeerLost& error) {
            PyErr_SetString(peer_lost, error.what());
        } catch (const std::exception& error) {
            PyErr_SetString(comm_error, error.what());
        }
    }
    """
    PyObject* comm_error
    PyObject* peer_lost
    void raise_comm_error()

comm_error = <PyObject*>CommError  # this module holds the references
peer_lost = <PyObject*>PeerLost


cdef extern from "comm/network/collectives.hpp" namespace "pyddl::comm::network" nogil:
    int64_t sum_count "pyddl::comm::network::sum"(MPI_Comm, int64_t) except +raise_comm_error
    void sum_floats "pyddl::comm::network::sum"(MPI_Comm, float*, int64_t) except +raise_comm_error
    void ordered_sum(MPI_Comm, float*, int64_t, vector[float]&) except +raise_comm_error
    void broadcast(MPI_Comm, void*, int64_t, int) except +raise_comm_error
    void gather(MPI_Comm, const double*, int64_t, vector[int64_t]&, vector[double]&) except +raise_comm_error
    void barrier(MPI_Comm) except +raise_comm_error

cdef extern from "comm/network/travelling_sum.hpp" namespace "pyddl::comm::network" nogil:
    cppclass Range:
        Range()
        Range(int64_t, int64_t)
        int64_t begin
        int64_t length()

    cppclass TravellingSum:
        TravellingSum(int64_t, const vector[Range]&, int64_t) except +raise_comm_error
        void begin() except +raise_comm_error
        void announce(Range) except +raise_comm_error
        Range next_final()
        Range next()
        void start(MPI_Comm, float*, int64_t) except +raise_comm_error
        void progress() except +raise_comm_error
        void wait() except +raise_comm_error
        int64_t early()

cdef extern from "comm/node/wait.hpp" namespace "pyddl::comm::node" nogil:
    double now()

cdef extern from "comm/node/group.hpp" namespace "pyddl::comm::node" nogil:
    enum class Role "pyddl::comm::node::SharedMemory::Role":
        creates
        creates_named
        joins

    void unlink "pyddl::comm::node::SharedMemory::unlink"(const string&)

    enum class Operation:
        barrier
        gather
        gather_objects
        broadcast
        allocate
        written

    cppclass CppVectors "pyddl::comm::node::Vectors":
        CppVectors(const string&, int64_t, int, int, Role) except +raise_comm_error
        void reserve() except +raise_comm_error
        string place() except +raise_comm_error
        float* mine()
        float* of(int)

    struct Part "pyddl::comm::node::Group::Part":
        float* data
        int64_t length

    cppclass Group:
        Group(const string&, int, int, Role, int (*)() noexcept nogil) except +raise_comm_error
        void reserve() except +raise_comm_error
        string place() except +raise_comm_error
        void enter() except +raise_comm_error
        void watch() except +raise_comm_error
        void leave()
        void meet(Operation, int64_t) except +raise_comm_error
        void add(int32_t, const CppVectors*) except +raise_comm_error
        void forget(const CppVectors*)
        int64_t sum(float*, int64_t, int64_t) except +raise_comm_error
        int64_t sum_to_owners(float*, int64_t, int64_t) except +raise_comm_error
        void gather_from_owners(float*, int64_t) except +raise_comm_error
        Part begin_sum(float*, int64_t, int64_t, int) except +raise_comm_error
        int64_t count()
        int64_t finish_sum(float*, int64_t, Part, int64_t) except +raise_comm_error
        void hand_round(const float*, int64_t, Part) except +raise_comm_error
        bool_t is_shared(const float*, int64_t)
        int64_t at_a_time(const float*, int64_t)
        bool_t gather(const double*, int64_t, vector[int64_t]&, vector[double]&) except +raise_comm_error
        double arrived_at()


cdef float[::1] floats(vector):
    """The memory of a float32 vector, to be written to."""
    try:
        return vector
    except (ValueError, TypeError) as error:
        raise ShapeError(f"vector must be a contiguous, writable float32 vector: {error}") from None


cdef list split(vector[double]& values, vector[int64_t]& counts):
    """The values of each rank."""
    cdef double[::1] flat = np.empty(values.size())
    cdef size_t i
    for i in range(values.size()):
        flat[i] = values[i]
    whole = np.asarray(flat)
    parts = []
    begin = 0
    for i in range(counts.size()):
        parts.append(whole[begin:begin + counts[i]])
        begin += counts[i]
    return parts


cdef class Travelling


cdef class Channel:
    """Operations over one communicator, by MPI, and what they cost. See pyddl/comm/_mpi.pyi."""

    cdef MPI.Comm comm
    cdef vector[float] scratch
    cdef readonly int rank
    cdef readonly int size
    cdef readonly double wait_seconds
    cdef readonly double communication_seconds
    cdef readonly long long bytes_sent
    cdef float* under_way    # the vector whose sum has begun; NULL: none
    cdef Travelling carrier  # of that vector

    def __init__(self, MPI.Comm comm not None):
        self.comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    cdef void account(self, double began, double arrived, double ended, int64_t elements) noexcept nogil:
        self.wait_seconds += arrived - began
        self.communication_seconds += ended - arrived
        self.bytes_sent += 2 * (self.size - 1) * elements * <int64_t>sizeof(float) // self.size

    def sum(self, vector not None, int64_t count=0, bint ordered=False):  # no-cython-lint: shadows vector
        cdef float[::1] x = floats(vector)
        cdef int64_t n = x.shape[0]
        cdef float* data = &x[0] if n > 0 else NULL
        cdef double began, arrived
        if n > 0 and data == self.under_way:
            return self.carrier.finish(count)
        with nogil:
            began = now()
            count = sum_count(self.comm.ob_mpi, count)  # small and first: its time is waiting
            arrived = now()
            if ordered:
                ordered_sum(self.comm.ob_mpi, data, n, self.scratch)
            else:
                sum_floats(self.comm.ob_mpi, data, n)
            self.account(began, arrived, now(), n)
        return count

    cdef int start(self, TravellingSum& buckets, vector[Part]& parts, float* x, int64_t n) except -1 nogil:
        """Let a bucket begin to travel."""
        buckets.start(self.comm.ob_mpi, x, n)
        return 0

    cdef int64_t finish(self, TravellingSum& buckets, vector[Part]& parts, float* x, int64_t n, int64_t count,
                        double* arrived) except? -1 nogil:
        """Wait for the buckets, which have all started, while the count travels, too."""
        count = sum_count(self.comm.ob_mpi, count)
        arrived[0] = now()
        buckets.wait()
        return count

    def gather(self, values not None):
        cdef const double[::1] x = values
        cdef int64_t n = x.shape[0]
        cdef const double* data = &x[0] if n > 0 else NULL
        cdef vector[int64_t] counts
        cdef vector[double] gathered
        cdef double began
        with nogil:
            began = now()
            gather(self.comm.ob_mpi, data, n, counts, gathered)
            self.communication_seconds += now() - began
            self.bytes_sent += n * <int64_t>sizeof(double)
        return split(gathered, counts)

    def broadcast(self, raw not None, int root):
        cdef unsigned char[::1] x = raw
        cdef int64_t n = x.shape[0]
        cdef void* data = <void*>&x[0] if n > 0 else NULL
        cdef double began
        with nogil:
            began = now()
            broadcast(self.comm.ob_mpi, data, n, root)
            self.communication_seconds += now() - began
            if self.rank == root:
                self.bytes_sent += n

    def barrier(self):
        cdef double began
        with nogil:
            began = now()
            barrier(self.comm.ob_mpi)
            self.wait_seconds += now() - began


cdef int look() noexcept nogil:
    """While ranks wait for each other: let Python's signal handlers run."""
    with gil:
        return PyErr_CheckSignals()


cdef Role role_of(str role):
    return Role.creates if role == "creates" else Role.creates_named if role == "creates_named" else Role.joins


cdef class SharedChannel(Channel):
    """The same in shared memory inside a node, and by MPI between nodes. See pyddl/comm/_mpi.pyi."""

    cdef Group* group
    cdef MPI.Comm lane  # the ranks of one number on all nodes; None where this rank has no part
    cdef int lanes      # ranks of each node that speak to other nodes
    cdef int nodes

    def __cinit__(self, comm, str name, str role, int node_rank, int node_size):
        self.group = new Group(name.encode(), node_rank, node_size, role_of(role), look)

    def __init__(self, MPI.Comm comm not None, *place):
        super().__init__(comm)
        self.nodes = 1

    def __dealloc__(self):
        del self.group

    @property
    def place(self):
        return self.group.place().decode()

    def reserve(self):
        self.group.reserve()

    def enter(self):
        self.group.enter()

    def watch(self):
        self.group.watch()

    def leave(self):
        self.group.leave()

    def connect(self, MPI.Comm lane, int lanes, int nodes):
        self.lane, self.lanes, self.nodes = lane, lanes, nodes

    def is_shared(self, vector not None):  # no-cython-lint: shadows vector
        cdef float[::1] x = floats(vector)
        return x.shape[0] > 0 and self.group.is_shared(&x[0], x.shape[0])

    def sum(self, vector not None, int64_t count=0, bint ordered=False):  # no-cython-lint: shadows vector
        if ordered and (self.nodes > 1 or self.size & (self.size - 1)):
            return Channel.sum(self, vector, count, True)
        cdef float[::1] x = floats(vector)
        cdef int64_t n = x.shape[0]
        cdef float* data = &x[0] if n > 0 else NULL
        cdef double began, arrived
        if n > 0 and data == self.under_way:
            return self.carrier.finish(count)
        with nogil:
            began = now()
            if self.nodes == 1:
                count = self.group.sum(data, n, count)
                arrived = self.group.arrived_at()
            else:
                count = self.sum_over_nodes(data, n, count, &arrived)
            self.account(began, arrived, now(), n)
        return count

    def sum_to_owners(self, vector not None, int64_t count=0):  # no-cython-lint: shadows vector
        cdef float[::1] x = floats(vector)
        cdef int64_t n = x.shape[0]
        cdef double began
        with nogil:
            began = now()
            count = self.group.sum_to_owners(&x[0], n, count)
            self.account(began, self.group.arrived_at(), now(), n // 2)
        return count

    def gather_from_owners(self, vector not None):  # no-cython-lint: shadows vector
        cdef float[::1] x = floats(vector)
        cdef int64_t n = x.shape[0]
        cdef double began
        with nogil:
            began = now()
            self.group.gather_from_owners(&x[0], n)
            self.account(began, self.group.arrived_at(), now(), n // 2)

    cdef int64_t sum_over_nodes(self, float* x, int64_t n, int64_t count, double* arrived) except? -1 nogil:
        """Each rank adds its part inside the node, then over the nodes, and hands it round in the node."""
        cdef int64_t step = self.group.at_a_time(x, n), at = 0, length, total = 0, here
        cdef Part part
        while True:
            length = min(step, n - at)
            part = self.group.begin_sum(x + at, length, count, self.lanes)
            here = self.group.count()
            if self.lane is not None:
                if at == 0:
                    here = sum_count(self.lane.ob_mpi, here)
                    arrived[0] = now()
                sum_floats(self.lane.ob_mpi, part.data, part.length)
            elif at == 0:
                arrived[0] = self.group.arrived_at()
            here = self.group.finish_sum(x + at, length, part, here)
            if at == 0:
                total = here
            at += length
            if at >= n:
                return total

    cdef int start(self, TravellingSum& buckets, vector[Part]& parts, float* x, int64_t n) except -1 nogil:
        cdef Part part = self.group.begin_sum(x, n, 0, self.lanes)
        parts.push_back(part)
        if self.lane is not None:
            buckets.start(self.lane.ob_mpi, part.data, part.length)
        return 0

    cdef int64_t finish(self, TravellingSum& buckets, vector[Part]& parts, float* x, int64_t n, int64_t count,
                        double* arrived) except? -1 nogil:
        cdef size_t i
        count = self.sum_over_nodes(NULL, 0, count, arrived)
        buckets.wait()
        for i in range(parts.size()):
            self.group.hand_round(x, n, parts[i])
        self.group.meet(Operation.written, n)
        return count

    def gather(self, values not None):
        cdef const double[::1] x = values
        cdef int64_t n = x.shape[0]
        cdef const double* data = &x[0] if n > 0 else NULL
        cdef vector[int64_t] counts
        cdef vector[double] gathered
        cdef bool_t done = False
        cdef double began
        if self.nodes > 1:
            return Channel.gather(self, values)
        with nogil:
            began = now()
            done = self.group.gather(data, n, counts, gathered)
            self.communication_seconds += now() - began
        if not done:
            return Channel.gather(self, values)
        self.bytes_sent += n * <int64_t>sizeof(double)
        return split(gathered, counts)

    def broadcast(self, raw not None, int root):
        with nogil:
            self.group.meet(Operation.broadcast, 0)
        Channel.broadcast(self, raw, root)

    def before_objects(self):
        with nogil:
            self.group.meet(Operation.gather_objects, 0)

    def before_allocation(self, int64_t length):
        with nogil:
            self.group.meet(Operation.allocate, length)

    def barrier(self):
        cdef double began
        with nogil:
            began = now()
            self.group.meet(Operation.barrier, 0)
            self.wait_seconds += now() - began
        if self.nodes > 1:
            Channel.barrier(self)


cdef class Travelling:
    """Sums a vector in buckets that start as they become final; `Channel.sum` completes it. See _mpi.pyi."""

    cdef Channel channel
    cdef float[::1] memory  # alive for as long as MPI may write to it
    cdef TravellingSum* buckets
    cdef vector[Part] parts  # of the buckets that have started, where a node adds them up first

    def __cinit__(self, Channel channel not None, memory not None, slices not None, int64_t bucket):
        cdef vector[Range] ranges
        for begin, end in slices:
            ranges.push_back(Range(begin, end))
        self.channel = channel
        self.memory = floats(memory)
        self.buckets = new TravellingSum(self.memory.shape[0], ranges, bucket)

    def __dealloc__(self):
        del self.buckets

    def __call__(self, int64_t begin, int64_t end):
        cdef float* x = &self.memory[0]
        cdef bint first = self.channel.under_way != x
        if first:
            self.channel.under_way, self.channel.carrier = x, self
        with nogil:
            if first:
                self.buckets.begin()
                self.parts.clear()
            self.buckets.announce(Range(begin, end))
            self.start(x, False)
            self.buckets.progress()

    @property
    def early(self):
        return self.buckets.early()

    cdef int64_t finish(self, int64_t count) except? -1:
        """The rest of `Channel.sum`, for a vector under way."""
        cdef float* x = &self.memory[0]
        cdef int64_t n = self.memory.shape[0]
        cdef double began, arrived
        with nogil:
            began = now()
            self.start(x, True)
            count = self.channel.finish(self.buckets[0], self.parts, x, n, count, &arrived)
            self.channel.account(began, arrived, now(), n)
        self.channel.under_way = NULL
        self.channel.carrier = None
        return count

    cdef int start(self, float* x, bint rest) except -1 nogil:
        """Start the buckets that are final, or all that are left."""
        cdef Range bucket
        while True:
            bucket = self.buckets.next() if rest else self.buckets.next_final()
            if bucket.length() == 0:
                return 0
            self.channel.start(self.buckets[0], self.parts, x + bucket.begin, bucket.length())


cdef class SharedVectors:
    """One vector per rank in shared memory; the buffer is this rank's. See pyddl/comm/_mpi.pyi."""

    cdef CppVectors* vectors
    cdef SharedChannel channel
    cdef int64_t bytes
    cdef int node_size

    def __cinit__(self, SharedChannel channel not None, str name, str role, int node_rank, int node_size, int64_t length):
        self.channel = channel
        self.node_size = node_size
        self.bytes = length * <int64_t>sizeof(float)
        self.vectors = new CppVectors(name.encode(), length, node_rank, node_size, role_of(role))

    def __dealloc__(self):
        if self.vectors is not NULL:
            self.channel.group.forget(self.vectors)
            del self.vectors

    @property
    def place(self):
        return self.vectors.place().decode()

    def reserve(self):
        self.vectors.reserve()

    def register(self, int32_t number):
        self.channel.group.add(number, self.vectors)

    def of(self, int node_rank):
        if not 0 <= node_rank < self.node_size:
            raise CommError(f"the node has ranks 0 to {self.node_size - 1}, no rank {node_rank}")
        return view_of(self, self.vectors.of(node_rank), self.bytes // <int64_t>sizeof(float), True)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.vectors.mine(), self.bytes, False, flags)


# ---- the parameter server

cdef extern from "comm/node/server.hpp" namespace "pyddl::comm::node" nogil:
    cppclass SharedMemory:
        SharedMemory(const string&, int64_t, Role) except +raise_comm_error
        SharedMemory(int64_t) except +raise_comm_error
        void reserve(int64_t, int64_t) except +raise_comm_error
        string place() except +raise_comm_error
        int64_t bytes()

    struct Shape "pyddl::comm::node::Shard::Shape":
        int64_t length
        int workers
        int mates

    int64_t shard_bytes "pyddl::comm::node::Shard::bytes"(Shape)

    enum class EventKind "pyddl::comm::node::Server::Event::Kind":
        over "pyddl::comm::node::Server::Event::over"
        push "pyddl::comm::node::Server::Event::push"
        finished "pyddl::comm::node::Server::Event::finished"
        left "pyddl::comm::node::Server::Event::left"

    struct About "pyddl::comm::node::Mailbox::Push":
        int64_t samples
        int64_t version
        int64_t note
        int64_t clock

    struct Event "pyddl::comm::node::Server::Event":
        EventKind kind
        int worker
        int slot
        About about
        string why

    cppclass Tickets:
        int64_t claimed()
        void close()

    cppclass CppServer "pyddl::comm::node::Server":
        void watch()
        int buffers()
        float* buffer(int)
        int current()
        int free() except +raise_comm_error
        int64_t publish(int64_t) except +raise_comm_error
        Event receive() except +raise_comm_error
        float* vector(int, int)
        void begin_epoch(int64_t)
        Tickets& tickets()
        void leave()
        double wait_seconds()

    cppclass CppWorker "pyddl::comm::node::Worker":
        CppWorker(shared_ptr[SharedMemory], Shape, int, int, const string&,
                  int (*)() noexcept nogil) except +raise_comm_error
        void watch()
        void push(const float*, int64_t, int64_t, int64_t) except +raise_comm_error
        int64_t fetch(float*, int64_t) except +raise_comm_error
        int64_t claim() except +raise_comm_error
        void close_tickets()
        void finish()
        void leave()
        double wait_seconds()
        double communication_seconds()
        int64_t bytes_sent()

cdef extern from "comm/network/server.hpp" namespace "pyddl::comm::network" nogil:
    cppclass Messages "pyddl::comm::network::Worker":
        Messages(MPI_Comm, int, const string&, int, int64_t, int64_t,
                 int (*)() noexcept nogil) except +raise_comm_error
        void push(const float*, int64_t, int64_t, int64_t) except +raise_comm_error
        void request(float*, int64_t) except +raise_comm_error
        int64_t fetch() except +raise_comm_error
        int64_t claim() except +raise_comm_error
        void close_tickets() except +raise_comm_error
        void finish() except +raise_comm_error
        void close() except +raise_comm_error
        double wait_seconds()
        double communication_seconds()
        int64_t bytes_sent()

cdef extern from "comm/port.hpp" namespace "pyddl::comm" nogil:
    cppclass Port:
        Port(shared_ptr[SharedMemory], int64_t, vector[int], vector[int], MPI_Comm, int64_t,
             int (*)() noexcept nogil) except +raise_comm_error
        CppServer server
        void close() except +raise_comm_error
        int64_t bytes_sent()


cdef class View:
    """A buffer somewhere in the memory that ``owner`` keeps."""

    cdef object owner
    cdef void* data
    cdef int64_t bytes
    cdef bint readonly

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.bytes, self.readonly, flags)


cdef view_of(object owner, float* data, int64_t length, bint readonly):
    cdef View view = View.__new__(View)
    view.owner, view.data, view.readonly = owner, data, readonly
    view.bytes = length * <int64_t>sizeof(float)
    return np.frombuffer(memoryview(view), np.float32)


cdef class Region:
    """The memory of one server and the workers of its node. See pyddl/comm/_mpi.pyi."""

    cdef shared_ptr[SharedMemory] memory
    cdef Shape shape

    def __cinit__(self, str name, str role, int64_t length, int workers, int mates):
        self.shape.length, self.shape.workers, self.shape.mates = length, workers, mates
        cdef int64_t size = shard_bytes(self.shape)
        if name is None:
            self.memory.reset(new SharedMemory(size))
        else:
            self.memory.reset(new SharedMemory(<string>name.encode(), size, role_of(role)))

    @staticmethod
    def bytes(int64_t length, int workers, int mates):
        cdef Shape shape
        shape.length, shape.workers, shape.mates = length, workers, mates
        return shard_bytes(shape)

    @property
    def place(self):
        return self.memory.get().place().decode()

    def reserve(self):
        self.memory.get().reserve(0, self.memory.get().bytes())


cdef class Server:
    """One server's side. See pyddl/comm/_mpi.pyi."""

    cdef Port* port
    cdef CppServer* server
    cdef int64_t length
    cdef MPI.Comm comm
    cdef bint open  # MPI may write to the port

    def __cinit__(self, Region region not None, list seats, list ranks, MPI.Comm comm not None, int64_t chunk):
        self.length, self.comm = region.shape.length, comm
        self.port = new Port(region.memory, self.length, seats, ranks, comm.ob_mpi, chunk, look)
        self.server = &self.port.server
        self.open = any(seat < 0 for seat in seats)

    def __dealloc__(self):
        if self.port is not NULL:
            self.server.leave()
            if not self.open:
                del self.port

    def watch(self):
        self.server.watch()

    def buffer(self, int index, bint readonly):
        return view_of(self, self.server.buffer(index), self.length, readonly)

    def mailbox(self, int worker, int slot):
        return view_of(self, self.server.vector(worker, slot), self.length, True)

    @property
    def count(self):
        return self.server.buffers()

    def current(self):
        return self.server.current()

    def free(self):
        cdef int index
        with nogil:
            index = self.server.free()
        return index

    def publish(self, int64_t progress):
        cdef int64_t version
        with nogil:
            version = self.server.publish(progress)
        return version

    def receive(self):
        cdef Event event
        with nogil:
            event = self.server.receive()
        if event.kind == EventKind.push:
            return (event.worker, event.slot, event.about.samples, event.about.version, event.about.note,
                    event.about.clock)
        if event.kind != EventKind.over:
            return event.worker, event.why.decode()
        return None

    def begin_epoch(self, int64_t tickets):
        self.server.begin_epoch(tickets)

    def claimed(self):
        return self.server.tickets().claimed()

    def close_tickets(self):
        self.server.tickets().close()

    def close(self):
        with nogil:
            self.port.close()
        self.open = False

    @property
    def wait_seconds(self):
        return self.server.wait_seconds()

    @property
    def bytes_sent(self):
        return self.port.bytes_sent()


cdef class NodeLink:
    """A worker's side, on its server's node. See pyddl/comm/_mpi.pyi."""

    cdef CppWorker* worker
    cdef int64_t length

    def __cinit__(self, Region region not None, int number, int seat, str server):
        self.length = region.shape.length
        self.worker = new CppWorker(region.memory, region.shape, number, seat, server.encode(), look)

    def __dealloc__(self):
        del self.worker

    def watch(self):
        self.worker.watch()

    def push(self, const float[::1] vector not None, int64_t samples, int64_t version,  # no-cython-lint: shadows vector
             int64_t note=0):
        cdef const float* data = &vector[0] if vector.shape[0] > 0 else NULL
        with nogil:
            self.worker.push(data, samples, version, note)

    def request(self, float[::1] out not None, int64_t progress):
        pass  # nothing has to travel before the copy

    def fetch(self, float[::1] out not None, int64_t progress):
        cdef float* data = &out[0] if out.shape[0] > 0 else NULL
        cdef int64_t version
        with nogil:
            version = self.worker.fetch(data, progress)
        return version

    def claim(self):
        cdef int64_t ticket
        with nogil:
            ticket = self.worker.claim()
        return ticket

    def close_tickets(self):
        self.worker.close_tickets()

    def finish(self):
        self.worker.finish()

    def close(self):
        self.worker.leave()

    @property
    def wait_seconds(self):
        return self.worker.wait_seconds()

    @property
    def communication_seconds(self):
        return self.worker.communication_seconds()

    @property
    def bytes_sent(self):
        return self.worker.bytes_sent()


cdef class NetworkLink:
    """A worker's side, by messages. See pyddl/comm/_mpi.pyi."""

    cdef Messages* messages
    cdef MPI.Comm comm
    cdef bint open  # MPI may write to the object
    cdef object out  # and to this

    def __cinit__(self, MPI.Comm comm not None, int server, str name, int number, int64_t length, int64_t chunk):
        self.comm, self.open = comm, True
        self.messages = new Messages(comm.ob_mpi, server, name.encode(), number, length, chunk, look)

    def __dealloc__(self):
        if not self.open:
            del self.messages

    def watch(self):
        pass  # MPI does

    def push(self, const float[::1] vector not None, int64_t samples, int64_t version,  # no-cython-lint: shadows vector
             int64_t note=0):
        cdef const float* data = &vector[0] if vector.shape[0] > 0 else NULL
        with nogil:
            self.messages.push(data, samples, version, note)

    def request(self, float[::1] out not None, int64_t progress):
        cdef float* data = &out[0] if out.shape[0] > 0 else NULL
        self.out = out
        with nogil:
            self.messages.request(data, progress)

    def fetch(self, float[::1] out not None, int64_t progress):
        cdef int64_t version
        with nogil:
            version = self.messages.fetch()
        self.out = None
        return version

    def claim(self):
        cdef int64_t ticket
        with nogil:
            ticket = self.messages.claim()
        return ticket

    def close_tickets(self):
        with nogil:
            self.messages.close_tickets()

    def finish(self):
        with nogil:
            self.messages.finish()

    def close(self):
        with nogil:
            self.messages.close()
        self.open = False

    @property
    def wait_seconds(self):
        return self.messages.wait_seconds()

    @property
    def communication_seconds(self):
        return self.messages.communication_seconds()

    @property
    def bytes_sent(self):
        return self.messages.bytes_sent()


def unlink_shared_memory(str name):
    unlink(name.encode())
