/// Errors of MPI calls.
#pragma once
#include <mpi.h>

#include <stdexcept>

namespace pyddl::comm::network {

/// A call that MPI refused: "MPI_Allreduce: " and MPI's own text.
struct MpiError : std::runtime_error {
    MpiError(const char* call, int code);
};

inline void check(int code, const char* call) {
    if (code != MPI_SUCCESS) throw MpiError(call, code);
}

/// Whether the code says that the other process has died, where MPI outlives that (ULFM).
bool says_died(int code);

}  // namespace pyddl::comm::network
