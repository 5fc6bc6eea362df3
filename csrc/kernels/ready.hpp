/// Announcement of finished gradient slices during a backward pass, so that they can start to travel.
#pragma once
#include <cstdint>

namespace pyddl::kernels {

/// `announce(context, begin, end)`: gradients[begin, end) is final. Called on the computing thread, without
/// the GIL.
struct Ready {
    void (*announce)(void* context, std::int64_t begin, std::int64_t end) = nullptr;
    void* context = nullptr;

    void operator()(std::int64_t begin, std::int64_t end) const {
        if (announce) announce(context, begin, end);
    }
};

}  // namespace pyddl::kernels
