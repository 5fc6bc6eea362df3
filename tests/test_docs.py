"""The pages in docs/: links lead somewhere, options, variables and strategies exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyddl import models, options, strategies
from pyddl.tune.search import OPTIONS as SEARCH

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OF_MODELS = sorted((ROOT / "docs/models").glob("*.md"))
FOREIGN = {"--map-by", "--oversubscribe", "--bind-to", "--no-binary", "--no-build-isolation", "--config-settings",
           "--mpi", "--cpus-per-task", "--signal", "--nodes", "--partition", "--account", "--shm-size", "--cpus",
           "--help", "--size", "--with-ft", "--outlive", "--config", "--measure", "--likelihood", "--count", "--clock",
           "--width", "--quality", "--classifier", "--modes", "--deviation", "--label", "--part",
           "--dry-run", "--ranks-per-trial", "--only", "--collect", "--array"}


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.stem)
def page(request):
    return request.param


def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], target


def test_options_exist(page):
    flags = {option.flag for option in options.TABLE} | {also for option in options.TABLE for also in option.also}
    flags |= {option.flag for option in SEARCH}
    flags |= {f"--no-{option.flag[2:]}" for option in options.TABLE if option.default is True}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text(encoding="utf-8"))) <= flags | FOREIGN


def test_variables_of_ours_are_read_somewhere(page):
    for name in set(re.findall(r"\bPYDDL_[A-Z_]+", page.read_text(encoding="utf-8"))):
        assert subprocess.run(["grep", "-rqw", name, "pyddl", "slurm"], cwd=ROOT).returncode == 0, name


def programs_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def run(program, folder):
    """Import it as a module of its own, which may use the examples; what it prints."""
    (folder / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "-c", "import program"], cwd=folder, capture_output=True, text=True,
                          check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "examples")})
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", [pytest.param(text, id=f"{page.stem}{number}") for page in OF_MODELS
                                     for number, text in enumerate(programs_of(page))])
def test_programs_in_the_pages_of_models_run(program, tmp_path):
    if "import torch" in program or "from torch" in program:
        pytest.importorskip("torch")
    assert "False" not in run(program, tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OF_MODELS and programs_of(page)],
                         ids=lambda page: page.stem)
def test_programs_in_the_other_pages_run_one_after_another(page, tmp_path):
    run("\n".join(programs_of(page)), tmp_path)


def test_the_page_of_own_strategies_shows_the_example_and_what_it_prints(tmp_path):
    page = ROOT / "docs/own_strategies.md"
    of_strategy, _, simulated = programs_of(page)
    begin, end = "class Doubling", "def main("
    assert of_strategy.partition(begin)[2].strip() == (ROOT / "examples/doubling.py").read_text(
        encoding="utf-8").partition(begin)[2].partition(end)[0].strip()
    for line in run(simulated, tmp_path).splitlines():
        assert f"    {line}\n" in page.read_text(encoding="utf-8")


def test_commands_in_the_pages_of_models_are_taken():
    """Each option by the model that it is given to."""
    page = "\n".join(each.read_text(encoding="utf-8") for each in OF_MODELS).replace("\\\n", " ")
    commands = re.findall(r"^(?:\$ |    )pyddl train (\w+) (.*)$", page, re.M)
    assert {model for model, _ in commands} == set(models.TABLE)
    for model, text in commands:
        words = text.split()
        for flag, value in zip(words[::2], words[1::2], strict=True):
            option = next(each for each in options.TABLE if flag in (each.flag, *each.also))
            assert options.stranger(option.name, model=model) is None
            option.check({"int": int, "float": float}.get(option.kind, str)(value))


def test_every_strategy_is_described():
    text = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")
    described = re.findall(r"^## ([a-z]\w*)$", text, re.MULTILINE)  # capitals head other matters
    assert set(described) == set(strategies.NAMES)
