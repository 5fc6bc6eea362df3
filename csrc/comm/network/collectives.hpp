/// Collective operations on vectors over the ranks of one communicator: the bytes that travel between nodes.
/// Letters: P ranks, n elements. Everything here is collective: all ranks call it, in the same order and with
/// the same n. No Python and no atomics, so that SimGrid's smpicxx compiles this file too and hundreds of
/// ranks can be simulated.
#pragma once
#include <mpi.h>

#include <cstdint>
#include <vector>

namespace pyddl::comm::network {

/// Sum of one number over the ranks. The smallest collective there is, so it also serves as the
/// synchronisation.
std::int64_t sum(MPI_Comm comm, std::int64_t value);

/// Replace x by its sum over the ranks, in the order that MPI likes best, 32 MB at a time, so that MPI's own memory
/// stays small and its counts fit an int. Steps and bytes are MPI's choice: 2 (P-1)/P n 4 bytes per rank with a ring or
/// Rabenseifner's algorithm.
void sum(MPI_Comm comm, float* x, std::int64_t n);

/// Replace x by its sum over the ranks, added along the binary tree ((0+1)+(2+3))+((4+5)+(6+7)) ..., so that
/// the bits depend neither on the message size nor on the MPI library, and are equal on every rank.
///
///     n                  algorithm                                            steps     bytes sent per rank
///     small              recursive doubling                                   log2 P    4 n log2 P
///     large, in blocks   recursive halving from the nearest, then doubling    2 log2 P  2 (P-1)/P 4 n
///
/// Rabenseifner (2004), Optimization of collective reduction operations, ICCS, LNCS 3036, 1-9; there the
/// halving starts with the farthest rank; starting with the nearest one gives the tree above, whichever
/// algorithm runs.
/// @param scratch grows to at most half a block and can be kept for the next call
/// @throws std::invalid_argument when P is no power of two
void ordered_sum(MPI_Comm comm, float* x, std::int64_t n, std::vector<float>& scratch);

/// Replace the bytes at x by those of `root`.
void broadcast(MPI_Comm comm, void* x, std::int64_t bytes, int root);

/// Append the vectors of all ranks, in rank order. `counts` receives P lengths, `all` the values.
void gather(MPI_Comm comm, const double* x, std::int64_t n, std::vector<std::int64_t>& counts,
            std::vector<double>& all);

/// Wait for all ranks.
void barrier(MPI_Comm comm);

}  // namespace pyddl::comm::network
