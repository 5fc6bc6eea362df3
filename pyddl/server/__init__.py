"""A parameter server for any Python object: ``gradient`` runs on workers, ``descent`` on rank 0."""

from pyddl.server.descent import AdaGradDescent
from pyddl.server.parameter_server import ParameterServer
from pyddl.server.served import Report

__all__ = ["AdaGradDescent", "ParameterServer", "Report"]
