"""TensorFlow's ParameterServerStrategy as a peer: a coordinator, a parameter server and asynchronous workers.

The leanest correct setup that TensorFlow has. Keras 3 does not train under this strategy, so the network is plain
matrix products, and the server applies `ResourceApplyAdam`, the fused kernel of the old Keras optimizers. A worker
draws ready batches from its own cached and prefetched `tf.data` pipeline, and the coordinator sends it many steps at a
time, so that no Python runs between them. An operation has one thread in each process. Of threads between operations
one is too few (a step then waits for itself for ever); 2, 3, 4 and 8 were equally fast here.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import tensorflow as tf

from benchmarks.peers.line import CPU, clocked, serve

PACKED = 64  # steps that the coordinator sends at once; 1 took three times as long, 16 and 256 as long
BETWEEN = 4  # threads between operations
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


class Training:
    """Variables and their optimizer state on the parameter server, and steps that workers take."""

    def __init__(self, coordinator: Any, units: list[int], batch: int, rows: str, weights: list[np.ndarray]):
        self.coordinator, self.rows = coordinator, np.load(rows)
        self.code, self.last = (len(units) - 1) // 2 - 1, len(units) - 2
        with coordinator.strategy.scope():
            self.parameters = [tf.Variable(w.T.copy() if w.ndim == 2 else w) for w in weights]
            self.moments = [(tf.Variable(tf.zeros_like(p)), tf.Variable(tf.zeros_like(p))) for p in self.parameters]
            self.powers = [tf.Variable(BETA1), tf.Variable(BETA2)]

        def batches() -> Any:
            header = Path(rows).stat().st_size - self.rows.nbytes
            stored = tf.data.FixedLengthRecordDataset(rows, self.rows.itemsize * units[0], header_bytes=header)
            mixed = stored.shuffle(len(self.rows), reshuffle_each_iteration=False).batch(batch, drop_remainder=True)
            ready = mixed.map(lambda texts: tf.io.decode_raw(texts, tf.float32))
            ready = ready.map(lambda x: tf.ensure_shape(x, (batch, units[0]))).cache().repeat().prefetch(2)
            options = tf.data.Options()
            options.threading.private_threadpool_size = 1
            options.threading.max_intra_op_parallelism = 1
            return ready.with_options(options)

        self._batches = iter(coordinator.create_per_worker_dataset(batches))
        self._steps = tf.function(self._run)

    def losses(self, x: Any) -> Any:
        """Loss of each row: cross-entropy from logits, summed over the features."""
        output = x
        for layer, (weight, bias) in enumerate(zip(self.parameters[::2], self.parameters[1::2], strict=True)):
            output = tf.linalg.matmul(output, weight) + bias
            if layer not in (self.code, self.last):
                output = tf.nn.relu(output)
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=output), axis=1)

    def loss(self) -> float:
        """Mean over all rows, as the server's parameters are now."""
        return float(tf.reduce_mean(self.losses(self.rows)))

    def run(self, steps: int) -> None:
        """Let the workers take ``steps`` steps in all, whoever is free the next ones."""
        while steps > 0:
            now = min(PACKED, steps)
            self.coordinator.schedule(self._steps, args=(self._batches, tf.constant(now)))
            steps -= now
        self.coordinator.join()

    def _run(self, batches: Any, count: Any) -> None:
        for _ in tf.range(count):
            x = next(batches)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.losses(x))
            gradients = tape.gradient(loss, self.parameters)
            for parameter, (m, v), gradient in zip(self.parameters, self.moments, gradients, strict=True):
                with tf.device(parameter.device):
                    tf.raw_ops.ResourceApplyAdam(
                        var=parameter.handle,
                        m=m.handle,
                        v=v.handle,
                        beta1_power=self.powers[0].read_value(),
                        beta2_power=self.powers[1].read_value(),
                        lr=RATE,
                        beta1=BETA1,
                        beta2=BETA2,
                        epsilon=EPSILON,
                        grad=gradient,
                    )
            for power, beta in zip(self.powers, (BETA1, BETA2), strict=True):
                power.assign(power * beta)


class _Peer:
    def __init__(self, workers: int):
        self.workers = workers
        cluster = {"ps": [_free_address()], "worker": [_free_address() for _ in range(workers)]}
        line = [sys.executable, "-m", "benchmarks.peers.tensorflow_server"]
        self._servers = [
            subprocess.Popen([*line, "--job", job, "--task", str(task), json.dumps(cluster)])
            for job, addresses in cluster.items()
            for task in range(len(addresses))
        ]
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster), rpc_layer="grpc"
        )
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(
            tf.distribute.ParameterServerStrategy(resolver)
        )
        self.training: Training

    def prepare(
        self, units: list[int], batch: int, rows: str, weights: str, modes: dict[str, dict[str, Any]]
    ) -> dict[str, int]:
        """Make the training of a case; there is one mode."""
        given = list(np.load(weights).values())
        assert len(given) == 2 * (len(units) - 1)
        assert all(w.shape == (b, a) for w, (a, b) in zip(given[::2], pairwise(units), strict=True))
        self.training = Training(self.coordinator, units, batch, rows, given)
        return {"parameters": sum(w.size for w in given)}

    def loss(self, setup: str) -> float:
        return self.training.loss()

    def train(self, setup: str, count: int) -> None:
        self.training.run(self.workers * count)

    def time(self, setup: str, count: int) -> float:
        """By the processor's clock: of all processes, spread over the cores."""
        before = self._servers_seconds()
        taken = clocked(lambda: self.training.run(self.workers * count), 1)
        if not CPU:
            return taken
        return (taken + self._servers_seconds() - before) / len(os.sched_getaffinity(0))

    def _servers_seconds(self) -> float:
        """Processor time of the cluster's processes so far."""
        ticks = 0
        for server in self._servers:
            fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # in user and in system mode
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        for server in self._servers:
            server.kill()
        for server in self._servers:
            server.wait()


def _free_address() -> str:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{trial.getsockname()[1]}"


def _serve(job: str, task: int, cluster: str) -> None:
    """A worker or parameter server, until it is killed."""
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=BETWEEN)
    spec = tf.train.ClusterSpec(json.loads(cluster))
    tf.distribute.Server(spec, job_name=job, task_index=task, protocol="grpc", config=config).join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job")
    parser.add_argument("--task", type=int)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("address", help="of the driver; of a server of the cluster: the cluster")
    given = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(BETWEEN)
    if given.job is not None:
        _serve(given.job, given.task, given.address)
        return
    peer = _Peer(given.workers)
    try:
        handlers = {name: getattr(peer, name) for name in ("prepare", "loss", "train", "time")}
        serve(given.address, 0, {"tensorflow": tf.__version__}, handlers)
    finally:
        peer.close()


if __name__ == "__main__":
    main()
