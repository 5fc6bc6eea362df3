"""pyddl's training step of a convolutional autoencoder as a peer; all else as in `pyddl_step`."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers.pyddl_step import Trainings, main
from pyddl.models import Autoencoder


class OfLayers(Trainings):
    """Models from their options."""

    def model(self, dtype: str, **options: Any) -> Any:
        return Autoencoder(**options["options"], dtype=dtype)


if __name__ == "__main__":
    main(sys.argv[-1], OfLayers())
