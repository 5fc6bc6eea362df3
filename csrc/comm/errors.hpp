/// Errors that waiting for other ranks can end by, whatever carries the bytes.
#pragma once
#include <exception>
#include <stdexcept>

namespace pyddl::comm {

/// Another process died, left or gave up while this one waited for it.
struct PeerLost : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The caller asked to stop waiting: its `look` returned anything but 0.
struct Interrupted : std::exception {
    const char* what() const noexcept override { return "interrupted while waiting for other ranks"; }
};

}  // namespace pyddl::comm
