/// Native stacks of the threads of this process, for a report on where it hangs.
#pragma once

namespace pyddl::process {

/// Write the stack of every thread but the calling one to a file descriptor, in text.
/// Each thread is sent a signal and writes its own frames from the handler; one that does not answer within 0.3
/// seconds hangs inside the kernel, whose function (/proc's wchan) is then all that is known. Calls that a signal
/// interrupts may return early in the threads asked: meant for a process that is about to end.
/// One call at a time.
void write_stacks(int descriptor);

}  // namespace pyddl::process
