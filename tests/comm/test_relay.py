"""What an MPI launcher says is handed on, without what ranks have said themselves."""

import os

import pytest

from pyddl.comm.relay import Relay

RULE = "-" * 74 + "\n"
ENDED = (RULE + "prterun detected that one or more processes exited with non-zero status,\nthus causing the job to be "
         "terminated. The first process to do so was:\n\n   Process name: [prterun-vm-1@1,0]\n   Exit code: 2\n" + RULE)
ENDED_4 = (RULE + "Primary job  terminated normally, but 1 process returned\na non-zero exit code. Per user-direction, "
           "the job has been aborted.\n" + RULE)
ABORTED = (RULE + "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n  Proc: [[1,1],1]\n\n"
           "NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n" + RULE)
CALLED = RULE + "prterun has exited due to process rank 0 with PID 0 on node vm calling\n\"abort\".\n" + RULE
OTHER = RULE + "No hosts were found.\n" + RULE


def relayed(text, pieces=None):
    """What comes out, what is held, and whether it was explained; the text may come in pieces."""
    source, into = os.pipe()
    out_of, out = os.pipe()
    relay = Relay(source, out)
    relay.start()
    for begin in range(0, len(text), pieces or len(text)):
        os.write(into, text[begin : begin + (pieces or len(text))].encode())
    os.close(into)
    relay.join(10)
    os.close(out)
    with open(out_of, "rb") as file:
        return file.read().decode(), relay.held.decode(), relay.explained


@pytest.mark.parametrize("pieces", [None, 1, 7, 100])
def test_the_launcher_s_own_frames_are_held_back(pieces):
    said = "pyddl: no such file\n"
    assert relayed(said + ENDED + "last\n", pieces) == (said + "last\n", ENDED, False)
    assert relayed(ENDED_4 + ENDED + said, pieces) == (said, ENDED_4 + ENDED, False)
    why = "rank 1 of 2: exit status 1; ending all ranks\n"
    assert relayed(why + ABORTED + CALLED, pieces) == (why, ABORTED + CALLED, True)


@pytest.mark.parametrize("pieces", [None, 400])
def test_so_are_its_lines_of_ranks_that_have_gone(pieces):
    line = "[vm:12345] PMIX ERROR: PMIX_ERR_UNREACH in file base/ptl_base_sendrecv.c at line 65\n"
    assert relayed("pyddl: no such file\n" + line, pieces) == ("pyddl: no such file\n", line, False)


@pytest.mark.parametrize("text", [OTHER, RULE, "a bar 10 %", "---\nno frame\n", RULE + "line\n" * 20 + RULE,
                                  "50 %\r" + RULE, RULE + "an unfinished frame\n"])
@pytest.mark.parametrize("pieces", [None, 3])
def test_all_else_is_handed_on_as_it_is(text, pieces):
    assert relayed(text, pieces) == (text, "", False)
