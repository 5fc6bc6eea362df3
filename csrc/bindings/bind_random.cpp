#include <algorithm>

#include "bindings/keys.hpp"
#include "bindings/views.hpp"
#include "kernels/random.hpp"
#include "kernels/reference/random.hpp"
#include "kernels/simd.hpp"

namespace pyddl::bindings {
namespace {

using kernels::RandomKey;
using kernels::RandomTable;
using Index = Array<std::int64_t>;

std::span<const std::int64_t> index_of_rows(const Index& a, std::int64_t rows) {
    const auto index = vector(a, "index");
    if (std::ssize(index) != rows)
        throw std::invalid_argument("index has " + std::to_string(index.size()) + " elements; expected " +
                                    std::to_string(rows) + ", one for each row of out");
    if (!index.empty()) {
        const auto [least, greatest] = std::ranges::minmax(index);
        field("index", least, RandomKey::indices);
        field("index", greatest, RandomKey::indices);
    }
    return index;
}

template <class T>
void check_shape(const Array<T>& a, const char* name, std::int64_t rows, std::int64_t columns) {
    const auto m = matrix(a, name);
    if (m.rows != rows || m.columns != columns)
        throw std::invalid_argument(std::string(name) + " has shape (" + std::to_string(m.rows) + ", " +
                                    std::to_string(m.columns) + "); expected (" + std::to_string(rows) + ", " +
                                    std::to_string(columns) + ")");
}

using Fill = decltype(RandomTable::uniform);

void define_fill(py::module_& m, const std::string& name, Fill fill) {
    m.def(
        name.c_str(),
        [fill](Array<float>& out, const Index& index, std::int64_t seed, std::int64_t purpose, std::int64_t step,
               std::int64_t substep) {
            const auto to = out_matrix(out, "out");
            const auto rows = index_of_rows(index, to.rows);
            const RandomKey key = key_of(seed, purpose, step, substep);
            py::gil_scoped_release no_gil;  // below this line no Python object is touched
            fill(to.data, to.rows, to.columns, rows.data(), key);
        },
        py::arg("out").noconvert(), py::arg("index").noconvert(), py::arg("seed"), py::arg("purpose"),
        py::arg("step") = 0, py::arg("substep") = 0);
}

void define_all(py::module_& m, const std::string& prefix, const RandomTable& f) {
    m.def((prefix + "philox4x32").c_str(),
          [f = f.philox4x32](const Array<std::uint32_t>& counter, const Array<std::uint32_t>& key,
                             Array<std::uint32_t>& out) {
              const auto to = out_matrix(out, "out");
              check_shape(counter, "counter", to.rows, 4);
              check_shape(key, "key", to.rows, 2);
              check_shape(out, "out", to.rows, 4);
              py::gil_scoped_release no_gil;
              f(counter.data(), key.data(), to.data, to.rows);
          },
          py::arg("counter").noconvert(), py::arg("key").noconvert(), py::arg("out").noconvert());
    define_fill(m, prefix + "uniform", f.uniform);
    define_fill(m, prefix + "normal", f.normal);
    m.def((prefix + "bernoulli").c_str(),
          [f = f.bernoulli](Array<float>& out, const Array<float>& p, const Index& index, std::int64_t seed,
                            std::int64_t purpose, std::int64_t step, std::int64_t substep) {
              const auto to = out_matrix(out, "out");
              check_shape(p, "p", to.rows, to.columns);
              const auto rows = index_of_rows(index, to.rows);
              const RandomKey key = key_of(seed, purpose, step, substep);
              py::gil_scoped_release no_gil;
              f(to.data, p.data(), to.rows, to.columns, rows.data(), key);
          },
          py::arg("out").noconvert(), py::arg("p").noconvert(), py::arg("index").noconvert(), py::arg("seed"),
          py::arg("purpose"), py::arg("step") = 0, py::arg("substep") = 0);
    m.def(
        (prefix + "bernoulli_of_logits").c_str(),
        [f = f.bernoulli_of_logits](Array<float>& out, Array<float>& mean, const Array<float>& x, const Index& index,
                                    std::int64_t seed, std::int64_t purpose, std::int64_t step, std::int64_t substep) {
            const auto to = out_matrix(out, "out");
            check_shape(x, "x", to.rows, to.columns);
            check_shape(mean, "mean", to.rows, to.columns);
            const auto rows = index_of_rows(index, to.rows);
            const RandomKey key = key_of(seed, purpose, step, substep);
            float* const means = mean.mutable_data();
            py::gil_scoped_release no_gil;
            f(to.data, means, x.data(), to.rows, to.columns, rows.data(), key);
        },
        py::arg("out").noconvert(), py::arg("mean").noconvert(), py::arg("x").noconvert(), py::arg("index").noconvert(),
        py::arg("seed"), py::arg("purpose"), py::arg("step") = 0, py::arg("substep") = 0);
}

}  // namespace

void register_random(py::module_& m) {
    define_all(m, "", kernels::best<RandomTable>());
    define_all(m, "reference_", kernels::reference::random);
}

}  // namespace pyddl::bindings
