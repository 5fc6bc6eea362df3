"""Model torch where PyTorch is not installed: everything else works, and a message names the extra."""

import sys

import pytest

import pyddl
from pyddl import _own, options
from pyddl.errors import ParameterError


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def test_the_extra_is_named(without_torch, pyddl_here, tmp_path):
    (tmp_path / "net.py").write_text("def make_model(): pass\n")
    said = r"model torch needs PyTorch, which is not installed here: pip install 'pyddl[torch]'"
    with pytest.raises(ParameterError) as refused:
        pyddl.models.Torch("net.py:make_model")
    assert str(refused.value) == said and refused.value.__cause__ is None
    _, err = pyddl_here("train", "torch", "--module", "net.py:make_model", check=2)
    assert err == f"pyddl: {said}\n"
    assert "torch" in pyddl.models.NAMES and "--module" in pyddl_here("train", "torch", "--help")[0]


def test_the_module_is_named_by_file_and_function():
    module, arguments = options.named("module"), options.named("arguments")
    assert module.check("some/net.py:make_model") == "some/net.py:make_model" and module.of == ("torch",)
    with pytest.raises(ParameterError, match=r"module is 'net'; expected FILE\.py:make_model: a Python file"):
        module.check("net")
    assert arguments.check("width=64,kind=deep") == {"width": 64, "kind": "deep"}
    with pytest.raises(ParameterError, match="module is an option of model torch"):
        options.resolve({"module": "net.py:make_model"}, model="vae")


# ---- what the file says

def test_functions_are_found_in_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "functions.py").write_text("from math import sqrt\nNUMBER = 3\ndef make(): return NUMBER\n"
                                           "class Net: pass\n")
    function, file = _own.function_named("module", "functions.py:make")
    assert function() == 3 and file.NUMBER == 3
    assert _own.anywhere("functions.py:make") == f"{tmp_path}/functions.py:make" and _own.anywhere("digits") == "digits"
    for name, said in (("functions.py:mak", "functions.py has no mak; of functions functions.py has make, Net; did yo"),
                       ("functions.py", "expected FILE.py:make_model, with the name of a function: functions.py has m"),
                       ("functions.py:NUMBER", "and NUMBER is no function"), ("function.py:make", "there is no file"),
                       ("make", "expected FILE.py:make_model: a Python file, and a function in it")):
        with pytest.raises(ParameterError, match=said):
            _own.function_named("module", name)


@pytest.mark.parametrize(("source", "lines"), [
    ("def inner():\n    raise KeyError('a')\ninner()\n", ["line 3, in <module>", "line 2, in inner", "KeyError: 'a'"]),
    ("x = (\n", ["line 1", "SyntaxError"])])
def test_the_traceback_begins_with_the_file(tmp_path, source, lines):
    path = tmp_path / f"raises{len(source)}.py"
    path.write_text(source)
    with pytest.raises(ParameterError, match="cannot be run: ") as failed:
        _own.function_named("module", f"{path}:make")
    text = _own.trace(failed.value)
    assert all(each in text for each in lines) and "_own.py" not in text and "importlib" not in text
    again = ParameterError("of all ranks")
    again.__cause__ = failed.value
    assert _own.trace(again) == text and _own.trace(ParameterError("another")) == ""
