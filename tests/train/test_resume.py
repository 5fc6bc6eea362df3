"""Checkpoints and stops: a resumed run is the run that was never interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from small_runs import Buffered

import pyddl
from pyddl import data
from pyddl.comm.transport import Alone
from pyddl.errors import CheckpointError, DataError, ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models import Autoencoder
from pyddl.train import StopRequest, Trainer, load_run
from pyddl.train.checkpoint import Checkpoints, Saved

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)
TEST = np.random.default_rng(6).random((101, 20), dtype=np.float32)


class StopAfter(Autoencoder):
    """Asks for a stop within a step, as a signal would, on one rank only."""

    def __init__(self, stop, step, rank=0):
        super().__init__(20, hidden=(8, 3))
        self.stop, self.step, self.rank = stop, step, rank

    def gradient(self, parameters, gradients, buffers, batch):
        if batch.step == self.step and self.stop is not None:
            self.stop.requested = True
        return super().gradient(parameters, gradients, buffers, batch)


def train(out, model=None, stop=None, rows=ROWS, **options):
    options = {"batch_size": 50, "epochs": 4, "seed": 4, **options}
    return Trainer(
        model or Autoencoder(20, hidden=(8, 3)), out=None if out is None else str(out), stop=stop, **options
    ).fit(rows, TEST)


def stop_at(out, step, world=None, **options):
    """Train until ``step`` and stop there; only the last rank is asked to."""
    stop = StopRequest()
    mine = world is None or world.rank == world.size - 1
    return train(out, StopAfter(stop if mine else None, step), stop, **options)


@pytest.mark.mpi
@pytest.mark.parametrize("step", [0, 4, 6, 14])  # within epochs and at the end of one
@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "nesterov", "momentum_schedule": "sutskever", "learning_rate": 1e-3, "schedule": "cosine"}],
)
def test_a_resumed_run_is_the_uninterrupted_one(world, shared, step, options):
    whole = train(None, **options)
    first = stop_at(shared / "run", step, world, **options)
    assert first.summary["finished"] is None
    assert len(first.metrics) == (step + 1) // 5
    second = train(shared / "run", resume=True, **options)
    assert np.array_equal(second.parameters, whole.parameters)
    for a, b in zip(second.metrics, whole.metrics, strict=True):
        assert (a["train_loss"], a["test_loss"]) == (b["train_loss"], b["test_loss"])
    if world.rank == 0:
        lines = (shared / "run/metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("reproducible", [False, True])
def test_it_resumes_on_another_number_of_ranks(world, shared, monkeypatch, reproducible):
    if reproducible and world.size == 3:
        pytest.skip("reproducible needs a divisor of 8")
    whole = train(None, reproducible=reproducible)
    stop_at(shared / "run", 7, world, reproducible=reproducible)
    world.transport.barrier()
    if world.rank == 0:  # the second half on one rank alone
        alone = pyddl.comm.World(rank=0, size=1, node=0, nodes=1, node_rank=0, node_size=1, mpi=None, transport=Alone())
        monkeypatch.setattr("pyddl.train.trainer.world", lambda: alone)
        second = train(shared / "run", resume=True, reproducible=reproducible)
        if reproducible:
            assert np.array_equal(second.parameters, whole.parameters)
            assert [m["train_loss"] for m in second.metrics] == [m["train_loss"] for m in whole.metrics]
        else:
            np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=2e-5)
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("reproducible", [False, True])
def test_it_goes_on_with_any_number_of_ranks_in_any_order(world, shared, reproducible):
    from mpi4py import MPI

    counts = [n for n in (2, 1, 3, 4, 1, 4, 2, 3) if n <= world.size and not (reproducible and n == 3)]
    with pyddl.use(MPI.COMM_SELF):
        whole = train(None, epochs=len(counts), reproducible=reproducible)
    for epochs, count in enumerate(counts, 1):
        some = MPI.COMM_WORLD.Split(0 if world.rank < count else MPI.UNDEFINED, world.rank)
        if world.rank < count:
            with pyddl.use(some):
                last = train(shared / "run", epochs=epochs, resume=True, reproducible=reproducible)
            some.Free()
        world.transport.barrier()
    if world.rank == 0:
        assert last.summary["ranks"] == counts[-1]
        for name in ("train_loss", "test_loss"):
            expected, found = ([line[name] for line in result.metrics] for result in (whole, last))
            assert found == expected if reproducible else found == pytest.approx(expected, rel=1e-5)


@pytest.mark.mpi(min_size=2)
def test_replicas_that_differ_are_each_saved(world, shared):
    whole = train(None, strategy="local")
    stop_at(
        shared / "run", 7, world, strategy="local"
    )  # stops at the end of the epoch: local ranks do not speak before
    second = train(shared / "run", resume=True, strategy="local")
    assert np.array_equal(second.parameters, whole.parameters)


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    assert np.array_equal(train(tmp_path / "run", resume=True).parameters, train(None).parameters)


def test_a_finished_run_can_be_lengthened(tmp_path):
    whole = train(None, epochs=4)
    train(tmp_path / "run", epochs=2)
    longer = train(tmp_path / "run", epochs=4, resume=True)
    assert np.array_equal(longer.parameters, whole.parameters)
    again = train(tmp_path / "run", epochs=4, resume=True)
    assert np.array_equal(again.parameters, whole.parameters) and again.summary["finished"]


def test_the_last_two_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"replicas": 1})
    for step in range(1, 7):
        checkpoints.save(Saved({"x": np.full(3, step)}, {"step": step}), Alone(), best=step in (1, 3))
    folder = tmp_path / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {"latest", "best", *(f"step-{step:012d}" for step in (3, 5, 6))}
    assert (folder / "latest").read_text() == "step-000000000006\n" and (
        folder / "best"
    ).read_text() == "step-000000000003\n"
    assert checkpoints.newest(Alone()).tensors["x"][0] == 6


def test_the_best_is_that_of_the_lowest_test_loss(tmp_path):
    result = train(tmp_path / "run", epochs=3)
    best = 1 + int(np.argmin([line["test_loss"] for line in result.metrics]))
    assert (tmp_path / "run/checkpoints/best").read_text() == f"step-{5 * best:012d}\n"


def test_early_stopping_ends_the_run_as_finished(tmp_path):
    result = train(tmp_path / "run", epochs=50, patience=2, optimizer="sgd", learning_rate=1e-12)
    assert result.summary["stopped_early"] and result.summary["finished"]
    assert len(result.metrics) < 50


def damage(path, how):
    state = path / "state.safetensors"
    raw = bytearray(state.read_bytes())
    if how == "flipped byte":
        raw[len(raw) // 2] ^= 1
        state.write_bytes(raw)
    elif how == "truncated":
        state.write_bytes(raw[:-7])
    elif how == "lost":
        state.unlink()
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "garbled manifest":
        (path / "manifest.json").write_text('{"format": 1, "sha256": 3}')
    elif how == "books":
        (path / "books.json").write_text("{}")


@pytest.mark.parametrize("how", ["flipped byte", "truncated", "lost", "no manifest", "garbled manifest", "books"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_loads(tmp_path, caplog, how):
    whole = train(tmp_path / "run")
    newest = tmp_path / "run/checkpoints" / (tmp_path / "run/checkpoints/latest").read_text().strip()
    damage(newest, how)
    second = train(tmp_path / "run", resume=True)
    assert newest.name in caplog.text and "trying the one before" in caplog.text
    assert np.array_equal(second.parameters, whole.parameters)


def test_when_all_are_damaged_nothing_is_loaded(tmp_path):
    train(tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").glob("step-*"):
        damage(path, "truncated")
    with pytest.raises(CheckpointError, match=r"none of the . checkpoints in .* is whole"):
        train(tmp_path / "run", resume=True)


@pytest.mark.parametrize(("change", "message"), [
    ({"batch_size": 51}, "batch_size 50, this one has 51"),
    ({"seed": 9}, "seed 4, this one has 9"),
    ({"optimizer": "sgd"}, "optimizer 'adam', this one has 'sgd'"),
    ({"rows": ROWS[:100]}, "rows 203, this one has 100"),
    ({"rows": ROWS[::-1].copy()}, r"fingerprint of the data \d+, this one has \d+"),
    ({"model": Autoencoder(20, hidden=(9, 3))}, "of another model: parameters.encoder.0.weight should have shape"),
    ({"model": Autoencoder(20, hidden=(8, 3), loss="mse")}, "loss 'bce', this one has 'mse'"),
    ({"model": Autoencoder(20, hidden=(8, 3), activation="tanh")}, "activation 'relu', this one has 'tanh'"),
    ({"model": Buffered()}, "model 'autoencoder', this one has 'Buffered'"),
])
def test_a_checkpoint_of_another_run_is_refused_and_the_run_is_left_as_it_was(tmp_path, change, message):
    trained = train(tmp_path / "run", epochs=1)

    def content():
        return {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    before = content()
    with pytest.raises(DataError, match=message):
        train(tmp_path / "run", **{"resume": True, **change})
    assert content() == before
    assert np.array_equal(load_run(tmp_path / "run").parameters, trained.parameters)


def test_a_checkpoint_of_an_earlier_version_is_refused_for_that(tmp_path, caplog):
    train(tmp_path / "run")
    for file in (tmp_path / "run/checkpoints").glob("step-*/manifest.json"):
        manifest = json.loads(file.read_text())
        assert manifest["format"] == 2
        file.write_text(json.dumps({**manifest, "format": 1, "about": {"model": "autoencoder"}}))
    before = (tmp_path / "run/metrics.jsonl").read_text()
    with pytest.raises(DataError, match=r"step-\d+ is of format 1, which an earlier version of pyddl wrote; this one "
                                        "reads format 2: go on with that version, or start without resume"):
        train(tmp_path / "run", epochs=6, resume=True)
    assert (tmp_path / "run/metrics.jsonl").read_text() == before and not caplog.records
    file.write_text(json.dumps({**manifest, "format": 3}))
    with pytest.raises(DataError, match="format 1"):  # one of a later version is no help
        train(tmp_path / "run", epochs=6, resume=True)


def test_a_checkpoint_of_a_user_s_model_with_other_tensors_is_refused(tmp_path):
    train(tmp_path / "run", Buffered(), epochs=1)
    other = Buffered()
    other.buffers = Layout([Slice("mean", (3,)), *list(other.buffers)[1:]])
    with pytest.raises(DataError, match=r"of another model: buffers.mean should have shape \(3,\); found shape \(2,\)"):
        train(tmp_path / "run", other, resume=True)


def test_data_may_be_stored_otherwise_when_a_run_goes_on(tmp_path):
    whole = train(None)
    train(tmp_path / "run", epochs=2)
    np.save(tmp_path / "rows.npy", ROWS.astype(np.float64))
    moved = data.load(tmp_path / "rows.npy")
    assert np.array_equal(train(tmp_path / "run", rows=moved, resume=True).parameters, whole.parameters)


def test_an_unfinished_checkpoint_is_never_seen(tmp_path):
    folder = tmp_path / "run/checkpoints"
    whole = train(tmp_path / "run")
    shutil.copytree(folder / (folder / "latest").read_text().strip(), folder / ".step-000000000099.part")
    assert np.array_equal(train(tmp_path / "run", resume=True).parameters, whole.parameters)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device", "state.safetensors")

    checkpoints = Checkpoints(tmp_path, {"replicas": 1})
    books = {"step": 1}
    checkpoints.save(Saved({"x": np.ones(3)}, books), Alone())
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(
        CheckpointError, match=r"cannot write the checkpoint .*step-000000000002: No space left on device"
    ):
        checkpoints.save(Saved({"x": np.ones(3)}, {"step": 2}), Alone())
    assert checkpoints.newest(Alone()).books == books


def test_signals_ask_for_a_stop_and_the_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGUSR1)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.requested and not stop.agreed
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR1) is before


HOLD = """
import sys
from pyddl.errors import ParameterError
from pyddl.train.run import RunDirectory
try:
    directory = RunDirectory(sys.argv[1], resume=True)
except ParameterError as refused:
    print(refused)
else:
    print("has it", flush=True)
    sys.stdin.read()
"""


def test_two_trainings_do_not_write_to_one_run_directory_at_once(tmp_path):
    def hold():
        return subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)

    whole = train(tmp_path / "run", epochs=2)
    with hold() as other:  # a training that has ended holds nothing any more
        assert other.stdout.readline() == "has it\n"
        with hold() as third:
            assert third.communicate()[0].startswith(f"another training is writing to {tmp_path / 'run'}: let it end")
        with pytest.raises(ParameterError, match="another training is writing to"):
            train(tmp_path / "run", resume=True)
        other.kill()  # nor does one that was killed
    assert np.array_equal(train(tmp_path / "run", epochs=2, resume=True).parameters, whole.parameters)


def test_overwrite_forgets_the_checkpoints(tmp_path):
    train(tmp_path / "run")
    train(tmp_path / "run", overwrite=True, epochs=1)
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 1
    with pytest.raises(ParameterError, match="say resume to go on"):
        train(tmp_path / "run")


def test_a_signal_that_comes_as_the_process_ends_kills_it_no_more():
    code = """if True:
        import os
        from pyddl.train.stop import StopRequest
        StopRequest().for_good()
        class Last:
            def __del__(self, kill=os.kill, me=os.getpid()):  # when Python has given its handlers back
                kill(me, 10)
        last = Last()
    """
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=100).returncode == 0
