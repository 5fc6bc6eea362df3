#include "comm/node/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace pyddl::comm::node {
namespace {

[[noreturn]] void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

}  // namespace

SharedMemory::SharedMemory(const std::string& name, std::int64_t bytes, Role role) : bytes_(bytes) {
    const int flags = role == Role::creates ? O_RDWR | O_CREAT | O_EXCL : O_RDWR;
    file_ = shm_open(name.c_str(), flags | O_CLOEXEC, 0600);
    if (file_ < 0) fail(errno, "shm_open " + name);
    void* start = MAP_FAILED;
    if (role == Role::joins || ftruncate(file_, bytes) == 0)
        start = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    if (start == MAP_FAILED) {
        const int error = errno;
        close(file_);
        if (role == Role::creates) unlink(name);
        fail(error, "map " + std::to_string(bytes) + " bytes of shared memory");
    }
    data_ = static_cast<std::byte*>(start);
}

SharedMemory::SharedMemory(std::int64_t bytes) : bytes_(bytes) {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* start = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED) fail(errno, "map " + std::to_string(bytes) + " bytes of memory");
    data_ = static_cast<std::byte*>(start);
}

SharedMemory::~SharedMemory() {
    munmap(data_, static_cast<std::size_t>(bytes_));
    if (file_ >= 0) close(file_);
}

void SharedMemory::reserve(std::int64_t offset, std::int64_t bytes) {
    int error = EINTR;
    while (bytes > 0 && error == EINTR) error = posix_fallocate(file_, offset, bytes);  // returns its error
    close(file_);                                                                       // the mapping needs it no more
    file_ = -1;
    if (bytes > 0 && error != 0) fail(error, "reserve " + std::to_string(bytes) + " bytes of shared memory");
}

void SharedMemory::unlink(const std::string& name) noexcept { shm_unlink(name.c_str()); }

std::int64_t whole_pages(std::int64_t bytes) {
    static const std::int64_t page = sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

}  // namespace pyddl::comm::node
