/// Crashes (a segmentation fault inside a kernel, say) under the name of the rank they happen on.
#pragma once

#include <string>

namespace pyddl::process {

/// From now on a fatal signal writes `name` to standard error before the handlers installed so far (Python's
/// faulthandler) have their say. Call it again to change the name, at most 63 bytes.
void name_crashes(const std::string& name);

/// From now on a mapped file that is cut while it is read ends the process with a line that names it, and status 1,
/// before any other handler has its say.
void watch_mapped_files();

}  // namespace pyddl::process
