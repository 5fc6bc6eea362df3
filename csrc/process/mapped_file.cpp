#include "process/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <system_error>

#include "process/crashes.hpp"

namespace pyddl::process {

/// What a signal handler may know of a mapping. Never freed, but used again: a handler may be looking at it.
struct Known {
    std::atomic<const std::byte*> begin{nullptr};
    std::atomic<const std::byte*> end{nullptr};
    char path[256] = {};
    Known* next = nullptr;
};

namespace {

std::atomic<Known*> all{nullptr};
std::mutex changing;

Known* remember(const std::byte* begin, const std::byte* end, const std::string& path) {
    const std::lock_guard lock(changing);
    Known* place = all.load();
    while (place != nullptr && place->begin.load() != nullptr) place = place->next;
    const bool fresh = place == nullptr;
    if (fresh) place = new Known;
    std::strncpy(place->path, path.c_str(), sizeof place->path - 1);
    place->end.store(end);
    place->begin.store(begin);
    if (fresh) {
        place->next = all.load();
        all.store(place);
    }
    return place;
}

const Known* found(const void* address) {
    for (const Known* each = all.load(); each != nullptr; each = each->next) {
        const std::byte *begin = each->begin.load(), *end = each->end.load();
        if (begin != nullptr && address >= begin && address < end) return each;
    }
    return nullptr;
}

void write_text(const char* text) { static_cast<void>(!::write(STDERR_FILENO, text, std::strlen(text))); }

std::system_error failure() { return {errno, std::generic_category()}; }

}  // namespace

MappedFile::MappedFile(const std::string& path, std::int64_t offset, std::int64_t bytes) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw failure();
    const std::int64_t page = ::sysconf(_SC_PAGESIZE), skipped = offset % page;
    size_ = static_cast<std::size_t>(bytes + skipped);
    begin_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, offset - skipped);
    const auto error = failure();
    ::close(file);
    if (begin_ == MAP_FAILED) throw error;
    const auto* first = static_cast<const std::byte*>(begin_);
    data_ = first + skipped;
    known_ = remember(first, first + size_, path);
    watch_mapped_files();
}

MappedFile::~MappedFile() {
    known_->begin.store(nullptr);
    ::munmap(begin_, size_);
}

bool knows_mapped_file(const void* address) { return found(address) != nullptr; }

void say_mapped_file(const void* address) {
    if (const Known* file = found(address)) write_text(file->path);
    write_text(
        " was cut while it was read: a file of data must stay as it is until training is over. Write a new one "
        "beside it, and rename that\n");
}

}  // namespace pyddl::process
