#include "kernels/dense.hpp"

#include <algorithm>
#include <list>

#include "kernels/check.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/product.hpp"
#include "kernels/simd.hpp"
#include "kernels/threads.hpp"

namespace pyddl::kernels {
namespace {

/// The products used last, per calling thread.
class ProductCache {
  public:
    void run(const ProductShape& shape, const void* a, const void* b, const float* bias, void* c) {
        const int n = threads();
        auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return e.shape == shape && e.threads == n; });
        if (found == entries_.end()) {
            if (entries_.size() >= most) entries_.pop_back();
            entries_.push_front({shape, n, Product(shape)});
        } else {
            entries_.splice(entries_.begin(), entries_, found);
        }
        const Product& product = entries_.front().product;
        product(a, b, bias, c, scratch_.reserve(product.scratch_bytes()));
    }

  private:
    static constexpr std::size_t most = 64;
    struct Entry {
        ProductShape shape;
        int threads;
        Product product;
    };
    std::list<Entry> entries_;
    Scratch scratch_;
};

ProductCache& cache() {
    thread_local ProductCache c;
    return c;
}

}  // namespace

void dense_forward(MatrixView<const float> rows, MatrixView<const float> weights, std::span<const float> bias,
                   Activation activation, MatrixView<float> out) {
    check_shape("weights", weights, weights.rows, rows.columns);
    if (!bias.empty()) check_size("bias", bias, weights.rows);
    check_shape("out", out, rows.rows, weights.rows);
    if (out.size() == 0) return;
    if (suits_few_rows(rows.rows, rows.columns)) {
        const ThreadScope scope;
        best<FewRowsTable>().forward(rows.data, weights.data, bias.empty() ? nullptr : bias.data(), out.data, rows.rows,
                                     rows.columns, weights.rows);
        best<ActivationTable<float>>().activate(activation, out.data, out.size());
        return;
    }
    cache().run({.m = rows.rows,
                 .k = rows.columns,
                 .n = weights.rows,
                 .b_transposed = true,
                 .bias = !bias.empty(),
                 .activation = activation},
                rows.data, weights.data, bias.data(), out.data);
    if (!fuses_with_product(activation)) {
        const ThreadScope scope;
        best<ActivationTable<float>>().activate(activation, out.data, out.size());
    }
}

void dense_backward(MatrixView<const float> rows, MatrixView<const float> weights, MatrixView<const float> outputs,
                    Activation activation, MatrixView<float> deltas, MatrixView<float> weight_gradients,
                    std::span<float> bias_gradients, MatrixView<float> row_gradients) {
    check_shape("weights", weights, weights.rows, rows.columns);
    check_shape("outputs", outputs, rows.rows, weights.rows);
    check_shape("deltas", deltas, rows.rows, weights.rows);
    check_shape("weight_gradients", weight_gradients, weights.rows, weights.columns);
    if (!bias_gradients.empty()) check_size("bias_gradients", bias_gradients, weights.rows);
    if (row_gradients.data) check_shape("row_gradients", row_gradients, rows.rows, rows.columns);
    if (rows.rows == 0) {
        std::fill_n(weight_gradients.data, weight_gradients.size(), 0.0f);
        std::fill(bias_gradients.begin(), bias_gradients.end(), 0.0f);
        return;
    }
    {
        const ThreadScope scope;
        best<ActivationTable<float>>().gradient(activation, outputs.data, deltas.data, deltas.rows, deltas.columns,
                                                bias_gradients.empty() ? nullptr : bias_gradients.data());
    }
    cache().run({.m = weights.rows, .k = rows.rows, .n = rows.columns, .a_transposed = true}, deltas.data, rows.data,
                nullptr, weight_gradients.data);
    if (row_gradients.data)
        cache().run({.m = rows.rows, .k = weights.rows, .n = rows.columns}, deltas.data, weights.data, nullptr,
                    row_gradients.data);
}

}  // namespace pyddl::kernels
