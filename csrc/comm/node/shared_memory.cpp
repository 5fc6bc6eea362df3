#include "comm/node/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace pyddl::comm::node {
namespace {

[[noreturn]] void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

/// What tells the file from all others: /proc of another container may know another process by the same number.
std::string identity(int file) {
    struct stat facts{};
    if (fstat(file, &facts) != 0) fail(errno, "fstat of shared memory");
    return std::to_string(facts.st_dev) + ':' + std::to_string(facts.st_ino);
}

/// Open what another process calls its `place()`.
int open_place(const std::string& place) {
    const std::size_t path = place.find('/');
    const int file = open(place.c_str() + path, O_RDWR | O_CLOEXEC);
    if (file < 0) fail(errno, "open " + place.substr(path));
    if (identity(file) + '@' == place.substr(0, path)) return file;
    close(file);
    fail(ENOENT, "open " + place.substr(path) + ", which is another file here");
}

int open_object(const std::string& name, SharedMemory::Role role) {
    if (role == SharedMemory::Role::joins && name.front() != '/') return open_place(name);
    const int flags = role == SharedMemory::Role::joins ? O_RDWR : O_RDWR | O_CREAT | O_EXCL;
    const int file = shm_open(name.c_str(), flags | O_CLOEXEC, 0600);
    if (file < 0) fail(errno, "shm_open " + name);
    if (role == SharedMemory::Role::creates) shm_unlink(name.c_str());
    return file;
}

}  // namespace

SharedMemory::SharedMemory(const std::string& name, std::int64_t bytes, Role role) : bytes_(bytes) {
    file_ = open_object(name, role);
    void* start = MAP_FAILED;
    if (role == Role::joins || ftruncate(file_, bytes) == 0)
        start = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    if (start == MAP_FAILED) {
        const int error = errno;
        close(file_);
        if (role == Role::creates_named) unlink(name);
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

std::string SharedMemory::place() const {
    return identity(file_) + "@/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file_);
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
