"""scikit-learn's way to the models: thin classes that join a model and the trainer.

They follow scikit-learn's conventions without inheriting from it, and import it only where its user has done so.
"""

from typing import Any

from pyddl._names import lazily, offers
from pyddl.estimators.table import OTHERS, TABLE

__all__ = ["OTHERS", "TABLE", "ZCA", "Autoencoder", "Classifies", "Encodes", "Estimator", "Regresses", "Scores",
           "Transformer", "load"]


def __getattr__(name: str) -> Any:  # each loads when it is first named
    return lazily(__name__, name, _homes())


def _homes() -> dict[str, str]:
    return {member: module for module, member in (*TABLE.values(), *OTHERS.values())}


__dir__ = offers(__name__, _homes)
