"""House rules: the sizes of rooms, files and functions as in `docs/architecture.md`. import-linter checks the import rules."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "rarecli" / "core"
FILES = sorted((ROOT / "rarecli").rglob("*.py"))
ROOMS = sorted(file.parent for file in CORE.rglob("__init__.py") if file.parent != CORE)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(CORE).as_posix())
def test_a_room_has_2_to_20_modules(room):
    assert 2 <= len([file for file in room.glob("*.py") if file.name != "__init__.py"]) <= 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_has_250_lines_and_a_function_60_and_8_parameters_at_most(file):
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 250
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert node.end_lineno - node.lineno < 60, node.name
            assert CORE not in file.parents or len(set(names) - {"self", "cls"}) <= 8, node.name


def folders(root):
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    return {folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".") and folder.name not in ignored}


@pytest.mark.parametrize(
    ("document", "roots"),
    [("CONTRIBUTING.md", (ROOT, ROOT / "rarecli", CORE)), ("docs/architecture.md", (CORE,))],
    ids=("contributing", "architecture"),
)
def test_the_trees_in_the_documents_are_the_folders_that_exist(document, roots):
    drawn = re.findall(r"^ *(\w+)/ +\S", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(drawn) == sorted(set().union(*map(folders, roots)))


@pytest.mark.parametrize("record", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda record: record.stem)
def test_a_decision_is_linked_from_what_it_explains(record):
    sources = [*FILES, ROOT / "pyproject.toml"]
    assert any(record.stem in source.read_text(encoding="utf-8") for source in sources)
