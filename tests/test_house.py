"""The house: rooms of a readable size, as `docs/architecture.md` draws it. Import rules are import-linter's."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "rarecli" / "core"
FILES = sorted((ROOT / "rarecli").rglob("*.py"))
ROOMS = sorted(folder for folder in CORE.iterdir() if folder.is_dir() and folder.name != "__pycache__")


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
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


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_the_documents_draw_the_rooms_that_there_are(document):
    drawn = re.findall(r"^ {4,}(\w+)/ ", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(drawn) >= {room.name for room in ROOMS}
