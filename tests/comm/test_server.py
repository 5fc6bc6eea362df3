"""The parameter server's ends: pushes, versions, tickets, on a node and by messages; workers and servers that die."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import support
from support import assert_on_all_ranks

from pyddl.comm import server as module
from pyddl.comm.cut import shares
from pyddl.comm.operations import Arrived, Left
from pyddl.comm.server import ServerPort, serve
from pyddl.errors import ParameterError, ShapeError


@pytest.fixture(params=[1, 2])
def servers(request, world):
    if world.size <= request.param:
        pytest.skip(f"{request.param} servers need a rank more")
    return request.param


def per_server(version, servers):
    return version if isinstance(version, tuple) else (version,) * servers


def pushes(server):
    """What a server receives to the end of the epoch, but for the news that workers have finished it."""
    finished = []
    while (event := server.receive()) is not None:
        if isinstance(event, Left):
            assert event.why == ""
            finished.append(event.worker)
        else:
            assert event.worker not in finished
            yield event
    assert sorted(finished) == list(range(server.workers))


# ---- pushes, versions, tickets: the same whatever carries the bytes --------------------------------------------------


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("size", [1, 40, 5000])
def test_every_ticket_is_given_once_and_its_push_arrives_once(world, servers, size):
    """Two epochs. A push carries its ticket, and says how many its worker made before."""
    seen = []
    with serve(world, world.transport, servers=servers, size=size) as end:
        for tickets in (37, 0, 5):
            arrived = []
            if isinstance(end, ServerPort):
                end.begin_epoch(tickets)
                for event in pushes(end):
                    same = event.vector.size == 0 or (event.vector == event.vector[0]).all()
                    assert event.vector.size == end.cut.lengths[end.number]
                    assert same and not event.vector.flags.writeable
                    arrived.append((event.worker, event.clock, event.samples, event.version))
                    if event.vector.size:
                        assert event.vector[0] == event.samples
                if end.number == 0:
                    assert end.claimed == tickets
            else:
                vector = np.empty(size, np.float32)
                while (ticket := end.claim()) is not None:
                    vector[:] = ticket
                    end.push(vector, ticket, tuple(100 * s + ticket for s in range(servers)))
                end.finish()
            for number, found in enumerate(world.transport.gather_objects(arrived)[:servers]):
                assert sorted(samples for _, _, samples, _ in found) == list(range(tickets))
                assert all(version == 100 * number + samples for *_, samples, version in found)
            seen += arrived
    for worker in range(world.size - servers):
        assert [clock for who, clock, *_ in seen if who == worker] == list(range(sum(e[0] == worker for e in seen)))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("size", [16, 30_000])
def test_a_fetched_share_is_one_version(world, servers, size):
    """One writer, the other ranks read: every version is filled with its number, every copy is looked at whole."""
    fetches = 200
    with serve(world, world.transport, servers=servers, size=size) as end:
        if isinstance(end, ServerPort):
            end.begin_epoch()
            end.free()[:] = 0
            version = end.publish(0)
            for event in pushes(end):
                for _ in range(3):  # more versions than readers can follow
                    fresh = end.free()
                    assert fresh is not end.current()
                    np.add(end.current(), 1, out=fresh)
                    version = end.publish(version + 1)
                assert (end.current() == version).all(), event
            assert version == 3 * fetches * (world.size - servers)
        else:
            bounds = shares(size, servers)
            out, gradient, before = np.empty(size, np.float32), np.zeros(size, np.float32), (-1,) * servers
            for _ in range(fetches):
                versions = per_server(end.fetch(out), servers)
                for s, version in enumerate(versions):
                    part = out[bounds[s] : bounds[s + 1]]
                    assert (part == version).all(), f"version {version} holds {np.unique(part)}"
                    assert version >= before[s]
                before = versions
                end.push(gradient, 1, before if servers > 1 else before[0])
            end.finish()
        world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_a_fetch_waits_for_its_progress(world, servers):
    """Each worker's push says what it will wait for; the server publishes when all have pushed."""
    workers = world.size - servers
    with serve(world, world.transport, servers=servers, size=64) as end:
        if isinstance(end, ServerPort):
            end.begin_epoch()
            end.free()[:] = 7
            assert end.publish(3) == 0
            for _ in range(workers):
                assert isinstance(end.receive(), Arrived)
            assert end.publish(4) == 0  # the progress alone
            for _ in range(workers):
                assert end.receive().version == 0
            end.free()[:] = 8
            assert end.publish(9) == 1
            assert not list(pushes(end))
        else:
            out = np.zeros(64, np.float32)
            assert set(per_server(end.fetch(out, 3), servers)) == {0}
            assert (out == 7).all()
            end.push(out, 0, 0)
            assert set(per_server(end.fetch(out, 4), servers)) == {0}
            end.push(out, 0, 0)
            assert set(per_server(end.fetch(out, 8), servers)) == {1}
            assert (out == 8).all()
            end.finish()
        world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_a_worker_is_two_pushes_ahead_at_most(world):
    """It claims a ticket after each push. While the server reads one, only the other slot can have been filled."""
    with serve(world, world.transport, servers=1, size=1000) as end:
        if isinstance(end, ServerPort):
            end.begin_epoch(10**6)
            for received, event in enumerate(pushes(end), 1):
                assert end.claimed <= received - 1 + 2 * (world.size - 1), event
        else:
            for _ in range(30):
                end.push(np.zeros(1000, np.float32), 1, 0)
                assert end.claim() is not None
            end.finish()
        world.transport.barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("by_server", [False, True])
def test_no_tickets_are_given_after_somebody_closed_them(world, by_server):
    with serve(world, world.transport, servers=1, size=10) as end:
        if isinstance(end, ServerPort):
            end.begin_epoch(10**9)
            total = 0
            for event in pushes(end):
                total += event.samples
                if by_server:
                    end.close_tickets()
            assert end.claimed == total
        else:
            claimed = 0
            while end.claim() is not None:
                claimed += 1
                if claimed == 20 and not by_server:
                    end.close_tickets()
                if claimed == 1:  # one push, which lets the server close them
                    end.push(np.zeros(10, np.float32), 0, 0)
            end.push(np.zeros(10, np.float32), claimed, 0)
            end.finish()
        world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_vectors_of_a_wrong_kind_are_refused_before_anything_travels(world):
    with serve(world, world.transport, servers=1, size=10) as end:
        if isinstance(end, ServerPort):
            with pytest.raises(ValueError, match="read-only"):
                end.current()[:] = 1
        else:
            for wrong in (np.zeros(9, np.float32), np.zeros(10), np.zeros((10, 1), np.float32),
                          np.zeros(20, np.float32)[::2]):
                with pytest.raises(ShapeError, match="float32 vector of 10 elements"):
                    end.push(wrong, 1, 0)
                with pytest.raises(ShapeError, match="out has shape"):
                    end.fetch(wrong)
        world.transport.barrier()


@pytest.mark.mpi
def test_a_server_without_a_worker_is_refused(world):
    for servers in (0, -1, world.size, world.size + 1):
        with pytest.raises(ParameterError, match=rf"servers is {servers} on {world.size} rank.*start more ranks"):
            serve(world, world.transport, servers=servers, size=10)


@pytest.mark.mpi(min_size=2)
def test_large_vectors_travel_in_chunks(world, servers, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1000)
    size = 10_017
    with serve(world, world.transport, servers=servers, size=size) as end:
        if isinstance(end, ServerPort):
            end.begin_epoch()
            end.free()[:] = end.cut.part(end.number, np.arange(size))
            end.publish()
            for event in pushes(end):
                assert (event.vector == 2 * end.cut.part(end.number, np.arange(size))).all()
        else:
            out = np.zeros(size, np.float32)
            end.fetch(out)
            assert (out == np.arange(size)).all()
            end.push(2 * out, 1, (0,) * servers)
            assert end.bytes_sent == 4 * size
            end.finish()
        world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_nothing_is_left_in_dev_shm_while_the_service_lives(world):
    with serve(world, world.transport, servers=1, size=1000):
        mine = [name.name for name in Path("/dev/shm").glob(f"pyddl-{os.getpid()}-*")]
        assert_on_all_ranks(world, not mine, mine)


@pytest.mark.parametrize(("ranks", "setting"), [(3, "PYDDL_RANKS_PER_NODE=1"), (3, "PYDDL_RANKS_PER_NODE=2"),
                                                (4, "PYDDL_RANKS_PER_NODE=3"), (2, "PYDDL_SHARED_MEMORY=0")])
def test_the_same_by_messages(ranks, setting):
    name, value = setting.split("=")
    done = support.run_ranks(ranks, [sys.executable, "-m", "pytest", "-q", "--only-mpi", "-x", str(Path(__file__))],
                             environ={name: value}, timeout=100)
    assert done.code == 0, done.out + done.err
    assert re.search(r"\d\d passed", done.out), done.out


def test_messages_where_shared_memory_is_refused(mpirun):
    done = mpirun(2, """
        import logging, numpy as np, pyddl
        from pyddl.comm import server, shared
        logging.basicConfig(format="%(message)s")
        world = pyddl.world()
        shared.memory_available = lambda: 1000
        with server.serve(world, world.transport, servers=1, size=1000) as end:
            if world.rank:
                end.push(np.ones(1000, np.float32), 1, 0)
                end.finish()
            else:
                end.begin_epoch()
                print(end.receive().vector.sum(), end.receive(), end.receive())
    """)
    assert done.code == 0, done.err
    assert "1000.0 Left(worker=0, why='') None" in done.out
    assert done.err.count("parameter server: no shared memory (node 0: ") == 1, done.err


# ---- deaths, ends, signals ------------------------------------------------------------------------------------------

TRAIN = """
    import os, pathlib, sys, time, numpy as np, pyddl
    from pyddl.comm.operations import Left
    from pyddl.comm.server import serve
    victim, size = int(sys.argv[1]), int(sys.argv[2])
    dying = pathlib.Path(__file__).with_name("dying")
    world = pyddl.world()
    end = serve(world, world.transport, servers=1, size=size)
    x = np.zeros(size, np.float32)
    began = time.monotonic()
    print(f"<{os.getpid()}>", flush=True)
    try:
        if world.rank == 0:
            end.free()[:] = 0
            end.publish()
            end.begin_epoch(300)
            pushes = 0
            while (event := end.receive()) is not None:
                if isinstance(event, Left):
                    if event.why:
                        print(f"left: {event.worker}: {event.why}", flush=True)
                    continue
                pushes += 1
                if pushes == 50 and victim == 0:
                    os.kill(os.getpid(), 9)
                np.add(end.current(), 1, out=end.free())
                end.publish(pushes)
            print(f"server: {pushes} pushes, {end.claimed} claimed", flush=True)
            for _ in range(20):  # until the answer has gone out
                end.publish(10**9)
                time.sleep(0.02)
        else:
            done = 0
            while end.claim() is not None:
                end.push(x, 1, end.fetch(x))
                done += 1
                if done == 10 and world.rank == victim:
                    dying.touch()
                    os.kill(os.getpid(), 9)
                while done == 100 and victim == 2 and not dying.exists():  # leave the victim enough to die of
                    time.sleep(0.001)
            end.finish()
            print(f"worker {end.number}: {done} pushes", flush=True)
            end.fetch(x, 10**9)  # who leaves while MPI learns of a death may keep it from the others
    except pyddl.errors.PeerLost as error:
        print(f"lost: {error}", flush=True)
        assert time.monotonic() - began < 60
    os._exit(0)  # the others may be gone: nothing collective
"""


@pytest.mark.parametrize("per_node", ["3", "2", "1"])
@pytest.mark.parametrize("size", [10, 200_000])
def test_the_server_learns_that_a_worker_has_died_and_the_others_go_on(mpirun, per_node, size):
    support.outliving()
    done = mpirun(3, TRAIN, "2", str(size), outlive=True, environ={"PYDDL_RANKS_PER_NODE": per_node})
    assert len(re.findall(r"left: 1: worker 1 \(rank 2\) died", done.out)) == 1, done
    pushes = int(re.search(r"server: (\d+) pushes, 300 claimed", done.out)[1])
    assert "worker 0: 290 pushes" in done.out
    assert 290 + 8 <= pushes <= 300, "all but what the dead one had on the way"
    assert not [name for name in Path("/dev/shm").glob("pyddl-*") if f"<{name.name.split('-')[1]}>" in done.out]


@pytest.mark.parametrize("per_node", ["3", "2", "1"])
def test_workers_learn_that_their_server_has_died(mpirun, per_node):
    support.outliving()
    done = mpirun(3, TRAIN, "0", "1000", outlive=True, environ={"PYDDL_RANKS_PER_NODE": per_node})
    for worker in (0, 1):
        assert re.search(rf"lost: server 0 \(rank 0\) died.*, while worker {worker} waits for it", done.out), done


@pytest.mark.parametrize("environ", [{}, {"PYDDL_RANKS_PER_NODE": "1"}])
@pytest.mark.parametrize("waiting", ["end.fetch(x, 5)", "end.claim()", "[end.push(x, 1, 0) for _ in range(3)]"])
def test_a_worker_that_waits_for_a_server_that_has_ended_gets_an_error(mpirun, waiting, environ):
    done = mpirun(2, f"""
        import numpy as np, pyddl
        from pyddl.comm.server import serve
        world = pyddl.world()
        end = serve(world, world.transport, servers=1, size=10)
        x = np.zeros(10, np.float32)
        if world.rank:
            try:
                {waiting}
            except pyddl.errors.PeerLost as error:
                print(error)
        end.close()
    """, environ=environ)
    assert done.code == 0, done.err
    assert "server 0 (rank 0) has ended, while worker 0 waits for it" in done.out, done


@pytest.mark.parametrize("environ", [{}, {"PYDDL_RANKS_PER_NODE": "1"}])
@pytest.mark.parametrize("waits", ["end.receive()", "end.fetch(x, 5)", "end.claim()"])
def test_signals_are_handled_while_waiting(mpirun, waits, environ):
    """A handler that returns changes nothing; one that raises ends the wait."""
    done = mpirun(2, f"""
        import os, signal, numpy as np, pyddl
        from pyddl.comm.server import serve
        world = pyddl.world()
        end = serve(world, world.transport, servers=1, size=10)
        x = np.zeros(10, np.float32)
        if world.rank == (0 if "receive" in {waits!r} else 1):
            if world.rank == 0:
                end.begin_epoch()
            seen = []
            def handler(number, frame):
                seen.append(number)
                if len(seen) == 3:
                    raise KeyboardInterrupt
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
            try:
                {waits}
            except KeyboardInterrupt:
                print("handled", len(seen), flush=True)
            os._exit(0)
        signal.pause()
    """, environ=environ)
    assert "handled 3" in done.out, done
