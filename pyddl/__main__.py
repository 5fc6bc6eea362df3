"""``python -m pyddl`` is the command ``pyddl``."""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # the working directory, whose random.py or click.py is none of ours

from pyddl.cli import main

if __name__ == "__main__":
    main()
