"""Ranks that die in the middle of training, while the others go on."""

import json
import re

import pytest
import support
from click.testing import CliRunner
from small_runs import train

from pyddl.cli.app import _commands
from pyddl.comm import launcher
from pyddl.errors import CommError, ParameterError

SCRIPT = """
    import json, os, pathlib, sys, time, numpy as np, pyddl
    from pyddl.data.sampler import Sampler
    from pyddl.models import Autoencoder
    from pyddl.train import Trainer
    from pyddl.train.progress import PlainProgress
    options, victim, out = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rank, dying = pyddl.world().rank, pathlib.Path(__file__).with_name("dying")
    killer = max(victim, 1) if victim >= 0 else None  # a server computes nothing, so a worker kills it
    # So that on a busy machine, too, the killer has its share of an epoch's 7 steps. In ssp it has anyway.
    held = {"async": {1, 2, 3} - {killer}, "sync": {1}, "ssp": set()}[options["mode"]] if killer else ()
    processes = pyddl.world().transport.gather_objects(os.getpid())
    first = np.zeros(1, np.int64)
    Sampler(203, 30, 4).order(5, first)
    class Mortal(Autoencoder):
        seen = 0
        def gradient(self, parameters, gradients, buffers, batch):
            Mortal.seen += 1
            if victim < 0 and batch.step == 5 * 7 and batch.index[0] == first:  # in the last epoch, one of its slices
                os.kill(os.getpid(), 9)
            elif rank == killer and Mortal.seen == 4:
                dying.touch()
                os.kill(processes[victim], 9)
            while rank in held and not dying.exists():
                time.sleep(0.001)
            return super().gradient(parameters, gradients, buffers, batch)
    rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
    test = np.random.default_rng(6).random((101, 20), dtype=np.float32)
    trainer = Trainer(Mortal(20, hidden=(8, 3)), out=out, progress=PlainProgress(), batch_size=30, epochs=6, seed=4,
                      **options)
    try:
        result = trainer.fit(rows, test)
    except pyddl.errors.PeerLost as lost:
        os.write(2, f"lost: {lost}\\n".encode())
        raise
    transport = pyddl.world().transport
    everywhere = transport.gather(result.parameters.astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)
    os.write(1, f"<{transport.rank} of {transport.size}: {len(result.metrics)} epochs>\\n".encode())
"""


def deaths(mpirun, tmp_path, victim, ranks=4, **options):
    support.outliving()
    out = tmp_path / "run"
    done = mpirun(ranks, SCRIPT, json.dumps(options), str(victim), str(out), outlive=True)
    summary = out / "summary.json"
    return done, json.loads(summary.read_text()) if summary.exists() else None


@pytest.mark.parametrize("options", [
    {"strategy": "server", "mode": "async"},
    {"strategy": "server", "mode": "ssp", "bound": 1, "optimizer": "adam"},
    {"strategy": "server", "mode": "async", "servers": 2},
    {"strategy": "server", "mode": "sync", "backup": 1},
    {"strategy": "elastic", "mode": "async", "tau": 2},
], ids=lambda options: "-".join(map(str, options.values())))
def test_the_others_go_on_without_a_worker_that_died(mpirun, tmp_path, options):
    done, summary = deaths(mpirun, tmp_path, 3, on_failure="continue", **options)
    assert sorted(re.findall(r"<(\d) of 3: 6 epochs>", done.out)) == ["0", "1", "2"], done
    assert summary["finished"] and summary["epochs"] == 6 and summary["ranks"] == 3
    (death,) = summary["deaths"]
    assert death["ranks"] == [3] and death["of"] == 4 and 1 <= death["epoch"] <= 6
    assert f"rank 3 died in epoch {death['epoch']}; going on with 3 of 4 ranks" in done.out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    losses = [line["train_loss"] for line in lines]
    assert losses[-1] < losses[0]
    assert max(losses) < 1.5 * losses[0], "an epoch's mean is over the rows whose losses are known"


def test_a_death_in_the_last_epoch_is_outlived_too(mpirun, tmp_path):
    """Nothing follows that epoch but its books, the summary and the model."""
    done, summary = deaths(mpirun, tmp_path, -1, ranks=3, on_failure="continue", strategy="server", mode="async")
    assert done.code == 0 and sorted(re.findall(r"<(\d) of 2: 6 epochs>", done.out)) == ["0", "1"], done
    assert summary["finished"] and [death["epoch"] for death in summary["deaths"]] == [6]


def test_by_messages_too(mpirun, tmp_path):
    support.outliving()
    done = mpirun(3, SCRIPT, json.dumps({"strategy": "server", "mode": "async", "on_failure": "continue"}), "2",
                  str(tmp_path / "run"), outlive=True, environ={"PYDDL_RANKS_PER_NODE": "1"})
    assert sorted(re.findall(r"<(\d) of 2: 6 epochs>", done.out)) == ["0", "1"], done


@pytest.mark.parametrize(("victim", "options", "said"), [
    (0, {"on_failure": "continue"}, "server 0 (rank 0) died"),
    (2, {}, "worker 1 (rank 2) died")])
def test_the_run_ends_where_it_cannot_or_shall_not_go_on(mpirun, tmp_path, victim, options, said):
    """A server's death is seen by its workers; a worker's by its server."""
    support.outliving()
    done = mpirun(3, SCRIPT, json.dumps({"strategy": "server", "mode": "async", **options}), str(victim),
                  str(tmp_path / "run"), outlive=True)
    assert done.code is not None and said in done.err, done
    assert "epochs>" not in done.out
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.mpi(min_size=2)
def test_going_on_is_refused_where_it_has_no_meaning(world):
    for options in ({"strategy": "allreduce"}, {"strategy": "server", "mode": "sync"}):
        with pytest.raises(ParameterError, match="on_failure is continue, but workers of strategy"):
            train(on_failure="continue", **options)
    with pytest.raises(CommError, match="not started to outlive one of them"):
        train(on_failure="continue", strategy="server", mode="async")


def test_the_launcher_is_told(monkeypatch):
    told = {}

    def command(ranks, argv, **options):
        told.update(options)
        raise CommError("enough")

    monkeypatch.setattr(launcher, "command", command)
    line = "train autoencoder --data digits --strategy server --mode async --ranks 3 --on-failure continue"
    CliRunner().invoke(_commands, line.split())
    assert told["outlive"] is True
