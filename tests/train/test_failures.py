"""One rank fails in the middle of training: all end soon, not as a success, and the first traceback names the rank."""

import re
import time

import numpy as np
import pytest

from pyddl.errors import NotFiniteError
from pyddl.models import Autoencoder
from pyddl.train import Trainer

SOON = 30  # seconds from the failure to the end, on a machine that does much else; it takes about one

TRAIN = """
    import ctypes, os, signal, sys, time
    import numpy as np, pyddl
    from pyddl.models import Autoencoder
    from pyddl.train import StopRequest, Trainer

    class Model(Autoencoder):
        def gradient(self, parameters, gradients, buffers, batch):
            if batch.step == 3 and pyddl.world().rank == 1:
                os.write(2, f"failing at {{time.time()}}\\n".encode())
                {failure}
            return super().gradient(parameters, gradients, buffers, batch)

    rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
    with StopRequest() as stop:  # takes SIGTERM, which some launchers send to the others first
        Trainer(Model(20, hidden=(8, 3)), out=sys.argv[1], batch_size=50, epochs=4, stop=stop).fit(rows)
    print("went on")
"""


@pytest.mark.parametrize(("failure", "said"), [
    ("raise ValueError('lost the thread')", "rank 1 of 3: Traceback"),
    ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    ("ctypes.string_at(0)", "rank 1 of 3: Fatal Python error: Segmentation fault"),
    ("os._exit(3)", ""),
    ("sys.exit(0)", "rank 1 of 3: sys.exit(0) while the other ranks go on"),
], ids=["raise", "kill -9", "segmentation fault", "os._exit", "sys.exit"])
def test_one_rank_s_failure_soon_ends_all(mpirun, tmp_path, failure, said):
    done = mpirun(3, TRAIN.format(failure=failure), str(tmp_path / "run"))
    ended = time.time()
    assert done.code not in (0, 75, None), done
    assert "went on" not in done.out
    assert said in done.err, done.err
    assert done.err.count("Traceback") <= 1, done.err
    seconds = ended - float(re.search(r"failing at ([\d.]+)", done.err)[1])
    print(f"all ended {seconds:.2f} s after the failure")
    assert seconds < SOON
    assert not (tmp_path / "run/summary.json").exists()  # nothing says that it finished


def test_a_loss_that_is_no_number_stops_with_step_rank_and_slice(mpirun, tmp_path):
    done = mpirun(2, TRAIN.format(failure="parameters[100] = np.nan"), str(tmp_path / "run"))
    assert re.search(r"NotFiniteError: step 3, rank 1: the loss is nan; the first bad value in parameters is in "
                     r"encoder\.0\.weight", done.err), done.err


@pytest.mark.parametrize("strategy", ["allreduce", "local", "averaging", "gossip", "sequential", "elastic", "server"])
@pytest.mark.mpi(min_size=2)
def test_all_ranks_learn_of_a_loss_that_is_no_number(world, strategy):
    """So that a program can go on after it."""
    class Broken(Autoencoder):
        def gradient(self, parameters, gradients, buffers, batch):
            loss = super().gradient(parameters, gradients, buffers, batch)
            return np.nan if batch.step == 5 and world.rank == 1 else loss

    rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
    with pytest.raises(NotFiniteError, match="rank 1: the loss is nan") as found:
        Trainer(Broken(20, hidden=(8, 3)), strategy=strategy, batch_size=50, epochs=4).fit(rows)
    assert found.value.on_all_ranks
    result = Trainer(Autoencoder(20, hidden=(8, 3)), strategy=strategy, batch_size=50, epochs=1).fit(rows)
    assert result.summary["finished"]
