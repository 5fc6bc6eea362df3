"""The name that `pyddl.callbacks` had before: what was imported from here still can be."""

from pyddl.callbacks import AdaGradDescent, ParameterServer, Report

__all__ = ["AdaGradDescent", "ParameterServer", "Report"]
