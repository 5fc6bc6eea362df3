"""The package as others get it: names, docstring examples, stubs, types, the wheel."""

import ast
import doctest
import importlib
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import pyddl

ROOT = Path(__file__).parent.parent
COMPILED = {"pyddl._core", "pyddl.comm._mpi"}
MODULES = sorted({"pyddl", *(found.name for found in pkgutil.walk_packages(pyddl.__path__, "pyddl.")
                           if not found.name.endswith("._mpi"))} - COMPILED)
if importlib.util.find_spec("torch") is None:
    MODULES = [name for name in MODULES if not name.startswith("pyddl.models.pytorch")]


def test_the_version_has_one_source():
    assert metadata.version("pyddl") == pyddl.__version__
    assert pyddl.__version__ not in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__") and ".for_" not in name])
def test_every_public_name_is_there(name):
    module = importlib.import_module(name)
    public = module.__all__ if hasattr(module, "__all__") else []
    assert sorted(set(public)) == sorted(public), "a name is listed twice"
    assert not [missing for missing in public if not hasattr(module, missing)]
    if not name.rpartition(".")[2].startswith("_") and name != "pyddl":
        assert public, "__all__ says what a module is for"


def test_the_parameter_server_is_still_found_under_its_former_name():
    import pyddl.server

    assert pyddl.server.ParameterServer is pyddl.ParameterServer is pyddl.callbacks.ParameterServer
    assert pyddl.server.AdaGradDescent is pyddl.callbacks.AdaGradDescent


OFFERED = ["models", "models.layers", "train", "tune", "data", "optim", "strategies", "estimators", "callbacks", "comm",
           "comm.operations", "errors", "options"]


@pytest.mark.parametrize("name", OFFERED)
def test_tab_completion_offers_public_names_and_nothing_else(name):
    module = importlib.import_module(f"pyddl.{name}")
    assert set(module.__all__) <= set(dir(module)), "what a table adds is more than that"
    assert not [each for each in dir(module) if each.startswith("_") or each in ("Any", "annotations")]
    assert not [each for each in dir(module) if not hasattr(module, each)]


def test_the_packages_names_appear_on_first_use():
    names = ["Autoencoder", "RBM", "ZCA", "load", "errors", "options", "train", "world", "__version__"]
    assert set(names) <= set(dir(pyddl)) and "Any" not in dir(pyddl) and "import_module" not in dir(pyddl)
    asked = "; ".join(f"pyddl.{name}" for name in [*dir(pyddl), *OFFERED, "comm.Machine", "train.simulate"])
    subprocess.run([sys.executable, "-c", f"import pyddl; {asked}"], check=True)
    for module, wrong in (("pyddl", "Autoencodr"), ("pyddl.models", "RMB"), ("pyddl.train", "Triner")):
        with pytest.raises(AttributeError, match=f"module '{module}' has no attribute '{wrong}'"):
            getattr(importlib.import_module(module), wrong)


def test_its_help_is_a_page_that_names_what_it_offers():
    page = pyddl.__doc__
    assert all(re.search(rf"\b{name}\b", page) for name in dir(pyddl) if name not in ("__version__", "callbacks", "cli",
                                                                                        "comm", "estimators"))
    assert all((ROOT / each).exists() for each in re.findall(r"docs/\w+\.md", page))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, extraglobs={"pyddl": pyddl}, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0, "doctest's report is above"


def test_the_program_in_the_readme_runs(tmp_path, capsys):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    exec(compile(program, "README.md", "exec"), {})
    error, shape = capsys.readouterr().out.split(" ", 1)
    assert 0 < float(error) < 3  # the test digits vary by 4.73 about their mean
    assert shape == "(297, 8)\n"


# ---- stubs -----------------------------------------------------------------------------------------------------

def names_in_stub(path):
    """Top-level names and, for each class, its members, as a stub declares them."""
    names = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = None
        elif isinstance(node, ast.Assign):  # the same signature under another name; types begin with a capital
            names |= {target.id: None for target in node.targets if target.id.islower()}
        elif isinstance(node, ast.AnnAssign):  # a function of a signature that has a name
            names[node.target.id] = None
        elif isinstance(node, ast.ClassDef):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            attributes = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
            if not node.name.startswith("_"):  # else of the stub alone
                names[node.name] = sorted(name for name in {*methods, *attributes} if not name.startswith("_"))
    return names


NAMES_IN_MODULE = """
import importlib, json, sys
if len(sys.argv) > 2:
    import mpi4py; mpi4py.rc.initialize = False; import mpi4py.MPI
module = importlib.import_module(sys.argv[1])
own = {name: value for name, value in vars(module).items()
       if not name.startswith("_") and getattr(value, "__module__", "").endswith(sys.argv[1].split(".")[-1])}
def members(kind):
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    return sorted(name for name in vars(kind) if not name.startswith("_") and name not in inherited)
print(json.dumps({name: members(value) if isinstance(value, type) else None for name, value in own.items()}))
"""


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_a_stub_lists_what_the_compiled_module_has(name):
    arguments = [name, "mpi"] if name == "pyddl.comm._mpi" else [name]
    if len(arguments) > 1:
        pytest.importorskip("mpi4py")
    done = subprocess.run([sys.executable, "-c", NAMES_IN_MODULE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stub = ROOT.joinpath(*name.split(".")).with_suffix(".pyi")
    assert json.loads(done.stdout) == names_in_stub(stub)


# ---- the wheel -------------------------------------------------------------------------------------------------

@pytest.mark.long
def test_the_wheel_holds_types_and_no_sources(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
         f"--config-settings=build-dir={tmp_path / 'build'}", "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True, text=True, env=tools_in_path())
    assert done.returncode == 0, done.stderr
    wheel, = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    module = "pyddl/comm/for_openmpi/__init__.py"
    assert {"pyddl/py.typed", "pyddl/_core.pyi", "pyddl/comm/_mpi.pyi", module} <= set(names)
    assert sum(name.startswith("pyddl/_core.") and name.endswith(".so") for name in names) == 1
    assert not [name for name in names if name.endswith((".cpp", ".hpp", ".pyx", ".a")) or name.startswith("tests")]
    described = zipfile.ZipFile(wheel).read(f"pyddl-{pyddl.__version__}.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in described


def tools_in_path():
    """The environment in which CMake and its tools are found beside the interpreter."""
    import os

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
