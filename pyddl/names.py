"""The vocabularies: what may be chosen by name, as plain tuples. Models have a table of their own, `models.TABLE`."""

__all__ = ["ACTIVATIONS", "DTYPES", "INITIALISERS", "LOSSES", "MOMENTUM_SCHEDULES", "OBJECTIVES", "RULES", "SCHEDULES",
           "STRATEGIES"]

ACTIVATIONS = ("linear", "sigmoid", "relu", "leaky_relu", "tanh", "softplus")

DTYPES = ("float32", "bfloat16")
"""Element types of matrix products."""

INITIALISERS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "normal", "uniform", "sparse")
"""Of weights; a model may know ``auto`` besides, its own choice among them."""

LOSSES = ("bce", "mse")

OBJECTIVES = ("r3gan", "non_saturating", "minimax", "wgan", "wgan_gp")
"""Of adversarial pairs."""

RULES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw")
"""Update rules of optimizers."""

SCHEDULES = ("constant", "step", "cosine", "linear")
"""Of the learning rate."""

MOMENTUM_SCHEDULES = ("constant", "sutskever")

STRATEGIES = ("local", "allreduce", "averaging", "server", "elastic", "gossip", "sequential", "split", "auto")
