"""Every number, text and list of a manifest has bounds, in the schema and for our reader."""

import copy
import json
from pathlib import Path

import pytest

from rarecli.core.config.loading import validate
from rarecli.core.engines.manifest import Manifest
from rarecli.core.errors import ModelError

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "export" / "manifest.schema.json").read_text())
MANIFEST = json.loads((ROOT / "rarecli" / "models" / "hippocampus-paper" / "manifest.json").read_text())
LIMITS = {
    "integer": [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}],
    "number": [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}],
    "string": [{"maxLength", "pattern"}],
    "array": [{"maxItems"}],
}


def parts(node, path=""):
    """Every part of the schema that describes a value, with its path."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield path, node
        for key, value in node.items():
            yield from parts(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from parts(value, f"{path}/{index}")


def test_everything_in_the_schema_is_bounded():
    unbounded = [
        path
        for path, node in parts(SCHEMA)
        if not {"const", "enum"} & node.keys() and not all(limit & node.keys() for limit in LIMITS.get(node["type"], []))
    ]
    assert unbounded == []
    assert len(list(parts(SCHEMA))) > 100
    assert all(node.get("additionalProperties", True) is not True for _, node in parts(SCHEMA) if node["type"] == "object")


def places(node, path=()):
    """The path of every value of a manifest."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from places(value, (*path, key))


def changed(path, value):
    content = copy.deepcopy(MANIFEST)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def refuses(content):
    with pytest.raises(ModelError) as caught:
        validate(Manifest, content, "the bundle's manifest", ModelError)
    return caught.value.exit_code == 4


def test_the_manifest_itself_is_read():
    read = validate(Manifest, MANIFEST, "the bundle's manifest", ModelError)
    assert read.model_dump(mode="json") == MANIFEST


@pytest.mark.parametrize("hostile", [1e300, -1e300, 2**63, float("nan"), float("inf")])
def test_fault_55_a_hostile_number_is_refused_wherever_it_stands(hostile):
    """Refused: every number of the schema has bounds."""
    kinds = int if isinstance(hostile, int) else int | float  # 2^63 is a number of float32
    numbers = [path for path, value in places(MANIFEST) if isinstance(value, kinds) and not isinstance(value, bool)]
    assert len(numbers) > 100
    for path in numbers:
        assert refuses(changed(path, hostile)), path


def test_an_endless_list_or_text_is_refused_wherever_it_stands():
    lists = [(path, value) for path, value in places(MANIFEST) if isinstance(value, list | str) and value]
    assert len(lists) > 100
    for path, value in lists:
        assert refuses(changed(path, value * 1100)), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.network.in_channels", 2),
        ("spec.network.num_classes", 2),
        ("spec.network.num_depths", 3),
        ("engines.0.input.shape", [-1, 2, -1, -1, -1]),
        ("engines.3.output.shape", [-1, 7, -1, -1, -1]),
        ("engines.3.entry", [2, 2, 2]),
        ("engines.3.entry", [3, 3, 2]),
        ("routing.entries", [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3], [3, 3, 3]]),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(path, value):
    assert refuses(changed([int(key) if key.isdigit() else key for key in path.split(".")], value))


def test_the_finest_axis_needs_an_entry_with_one_depth_along_all_axes():
    content, entries = copy.deepcopy(MANIFEST), [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 2]]
    for engine, entry in zip(content["engines"], entries, strict=True):
        engine["entry"] = entry
    content["routing"]["entries"] = entries
    assert content["routing"]["by"] == "finest"
    assert refuses(content)
    content["routing"]["by"] = "nearest"
    assert validate(Manifest, content, "the bundle's manifest", ModelError).entries == tuple(map(tuple, entries))
