"""The vocabularies: what may be chosen by name, as plain tuples. Models have a table of their own, `models.TABLE`."""

__all__ = ["ACTIVATIONS", "ALSO_CALLED", "DTYPES", "INITIALISERS", "LOSSES", "MOMENTUM_SCHEDULES", "OBJECTIVES",
           "RULES", "SCALES", "SCHEDULES", "STRATEGIES"]

ACTIVATIONS = ("linear", "sigmoid", "relu", "leaky_relu", "tanh", "softplus")

ALSO_CALLED = (
    ("seed", "random_state"), ("learning_rate", "lr", "learning_rate_init", "eta", "eta0"),
    ("epochs", "n_iter", "max_iter", "n_epochs", "num_epochs"), ("optimizer", "solver"),
    ("hidden", "n_components", "hidden_layer_sizes", "hidden_units", "n_hidden", "layers"),
    ("validation", "validation_fraction", "validation_split"), ("patience", "n_iter_no_change"),
    ("weight_decay", "l2", "weight_penalty"), ("activation", "nonlinearity"), ("ranks", "n_jobs", "num_workers"),
    ("threads", "num_threads", "n_threads"), ("corrupt", "noise_level"))
"""Names of one thing, here and in other libraries: who gives one that is not known is offered the one that is."""

DTYPES = ("float32", "bfloat16")
"""Element types of matrix products."""

INITIALISERS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "normal", "uniform", "sparse")
"""Of weights; a model may know ``auto`` besides, its own choice among them."""

LOSSES = ("bce", "mse")

OBJECTIVES = ("r3gan", "non_saturating", "minimax", "wgan", "wgan_gp")
"""Of adversarial pairs."""

RULES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw")
"""Update rules of optimizers."""

SCALES = ("minmax", "standard", "pixels")
"""Of the data's columns."""

SCHEDULES = ("constant", "step", "cosine", "linear")
"""Of the learning rate."""

MOMENTUM_SCHEDULES = ("constant", "sutskever")

STRATEGIES = ("local", "allreduce", "averaging", "server", "elastic", "gossip", "sequential", "split", "auto")
