/// Files of data that are mapped. One that is cut while it is read ends the process with a line that names it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace pyddl::process {

/// A part of a file in memory, read-only. Needs no file descriptor: thousands may be mapped at once.
class MappedFile {
  public:
    /// @throws std::system_error when the file cannot be opened or mapped
    MappedFile(const std::string& path, std::int64_t offset, std::int64_t bytes);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::byte* data() const { return data_; }

  private:
    void* begin_;
    std::size_t size_;
    const std::byte* data_;
    struct Known* known_;
};

/// Whether an address lies in a mapped file. Safe in a signal handler, as is the next.
bool knows_mapped_file(const void* address);

/// Writes which mapped file an address lies in, and that it has been cut.
void say_mapped_file(const void* address);

}  // namespace pyddl::process
