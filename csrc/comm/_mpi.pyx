# cython: language_level=3, boundscheck=False, wraparound=False
"""Vectors over the ranks of one communicator: checks here, bytes in comm/network, policy in pyddl/comm."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t
from libcpp.vector cimport vector

cimport mpi4py.MPI as MPI
from mpi4py.libmpi cimport MPI_Comm

import numpy as np

from pyddl.errors import CommError, ShapeError

cdef extern from *:
    """
    #include <exception>
    static PyObject* comm_error = nullptr;
    static void raise_comm_error() {  // Cython calls this, with the GIL, where a C++ call has thrown
        try {
            throw;
        } catch (const std::exception& error) {
            PyErr_SetString(comm_error, error.what());
        }
    }
    """
    PyObject* comm_error
    void raise_comm_error()

comm_error = <PyObject*>CommError  # this module holds the reference


cdef extern from "comm/network/collectives.hpp" namespace "pyddl::comm::network" nogil:
    int64_t sum_count "pyddl::comm::network::sum"(MPI_Comm, int64_t) except +raise_comm_error
    void sum_floats "pyddl::comm::network::sum"(MPI_Comm, float*, int64_t) except +raise_comm_error
    void ordered_sum(MPI_Comm, float*, int64_t, vector[float]&) except +raise_comm_error
    void broadcast(MPI_Comm, void*, int64_t, int) except +raise_comm_error
    void gather(MPI_Comm, const double*, int64_t, vector[int64_t]&, vector[double]&) except +raise_comm_error
    void barrier(MPI_Comm) except +raise_comm_error

cdef extern from "mpi.h" nogil:
    double MPI_Wtime()


cdef class Channel:
    """Operations over one communicator, and what they cost. See pyddl/comm/_mpi.pyi."""

    cdef MPI.Comm comm
    cdef vector[float] scratch
    cdef readonly int rank
    cdef readonly int size
    cdef readonly double wait_seconds
    cdef readonly double communication_seconds
    cdef readonly long long bytes_sent

    def __init__(self, MPI.Comm comm not None):
        self.comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    def sum(self, vector not None, int64_t count=0, bint ordered=False):
        cdef float[::1] x
        try:
            x = vector
        except (ValueError, TypeError) as error:
            raise ShapeError(f"vector must be a contiguous, writable float32 vector: {error}") from None
        cdef int64_t n = x.shape[0]
        cdef float* data = &x[0] if n > 0 else NULL
        cdef double start, arrived
        with nogil:
            start = MPI_Wtime()
            count = sum_count(self.comm.ob_mpi, count)  # small and first: its time is waiting
            arrived = MPI_Wtime()
            if ordered:
                ordered_sum(self.comm.ob_mpi, data, n, self.scratch)
            else:
                sum_floats(self.comm.ob_mpi, data, n)
            self.wait_seconds += arrived - start
            self.communication_seconds += MPI_Wtime() - arrived
            self.bytes_sent += 2 * (self.size - 1) * n * <int64_t>sizeof(float) // self.size
        return count

    def gather(self, values not None):
        cdef const double[::1] x = values
        cdef int64_t n = x.shape[0], start = 0
        cdef const double* data = &x[0] if n > 0 else NULL
        cdef vector[int64_t] counts
        cdef vector[double] gathered
        cdef double began
        with nogil:
            began = MPI_Wtime()
            gather(self.comm.ob_mpi, data, n, counts, gathered)
            self.communication_seconds += MPI_Wtime() - began
            self.bytes_sent += n * <int64_t>sizeof(double)
        parts = []
        for rank in range(self.size):
            part = np.empty(counts[rank])
            copy(gathered.data() + start, part)
            parts.append(part)
            start += counts[rank]
        return parts

    def broadcast(self, raw not None, int root):
        cdef unsigned char[::1] x = raw
        cdef int64_t n = x.shape[0]
        cdef void* data = <void*>&x[0] if n > 0 else NULL
        cdef double began
        with nogil:
            began = MPI_Wtime()
            broadcast(self.comm.ob_mpi, data, n, root)
            self.communication_seconds += MPI_Wtime() - began
            if self.rank == root:
                self.bytes_sent += n

    def barrier(self):
        cdef double began
        with nogil:
            began = MPI_Wtime()
            barrier(self.comm.ob_mpi)
            self.wait_seconds += MPI_Wtime() - began


cdef void copy(const double* source, double[::1] target):
    for i in range(target.shape[0]):
        target[i] = source[i]
