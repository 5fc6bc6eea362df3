"""Sphinx's settings for `make docs`: README, the pages of docs/, the examples, and the API from the docstrings.

The sources are the repository as it is, whose pages link to one another. What is written here are lists of contents,
made of the links in README, and a page for each module, made of what tab completion offers: so nothing is listed twice.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import GenericAlias

import pyddl
from pyddl import options

ROOT = Path(__file__).parents[2]
MADE = ROOT / "docs/site/made"
MODULES = ("estimators", "models", "models.layers", "train", "strategies", "comm.operations", "optim", "data",
           "tune", "callbacks", "comm", "layout", "errors")
STEPS_OF_HEADINGS = "=-~"

project, release = "pyddl", pyddl.__version__
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "benchmarks/RESULTS.md", "docs/**.md", "docs/site/made/**.rst"]
exclude_patterns = [".*", "build", "runs", "csrc", "tests", "pyddl"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
default_role = "py:obj"
myst_heading_anchors = 4
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_title = f"pyddl {release}"
html_copy_source = False


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("source-read", add_contents)


# ---- what belongs where

def add_contents(app, name, source):
    """The contents of a page, which in the repository its links are; links to folders, which have no pages, become
    text."""
    folder = (ROOT / name).parent
    source[0] = re.sub(r"\[([^\[\]]+)\]\(([^()#:]+)\)",
                       lambda link: link[1] if (folder / link[2]).is_dir() else link[0], source[0])
    if name == "README":
        linked = re.findall(r"\]\((docs/\w+)\.md\)", source[0])
        pages = dict.fromkeys([*linked, *(f"docs/{path.stem}" for path in sorted((ROOT / "docs").glob("*.md")))])
        source[0] += contents("Pages", [*pages, "benchmarks/RESULTS", "CHANGELOG"]) + contents("Reference", [
            *(f"docs/site/made/{module}" for module in MODULES), "docs/site/made/options", "docs/site/made/examples"])
    elif name == "docs/models":
        linked = re.findall(r"\]\((models/\w+)\.md\)", source[0])
        source[0] += contents("Models", list(dict.fromkeys(linked)))


def contents(caption, pages):
    return "\n".join(["\n", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


# ---- the reference

def write_pages(app):
    MADE.mkdir(exist_ok=True)
    for module in MODULES:
        write(module, of_module(f"pyddl.{module}"))
    write("options", of_options())
    write("examples", of_examples())


def write(name, lines):
    path, text = MADE / f"{name}.rst", "\n".join(lines) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # else it need not be read again
        path.write_text(text, encoding="utf-8")


def heading(text, step=0):
    return ["", text, STEPS_OF_HEADINGS[step] * len(text), ""]


def of_module(name):
    module = import_module(name)
    yield from heading(name)
    yield from (f".. py:module:: {name}", "", inspect.cleandoc(module.__doc__), "")
    for member in dir(module):
        value = getattr(module, member)
        if isinstance(value, GenericAlias):  # whose signature numpydoc cannot read
            yield from (f".. py:data:: {name}.{member}", "", f"   ``{value}``", "")
        elif inspect.isclass(value):
            yield from (f".. autoclass:: {name}.{member}", "   :members:", "")
            if hasattr(value, "get_params"):  # an estimator, most of which its roles give
                yield "   :inherited-members:"
        elif inspect.isfunction(value):
            yield from (f".. autofunction:: {name}.{member}", "")
        elif not inspect.ismodule(value):
            yield from (f".. autodata:: {name}.{member}", "   :no-value:", "")


def of_options():
    yield from heading("Options")
    yield from ("Flags of ``pyddl train`` and ``pyddl simulate``; without the dashes keys of TOML files, keywords of "
                "``Trainer`` and, but for ``seed``, which is ``random_state`` there, of estimators.", "")
    for section in dict.fromkeys(option.section for option in options.TABLE):
        yield from heading(section.capitalize(), 1)
        for option in options.of_section(section):
            yield from (f"``{option.flag}``", f"   {option.help[0].upper()}{option.help[1:]}.")
            facts = [f"One of {', '.join(f'``{each}``' for each in option.choices)}." if option.choices else "",
                     f"Of {', '.join(option.of)}." if option.of else "", f"Unit: {option.unit}." if option.unit else "",
                     "" if option.default is None else f"Default: ``{option.default}``."]
            yield from (f"   {' '.join(filter(None, facts))}", "")


def of_examples():
    yield from heading("Examples")
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield from heading(path.name, 1)
        yield from (f".. literalinclude:: ../../../examples/{path.name}", "")
