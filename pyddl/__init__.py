"""pyddl: distributed training of unsupervised deep models over MPI ranks on CPU machines."""

__version__ = "0.1.0"
