"""What `pyddl.models.Torch` is made of. These files import PyTorch at the top, and nothing else loads them."""

from pyddl.models.pytorch.batch import TensorBatch

__all__ = ["TensorBatch"]
