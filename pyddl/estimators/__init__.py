"""scikit-learn's way to the models: thin classes that join a model and the trainer.

They follow scikit-learn's conventions without inheriting from it, and import it only where its user has done so.
"""

from typing import Any

from pyddl.estimators.table import OTHERS, TABLE, named

__all__ = ["OTHERS", "TABLE", "ZCA", "Autoencoder", "Classifies", "Encodes", "Estimator", "Regresses", "Scores",
           "Transformer", "load"]


def __getattr__(name: str) -> Any:  # each loads when it is first named
    for place in (*TABLE.values(), *([OTHERS[name]] if name in OTHERS else [])):
        if place[1] == name:
            return named(place)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *OTHERS, *(member for _, member in TABLE.values())})
