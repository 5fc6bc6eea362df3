"""The name that `pyddl.callbacks` had before: what was imported from here still can be."""

from pyddl._names import offers
from pyddl.callbacks import AdaGradDescent, ParameterServer, Report

__all__ = ["AdaGradDescent", "ParameterServer", "Report"]

__dir__ = offers(__name__)
