"""The command line as a person uses it: sub-processes, exit codes, messages, files."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import run_ranks

from pyddl import _core, models
from pyddl.cli import bench
from pyddl.errors import ParameterError
from pyddl.train.run import read_toml


def pyddl(*arguments, cwd, check=0, **environment):
    """Run ``pyddl ...``; return (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "pyddl", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        check=False,
    )
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


TRAIN = ("train", "autoencoder", "--data", "digits", "--hidden", "16,4", "--epochs", "2", "--batch-size", "100")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on 2 ranks, started by --ranks, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    out, err = pyddl(*TRAIN, "--ranks", "2", "--verbose", "--out", "ae", cwd=folder)
    return folder / "ae", out, err


def test_train_leaves_a_complete_run_directory(run):
    path, out, err = run
    assert {p.name for p in path.iterdir()} >= {
        "config.toml",
        "metrics.jsonl",
        "summary.json",
        "model.safetensors",
        "plots",
        "log",
    }
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["model"], summary["strategy"], summary["ranks"], summary["epochs"]) == (
        "autoencoder",
        "allreduce",
        2,
        2,
    )
    assert summary["finished"] and summary["peak_gflops"] > 0 and len(summary["time_per_rank"]) == 2
    for picture in ("reconstructions.png", "curves.png"):
        assert (path / "plots" / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "mpirun" in err and "digits" in out
    for words in (
        "epoch 2/2",
        "test squared error",
        "samples/s",
        "share of product peak",
        "communication",
        "reconstructions.png",
    ):
        assert words in out, out
    assert out.count("epoch 1/2") == 1, "only rank 0 speaks"
    assert "\x1b[" not in out, "no terminal, no colours"


def test_the_written_config_makes_the_same_run_again(run, tmp_path):
    path, _, _ = run
    config = read_toml((path / "config.toml").read_text())
    assert (config["model"], config["data"], config["hidden"], config["ranks"]) == ("autoencoder", "digits", [16, 4], 2)
    pyddl("train", "--config", path / "config.toml", "--out", tmp_path / "again", "--quiet", cwd=tmp_path)
    losses = [[json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
              for folder in (path, tmp_path / "again")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_flags_win_over_the_file(tmp_path):
    (tmp_path / "c.toml").write_text('model = "autoencoder"\ndata = "random:64x10"\nhidden = [4]\nepochs = 3\n')
    pyddl("train", "--config", "c.toml", "--epochs", "1", "--lr", "0.01", "--out", "r", cwd=tmp_path)
    config = read_toml((tmp_path / "r/config.toml").read_text())
    assert (config["epochs"], config["hidden"], config["learning_rate"]) == (1, [4], 0.01)


def test_flags_may_stand_before_the_model(tmp_path):
    pyddl("train", "--data", "random:64x10", "--epochs", "3", "autoencoder", "--hidden", "4", "--epochs", "1",
          "--out", "r", cwd=tmp_path)
    config = read_toml((tmp_path / "r/config.toml").read_text())
    assert (config["epochs"], config["hidden"], config["data"]) == (1, [4], "random:64x10")


def test_a_flag_s_strategy_wins_over_the_file_s_where_no_option_of_it_was_chosen(tmp_path):
    data = ("--data", "random:64x10", "--hidden", "4", "--epochs", "1")
    pyddl("train", "autoencoder", *data, "--out", "r", cwd=tmp_path)
    chosen = ("--strategy", "sequential", "--replicas", "3")
    pyddl("train", "--config", "r/config.toml", *chosen, "--out", "s", cwd=tmp_path)
    assert read_toml((tmp_path / "s/config.toml").read_text())["replicas"] == 3
    _, err = pyddl("train", "--config", "s/config.toml", "--strategy", "local", "--out", "t", cwd=tmp_path, check=2)
    assert "s/config.toml: replicas is an option of strategy sequential; the strategy here is local" in err


def test_memory_that_is_not_to_be_had_is_named_in_a_line(tmp_path):
    beyond_addresses = f"{10**12}"  # 500 TB, which no setting of the kernel grants
    _, err = pyddl("train", "autoencoder", "--hidden", beyond_addresses, "--out", "r", cwd=tmp_path, check=1)
    assert err.startswith("pyddl: out of memory: Unable to allocate") and err.count("\n") == 1, err


def test_pictures_that_cannot_be_written_are_named(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/plots")
    (tmp_path / "run/plots").touch()
    _, err = pyddl("plot", "run", cwd=tmp_path, check=1)
    assert err == "pyddl: cannot write run/plots: File exists\n"


def test_bfloat16_falls_back_to_float32_with_a_clear_line(tmp_path):
    _, err = pyddl(
        "train",
        "autoencoder",
        "--data",
        "random:64x10",
        "--hidden",
        "4",
        "--epochs",
        "1",
        "--dtype",
        "bfloat16",
        "--out",
        "r",
        cwd=tmp_path,
        ONEDNN_MAX_CPU_ISA="AVX2",
    )
    assert "bfloat16 needs a processor with AVX512-BF16 or AMX on every node: computing in float32" in err
    assert read_toml((tmp_path / "r/config.toml").read_text())["dtype"] == "float32"


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_a_run_in_bfloat16_is_read_where_the_processor_has_none(tmp_path):
    pyddl(*TRAIN, "--dtype", "bfloat16", "--out", "r", cwd=tmp_path)
    said, alike = "r/model.safetensors: bfloat16 needs a processor with", []
    for environment in ({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}):
        out, err = pyddl("evaluate", "r", "--json", cwd=tmp_path, **environment)
        assert (said in err) == bool(environment)
        alike.append(json.loads(out)["loss"])
        assert (said in pyddl("encode", "r", "--out", "c.npy", cwd=tmp_path, **environment)[1]) == bool(environment)
    assert alike[0] == pytest.approx(alike[1], rel=0.01)


def test_evaluate_repeats_the_figures_of_training(run):
    path, _, _ = run
    out, _ = pyddl("evaluate", path, "--json", cwd=path)
    scores, summary = json.loads(out), json.loads((path / "summary.json").read_text())
    assert scores["rows"] == 297
    assert scores["loss"] == pytest.approx(summary["test_loss"], rel=1e-6)
    assert scores["squared_error"] == pytest.approx(summary["test_squared_error"], rel=1e-6)
    assert "squared_error" in pyddl("evaluate", path, "--data", "digits:train", cwd=path)[0]


def test_of_several_ranks_one_does_what_takes_one(run):
    path, _, _ = run
    done = run_ranks(3, [sys.executable, "-m", "pyddl", "evaluate", str(path), "--data", "digits:test"])
    assert done.code == 0, done.err
    assert done.out.count("squared_error") == 1
    assert run_ranks(2, [sys.executable, "-m", "pyddl", "evaluate", "nowhere"]).code == 2


def test_encode_writes_codes(run, tmp_path):
    path, _, _ = run
    out, _ = pyddl("encode", path, "--data", "digits:train", "--out", tmp_path / "codes", cwd=path)
    codes = np.load(tmp_path / "codes")
    assert codes.shape == (1500, 4) and codes.dtype == np.float32 and np.isfinite(codes).all()
    assert "1500 codes of 4" in out


def test_plot_draws_again(run):
    path, _, _ = run
    (path / "plots/curves.png").unlink()
    out, _ = pyddl("plot", path, cwd=path)
    assert (path / "plots/curves.png").exists() and "reconstructions.png" in out


def test_version_help_and_doctor(tmp_path):
    assert pyddl("--version", cwd=tmp_path)[0].startswith("pyddl ")
    overview, _ = pyddl("--help", cwd=tmp_path)
    assert all(name in overview for name in ("train", "evaluate", "encode", "plot", "doctor", "fetch"))
    help_of_train, _ = pyddl("train", "--help", cwd=tmp_path)
    assert "--lr" in help_of_train and "256 samples" in help_of_train
    assert models.TABLE["autoencoder"].help in help_of_train and "--hidden" not in help_of_train
    help_of_model, _ = pyddl("train", "autoencoder", "--help", cwd=tmp_path)
    assert "--lr" in help_of_model and "--hidden" in help_of_model and "[256,64]" in help_of_model
    assert "--encoder" not in help_of_model, "another model's"
    assert "oneDNN" in pyddl("doctor", cwd=tmp_path)[0]


@pytest.mark.parametrize(("arguments", "message"), [
    (("trian",), "there is no command 'trian'; did you mean 'train'"),
    (("train",), "which model?"),
    (("train", "autoencodr"), "did you mean 'autoencoder'"),
    (("train", "--epochs", "3", "autoencodr"), "did you mean 'autoencoder'"),
    (("train", "autoencoder", "--encoder", "runs/ae"), "encoder is an option of model classifier, linear and "
                                                       "stacked_gan; the model here is autoencoder: leave it out"),
    (("train", "autoencoder", "--hidden", "none"), "hidden is empty"),
    (("train", "autoencoder", "--test-labels", "y.npy"), "--test-labels are those of the rows of --test, which is not"),
    (("simulate", "autoencodr"), "did you mean 'autoencoder'"),
    (("train", "autoencoder", "--stratgy", "local"), "--strategy"),
    (("train", "autoencoder", "--strategy", "alreduce"), "did you mean 'allreduce'"),
    (("train", "autoencoder", "--epochs", "two"), "'two' is no whole number"),
    (("train", "autoencoder", "--epochs", "0"), "epochs is 0; expected a whole number at least 1"),
    (("train", "autoencoder", "--hidden", "256,,64"), "whole numbers with commas"),
    (("train", "autoencoder", "--data", "mnits"), "mnist"),
    (("train", "autoencoder", "--data", "no.npy"), "no.npy"),
    (("train", "autoencoder", "--ranks", "0"), "ranks is 0"),
    (("train", "autoencoder", "--threads", "100000"), "threads is 100000; expected a whole number at least 1"),
    (("train", "autoencoder", "--timeout", "inf"), "timeout is inf; expected a number at least 0 and at most 1e+09"),
    (("train", "autoencoder", "--batch-size", f"{10**21}"), "batch_size is 1000000000000000000000; expected"),
    (("train", "autoencoder", "--hidden", f"{10**18}"), "parameters, more than any memory holds"),
    (("train", "autoencoder", "--data", ""), "data is ''; expected text"),
    (("train", "autoencoder", "--data", f"random:{10**20}x3"), "is too large; expected at most 2**62 rows"),
    (("train", "autoencoder", "--out", ""), "out is ''; expected text"),
    (("train", "autoencoder", "--resume"), "--resume goes on with a run directory: name it with --out"),
    (("train", "autoencoder", "--resume", "--overwrite", "--out", "r"), "resume goes on with the run that overwrite"),
    (("train", "--config", "no.toml"), "no.toml: no such file"),
    (("evaluate", "no-run"), "no-run is no finished run"),
    (("encode", "no-run"), "no-run is no finished run"),
    (("encode", "no-run", "--out", "codes.txt"), "out is codes.txt, and nothing is written as .txt here"),
    (("plot", "no-run"), "no-run is no finished run"),
    (("fetch", "mnits"), "mnist"),
])
def test_bad_usage_ends_with_2_and_says_what_was_expected(arguments, message, tmp_path):
    out, err = pyddl(*arguments, cwd=tmp_path, check=2)
    assert message in err and "Traceback" not in out + err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(("text", "message"), [
    ('model = "autoencoder"\nepoch = 3\n', "c.toml: there is no option 'epoch'; did you mean 'epochs'"),
    ('model = "autoencoder"\nepochs = "3"\n', "c.toml: epochs is '3'"),
    ("epochs = \n", "c.toml: "),
    ('model = "autoencoder"\nlearning_rate = true\n', "c.toml: learning_rate is True; expected a number"),
    ('model = "autoencoder"\nfrozen_epochs = 3\n', "c.toml: frozen_epochs is an option of model classifier and linear"),
    ('model = "autoencodr"\n', "did you mean 'autoencoder'"),
    ('model = "autoencoder"\nauto = 3\n', "c.toml: auto: strategy is 3; expected text"),
    ('model = "autoencoder"\nauto = {strategy = "best"}\n', "c.toml: auto: strategy is 'best'; expected one of"),
])
def test_a_faulty_config_file_is_named(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    _, err = pyddl("train", "--config", "c.toml", cwd=tmp_path, check=2)
    assert message in err


def test_a_fault_is_said_in_one_line_without_the_launcher_s(tmp_path):
    _, err = pyddl("train", "autoencoder", "--data", "nope.npy", "--ranks", "2", cwd=tmp_path, check=2)
    said = [line for line in err.splitlines() if "PMIX ERROR" not in line]  # noise that Open MPI may add
    assert len(said) == 1 and said[0].startswith("pyddl: data 'nope.npy' is neither"), err


def test_a_fault_that_all_ranks_find_is_said_once(tmp_path):
    np.save(tmp_path / "wild.npy", np.full((10, 4), 7, dtype=np.float32))
    _, err = pyddl("train", "autoencoder", "--data", "wild.npy", "--ranks", "2", cwd=tmp_path, check=2)
    assert err.count("needs values in [0, 1]") == 1 and "Traceback" not in err and "MPI_ABORT" not in err


def test_ranks_within_a_launch_must_agree(tmp_path):
    _, err = pyddl(
        "train",
        "autoencoder",
        "--ranks",
        "3",
        cwd=tmp_path,
        check=2,
        OMPI_COMM_WORLD_SIZE="2",
        OMPI_COMM_WORLD_RANK="0",
    )
    assert "--ranks is 3, but the launcher started 2" in err


def test_a_damaged_model_file_is_named(run, tmp_path):
    path, _, _ = run
    for name in ("config.toml", "summary.json", "metrics.jsonl", "model.safetensors"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-10])
    _, err = pyddl("evaluate", tmp_path, cwd=tmp_path, check=2)
    assert "model.safetensors cannot be read" in err


def test_auto_says_what_it_chose_and_the_same_line_resumes(tmp_path):
    line = (*TRAIN, "--ranks", "2", "--strategy", "auto", "--out", "ae")
    out, _ = pyddl(*line, cwd=tmp_path)
    assert "samples/s  meaning" in out and "that auto predicted" in out
    config = read_toml((tmp_path / "ae/config.toml").read_text())
    chosen = config["strategy"]
    assert chosen == config["auto"]["strategy"] and chosen in ("allreduce", "server")  # as fast as the machine is busy
    out, _ = pyddl(*line, "--epochs", "3", "--resume", cwd=tmp_path)
    assert re.search(f"auto: {chosen}.*, as was chosen when training began", out) and "epoch 3/3" in out
    out, _ = pyddl("train", "--config", "ae/config.toml", "--ranks", "2", "--out", "again", cwd=tmp_path)
    assert "auto" not in out.replace("autoencoder", "")
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    assert (summary["strategy"], summary["auto"]) == (chosen, None)


def test_bench_lists_its_questions_and_answers_one(tmp_path):
    out, _ = pyddl("bench", cwd=tmp_path)
    for name in ("step", "ranks", "sum", "overhead", "start", "threads", "all"):
        assert f"\n  {name} " in out
    assert "harness" not in out and "How fast is one training step" in out
    _, err = pyddl("bench", "stp", cwd=tmp_path, check=2)
    assert "stp" in err and "'step'" in err
    out, _ = pyddl("bench", "overhead", "--size", "quick", "--out", "results", cwd=tmp_path)
    assert "us  in all" in out
    assert json.loads((tmp_path / "results/overhead-quick.jsonl").read_text())["question"] == "overhead"


def test_bench_says_where_the_benchmarks_are_when_they_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    with pytest.raises(ParameterError, match=r"they come with pyddl's source. Cure: clone it"):
        bench.questions()
