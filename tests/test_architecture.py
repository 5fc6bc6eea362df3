"""Who may import whom: the import lines are the architecture."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
USED_BY_ALL = {"errors", "_check", "_log", "_names", "_own", "effects", "layout", "names", "options", "random"}
MAY_USE = {
    "data": {"_core", "data"},
    "models": {"_core", "models", "data.batch", "data"},
    "optim": {"_core", "optim"},
    "strategies": {"strategies", "comm.operations", "optim"},
    "comm": {"comm", "_core"},
    "train": {"_core", "train", "models", "optim", "strategies", "comm", "data", "__version__"},
    "tune": {"_core", "tune", "train", "models", "optim", "strategies", "comm", "data", "__version__"},
    "callbacks": {"callbacks", "comm.abort", "comm.world", "data.sampler", "data.source"},
    "server": {"callbacks"},
    "estimators": {"estimators", "train", "models", "data", "comm.world"},
    "cli": {"cli", "tune", "train", "models", "optim", "strategies", "comm", "data", "_core", "__version__"},
}
# Circles of modules that still stand. This list must become empty.
KNOWN_CIRCLES = []
HEAVY = {"sklearn", "matplotlib", "rich", "click", "scipy", "mpi4py", "h5py", "pyarrow", "torch", "safetensors",
         "optuna"}
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


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(modules):
    """Which module names which, wherever in the file, also for type checkers only; ``modules`` by name: source text.

    A module is a file, a package its ``__init__``. ``from pyddl.x import y`` names the file y where there is one, else
    the package; that Python runs the packages above a module first is no naming. What a module-level ``__getattr__``
    imports counts for nothing: it comes when somebody else asks for it.
    """
    named = {}
    for name, text in modules.items():
        tree, found = ast.parse(text), set()
        lazy = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
        apart = {node for function in lazy for node in ast.walk(function)}
        for node in ast.walk(tree):
            if node in apart:
                continue
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                found |= {full if full in modules else node.module for full in whole.values()}
        named[name] = found & set(modules)
    return named


def circles(named):
    """The sets of modules of which each reaches all others, and those that name themselves."""
    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for name in named[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    reach = {name: reached(name) for name in named}
    found = {frozenset(other for other in reach[name] if name in reach[other]) for name in named}
    return [set(each) for each in found if each]


def test_modules_do_not_import_each_other_in_circles():
    texts = {module_of(path): path.read_text(encoding="utf-8") for path in MODULES}
    compiled = {module_of(path): "" for path in (ROOT / "pyddl").rglob("*.pyi")}
    found = circles(graph({**compiled, **texts}))
    new = [sorted(circle) for circle in found if not any(circle <= known for known in KNOWN_CIRCLES)]
    assert not new, "\n".join(" <-> ".join(circle) for circle in new)


@pytest.mark.parametrize(("files", "expected"), [
    ({"p.a": "import p.b", "p.b": "def f():\n    from p import a", "p": ""}, [{"p.a", "p.b"}]),
    ({"p.a": "import p.b", "p.b": "if TYPE_CHECKING:\n    from p.a import X", "p": ""}, [{"p.a", "p.b"}]),
    ({"p": "from p.a import X", "p.a": "from p import X"}, [{"p", "p.a"}]),
    ({"p": "from p.a import X", "p.a": "from p.b import X", "p.b": ""}, []),
    ({"p": "def __getattr__(name):\n    from p.a import X", "p.a": "from p import X"}, []),
    ({"p.a": "from p.b import c", "p.b": "import p.c", "p.c": "import p.a", "p": ""}, [{"p.a", "p.b", "p.c"}]),
    ({"p.a": "import p.a.b", "p.a.b": "from p.c import d", "p.c": "import numpy", "p": ""}, []),
])
def test_circles_are_found_wherever_the_import_stands(files, expected):
    assert sorted(map(sorted, circles(graph(files)))) == sorted(map(sorted, expected))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_heavy_is_imported_before_it_is_used(path):
    if path.relative_to(ROOT / "pyddl").parts[0] == "cli" and path.name != "__init__.py":
        allowed = {"click"}  # the command line needs its own library
    else:
        allowed = {"torch"} if path.parent.name == "pytorch" else set()  # which only a model of PyTorch loads
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
