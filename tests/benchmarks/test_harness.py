"""Paired timing, verification, records and peers of the benchmarks."""

import json
import sys

import pytest

from benchmarks import harness
from benchmarks.harness import Peer, Record, Timing

PEER = """
import sys
from benchmarks.peers.line import serve
def fail():
    raise ValueError("no such thing")
rank = int(sys.argv[1])
serve(sys.argv[-1], rank, {"name": "echo"},
      {"add": lambda a, b: a + b + rank, "fail": fail, "end": lambda: sys.exit(3),
       "time": lambda setup, count: count * (rank + 1)})
"""


def echo(processes=1):
    return Peer("echo", [[sys.executable, "-c", PEER, str(rank)] for rank in range(processes)], processes)


def test_a_peer_answers_on_all_its_processes():
    with echo(2) as peer:
        assert peer.about == {"name": "echo"}
        assert peer.call("add", a=1, b=2) == [3, 4]
        assert peer.timer("any")(5) == 10  # the slowest rank's


def test_a_peer_that_fails_says_why_and_goes_on():
    with echo() as peer:
        with pytest.raises(
            RuntimeError, match=r"echo: rank 0 failed within fail:\n(?s:.*)ValueError: no such thing"
        ):
            peer.call("fail")
        assert peer.call("add", a=1, b=1) == [2]


def test_a_peer_that_ends_is_reported():
    with echo() as peer, pytest.raises(RuntimeError, match="rank 0 ended within end"):
        peer.call("end")


def test_a_peer_that_does_not_start_is_reported_with_its_words():
    with pytest.raises(RuntimeError, match=r"0 of 1 processes started(?s:.*)no compiler here"):
        Peer("broken", [[sys.executable, "-c", "raise SystemExit('no compiler here')"]])


def test_competitors_take_turns_for_equal_time():
    calls = []

    def competitor(name, seconds):
        def run(count):
            calls.append(name)
            return count * seconds

        return run

    timings = harness.in_turn(
        {"a": competitor("a", 0.001), "b": competitor("b", 0.004)}, rounds=3, seconds=0.04
    )
    assert timings["a"].rounds == pytest.approx([0.001] * 3)
    assert timings["b"].rounds == pytest.approx([0.004] * 3)
    assert calls[-6:] == ["a", "b", "b", "a", "a", "b"]
    assert harness.speed_up(timings["a"], timings["b"]) == pytest.approx(4)


def test_the_speed_up_is_the_median_of_pairs():
    ours, theirs = Timing([1.0, 10.0, 1.0]), Timing([2.0, 20.0, 9.0])
    assert harness.speed_up(ours, theirs) == 2.0
    assert ours.summary() == {"p50": 1.0, "p95": 10.0, "min": 1.0, "max": 10.0}


@pytest.mark.parametrize("got", [[1.0, 2.1], [1.0], [1.0, float("nan")]])
def test_nothing_is_timed_when_results_differ(got):
    assert harness.verify("equal", [1.0, 2.0], [1.0, 2.00001], 1e-4) == pytest.approx(5e-6)
    with pytest.raises(RuntimeError, match="odd: not timed"):
        harness.verify("odd", [1.0, 2.0], got, 1e-4)


def test_the_first_loss_must_agree_more_closely():
    later = [100.0, 100.05]
    assert harness.verify_losses("later", [100.0, 100.0], later, "float32", 8) == pytest.approx(5e-4)
    with pytest.raises(RuntimeError, match="first step"):
        harness.verify_losses("at once", [100.0, 100.0], later[::-1], "float32", 8)
    assert harness.verify_losses("rounded", [100.0], [102.0], "bfloat16", 8) == pytest.approx(0.02)


def test_a_record_is_json_lines_with_the_header_in_each(tmp_path):
    record = Record("speed", "quick", tmp_path, ranks=2)
    record.add({"pyddl": Timing([1.0, 3.0, 2.0])}, batch=8)
    (line,) = harness.read("speed", "quick", tmp_path)
    assert line == json.loads(record.path.read_text())
    assert {"commit", "cpu", "date", "cores"} < set(line)
    assert (line["ranks"], line["batch"], line["seconds"]["pyddl"]["p50"]) == (2, 8, 2.0)
    assert harness.read("other", "quick", tmp_path) == []
