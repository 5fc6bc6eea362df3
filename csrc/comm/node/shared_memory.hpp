/// Memory that the processes of one node share: a POSIX object that one creates and unlinks in the same breath, and
/// the others map by way of its open file, so that nothing is left in /dev/shm however and whenever they end. Each
/// process owns its own mapping; none of this is collective.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace pyddl::comm::node {

class SharedMemory {
  public:
    /// `creates_named`: for processes that do not see each other in /proc, as from several containers. The name stays
    /// until `unlink`, and for ever if this process is killed before.
    enum class Role { creates, creates_named, joins };

    /// Map `bytes` of an object. New memory is zero.
    /// @param name "/..." for a new one; of one to join its name, or `place()` where it has none
    /// @throws std::system_error when the object cannot be created, found or mapped
    SharedMemory(const std::string& name, std::int64_t bytes, Role role);
    /// Memory of this process alone, for what otherwise is shared. Takes room when it is first touched.
    explicit SharedMemory(std::int64_t bytes);
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    /// Allocate this range for good, so that a full /dev/shm is an error here and no SIGBUS later. The pages
    /// come from the caller's part of the machine's memory (NUMA), so each process reserves what it will use
    /// most.
    /// @throws std::system_error, for example when there is no space
    void reserve(std::int64_t offset, std::int64_t bytes);

    /// Where others find what this process has created, as long as it has not reserved any of it.
    std::string place() const;

    std::byte* data() const { return data_; }
    std::int64_t bytes() const { return bytes_; }

    /// Take the name away; mappings stay. Does nothing where there is no such name.
    static void unlink(const std::string& name) noexcept;

  private:
    int file_ = -1;
    std::byte* data_ = nullptr;
    std::int64_t bytes_ = 0;
};

constexpr std::size_t cache_line = 64;

/// Bytes rounded up to whole pages: the step between the parts of different processes.
std::int64_t whole_pages(std::int64_t bytes);

/// Bytes of a float32 vector, rounded up to whole cache lines.
constexpr std::int64_t bytes_of_vector(std::int64_t length) {
    constexpr std::int64_t line = cache_line;
    return (length * static_cast<std::int64_t>(sizeof(float)) + line - 1) / line * line;
}

}  // namespace pyddl::comm::node
