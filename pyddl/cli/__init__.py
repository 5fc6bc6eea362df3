"""The command line: ``pyddl COMMAND``, one file per command.

Exit status: 0 done, 2 bad usage or input, anything else a failure.
"""

from __future__ import annotations

import sys

from pyddl._names import offers

__all__ = ["main"]

__dir__ = offers(__name__)


def main() -> None:
    """Run the command line; on more than one rank, an uncaught exception ends all of them."""
    from pyddl.cli.app import app
    from pyddl.cli.start import to_its_end
    from pyddl.comm.abort import run_main

    sys.exit(run_main(to_its_end(app)))
