"""scikit-learn's way to the models: thin classes that join a model and the trainer.

They follow scikit-learn's conventions without inheriting from it, and import it only where its user has done so.
"""

from pyddl.estimators.autoencoder import Autoencoder
from pyddl.estimators.base import Estimator, Transformer, load
from pyddl.estimators.whitening import ZCA

__all__ = ["ZCA", "Autoencoder", "Estimator", "Transformer", "load"]
