#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "process/mapped_file.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace pyddl::bindings {

void register_mapped_file(py::module_& m) {
    m.def(
        "map_file",
        [](const std::string& path, std::int64_t offset, std::int64_t bytes) {
            std::unique_ptr<process::MappedFile> file;
            try {
                file = std::make_unique<process::MappedFile>(path, offset, bytes);
            } catch (const std::system_error& error) {
                errno = error.code().value();
                PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
                throw py::error_already_set();
            }
            const auto* data = reinterpret_cast<const std::uint8_t*>(file->data());
            const py::capsule owner(file.release(), [](void* each) { delete static_cast<process::MappedFile*>(each); });
            py::array_t<std::uint8_t> array(bytes, data, owner);
            array.attr("flags").attr("writeable") = false;
            return array;
        },
        "path"_a, "offset"_a, "bytes"_a);
}

}  // namespace pyddl::bindings
