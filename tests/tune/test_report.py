"""What is seen of a search: lines and tables while it runs, the table, file and pictures at its end."""

import csv
import json
import re

import pytest
from matplotlib import image

from pyddl.tune import Search, Space, Study
from pyddl.tune.desk import folder_of
from pyddl.tune.parameter import Parameter
from pyddl.tune.plots import draw_curves, draw_parameters, draw_trials
from pyddl.tune.report import draw, table, write_csv
from pyddl.tune.table import LiveTable, PlainTable, Table, said

SAID = {"learning_rate": {"low": 1e-4, "high": 1, "log": True}, "hidden": [[16], [16, 8]],
        "warmup": {"low": 0, "high": 9}, "weight_decay": {"low": 0, "high": 1, "when": {"hidden": [[16]]}}}


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)


def study_in(folder, **search):
    return Study(folder, Space({"model": "autoencoder", "epochs": 3}, SAID), Search(sampler="random", **search))


def searched(folder, trials=12, **search):
    """A search of which every third trial has failed and every third was ended early; with metrics of its trials."""
    study = study_in(folder, trials=trials, pruner="none", **search)
    while (trial := study.ask()) is not None:
        state = ("complete", "pruned", "failed")[trial.number % 3]
        epochs, values = {"complete": 3, "pruned": 2, "failed": 1}[state], []
        run = folder_of(folder, trial.number)
        run.mkdir(parents=True)
        with open(run / "metrics.jsonl", "w") as file:
            for epoch in range(1, epochs + 1):
                values.append(10 + trial.given["learning_rate"] + 1 / epoch)
                study.report(trial.number, epoch, values[-1])
                file.write(json.dumps({"epoch": epoch, "train_loss": 1.0, "test_loss": values[-1]}) + "\n")
            file.write('{"epoch": ')  # it died here
        study.tell(trial.number, state, values[-1], "diverged" if state == "failed" else None, seconds=1.5)
    return study


def test_a_table_of_the_best(tmp_path):
    study = searched(tmp_path)
    lines = table(study.rows(), study.search).splitlines()
    assert re.split("  +", lines[0].strip()) == ["trial", "test_loss", "hidden", "learning_rate", "warmup",
                                                 "weight_decay"]
    found = [line.split() for line in lines[1:-1]]
    assert {int(number) for number, *_ in found} == {0, 3, 6, 9}
    assert [float(value) for _, value, *_ in found] == sorted(float(value) for _, value, *_ in found)
    best = study.best()
    assert int(found[0][0]) == best["number"] and f"{best['value']:.4f}" == found[0][1]
    assert lines[-1] == "12 trials: 4 complete, 4 pruned, 4 failed"
    assert table([], study.search) == "no trial is complete\n0 trials: none begun"


def test_a_file_of_all_trials(tmp_path):
    study = searched(tmp_path)
    write_csv(tmp_path / "trials.csv", study.rows())
    with open(tmp_path / "trials.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    for line, row in zip(lines, study.rows(), strict=True):
        assert (int(line["number"]), line["state"], float(line["value"]), int(line["epochs"]), line["why"] or None) == (
            row["number"], row["state"], row["value"], row["epochs"], row["why"])
        assert float(line["learning_rate"]) == row["given"]["learning_rate"]
        assert line["hidden"] == ",".join(map(str, row["given"]["hidden"]))
        assert (line["weight_decay"] == "") == ("weight_decay" not in row["given"])


def test_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://nowhere")
    drawn, notes = draw(tmp_path, searched(tmp_path, trials=21))
    assert [path.name for path in drawn] == ["trials.png", "parameters.png", "curves.png", "importances.png"]
    assert notes == ["importances are of 14 trials after epoch 2: rough"]
    for path in drawn:
        picture = image.imread(path)
        assert picture.shape[0] > 100 and len({tuple(each) for each in picture[::3, ::3, :3].reshape(-1, 3)}) > 5


def test_the_pictures_of_one_trial_have_whole_numbers(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    ticks = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: ticks.append((path.name, figure.axes[0])))
    row = {"number": 0, "state": "complete", "value": 2.0}
    draw_trials(tmp_path / "trials.png", [row], Search(), "test_loss")
    draw_curves(tmp_path / "curves.png", [row], {0: [(1, 2.0)]}, Search(), "test_loss")
    assert [name for name, _ in ticks] == ["trials.png", "curves.png"]
    for name, axis in ticks:
        assert all(float(tick).is_integer() for tick in axis.get_xticks()), name


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_a_value_far_away_does_not_squeeze_the_others(tmp_path, monkeypatch, direction, sign):
    from matplotlib.figure import Figure

    found = {}

    def keep(figure, path, **_):
        texts = [text.get_text() for legend in (figure.axes[0].get_legend(), *figure.legends) if legend is not None
                 for text in legend.get_texts()]
        found[path.name] = figure.axes[0].get_ylim(), texts

    monkeypatch.setattr(Figure, "savefig", keep)
    search, parameter = Search(direction=direction), Parameter("warmup", "int", 0, 9)
    rows = [{"number": number, "state": "pruned" if number == 5 else "complete", "given": {"warmup": number},
             "value": sign * (1e6 if number == 5 else 14 + number / 10)} for number in range(9)]
    curves = {row["number"]: [(1, row["value"]), (2, row["value"])] for row in rows}
    draw_trials(tmp_path / "trials.png", rows, search, "test_loss")
    draw_parameters(tmp_path / "parameters.png", rows, [parameter], None, search, "test_loss")
    draw_curves(tmp_path / "curves.png", rows, curves, search, "test_loss")
    for name, shown in (("trials", "1 beyond"), ("parameters", "1 beyond"), ("curves", "1 leave the picture")):
        (low, high), texts = found[f"{name}.png"]
        assert low > -15.5 and high < 15.5 and high - low < 2 and shown in texts, name
    draw_trials(tmp_path / "trials.png", [row for row in rows if row["number"] != 5], search, "test_loss")
    assert found["trials.png"][1] == ["complete", "best so far"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    drawn, notes = draw(tmp_path, searched(tmp_path, trials=4))
    assert "importances.png" not in [path.name for path in drawn] and len(notes) == 1 and "ten trials" in notes[0]
    assert draw(tmp_path / "none", study_in(tmp_path / "none")) == (
        [], ["no picture: no trial has come to the end of an epoch"])


def go_through(shown, study):
    """Two trials at once, and two after them: one complete, one failed, one the best, one stopped."""
    shown.begin("a search")
    first, second = study.ask(), study.ask()
    shown.started(first.number, first.given, [0])
    shown.started(second.number, second.given, [1, 2])
    for epoch in (1, 2, 3):
        shown.epoch(first.number, epoch, 5.0 - epoch)
    shown.epoch(second.number, 1, None)
    shown.ended(first.number, "complete", 2.0, "")
    shown.note("rank 2 has died")
    shown.ended(second.number, "failed", None, "rank 2 died")
    third, fourth = study.ask(), study.ask()
    shown.started(third.number, third.given, [0])
    shown.started(fourth.number, fourth.given, [1])
    shown.epoch(third.number, 3, 1.0)
    shown.ended(third.number, "complete", 1.0, "")
    shown.ended(fourth.number, "stopped", None, "")
    shown.end()


def test_lines_in_a_log(tmp_path, capsys):
    study = study_in(tmp_path, trials=6)
    go_through(PlainTable(study), study)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a search"
    assert re.fullmatch(r"trial 0: complete  test_loss 2\.0000  epoch 3/3  hidden 16(,8)?, .*", lines[1])
    assert re.fullmatch(r"  the best of 1 of 6 trials, 1 complete, about \d+:\d\d left", lines[2])
    assert lines[3] == "rank 2 has died"
    assert lines[4].startswith("trial 1: failed, rank 2 died  epoch 1/3  hidden ")
    assert lines[5].startswith("trial 2: complete  test_loss 1.0000  epoch 3/3")
    assert lines[6].startswith("  the best of 3 of 6 trials, 2 complete, 1 failed, ")
    assert lines[7].startswith("trial 3: stopped  epoch 0/3") and len(lines) == 8


def test_a_table_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    study = study_in(tmp_path, trials=6)
    go_through(LiveTable(study), study)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    for words in ("a search", "rank 2 has died", "trial 1 failed: rank 2 died",
                  "trial 0 is the best so far: test_loss 2.0000", "trial 2 is the best so far: test_loss 1.0000",
                  "3 of 6 trials, 2 complete, 1 failed, about ", "0/3", "1,2"):
        assert words in said, words


def test_a_narrow_terminal_cuts_parameters_and_no_values(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "34")
    study = study_in(tmp_path, trials=6)
    go_through(LiveTable(study), study)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out).rpartition("trial  test_loss")[2]
    assert "\n    2     1.0000  best " in drawn and "\n    0     2.0000 " in drawn, drawn


def test_the_time_left_is_at_most_that_of_the_search(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pyddl.tune.table.perf_counter", lambda: now[0])
    for minutes, left in ((None, "1:30:00"), (20, "10:00")):
        study = study_in(tmp_path / f"{minutes}", trials=10, minutes=minutes)
        shown = PlainTable(study)
        shown.begin()
        shown.started(0, {}, [0])
        now[0] += 600
        shown.ended(0, "complete", 1.0, "")
        assert f"1 of 10 trials, 1 complete, about {left} left\n" in capsys.readouterr().out


def test_nothing_is_shown_where_nothing_is_wanted(tmp_path, capsys):
    study = study_in(tmp_path, trials=6)
    go_through(Table(study), study)
    assert capsys.readouterr() == ("", "")


def test_a_search_that_goes_on_knows_the_best_of_before(tmp_path, capsys):
    study = searched(tmp_path, trials=4)
    study.add(1)
    shown = PlainTable(study)
    shown.begin()
    trial = study.ask()
    shown.started(trial.number, trial.given, [0])
    shown.ended(trial.number, "complete", 1e6, "")
    assert "the best of" not in capsys.readouterr().out


def test_values_are_said_as_the_command_line_takes_them():
    for value, text in ((0.00123456, "0.001235"), ((64, 16), "64,16"), ((), "none"), ("adam", "adam"),
                        ({"width": 64, "rate": 0.5}, "width=64,rate=0.5"), ({}, "none")):
        assert said(value) == text
