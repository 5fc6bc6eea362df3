"""The constructors of estimators, made from the option table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pyddl import _check, models, options

__all__ = ["from_table"]

KINDS = {"ints": "sequence of int", "floats": "sequence of float", "run": "str or fitted estimator", "values": "dict",
         "layers": "sequence of int, or str"}  # in words, of the table's


def from_table(model: str, **defaults: Any) -> Callable[[type], type]:
    """Class decorator: an ``__init__`` with the options of a model and of training, in the table's order.

    `pyddl.options.TABLE` is the home of names and help, and of defaults where `pyddl.models.TABLE` has no others for
    this model; ``seed`` is called ``random_state`` and is None by default, as scikit-learn's users expect.
    ``{parameters}`` in the docstring becomes the list.

    Parameters
    ----------
    model : str
        Public name.
    **defaults
        Those that differ for the estimator alone.
    """

    def decorate(cls: Any) -> type:
        by_default = {**models.TABLE[model].defaults, **defaults}
        own = options.of_model(model)
        chosen = [option for option in options.of_section("model", "training", "machine")
                  if option.name not in ("ranks", *cls.no_options) and (option.section != "model" or option in own)]
        parameters, lines = [], []
        for option in chosen:
            name, default, text = option.name, by_default.get(option.name, option.default), option.help
            if name == "seed":
                name, default = "random_state", None
                text = "seed of everything random; None draws one, equal on all ranks"
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
            kind = KINDS.get(option.kind, option.kind)
            kind = "{" + ", ".join(repr(choice) for choice in option.choices) + "}" if option.choices else kind
            unit = f" Unit: {option.unit}." if option.unit else ""
            lines.append(f"{name} : {kind}, default={default!r}\n    {text[0].upper()}{text[1:]}.{unit}")
        parameters.append(inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0))
        lines.append("verbose : int, default=0\n    Above 0, rank 0 prints a line per epoch.")
        signature = inspect.Signature(parameters)

        def __init__(self: Any, **params: Any) -> None:
            for name in params:
                if name not in signature.parameters:
                    raise TypeError(options.stranger(name, model=model) or f"{cls.__name__} has no parameter {name!r}"
                                    f"{_check.nearest(name, signature.parameters)}")
            for parameter in parameters:
                setattr(self, parameter.name, params.get(parameter.name, parameter.default))

        __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters])
        __init__.__qualname__ = f"{cls.__qualname__}.__init__"
        cls.__init__ = __init__
        cls.__signature__ = signature
        cls._model = model
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "").replace("{parameters}", "\n".join(lines))
        return cls

    return decorate
