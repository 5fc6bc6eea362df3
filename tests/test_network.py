"""Several hosts, on a cluster of network namespaces that ../shared/tools/netns-cluster starts where it is there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_runs
import support

from pyddl.comm import launcher
from pyddl.errors import CommError
from pyddl.models import Autoencoder

ROOT = Path(__file__).parent.parent
CLUSTER = Path(os.environ.get("PYDDL_NETNS_CLUSTER", ROOT / "../shared/tools/netns-cluster"))
WIDE = (3000, 4)  # more parameters than a bucket of slices that travel
RATE = 1e-4
TRAIN = [sys.executable, "-m", "pyddl", "train", "autoencoder", "--data", "random:2000x30", "--hidden", "8,3",
         "--batch-size", "50"]


class Hosts:
    """Two hosts with room for two ranks each, joined at 1 Gbit/s and 0.1 ms."""

    def __init__(self, folder):
        self.environ = {**os.environ, "NETNS_CLUSTER_DIR": str(folder)}

    def say(self, *command):
        return subprocess.run([CLUSTER, *command], env=self.environ, capture_output=True, text=True)

    def line(self, ranks, argv):
        """Command and environment that start ranks on the hosts, in turn."""
        line, environ = launcher.command(ranks, argv, threads=1, environ=self.environ)
        return [str(CLUSTER), "run", *line], environ

    def start(self, ranks, argv, log):
        line, environ = self.line(ranks, argv)
        with log.open("w") as out:
            return subprocess.Popen(line, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)


@pytest.fixture
def hosts(tmp_path):
    if not CLUSTER.exists() or os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("needs netns-cluster, root and /dev/net/tun")
    try:
        launcher.find()
    except CommError as error:
        pytest.skip(str(error))
    hosts = Hosts(tmp_path / "cluster")
    started = hosts.say("start", "-n", "2", "-s", "2", "-l", "0.1", "-b", "1000")
    if started.returncode:
        pytest.skip(f"netns-cluster does not start here: {started.stdout}{started.stderr}")
    yield hosts
    hosts.say("stop")


def wait_for(found, process, log, seconds=90):
    until = time.monotonic() + seconds
    while not found():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.1)


SYNCHRONOUS = [{"strategy": "allreduce"}, {"strategy": "allreduce", "shard_optimizer": True}, {"strategy": "split"},
               {"strategy": "allreduce", "split": 2}, {"strategy": "server", "mode": "sync"},
               {"strategy": "server", "mode": "sync", "servers": 2}]
OTHERS = [{"strategy": "averaging", "period": 4, "node_period": 2}, {"strategy": "elastic", "tau": 2},
          {"strategy": "gossip"}, {"strategy": "sequential", "replicas": 3}, {"strategy": "server", "mode": "ssp"},
          {"strategy": "server", "mode": "async"}, {"strategy": "elastic", "mode": "async", "tau": 2}]


def test_strategies_on_two_hosts_end_where_one_process_does(hosts, tmp_path):
    """Those of synchronous meaning to rounding; the others learn."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import json, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import pyddl, small_runs
from pyddl.models import Autoencoder
here = pyddl.world()
assert here.nodes == 2 and here.size == 4
for options in {SYNCHRONOUS + OTHERS}:
    metrics = small_runs.train(model=Autoencoder(20, hidden={WIDE}), learning_rate={RATE}, **options).metrics
    if here.rank == 0:
        print("LOSSES", json.dumps([line["test_loss"] for line in metrics]), flush=True)
""")
    done = support.run(*hosts.line(4, support.python(script)), timeout=100)
    assert done.code == 0, done.out + done.err
    losses = [json.loads(line.split(" ", 1)[1]) for line in done.out.splitlines() if line.startswith("LOSSES")]
    expected = [line["test_loss"] for line in small_runs.train(
        model=Autoencoder(20, hidden=WIDE), learning_rate=RATE).metrics]
    for options, got in zip(SYNCHRONOUS, losses, strict=False):
        assert np.allclose(got, expected, rtol=1e-5), (options, got, expected)
    for options, got in zip(OTHERS, losses[len(SYNCHRONOUS) :], strict=True):
        assert got[-1] < got[0], (options, got)


def test_a_link_that_is_cut_for_a_while_delays_training_only(hosts, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = hosts.start(4, [*TRAIN, "--epochs", "60", "--out", str(run)], log)
    wait_for((run / "metrics.jsonl").exists, process, log)
    hosts.say("cut", "node2")
    time.sleep(1)
    hosts.say("heal", "node2")
    assert process.wait(90) == 0, log.read_text()
    assert json.loads((run / "summary.json").read_text())["finished"] is not None
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 61))


def test_a_host_that_dies_ends_the_run_which_goes_on_elsewhere(hosts, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = hosts.start(4, [*TRAIN, "--epochs", "100000", "--out", str(run)], log)
    wait_for((run / "checkpoints/latest").exists, process, log)
    hosts.say("kill", "node2")
    process.wait(60)  # its status may lie: Open MPI's mpirun ends with 0
    assert json.loads((run / "summary.json").read_text() if (run / "summary.json").exists() else "{}").get(
        "finished") is None
    epochs = len((run / "metrics.jsonl").read_text().splitlines()) + 2
    again = support.run_ranks(2, [*TRAIN, "--epochs", str(epochs), "--out", str(run), "--resume"])
    assert again.code == 0, again.out + again.err
    assert "going on after step" in again.out
    assert json.loads((run / "summary.json").read_text())["finished"] is not None
