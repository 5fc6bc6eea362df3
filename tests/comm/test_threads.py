"""Threads per rank, and warnings about cores."""

import pytest

from pyddl.comm import launcher
from pyddl.comm.threads import BLAS_VARIABLES, Placement, default_threads, describe, quota, warnings
from pyddl.errors import ParameterError


def ranks(*masks, threads=1, node=0, quota=None):
    return [Placement(rank, node, "host", tuple(mask), threads, quota) for rank, mask in enumerate(masks)]


@pytest.mark.parametrize(("masks", "expected"), [
    ([[0, 1, 2, 3]], 4),
    ([[0, 1, 2, 3], [0, 1, 2, 3]], 2),
    ([[0, 1], [2, 3]], 2),
    ([[0], [0], [0]], 1),
    ([[0, 1, 2], [0, 1, 2]], 1),
])
def test_threads_are_a_fair_share_of_the_mask(masks, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads(masks, 0) == expected


@pytest.mark.parametrize(("work", "expected"), [(0, 1), (4.9e8, 1), (5e8, 2), (1.4e9, 3), (1e12, 4), (None, 4)])
def test_a_small_step_takes_fewer_threads(work, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads([[0, 1, 2, 3]], 0, work) == expected


def test_omp_num_threads_is_honoured(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7,2")
    assert default_threads([[0]], 0, work=1e6) == 7
    for wrong in ("many", "0", "100000"):
        monkeypatch.setenv("OMP_NUM_THREADS", wrong)
        with pytest.raises(ParameterError, match=f"OMP_NUM_THREADS is '{wrong}'; .* at least 1 and at most 1024"):
            default_threads([[0]], 0)


@pytest.mark.parametrize(("ranks", "quota", "expected"), [(1, None, 8), (1, 2.0, 2), (1, 2.9, 2), (2, 5.0, 2),
                                                          (4, 2.0, 1), (1, 0.5, 1), (2, 64.0, 4)])
def test_ranks_share_their_control_groups_quota(ranks, quota, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads([range(8)] * ranks, 0, quota=quota) == expected
    monkeypatch.setattr(launcher, "cores", lambda: range(8))
    monkeypatch.setattr(launcher, "quota", lambda: quota)
    assert launcher.threads_per_rank(ranks) == expected


@pytest.mark.parametrize(("mine", "files", "expected"), [
    ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),  # in a container, version 2
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
    ("0::/a\n", {"a/cpu.max": "300000 100000\n", "cpu.max": "200000 100000\n"}, 2),
    ("5:memory:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/\n",
     {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 1.5),
    ("4:cpuacct,cpu:/docker/x\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ("4:cpu:/\n0::/a\n", {"cpu/cpu.cfs_quota_us": "-1\n", "unified/a/cpu.max": "100000 50000"}, 2),
    ("0::/a\n", {}, None),
    ("0::/\n", {"cpu.max": "not what is expected"}, None),
    ("neither\n", {"cpu.max": "100000 100000"}, None),
])
def test_quotas_of_control_groups(tmp_path, mine, files, expected):
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "mine").write_text(mine)
    assert quota(tmp_path / "groups", tmp_path / "mine") == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert quota(tmp_path, tmp_path / "missing") is None


def test_one_line_per_node():
    lines = describe(ranks([0, 1, 2, 5], [0, 1, 2, 5], threads=2) + ranks([0], [1], node=1))
    assert lines == ["node 0 (host): 2 ranks, 2 threads each, on 4 cores 0-2,5 (shared)",
                     "node 1 (host): 2 ranks, 1 thread each, on 2 cores 0-1 (bound)"]
    assert describe(ranks(range(8), quota=2.5)) == [
        "node 0 (host): 1 rank, 1 thread each, on 8 cores 0-7, with the time of 2.5"]


@pytest.mark.parametrize(("placements", "words"), [
    (ranks([0, 1], [0, 1], [0, 1]), "3 ranks share 2 cores"),
    (ranks([0, 1], [0, 1], threads=2), "set OMP_NUM_THREADS or --threads to 1"),
    (ranks([0], [0], [1]), "3 ranks share 2 cores"),
    (ranks([0], [0], [1, 2]), "ranks 0 and 1 are bound to the same cores"),
    (ranks([0], [0]), "share 1 core; they will take turns. Cure: start at most 1 rank there"),
    (ranks([0, 1], threads=3), "1 rank with 3 threads in all shares 2 cores"),
    (ranks(range(8), threads=8, quota=2.5), "1 rank with 8 threads in all shares the time of 2.5 of 8 cores, their "
     "control group's quota. Cure: set OMP_NUM_THREADS or --threads to 2"),
    (ranks(range(8), range(8), quota=0.5), "2 ranks share the time of 0.5 of 8 cores, their control group's quota; "
     "they will take turns. Cure: start at most 1 rank there"),
])
def test_crowded_cores_are_warned_of(placements, words):
    assert len(warnings(placements)) == 1 and words in warnings(placements)[0]


@pytest.mark.parametrize("placements", [ranks([0, 1], [0, 1]), ranks([0], [1]), ranks([0, 1], threads=2),
                                        ranks(range(8), range(8), threads=2, quota=4.0), ranks([0], quota=0.5)])
def test_no_warning_without_need(placements):
    assert warnings(placements) == []


@pytest.mark.parametrize("variable", [None, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"])
def test_numpys_products_have_one_thread_on_a_rank_unless_the_user_says_otherwise(mpirun, variable):
    pytest.importorskip("threadpoolctl")
    done = mpirun(2, f"""
        import os
        for name in {BLAS_VARIABLES}:
            os.environ.pop(name, None)  # as under a bare mpirun
        os.environ.update({{{variable!r}: "3"}} if {variable!r} else {{}})
        import numpy as np, pyddl
        from pyddl.comm.threads import numpy_threads
        from threadpoolctl import threadpool_limits
        threadpool_limits(limits=3, user_api="blas")
        pyddl.train.Trainer(pyddl.models.Autoencoder(5, (2,)), epochs=1, batch_size=4).fit(np.zeros((9, 5)))
        print(numpy_threads())
    """)
    assert done.code == 0, done.err
    assert done.out.split() == ["3" if variable else "1"] * 2
