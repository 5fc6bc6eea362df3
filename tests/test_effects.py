"""Options that would change nothing are refused, wherever they are named, and nowhere else."""

import pytest

import pyddl
from pyddl import effects, models, options
from pyddl.cli.train import _settings
from pyddl.comm.machine import Machine
from pyddl.errors import ParameterError
from pyddl.models.layers import Conv, Dense
from pyddl.train import Trainer
from pyddl.tune import Search, Space
from pyddl.tune.search import OPTIONS

IDLE = [  # model, what is given, the option without effect, and what else would give it one
    ("autoencoder", {"step_every": 50}, "step_every", {"schedule": "step"}),
    ("autoencoder", {"schedule": "cosine", "step_factor": 0.1}, "step_factor", {"schedule": "step"}),
    ("autoencoder", {"minimum_rate": 1e-5}, "minimum_rate", {"schedule": "linear"}),
    ("autoencoder", {"schedule": "step", "minimum_rate": 1e-5}, "minimum_rate", {"schedule": "cosine"}),
    ("autoencoder", {"corruption": "gaussian"}, "corruption", {"corrupt": 0.1}),
    ("autoencoder", {"sparsity_cost": 0.5}, "sparsity_cost", {"sparsity": 0.1, "code_activation": "sigmoid"}),
    ("autoencoder", {"hidden": (8,), "activation": "tanh"}, "activation", {"hidden": (16, 8)}),
    ("vae", {"hidden": (8,), "activation": "tanh"}, "activation", {"hidden": (16, 8)}),
    ("autoencoder", {"hidden": (), "conv": "conv4,pool2", "image_shape": (4, 4), "activation": "tanh"}, "activation",
     {"hidden": (8,)}),
    ("classifier", {"activation": "tanh"}, "activation", {"hidden": (8,)}),
    ("vae", {"output_variance": 0.5}, "output_variance", {"loss": "mse"}),
    ("vae", {"kl_weight": 0.0, "kl_warmup": 9}, "kl_warmup", {"kl_weight": 1.0}),
    ("rbm", {"variance": "learned"}, "variance", {"visible": "gaussian"}),
    ("rbm", {"visible": "gaussian", "binarise": "threshold"}, "binarise", {"visible": "bernoulli"}),
    ("rbm", {"reconstruction": "mean"}, "reconstruction", {"chain": "cd"}),
    ("rbm", {"chain": "cd", "chains": 7}, "chains", {"chain": "pcd"}),
    ("ssrbm", {"chains": 7}, "chains", {"chain": "pcd"}),
    ("rbm", {"ladder": 4}, "ladder", {"chain": "ptt"}),
    ("rbm", {"sparsity_cost": 0.5}, "sparsity_cost", {"sparsity": 0.1}),
    ("dbn", {"corrupt": 0.1}, "corrupt", {"finetune": "autoencoder"}),
    ("dbn", {"finetune": "autoencoder", "corruption": "gaussian"}, "corruption", {"corrupt": 0.1}),
    ("gan", {"objective": "wgan", "penalty": 0.5}, "penalty", {"objective": "wgan_gp"}),
    ("gan", {"clip_weights": 0.1}, "clip_weights", {"objective": "wgan"}),
    ("gan", {"label_smoothing": 0.1}, "label_smoothing", {"objective": "minimax"}),
    ("gan", {"generator": (), "generator_activation": "relu"}, "generator_activation", {"generator": (8,)}),
    ("gan", {"generator": (), "discriminator": (), "activation": "tanh"}, "activation", {"generator": (8,)}),
    ("gan", {"upsample": "resize"}, "upsample", {"channels": (4,), "image_shape": (4, 4)}),
    ("gan", {"batch_norm": "own"}, "batch_norm", {"channels": (4,), "image_shape": (4, 4)}),
    ("gan", {"batch_norm": "own", "generator": "8"}, "batch_norm", {"generator": "8,norm"}),
]
TOGETHER = [  # of a model's options and those of training, or of strategies, which the command line has together
    ("dbn", {"learning_rate": 0.01}, "learning_rate", {"finetune": "autoencoder"}),
    ("dbn", {"optimizer": "adam"}, "optimizer", {"finetune": "autoencoder"}),
    ("dbn", {"clip_norm": 1.0}, "clip_norm", {"finetune": "classifier"}),
    ("gan", {"optimizer": "sgd", "beta1": 0.5}, "beta1", {"generator_optimizer": "adam"}),
    ("gan", {"optimizer": "sgd", "beta2": 0.5}, "beta2", {"discriminator_optimizer": "adamw"}),
    ("gan", {"generator_rate": 0.1, "discriminator_rate": 0.1, "learning_rate": 0.1}, "learning_rate",
     {"generator_rate": None}),
    ("gan", {"generator_optimizer": "sgd", "discriminator_optimizer": "sgd", "optimizer": "sgd"}, "optimizer",
     {"generator_optimizer": None}),
    ("autoencoder", {"strategy": "server", "server_rate": 0.1, "learning_rate": 0.1}, "learning_rate",
     {"mode": "async", "fetch_every": 2}),
    ("autoencoder", {"strategy": "server", "server_optimizer": "sgd", "optimizer": "sgd"}, "optimizer",
     {"server_optimizer": None}),
    ("linear", {"freeze": True}, "freeze", {"encoder": "runs/ae"}),
    ("classifier", {"frozen_epochs": 2}, "frozen_epochs", {"encoder": "runs/ae"}),
    ("autoencoder", {"overwrite": True}, "overwrite", {"out": "runs/ae"}),
    ("autoencoder", {"verbose": True}, "verbose", {"ranks": 2}),
]
OF_STRATEGIES = [
    ("server", {"bound": 4}, "bound", {"mode": "ssp"}),
    ("server", {"push_every": 2}, "push_every", {"mode": "async"}),
    ("server", {"fetch_every": 2}, "fetch_every", {"mode": "ssp"}),
    ("server", {"staleness": "ignored"}, "staleness", {"mode": "async"}),
    ("server", {"mode": "async", "backup": 1}, "backup", {"mode": "sync"}),
    ("server", {"mode": "ssp", "solo_steps": 1}, "solo_steps", {"mode": "async"}),
    ("averaging", {"outer_rate": 0.5}, "outer_rate", {"outer": "nesterov"}),
    ("averaging", {"outer_momentum": 0.5}, "outer_momentum", {"outer": "momentum"}),
]
SIMULATED = [
    ({"node_latency": 1e-6}, "node_latency", {"workers_per_node": 2}),
    ({"node_bandwidth": 1e9}, "node_bandwidth", {"workers_per_node": 2}),
    ({"workers": (4,), "workers_per_node": 4, "latency": 1e-6}, "latency", {"workers": (8,)}),
    ({"workers": (4,), "workers_per_node": 4, "bandwidth": 1e6}, "bandwidth", {"workers": (8,)}),
    ({"update_bandwidth": 1e6}, "update_bandwidth", {"strategy": "server"}),
    ({"strategy": "elastic", "update_bandwidth": 1e6}, "update_bandwidth", {"mode": "async"}),
]


def resolved(model, given, **more):
    return options.resolve(given, lambda option: option.section in options.OF_TRAIN, model=model,
                           defaults=models.TABLE[model].defaults, **more)


@pytest.mark.parametrize(("model", "given", "name", "cure"), [*IDLE, *TOGETHER])
def test_the_command_line_and_files_refuse_it(model, given, name, cure):
    with pytest.raises(ParameterError, match=rf"^c\.toml: {name} [^\n]+$"):
        resolved(model, given, where="c.toml: ")
    assert resolved(model, {**given, **cure})[name] == given[name]
    usual = models.TABLE[model].defaults.get(name, options.named(name).default)
    resolved(model, {**given, name: usual})  # as a run records it


@pytest.mark.parametrize(("model", "given", "name", "cure"), IDLE)
def test_a_model_refuses_it(model, given, name, cure):
    own = [option.name for option in options.of_model(model)]
    make, more = models.class_of(model), {"classes": 3} if model == "classifier" else {}
    if name not in own:
        return
    with pytest.raises(ParameterError, match=f"^{name} "):
        make(16, **more, **given)
    for each in (make(16, **more, **{**given, **cure}), make(16, **more)):
        models.create(model, **each.options())  # which its own values never stand in the way of


def test_a_model_of_layers_refuses_what_they_have_themselves():
    convolutions = {"conv": [Conv(2, 3, activation="relu")], "image_shape": (4, 4)}
    for hidden, name, value in (((4,), "batch_norm", "own"), ((), "code_activation", "tanh")):
        with pytest.raises(ParameterError, match=f"^{name} is given, and conv is a list of layers"):
            pyddl.models.Autoencoder(16, hidden, **convolutions, **{name: value})
    with pytest.raises(ParameterError, match=r"^generator_activation is of hidden layers"):
        pyddl.models.GAN(4, [Dense(6, "relu"), Dense(4)], generator_activation="relu")


def test_what_an_older_run_recorded_without_effect_is_left_out():
    model = pyddl.models.Autoencoder(6, (4, 2))
    again = models.create("autoencoder", **{**model.options(), "corruption": "gaussian", "sparsity_cost": 3.0})
    assert again.options() == model.options()


@pytest.mark.parametrize(("strategy", "given", "name", "cure"), OF_STRATEGIES)
def test_a_strategy_refuses_it(strategy, given, name, cure):
    with pytest.raises(ParameterError, match=f"^{name} belongs to "):
        pyddl.strategies.strategy(strategy, **given)
    with pytest.raises(ParameterError, match=f"^{name} belongs to "):
        resolved("autoencoder", {"strategy": strategy, **given})
    pyddl.strategies.strategy(strategy, **{**given, **cure})


@pytest.mark.parametrize(("given", "name", "cure"), SIMULATED)
def test_a_simulation_refuses_it(given, name, cure):
    def accept(option):
        return option.section in ("training", "simulation")

    with pytest.raises(ParameterError, match=f"^{name} is (between|of servers)"):
        options.resolve(given, accept)
    assert options.resolve({**given, **cure}, accept)[name] == given[name]
    if name.startswith("node_"):
        with pytest.raises(ParameterError, match=f"^{name} is between workers of one node"):
            Machine(**given)


@pytest.mark.parametrize(("name", "given"), [
    ("constant", {"step_factor": 0.1}), ("cosine", {"step_every": 5, "total_steps": 9}), ("step", {"minimum": 0.1})])
def test_a_schedule_refuses_it(name, given):
    with pytest.raises(ParameterError, match=f"^{next(iter(given))} belongs to schedule"):
        pyddl.optim.schedule(name, 0.5, **given)


@pytest.mark.parametrize(("table", "flags", "fault"), [
    ({"pruner": "none", "first": 2}, {}, "first belongs to pruner asha"),
    ({}, {"pruner": "none", "factor": 2}, "factor belongs to pruner asha"),
    ({"factor": 2}, {"pruner": "none"}, None),  # a flag may do without what the file says
])
def test_a_search_refuses_it(table, flags, fault):
    if fault is None:
        assert Search.of(table, flags).pruner == "none"
        return
    with pytest.raises(ParameterError, match=fault):
        Search.of(table, flags)


def test_a_seed_of_nothing_is_refused():
    with pyddl.ParameterServer([0.0]) as server, pytest.raises(ParameterError, match=r"^seed is 3, and nothing is"):
        server.train([1, 2], lambda model, items: {}, lambda model, update: None, batch_size=1, seed=3)


def test_every_row_of_the_table_is_tried():
    named = {case[2] for case in (*IDLE, *TOGETHER, *OF_STRATEGIES)} | {name for _, name, _ in SIMULATED}
    alike = {"schedule", "momentum", "momentum_schedule", "warmup", "weight_decay"}  # of a dbn, as its learning_rate
    elsewhere = {"penalty_end", "code_activation", "minimum", "first", "factor"}
    assert {name for each in effects.TABLE for name in each.names} == named | alike | elsewhere
    known = {*(option.name for option in (*options.TABLE, *OPTIONS)), "minimum"}
    assert {name for each in effects.TABLE for name in (*each.names, *each.reads)} <= known


@pytest.mark.parametrize(("given", "message"), [
    ({"step_every": 5}, "^step_every belongs to schedule step"),
    ({"optimizer": pyddl.optim.Adam(0.1), "learning_rate": 0.1}, "^learning_rate is 0.1, and optimizer is an object"),
    ({"optimizer": pyddl.optim.Adam(0.1), "clip_norm": 1}, "^clip_norm is 1.0, and optimizer is an object"),
    ({"overwrite": True}, "^overwrite is True, and out names no run directory"),
    ({"checkpoint_every": 3}, "^checkpoint_every is 3, and out names no run directory"),
    ({"quiet": True}, "there is no option 'quiet'"),
])
def test_the_trainer_refuses_it(given, message):
    with pytest.raises(ParameterError, match=message):
        Trainer(pyddl.models.Autoencoder(6, (4, 2)), **given)


@pytest.mark.parametrize(("estimator", "name"), [
    (pyddl.Autoencoder(corruption="gaussian"), "corruption"), (pyddl.Autoencoder(step_every=5), "step_every"),
    (pyddl.GAN(optimizer="sgd", beta1=0.5), "beta1"), (pyddl.DBN(hidden=(4, 2), learning_rate=0.1), "learning_rate"),
])
def test_an_estimator_refuses_it(estimator, name):
    with pytest.raises(ParameterError, match=f"^{name} "):
        estimator.fit([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]])


def test_what_flags_leave_without_effect_in_a_file_is_left_out():
    file = {"schedule": "step", "step_every": 50, "corrupt": 0.1, "corruption": "gaussian"}
    found = resolved("autoencoder", {"schedule": "constant", "corrupt": 0.0}, below=file)
    assert (found["step_every"], found["corruption"]) == (1000, "masking")
    assert resolved("autoencoder", {"corrupt": 0.2}, below=file)["step_every"] == 50
    with pytest.raises(ParameterError, match=r"^step_every belongs"):
        resolved("autoencoder", {"schedule": "constant", "step_every": 60}, below=file)


def test_what_a_run_recorded_does_not_stand_in_the_way_of_going_on(tmp_path):
    """A file that a person gives is refused."""
    file = tmp_path / "config.toml"
    file.write_text('model = "vae"\nstep_every = 50\noutput_variance = 0.5\n')
    with pytest.raises(ParameterError, match=r"config\.toml: output_variance belongs to loss mse"):
        _settings(None, str(file), {}, recorded=False)
    settings = _settings(None, str(file), {"loss": "mse"}, recorded=True)
    assert (settings["output_variance"], settings["step_every"]) == (0.5, 1000)


def test_a_search_draws_what_has_an_effect():
    space = Space({"model": "autoencoder", "step_factor": 0.1}, {
        "schedule": ["constant", "step"], "step_every": {"low": 10, "high": 99}, "corrupt": [0.0, 0.2],
        "corruption": ["masking", "gaussian"], "hidden": [[8], [16, 8]], "activation": ["tanh", "relu"]})

    def drawn(last):
        return space.settings(space.draw(lambda parameter: parameter.high or parameter.choices[-1 if last else 0]))

    assert drawn(False) == {"model": "autoencoder", "schedule": "constant", "corrupt": 0.0, "hidden": (8,)}
    assert drawn(True) == {"model": "autoencoder", "schedule": "step", "step_every": 99, "step_factor": 0.1,
                           "corrupt": 0.2, "corruption": "gaussian", "hidden": (16, 8), "activation": "relu"}
    for last in (False, True):
        resolved("autoencoder", {name: value for name, value in drawn(last).items() if name != "model"})


@pytest.mark.parametrize(("fixed", "space", "name"), [
    ({}, {"step_every": {"low": 10, "high": 99}}, "step_every"),
    ({"step_every": 10}, {"schedule": ["constant", "cosine"]}, "step_every"),
    ({"corrupt": 0.0}, {"corruption": ["masking", "gaussian"]}, "corruption"),
])
def test_a_search_refuses_what_no_trial_has_a_use_for(fixed, space, name):
    with pytest.raises(ParameterError, match=f"{name} "):
        Space({"model": "autoencoder", **fixed}, space)


def test_conditions_of_a_space_win_over_what_follows_from_the_table():
    space = Space({"model": "autoencoder"}, {
        "corruption": ["gaussian", "masking"], "corrupt": {"choices": [0.3, 0.2], "when": {"corruption": "gaussian"}}})
    assert space.settings(space.draw(lambda parameter: parameter.choices[0]))["corrupt"] == 0.3
