#include "kernels/convolution.hpp"

#include <array>

#include "kernels/onednn.hpp"

namespace pyddl::kernels {
namespace {

using dnnl::memory;
using tag = memory::format_tag;

memory::desc picture(std::int64_t rows, const Picture& p, Element e) {
    return {{rows, p.channels, p.height, p.width}, type_of(e), tag::nhwc};
}

memory handle(const memory::desc& d) { return memory(d, engine(), nullptr); }

void point(memory& m, const void* data) { m.set_data_handle(const_cast<void*>(data)); }

/// From one order of weights to another.
struct Reorder {
    memory from, to;
    dnnl::reorder primitive;
    std::array<dnnl_exec_arg_t, 2> arguments;

    Reorder(const memory::desc& f, const memory::desc& t)
        : from(handle(f)), to(handle(t)), primitive(dnnl::reorder::primitive_desc(engine(), f, engine(), t)) {
        arguments = {{{DNNL_ARG_FROM, from.get()}, {DNNL_ARG_TO, to.get()}}};
    }
    void operator()(const void* source, void* target) {
        point(from, source);
        point(to, target);
        dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive.get(), stream().get(), 2, arguments.data()),
                                "oneDNN could not reorder weights");
    }
};

}  // namespace

struct Convolution::Parts {
    dnnl::primitive primitive;
    memory large, small, weights, bias, scratch;
    std::size_t weights_bytes = 0, scratch_bytes = 0;
    std::unique_ptr<Reorder> reorder;
    std::array<dnnl_exec_arg_t, 5> arguments;
    int count = 4;
};

Convolution::Convolution(const ConvolutionShape& s, const Options& o) : parts_(std::make_unique<Parts>()) {
    using dnnl::algorithm;
    using dnnl::prop_kind;
    const bool gradient = o.kind == Kind::gradient;
    const Element large_element = o.kind == Kind::up ? o.out : o.in;
    const Element small_element = o.kind == Kind::down ? o.out : o.in;
    const memory::desc large = picture(o.rows, s.large, large_element), small = picture(o.rows, s.small, small_element);
    const memory::dims dims = {s.small.channels, s.large.channels, s.kernel, s.kernel};
    const memory::desc plain(dims, memory::data_type::f32, tag::hwio);
    const memory::desc any(dims, gradient ? memory::data_type::f32 : type_of(o.in), tag::any);
    const memory::desc bias({s.small.channels}, memory::data_type::f32, tag::a);
    const memory::dims strides = {s.stride, s.stride}, padding = {s.padding, s.padding};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops ops;
    append(ops, o.activation);
    attributes.set_post_ops(ops);

    Parts& p = *parts_;
    const auto take = [&](const auto& description, const memory::desc& weights) {
        using Description = std::decay_t<decltype(description)>;
        if constexpr (std::is_same_v<Description, dnnl::convolution_forward::primitive_desc>)
            p.primitive = dnnl::convolution_forward(description);
        else if constexpr (std::is_same_v<Description, dnnl::convolution_backward_data::primitive_desc>)
            p.primitive = dnnl::convolution_backward_data(description);
        else
            p.primitive = dnnl::convolution_backward_weights(description);
        p.scratch = handle(description.scratchpad_desc());
        p.scratch_bytes = description.scratchpad_desc().get_size();
        p.weights = handle(weights);
        if (weights == plain) return;
        p.weights_bytes = weights.get_size();
        p.reorder = gradient ? std::make_unique<Reorder>(weights, plain) : std::make_unique<Reorder>(plain, weights);
    };
    const auto forward = [&](const memory::desc& from, const memory::desc& w, const memory::desc& to) {
        return o.bias ? dnnl::convolution_forward::primitive_desc(engine(), prop_kind::forward_training,
                                                                  algorithm::convolution_direct, from, w, bias, to,
                                                                  strides, padding, padding, attributes)
                      : dnnl::convolution_forward::primitive_desc(engine(), prop_kind::forward_training,
                                                                  algorithm::convolution_direct, from, w, to, strides,
                                                                  padding, padding, attributes);
    };
    if (o.kind == Kind::down) {
        const auto description = forward(large, any, small);
        take(description, description.weights_desc());
    } else {
        // What a backward primitive is the derivative of, in the element that is read.
        const auto of = forward(picture(o.rows, s.large, o.in), memory::desc(dims, type_of(o.in), tag::any),
                                picture(o.rows, s.small, o.in));
        if (gradient) {
            const dnnl::convolution_backward_weights::primitive_desc description(
                engine(), algorithm::convolution_direct, large, any, small, strides, padding, padding, of, attributes);
            take(description, description.diff_weights_desc());
        } else {
            const dnnl::convolution_backward_data::primitive_desc description(
                engine(), algorithm::convolution_direct, large, any, small, strides, padding, padding, of, attributes);
            take(description, description.weights_desc());
        }
    }
    p.large = handle(large);
    p.small = handle(small);
    p.bias = handle(bias);
    p.arguments = {{{o.kind == Kind::up ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, p.large.get()},
                    {o.kind == Kind::down ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, p.small.get()},
                    {gradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, p.weights.get()},
                    {DNNL_ARG_SCRATCHPAD, p.scratch.get()},
                    {DNNL_ARG_BIAS, p.bias.get()}}};
    p.count = o.bias ? 5 : 4;
}

Convolution::~Convolution() = default;
Convolution::Convolution(Convolution&&) noexcept = default;
Convolution& Convolution::operator=(Convolution&&) noexcept = default;

std::size_t Convolution::scratch_bytes() const { return parts_->scratch_bytes; }
std::size_t Convolution::weights_bytes() const { return parts_->weights_bytes; }
void Convolution::order(const float* weights, void* to) const { (*parts_->reorder)(weights, to); }
void Convolution::restore(const void* gradients, float* to) const { (*parts_->reorder)(gradients, to); }

void Convolution::operator()(const void* large, const void* small, const void* weights, const float* bias,
                             void* scratch) const {
    Parts& p = *parts_;
    point(p.large, large);
    point(p.small, small);
    point(p.weights, weights);
    if (p.count == 5) point(p.bias, bias);
    point(p.scratch, scratch);
    dnnl::error::wrap_c_api(dnnl_primitive_execute(p.primitive.get(), stream().get(), p.count, p.arguments.data()),
                            "oneDNN could not execute a convolution");
}

}  // namespace pyddl::kernels
