#include "comm/network/mpi_error.hpp"

#include <string>

namespace pyddl::comm::network {
namespace {

std::string text_of(int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return {text, static_cast<std::size_t>(length)};
}

}  // namespace

MpiError::MpiError(const char* call, int code) : std::runtime_error(std::string(call) + ": " + text_of(code)) {}

bool says_died([[maybe_unused]] int code) {
#if defined(MPI_ERR_PROC_FAILED)
    int kind = MPI_SUCCESS;
    MPI_Error_class(code, &kind);
    return kind == MPI_ERR_PROC_FAILED;
#else
    return false;  // an MPI that ends the job then
#endif
}

}  // namespace pyddl::comm::network
