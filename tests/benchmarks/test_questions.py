"""Each benchmark at its smallest size, against references of our own, and the page that is made of their results."""

import math

import numpy as np
import pytest

from benchmarks import (
    adversarial,
    adversarial_ranks,
    adversarial_step,
    asynchronous,
    auto,
    convergence,
    convolution,
    harness,
    likelihood,
    models,
    overhead,
    pretraining,
    ranks,
    rbm,
    readme,
    report,
    server,
    server_latency,
    spike_slab,
    split,
    stacked,
    start,
    step,
    straggler,
    sum,
    tempering,
    threads,
    torch_modules,
    variational,
)
from pyddl.comm import launcher
from pyddl.data import find
from pyddl.errors import CommError
from pyddl.train.quality import modes


def has_launcher():
    try:
        launcher.find()
    except CommError:
        return False
    return True


needs_mpi = pytest.mark.skipif(not has_launcher(), reason="no MPI launcher")
SMALL = ["--size", "quick"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def picture(record):
    return record.path.with_suffix(".png").stat().st_size > 1000


def positive(seconds):
    return all(0 < timing["min"] <= timing["p50"] <= timing["max"] for timing in seconds.values())


def test_step_against_the_plain_one(out):
    record = step.main(
        [
            *SMALL,
            "--peer",
            "plain",
            "--networks",
            "784-64-784,784-256-64-256-784",
            "--batches",
            "1,32",
            "--out",
            str(out),
        ]
    )
    assert [(line["network"], line["batch"]) for line in record.lines] == [
        ("784-64-784", 1),
        ("784-64-784", 32),
        ("784-256-64-256-784", 1),
        ("784-256-64-256-784", 32),
    ]
    for line in record.lines:
        assert line["difference"]["pyddl float32"] < 1e-3
        assert positive(line["seconds"])
        assert line["limits"]["float32"]["limit"] > line["limits"]["float32"]["products"] > 0
        assert line["parts"]["float32"]["gradient"] > 0
    assert picture(record)


def test_a_boltzmann_machine_against_scikit_learn_s(out):
    (line,) = rbm.main([*SMALL, "--out", str(out)]).lines
    assert line["difference"] < 1e-4 and positive(line["seconds"])
    assert set(line["speed_up"]) >= {"classic float32", "centered float32"}


@needs_mpi
def test_convolutions_are_verified_and_timed(out):
    alone, together = convolution.main([*SMALL, "--peer", "none", "--out", str(out)]).lines
    assert (alone["case"], together["case"]) == ("small-8", "small-8 on 2 ranks")
    assert alone["difference"]["pyddl float32"] == 0 and positive(alone["seconds"]) and positive(together["seconds"])
    share = alone["share"]["float32"]
    assert 0 < share["useful"] < share["nominal"] and alone["primitives"]["float32"]["convolution"] > 0
    page = "\n".join(convolution.section([alone, together]))
    assert "| small-8 | float32 |" in page and "| small-8 on 2 ranks |" in page


def test_padding_is_left_out_of_the_useful_products(tmp_path):
    seed = convolution.Case("seed-64", tmp_path, tmp_path)
    assert 0.82 < seed.useful < 0.95  # 7 x 7: 0.82, 28 x 28: 0.95


def test_likelihoods_are_exact_and_do_not_care_about_a_flip(out):
    lines = likelihood.main([*SMALL, "--out", str(out)]).lines
    found = [line["log_likelihood"] for line in lines]
    assert len(found) == 2 and abs(found[0] - found[1]) < 0.5
    assert all(line["log_probability_of_rows"] <= 0 and line["training_seconds"] > 0 for line in lines)


def test_bounds_of_variational_autoencoders(out):
    (line,) = variational.main([*SMALL, "--peer", "none", "--out", str(out)]).lines
    assert line["name"] == "pyddl" and line["elbo"] < line["iwae_50"] < line["iwae_500"] < -20
    assert line["elbo"] == -line["loss"] and line["loss"] == pytest.approx(line["kl"] + line["reconstruction"])


def test_adversarial_pairs_learn_known_distributions(out):
    line, = adversarial.main([*SMALL, "--out", str(out)]).lines
    assert line["name"] == "N(4, 0.5)" and 2 < line["mean"] < 6 and 0.05 < line["deviation"] < 2
    rows = adversarial.rows_of("25 Gaussians", 2500, 0)
    found = modes(rows, adversarial.MIXTURES["25 Gaussians"], adversarial.DEVIATION)
    assert found["modes"] == found["modes_of_20"] == 25 and found["high_quality"] == pytest.approx(0.989, abs=0.01)


@needs_mpi
def test_as_many_simulated_ranks_as_real_ones_come_as_near(out):
    record = adversarial_ranks.main([*SMALL, "--out", str(out)])
    found = {(line["side"], line["name"], line["ranks"]): line["distance"] for line in record.lines}
    for name in ("allreduce", "averaging, period 16"):
        assert found["simulated", name, 2] == pytest.approx(found["real", name, 2], rel=0.02)
    assert found["real", "allreduce", 2] == pytest.approx(found["real", "allreduce", 1], rel=0.02)
    assert all(line["seconds"] > 0 for line in record.lines)
    assert picture(record)


def test_steps_of_adversarial_pairs_are_timed_beside_those_without_penalty(out):
    line, = adversarial_step.main([*SMALL, "--peer", "none", "--out", str(out)]).lines
    assert line["case"] == "dense-r3gan-64" and positive(line["seconds"]) and line["times_plain"]["float32"] > 0
    assert "| dense | r3gan | 64 | float32 |" in "\n".join(adversarial_step.section([line]))


def test_a_ladder_reaches_what_persistent_chains_do_not(out):
    (line,) = tempering.main([*SMALL, "--out", str(out)]).lines
    found = {chain: line[chain]["log_likelihood"] for chain in tempering.KINDS}
    assert line["truth"] - 0.6 < found["ptt"] < line["truth"] and found["pcd"] < found["ptt"] - 1
    assert line["cost"] > 1 and len(tempering.row_of(line)) == len(tempering.HEAD)


def test_a_model_under_each_strategy_beside_allreduce(out):
    record = models.main(["rbm", *SMALL, "--hidden", "8", "--out", str(out)])
    assert [line["name"] for line in record.lines] == ["allreduce", "averaging, period 4", "server async"]
    assert record.header["options"]["hidden"] == (8,) and record.header["options"]["epochs"] == 1
    first, *others = record.lines
    assert first["ratio"] == 1 and first["value"] == first["scores"][0]["log_likelihood"] < 0
    assert all(line["ratio"] == pytest.approx(1, abs=0.1) and line["values"] != first["values"] for line in others)


def test_a_model_without_a_row_is_compared_by_its_test_loss(out):
    record = models.main(["linear", *SMALL, "--only", "server ssp", "--workers", "2", "--out", str(out)])
    assert [line["name"] for line in record.lines] == ["allreduce", "server ssp"]
    assert record.header["score"] == "test_loss" and record.header["measure"] is None
    with pytest.raises(SystemExit, match="no figure likelihood; there are test_loss"):
        models.main(["linear", *SMALL, "--score", "likelihood", "--out", str(out)])


def test_pretraining_is_compared_with_a_random_start(out):
    record = pretraining.main([*SMALL, "--out", str(out)])
    assert [(line["labels"], line["start"]) for line in record.lines] == [
        (100, "pretrained"), (100, "random"), (1000, "pretrained"), (1000, "random")]
    assert all(line["accuracy"] > 65 for line in record.lines)


def test_a_stack_is_compared_with_a_pair(out):
    record = stacked.main([*SMALL, "--out", str(out)])
    assert [line["name"] for line in record.lines] == ["stacked_gan", "gan"]
    assert all(line["recognised"] > 0.3 and line["training_seconds"] > 0 for line in record.lines)


def test_asynchronous_training_is_simulated_with_and_without_a_straggler(out):
    record = asynchronous.main([*SMALL, "--out", str(out)])
    slow = {line["name"]: line["slow"]["whole"] / line["alike"]["whole"] for line in record.lines
            if line["table"] == "straggler"}
    assert set(slow) == set(asynchronous.STRAGGLER)
    assert slow["server sync"] > 2 > slow["server sync, 1 backup"]  # of a worker 3 times slower
    assert slow["server async"] < 1.5 and slow["allreduce"] > 2
    ages = [line["staleness"] for line in record.lines if line["table"] == "staleness" and line["name"] == "async"]
    assert ages == sorted(ages) and ages[0] == 0
    assert picture(record)


@needs_mpi
def test_a_slow_rank_is_waited_for_in_step_as_the_simulation_foresees(out):
    record = straggler.main([*SMALL, "--out", str(out)])
    case, slow = straggler.SETTINGS["quick"], {line["name"]: line["slow"] for line in record.lines}
    steps = case["epochs"] * 6  # of 1500 rows
    least = steps * asynchronous.SLOWER * case["seconds"]
    assert set(slow) == set(straggler.QUICK)
    assert slow["server sync"]["ranks"]["whole"] > least  # a sleep may take longer, never shorter
    assert slow["server sync"]["simulation"]["whole"] == pytest.approx(least, rel=0.05)
    assert slow["server async"]["simulation"]["whole"] < least / 1.5
    assert [math.fsum(line["samples"]) for line in slow.values()] == [case["epochs"] * 1500] * 2


@needs_mpi
def test_ranks_give_the_losses_of_one(out):
    record = ranks.main([*SMALL, "--peer", "none", "--out", str(out)])
    (line,) = record.lines
    assert record.header["ranks"] == 2
    assert max(line["difference"][name] for name in ("pyddl", "pyddl sharded")) < 1e-3
    assert set(line["seconds"]) == {"pyddl", "pyddl sharded", "pyddl local", "pyddl 1 rank"}
    assert positive(line["seconds"])


TIMES = {"pyddl": [1.0, 2.0, 1.0, 1.0], "pyddl 1 rank": [0.8] * 4, "DDP": [3.0, 4.0, 2.0, 3.0],
         "DDP, static graph": [9.0, 9.0, 1.5, 9.0], "PyTorch": [1.0] * 4}


def test_modules_are_compared_with_the_fastest_way_of_ddp():
    timings = {name: harness.Timing(rounds) for name, rounds in TIMES.items()}
    found = torch_modules.against(timings, "pyddl", torch_modules.DDP)  # compiled: not timed
    assert found == {"best": "DDP", "faster": 2.5, "quartiles": [2.0, 3.0]}
    assert set(torch_modules.AIMS) == set(torch_modules.CASES)
    alone = torch_modules.against(timings, "pyddl 1 rank", torch_modules.ALONE)
    line = {"case": "convolutions:32", "batch": 32, "ranks": 2, "against": {"pyddl": found, "pyddl 1 rank": alone},
            "seconds": {name: timing.summary() for name, timing in timings.items()},
            "parts": {"gradient": 1e-3}, "share_of_local": 0.9}
    assert torch_modules.bound(line) == 3.0  # DDP's steps take 3 seconds, PyTorch's 1
    assert torch_modules.rates(line)["pyddl"] == 2 * 32 and torch_modules.rates(line)["PyTorch"] == 32
    assert "| convolutions, 32 | 64 | 40 |" in "\n".join(torch_modules.section([line]))
    assert [(aim.wanted, aim.reached) for aim in report.aims(dict.fromkeys(report.QUESTIONS, ()) | {
        "torch_modules": [line]})] == [(1.0, 2.5)]


def test_modules_begin_at_weights_of_their_shapes():
    dense, convolutions = (torch_modules.first_weights(name) for name in (torch_modules.step.NETWORKS[1],
                                                                          "convolutions"))
    assert [each.shape for each in dense.values()][:2] == [(256, 784), (256,)]
    assert [each.shape for each in convolutions.values()] == torch_modules.CONVOLUTIONS
    assert not convolutions["1"].any() and 0.4 < np.abs(convolutions["0"]).max() < np.sqrt(6 / 9)


def test_modules_of_other_losses_are_not_timed():
    losses = np.array([593.4, 500.0])
    assert torch_modules.near("same", losses, losses * (1 + 5e-6)) == pytest.approx(5e-6, rel=1e-3)
    for other in (losses * [1 + 1e-4, 1], losses * [1, 1.01]):
        with pytest.raises(RuntimeError, match=r"other.*: not timed"):
            torch_modules.near("other", losses, other)


def test_modules_need_an_environment_with_pytorch(monkeypatch, tmp_path, out):
    monkeypatch.setattr(harness, "TORCH", tmp_path / "bin" / "python")
    with pytest.raises(SystemExit, match="is not there; make bench sets it up"):
        torch_modules.main([*SMALL, "--out", str(out)])
    monkeypatch.setattr(harness, "TORCH", tmp_path)
    with pytest.raises(SystemExit, match="no case dense:7; there are"):
        torch_modules.main([*SMALL, "--cases", "dense:7", "--out", str(out)])


def test_several_threads_give_the_losses_of_one(out):
    record = threads.main([*SMALL, "--threads", "2", "--out", str(out)])
    (line,) = record.lines
    assert list(line["speed_up"]) == [f"{dtype}, 2 threads" for dtype in record.header["dtypes"]]
    assert len(line["seconds"]) == 2 * len(line["speed_up"]) and positive(line["seconds"]) and picture(record)


@needs_mpi
def test_ranks_on_several_nodes_also_let_slices_wait(out, monkeypatch):
    monkeypatch.setenv("PYDDL_RANKS_PER_NODE", "1")
    record = ranks.main([*SMALL, "--peer", "none", "--out", str(out / "nodes")])
    (line,) = record.lines
    assert "pyddl, slices wait" in line["seconds"] and line["speed_up"]["pyddl, slices wait"] > 0


@needs_mpi
def test_sum_is_right_before_it_is_timed(out):
    record = sum.main([*SMALL, "--out", str(out)])
    assert [line["bytes"] for line in record.lines] == [4, 4004]
    assert all(positive(line["seconds"]) and line["limit"] > 0 for line in record.lines)
    assert sum.limit_of(2, 1000, [1e9]) == 16e-6
    assert [harness.microseconds(seconds) for seconds in (4.7e-9, 16e-6)] == ["0.0047 us", "16.0 us"]
    assert picture(record)


@needs_mpi
def test_the_server_adds_up_before_it_is_timed(out):
    record = server_latency.main([*SMALL, "--out", str(out)])
    (line,) = record.lines
    assert {name.split(",")[0] for name in line["seconds"]} == {"node", "messages", "socket"}
    assert positive(line["seconds"])
    assert all(0 <= share < 0.2 for share in line["idle_share"].values())  # of a core, by its own clock


@needs_mpi
def test_a_server_learns_before_it_is_timed(out):
    record = server.main([*SMALL, "--peer", "none", "--out", str(out)])
    (line,) = record.lines
    first, last = line["losses"]["pyddl"]
    assert last < server.FALLEN * first
    assert set(line["seconds"]) == {"pyddl", "pyddl local"} and positive(line["seconds"])


@needs_mpi
def test_auto_predicts_what_is_then_measured(out):
    record = auto.main([*SMALL, "--out", str(out)])
    (line,) = record.lines
    assert line["ranks"] == 2 and {"allreduce", "averaging", "local"} < set(line["ratio"])
    assert all(ratio > 0 for ratio in line["ratio"].values())
    assert all(len(rounds) == 2 for rounds in line["predicted"].values())


@needs_mpi
def test_replicas_in_turn_converge_as_those_that_average(out, monkeypatch):
    chosen = ("allreduce", "averaging, period 1", "sequential, 4 replicas")
    monkeypatch.setattr(convergence, "RUNS", {name: convergence.RUNS[name] for name in chosen})
    record = convergence.main([*SMALL, "--out", str(out)])
    errors = {line["name"]: line["errors"] for line in record.lines}
    assert list(errors) == list(chosen)
    assert all(each == sorted(each, reverse=True) and len(each) == 3 for each in errors.values())
    assert errors[chosen[1]] == pytest.approx(errors[chosen[2]], rel=1e-6) != pytest.approx(errors["allreduce"])
    assert record.path.with_suffix(".png").stat().st_size > 1000


def test_the_target_is_reached_after_the_first_epoch_at_or_below_it():
    lines = [{"epoch": epoch, "seconds": 2.0, "test_squared_error": error}
             for epoch, error in enumerate((5.0, 4.0, 4.5), start=1)]
    assert convergence.reached(lines, 4.0) == (2, 4.0)
    assert convergence.reached(lines, 3.9) == (None, None)


@needs_mpi
def test_split_sends_what_its_layers_are_wide(out):
    record = split.main([*SMALL, "--out", str(out)])
    (line,) = record.lines
    hidden, parameters = 256 + 64 + 256, 2 * 784 * 256 + 2 * 256 * 64 + 256 + 64 + 256 + 784
    assert line["bytes_per_step"] == {"allreduce": 4 * parameters, "split": 4 * line["batch"] * hidden}
    assert line["difference"]["split"] < 1e-3
    assert positive(line["seconds"])


@pytest.mark.parametrize("floats", [1, 999, 1000, 1001, 2500])
def test_the_expected_sums_are_those_of_the_formula(floats):
    values = [[i % 1000 + rank for i in range(floats)] for rank in range(3)]
    total = [a + b + c for a, b, c in zip(*values, strict=True)]
    whole = 0
    for value in total:
        whole += value
    assert sum.sum_of_all(3, floats) == [total[0], total[-1], whole]


def test_overhead_adds_up(out):
    record = overhead.main([*SMALL, "--out", str(out)])
    (line,) = record.lines
    assert set(line["shares"]) == set(overhead.PARTS)
    assert 0 < line["total"] < line["seconds"]["real network"]["p50"]
    assert picture(record)
    assert line["difference"] < 1e-3


@needs_mpi
def test_the_page_names_what_was_missed(out):
    shown = out / "README.md"
    shown.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    page = report.main([*SMALL, "--out", str(out), "--page", str(out / "RESULTS.md"), "--readme", str(shown)])
    text = page.read_text()
    assert "784-256-64-256-784, batch" not in text.split("## Figures")[0]  # aims against PyTorch need PyTorch
    assert "### Sum over the ranks of a node" in text
    assert "server on a node, push to fetch | at most 50 us" in text
    assert "server on a node, asleep before, push to fetch | at most 50 us" in text
    assert "Python's share of a step | at most 20 us" in text


def line_of(**more):
    return {"date": "2026-01-02", **more}


LINES = {
    "ranks": [line_of(ranks=2, batch=batch, scaling={"pyddl": 0.914, "pyddl sharded": 0.951}, speed_up={"DDP": faster})
              for batch, faster in ((32, 6.1), (128, 2.83))],
    "server": [line_of(network="784-64-784", workers=2, batch=128, speed_up={"TensorFlow": 10.4})],
    "sum": [line_of(ranks=ranks, bytes=nbytes, speed_up={"Open MPI 5": 14.02, "MPICH 5": 1.0})
            for ranks in (2, 3) for nbytes in (4, 1_740_000)],
    "step": [line_of(network=network, batch=batch, torch="2", speed_up={"float32": 1.85, "bfloat16": 2.42})
             for network in ("784-64-784", "784-256-64-256-784") for batch in (8, 32, 128)],
    "start": [line_of(ranks=4, beyond={"numpy, pyddl": -0.001}, start=0.67, date="2026-01-03")],
}


def test_the_readme_shows_what_was_measured(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    readme.update(page, LINES)
    assert page.read_text().splitlines()[2:-2] == [
        "| measured on that machine, 2026-01-02 to 2026-01-03 | pyddl against |",
        "| --- | --- |",
        "| 2 ranks together, 32 / 128 rows each | PyTorch DDP with gloo: 6.1x / 2.8x its samples/s |",
        "| the same, against twice one rank | 91 % / 91 % |",
        "| the same, with `--shard-optimizer`, against twice one rank | 95 % / 95 % |",
        "| asynchronous server, 2 workers with 128 rows each, 784-64-784 "
        "| TensorFlow's ParameterServerStrategy: 10x its samples/s |",
        "| sum of 1.7 MB over 2 / 3 ranks | Open MPI's MPI_Allreduce: 14x / 14x as fast |",
        "| one step on one thread, batch 32 / 128 | the best of PyTorch eager and compiled: 1.9x / 1.9x |",
        "| the same in bfloat16 | the best of PyTorch under bfloat16 autocast: 2.4x / 2.4x |",
        "| `import pyddl`, then the first step of 4 ranks | 0.0 s beyond NumPy's import; 0.67 s after `mpirun` |",
    ]
    assert "PyTorch" not in readme.table_of(LINES | {"step": [], "ranks": []})
    page.write_text("no marks")
    with pytest.raises(RuntimeError, match="expected one line"):
        readme.update(page, LINES)


def test_the_readme_of_the_clone_has_a_place_for_the_table():
    text = (harness.ROOT / "README.md").read_text(encoding="utf-8")
    head, table = text.split(readme.BEGIN)
    assert readme.END not in head and table.split(readme.END)[0].startswith("\n| measured on that machine, ")


def test_an_aim_says_by_how_much_it_was_missed():
    met = report.Aim("speed", 2.5, 2.6)
    missed = report.Aim("speed", 2.5, 2.1, why="Adam 40 %")
    most = report.Aim("time", 20, 25, " us", most=True)
    assert met.row() == ["speed", "at least 2.5x", "2.60x", "met"]
    assert missed.row()[-1] == "**missed** by 0.40x: Adam 40 %"
    assert most.row() == ["time", "at most 20 us", "25.00 us", "**missed** by 5.00 us"]


def test_without_mnist_rows_are_noise_like_it(monkeypatch, tmp_path):
    for name in ("PYDDL_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    rows, origin = harness.mnist_rows(32)
    assert origin == "random rows"
    assert rows.shape == (32, 784) and rows.min() >= 0 and rows.max() <= 1


def test_start_times_the_first_step_of_all_ranks(out):
    record = start.main([*SMALL, "--out", str(out)])
    assert record.lines[-1]["start"] > 0 and len(record.lines[-1]["starts"]) == 2 and picture(record)


def test_spike_and_slab_machines_beside_other_densities(out):
    record = spike_slab.main([*SMALL, "--out", str(out)])
    parts = {part: [line for line in record.lines if line["part"] == part] for part in spike_slab.PARTS}
    assert [line["name"] for line in parts["likelihood"]][::4] == ["full Gaussian", "mu-ssRBM, 3 spikes"]
    assert all(math.isfinite(line["log_likelihood"]) for line in parts["likelihood"])
    assert [line["name"] for line in parts["features"]] == ["raw pixels", "spikes"]
    assert all(0 <= line["accuracy"] <= 1 for line in parts["features"])
    assert positive(parts["step"][0]["seconds"]) and parts["step"][0]["ratios"]["Bernoulli RBM"] == 1
    assert picture(record)


needs_images = pytest.mark.skipif(find("cifar10") is None, reason="needs CIFAR-10: set PYDDL_DATA")


@needs_images
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_likelihood_of_colour_patches(out):
    """Exact, 30 components: at least 4 nats above a full Gaussian and Gaussian RBMs with as many units, with each of 5
    seeds (a prototype: -37.2, -43.0, -42.8)."""
    record = spike_slab.main(["--part", "likelihood", "--components", "30", "--out", str(out)])
    found = {}
    for line in record.lines:
        found.setdefault(line["name"], []).append(line["log_likelihood"])
    for units in (6, 12):
        for other in ("full Gaussian", f"Gaussian RBM, {units} units"):
            gains = [a - b for a, b in zip(found[f"mu-ssRBM, {units} spikes"], found[other], strict=True)]
            assert len(gains) == 5 and min(gains) > 4, (units, other, gains)


@needs_images
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_pooled_spikes_beat_pixels(out):
    record = spike_slab.main(["--part", "features", "--out", str(out)])
    raw, *spikes = [line["accuracy"] for line in record.lines]
    assert min(spikes) > raw + 0.05, (raw, spikes)
