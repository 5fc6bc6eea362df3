"""Who may import whom: the import lines are the architecture."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
USED_BY_ALL = {"errors", "_check", "_log", "layout", "names", "options", "random"}
MAY_USE = {
    "data": {"_core", "data"},
    "models": {"_core", "models", "data.batch", "data"},
    "optim": {"_core", "optim"},
    "strategies": {"strategies", "comm.operations", "optim"},
    "comm": {"comm", "_core"},
    "train": {"_core", "train", "models", "optim", "strategies", "comm", "data", "__version__"},
    "server": {"server", "comm.abort", "comm.world", "data.sampler", "data.source"},
    "estimators": {"estimators", "train", "models", "data", "comm.world"},
    "cli": {"cli", "train", "models", "optim", "strategies", "comm", "data", "_core", "__version__"},
}
HEAVY = {"sklearn", "matplotlib", "rich", "click", "scipy", "mpi4py", "h5py", "pyarrow", "torch", "safetensors"}
MODULES = sorted((ROOT / "pyddl").rglob("*.py"))


def imports(path, *, at_top_only=False):
    """Names imported by a file: 'pyddl.x.y' for our own, the top package for others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            if node.module == "pyddl":
                yield from (f"pyddl.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may_use(path):
    room = path.relative_to(ROOT / "pyddl").parts[0]
    if room not in MAY_USE:
        return
    for name in imports(path):
        if not name.startswith("pyddl."):
            continue
        ours = name.removeprefix("pyddl.")
        allowed = any(ours == may or ours.startswith(may + ".") for may in USED_BY_ALL | MAY_USE[room])
        assert allowed, f"{path.relative_to(ROOT)} imports {name}; {room} may use {sorted(USED_BY_ALL | MAY_USE[room])}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_heavy_is_imported_before_it_is_used(path):
    if path.relative_to(ROOT / "pyddl").parts[0] == "cli" and path.name != "__init__.py":
        allowed = {"click"}  # the command line needs its own library
    else:
        allowed = set()
    heavy = {name.split(".")[0] for name in imports(path, at_top_only=True)} & HEAVY - allowed
    assert not heavy, (
        f"{path.relative_to(ROOT)} imports {sorted(heavy)} at the top: every rank would pay for it at start"
    )


def includes(path):
    return re.findall(r'#include "([^"]+)"', path.read_text(encoding="utf-8"))


def test_kernels_include_only_kernels_and_know_neither_python_nor_mpi():
    for path in sorted((ROOT / "csrc/kernels").rglob("*.[hc]pp")):
        text = path.read_text(encoding="utf-8")
        assert all(name.startswith("kernels/") for name in includes(path)), path
        assert not re.search(r"#include <(pybind11|Python|mpi)", text), path


def test_network_code_has_no_atomics_and_node_code_no_mpi():
    for path in sorted((ROOT / "csrc/comm/network").rglob("*.[hc]pp")):
        assert not re.search(r"#include <(atomic|Python|pybind11)", path.read_text(encoding="utf-8")), path
    for path in sorted((ROOT / "csrc/comm/node").rglob("*.[hc]pp")):
        assert not re.search(r"#include <(mpi|Python|pybind11)", path.read_text(encoding="utf-8")), path


def test_bindings_hold_no_formulas():
    for path in sorted((ROOT / "csrc/bindings").glob("bind_*.cpp")):
        assert not re.search(
            r"#include <(cmath|numeric)>|#pragma omp|std::(exp|log|sqrt)\b", path.read_text(encoding="utf-8")
        ), path
