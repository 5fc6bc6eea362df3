"""A parameter server for any Python object: ``gradient`` runs on workers, ``descent`` on rank 0."""

from pyddl._names import offers
from pyddl.callbacks.descent import AdaGradDescent
from pyddl.callbacks.parameter_server import ParameterServer
from pyddl.callbacks.served import Report

__all__ = ["AdaGradDescent", "ParameterServer", "Report"]

__dir__ = offers(__name__)
