#include "kernels/product.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

#include "kernels/onednn.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {

using dnnl::memory;

const dnnl::engine& engine() {
    static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

dnnl::stream& stream() {
    thread_local dnnl::stream s(engine());
    return s;
}

memory::data_type type_of(Element e) {
    return e == Element::float32 ? memory::data_type::f32 : memory::data_type::bf16;
}

void append(dnnl::post_ops& ops, Activation activation) {
    using dnnl::algorithm;
    switch (activation) {
        case Activation::sigmoid:
            return ops.append_eltwise(algorithm::eltwise_logistic, 0, 0);
        case Activation::leaky_relu:
            return ops.append_eltwise(algorithm::eltwise_relu, leak, 0);
        case Activation::tanh:
            return ops.append_eltwise(algorithm::eltwise_tanh, 0, 0);
        case Activation::linear:
        case Activation::relu:
        case Activation::softplus:
            return;  // see fuses_with_product
    }
}

namespace {

/// A logical (rows, columns) matrix, stored row-major, or column-major if transposed; `times` of them if not 1.
memory::desc matrix(std::int64_t rows, std::int64_t columns, Element e, std::int64_t times, bool transposed = false) {
    if (times > 1)
        return {{times, rows, columns},
                type_of(e),
                transposed ? memory::dims{rows * columns, 1, rows} : memory::dims{rows * columns, columns, 1}};
    return {{rows, columns}, type_of(e), transposed ? memory::dims{1, rows} : memory::dims{columns, 1}};
}

}  // namespace

/// Whether oneDNN will use an instruction set, which ONEDNN_MAX_CPU_ISA caps. Its numbers are sets of bits that grow.
static bool has(dnnl::cpu_isa wanted) {
    static const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    const auto bits = static_cast<unsigned>(wanted);
    return (isa & bits) == bits;
}

bool has_bfloat16() { return has(dnnl::cpu_isa::avx512_core_bf16); }

bool has_tiles() { return has(dnnl::cpu_isa::avx512_core_amx); }

std::string onednn_version() {
    const dnnl_version_t* v = dnnl_version();
    return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

struct Product::Parts {
    ProductShape shape;
    bool serial;
    dnnl::matmul primitive;
    memory a, b, bias, c, scratch;
    std::size_t scratch_bytes;
    std::array<dnnl_exec_arg_t, 5> arguments;
    int count;
};

Product::Product(const ProductShape& s) {
    if (s.m < 1 || s.k < 1 || s.n < 1)
        throw std::invalid_argument("a matrix product has sizes " + std::to_string(s.m) + ", " + std::to_string(s.k) +
                                    ", " + std::to_string(s.n) + "; expected at least 1 each");
    const bool serial = s.flops() < parallel_flops;
    const ThreadScope scope(serial);  // a primitive is made for the number of threads of this moment

    const memory::desc a = matrix(s.m, s.k, s.in, s.times, s.a_transposed),
                       b = matrix(s.k, s.n, s.in, s.times, s.b_transposed);
    const memory::desc c = matrix(s.m, s.n, s.out, s.times), bias = matrix(1, s.n, Element::float32, 1);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops ops;
    if (s.add) ops.append_sum(1.0f);
    append(ops, s.activation);
    attributes.set_post_ops(ops);
    const auto description = s.bias ? dnnl::matmul::primitive_desc(engine(), a, b, bias, c, attributes)
                                    : dnnl::matmul::primitive_desc(engine(), a, b, c, attributes);

    const auto handle = [](const memory::desc& d) { return memory(d, engine(), nullptr); };
    parts_ = std::make_unique<Parts>(Parts{s,
                                           serial,
                                           dnnl::matmul(description),
                                           handle(a),
                                           handle(b),
                                           handle(bias),
                                           handle(c),
                                           handle(description.scratchpad_desc()),
                                           description.scratchpad_desc().get_size(),
                                           {},
                                           0});
    Parts& p = *parts_;
    p.arguments = {{{DNNL_ARG_SRC, p.a.get()},
                    {DNNL_ARG_WEIGHTS, p.b.get()},
                    {DNNL_ARG_DST, p.c.get()},
                    {DNNL_ARG_SCRATCHPAD, p.scratch.get()},
                    {DNNL_ARG_BIAS, p.bias.get()}}};
    p.count = s.bias ? 5 : 4;
}

Product::~Product() = default;
Product::Product(Product&&) noexcept = default;
Product& Product::operator=(Product&&) noexcept = default;

std::size_t Product::scratch_bytes() const { return parts_->scratch_bytes; }

void Product::operator()(const void* a, const void* b, const float* bias, void* c, void* scratch) const {
    Parts& p = *parts_;
    const auto point = [](memory& m, const void* data) { m.set_data_handle(const_cast<void*>(data)); };
    point(p.a, a);
    point(p.b, b);
    point(p.c, c);
    if (p.shape.bias) point(p.bias, bias);
    if (p.scratch_bytes) point(p.scratch, scratch);
    const ThreadScope scope(p.serial);
    // The C function takes the arguments as an array that is kept; the C++ one would build a map at each
    // call.
    dnnl::error::wrap_c_api(dnnl_primitive_execute(p.primitive.get(), stream().get(), p.count, p.arguments.data()),
                            "oneDNN could not execute a matrix product");
}

void* Scratch::reserve(std::size_t bytes) {
    if (bytes > size_) {
        constexpr std::size_t line = 64;
        const std::size_t rounded = (bytes + line - 1) / line * line;
        data_.reset();
        size_ = 0;
        data_.reset(std::aligned_alloc(line, rounded));
        if (!data_) throw std::bad_alloc();
        size_ = rounded;
    }
    return data_.get();
}

void Scratch::Free::operator()(void* p) const { std::free(p); }

double product_peak(Element element, double seconds) {
    if (element == Element::bfloat16 && !has_bfloat16()) return 0.0;
    using clock = std::chrono::steady_clock;
    constexpr std::array<std::array<std::int64_t, 3>, 4> sizes = {
        {{512, 784, 512}, {256, 1024, 1024}, {512, 512, 784}, {1024, 1024, 512}}};
    double best = 0;
    const double share = seconds / sizes.size();
    for (const auto& [m, k, n] : sizes) {
        const ProductShape shape{.m = m, .k = k, .n = n, .in = element};
        const Product product(shape);
        Scratch a, b, c, scratch;
        const auto bytes = static_cast<std::size_t>(bytes_of(element));
        std::memset(a.reserve(m * k * bytes), 0, a.size());
        std::memset(b.reserve(k * n * bytes), 0, b.size());
        c.reserve(m * n * sizeof(float));
        scratch.reserve(product.scratch_bytes());
        const auto begin = clock::now();
        double elapsed = 0;
        do {
            const auto t = clock::now();
            product(a.data(), b.data(), nullptr, c.data(), scratch.data());
            const auto now = clock::now();
            best = std::max(best, shape.flops() / std::chrono::duration<double>(now - t).count() * 1e-9);
            elapsed = std::chrono::duration<double>(now - begin).count();
        } while (elapsed < share);
    }
    return best;
}

}  // namespace pyddl::kernels
