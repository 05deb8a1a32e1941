"""Each package imports only those below it, as pyproject.toml has the layers, and docs/architecture.md shows them."""

import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "fairseq_signals_ext"
PAGE = ROOT / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(PACKAGE, cache_dir=None)


def layers():
    """The names in each layer, the highest first."""
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^layers = \[\n(.*?)^\]", text, re.S | re.M)
    return [re.split(r" [|:] ", line.strip(' ",')) for line in listed.splitlines()]


def table_of_imports(graph):
    """Rows of the page: each package and what it imports, in the order of the layers."""
    order = [name for layer in layers() for name in layer]
    found = {name: set() for name in order}
    for module in graph.modules - {PACKAGE}:
        imported = graph.find_modules_directly_imported_by(module) - {PACKAGE}
        found[module.split(".")[1]] |= {other.split(".")[1] for other in imported}
    listed = {name: sorted(others - {name}, key=order.index) for name, others in found.items()}
    return [f"| {name} | {', '.join(others)} |" for name, others in listed.items() if others]


def test_layers_are_kept():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 1 kept, 0 broken" in done.stdout


def test_a_wrong_import_is_found():
    wrong = grimp.build_graph(PACKAGE, cache_dir=None)
    for imported in wrong.find_modules_directly_imported_by(PACKAGE):  # by its public functions, when they are called
        wrong.remove_import(importer=PACKAGE, imported=imported)
    names = [set(layer) for layer in layers()]
    assert not wrong.find_illegal_dependencies_for_layers(names, containers={PACKAGE})
    wrong.add_import(importer=f"{PACKAGE}.readers.formats", imported=f"{PACKAGE}.sources.source")
    (found,) = wrong.find_illegal_dependencies_for_layers(names, containers={PACKAGE})
    assert (found.importer, found.imported) == (f"{PACKAGE}.readers", f"{PACKAGE}.sources")


def test_the_page_shows_the_imports(graph):
    rows = table_of_imports(graph)
    missing = [row for row in rows if row not in PAGE.read_text().splitlines()]
    assert missing == [], "the table of imports is now:\n" + "\n".join(rows)


def test_the_page_tells_what_each_is_for():
    text = PAGE.read_text()
    assert [name for layer in layers() for name in layer if f"`{name}`" not in text] == []
