"""``python -m pyddl`` is the command ``pyddl``."""

from pyddl.cli import main

if __name__ == "__main__":
    main()
