"""The cache of compiled models: the same bits with and without, several processes at once, damage, a full or closed folder."""

import hashlib
import json
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.model_cache import ModelCache, open_cache
from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.openvino_runner import OpenVinoRunner
from rarecli.core.jobs.files import sha256

DEEPEST = (3, 3, 3)


def logits(bundle, cache, precision="fp32", entry=DEEPEST, shape=(6, 7, 8)):
    image = np.random.default_rng(0).random((1, 1, *shape), dtype=np.float32)
    with OpenVinoRunner(bundle, "cpu", 1, precision, cache) as runner:
        return runner.run(image, entry)


@pytest.fixture(scope="module")
def hippocampus():
    """A built-in model: it takes any size, and its weights are in a file that all engines share."""
    return find_model(Path("hippocampus")).bundle


def test_imported_models_answer_with_the_same_bits(hippocampus, tmp_path, monkeypatch):
    patch = hippocampus.manifest.engine(DEEPEST).patch_shape
    shapes = (patch, (6, 7, 8))
    expected = [logits(hippocampus, None, shape=shape) for shape in shapes]
    for shape, right in zip(shapes, expected, strict=True):
        np.testing.assert_array_equal(logits(hippocampus, ModelCache(tmp_path), shape=shape), right)
    assert len(list(tmp_path.iterdir())) == 2
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * 2**20  # the weights are not in them
    monkeypatch.setattr(OpenVinoRunner, "_compile", lambda *_: pytest.fail("compiled"))
    for shape, right in zip(shapes, expected, strict=True):
        np.testing.assert_array_equal(logits(hippocampus, ModelCache(tmp_path), shape=shape), right)


def test_a_bundle_with_its_weights_inside_the_graphs_is_another_model(hippocampus, tmp_path, monkeypatch):
    """Its compiled models hold the weights."""
    engine = hippocampus.manifest.engine(DEEPEST)
    onnx.save(onnx.load(hippocampus.path / engine.file), tmp_path / engine.file)
    content = hippocampus.manifest.model_dump(mode="json") | {"weights": None}
    for other in content["engines"]:
        other["sha256"] = sha256(tmp_path / engine.file)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    models, cache = (hippocampus, Bundle(tmp_path)), ModelCache(tmp_path / "cache")
    expected = [logits(model, None) for model in models]
    for _ in range(2):
        for model, right in zip(models, expected, strict=True):
            np.testing.assert_array_equal(logits(model, cache), right)
        monkeypatch.setattr(OpenVinoRunner, "_compile", lambda *_: pytest.fail("compiled"))
    assert sorted(file.stat().st_size > 2**21 for file in (tmp_path / "cache").iterdir()) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_every_entry_and_precision_answers_with_the_same_bits(hippocampus, tmp_path, precision):
    if precision == "int8":
        pytest.importorskip("nncf")
    for entry in hippocampus.manifest.entries if precision == "fp32" else [(0, 0, 0), DEEPEST]:
        made, imported = (logits(hippocampus, ModelCache(tmp_path), precision, entry, (16, 16, 16)) for _ in range(2))
        np.testing.assert_array_equal(made, imported)
        if precision != "int8":
            np.testing.assert_array_equal(made, logits(hippocampus, None, precision, entry, (16, 16, 16)))


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""])
def test_a_damaged_file_is_compiled_and_written_again(hippocampus, tmp_path, damage):
    expected = logits(hippocampus, ModelCache(tmp_path))
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    np.testing.assert_array_equal(logits(hippocampus, ModelCache(tmp_path)), expected)
    content = file.read_bytes()
    assert content[:32] == hashlib.sha256(content[32:]).digest()


def test_a_file_that_the_library_refuses_is_compiled_again(hippocampus, tmp_path):
    expected = logits(hippocampus, ModelCache(tmp_path))
    (file,) = tmp_path.iterdir()
    ModelCache(tmp_path).save(file.stem, b"of another version")
    np.testing.assert_array_equal(logits(hippocampus, ModelCache(tmp_path)), expected)
    assert len(file.read_bytes()) > 1000


def save_often(folder, start, number):
    start.wait()
    for _ in range(50):
        ModelCache(folder).save("same", bytes([number]) * 100_000)
        found = ModelCache(folder).load("same")
        assert found is not None
        assert len(set(found)) == 1
        assert len(found) == 100_000


def test_processes_that_fill_it_at_once_read_whole_files(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=save_often, args=(tmp_path, start, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["same.compiled"]


def test_a_folder_that_cannot_be_written_is_one_warning_and_no_failure(hippocampus, tmp_path):
    (tmp_path / "file").write_text("")  # a folder that root cannot write either
    cache = ModelCache(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="compiled models are not kept") as caught:
        found = logits(hippocampus, cache)
    assert len(caught) == 1
    assert "RARE_CACHE=off" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(logits(hippocampus, cache), found)


def test_the_files_used_longest_ago_are_removed(tmp_path):
    """Four files of 1,032 bytes where three fit: the third goes, since the first two were read after it was written."""
    cache = ModelCache(tmp_path, most_bytes=3 * 1032)
    for second, key in enumerate("abc"):
        cache.save(key, bytes(1000))
        os.utime(tmp_path / f"{key}.compiled", (second, second))
    for key in "ab":
        assert cache.load(key) == bytes(1000)
    (tmp_path / "notes.txt").write_text("not ours")
    cache.save("d", bytes(1000))
    assert {file.name for file in tmp_path.iterdir()} == {"a.compiled", "b.compiled", "d.compiled", "notes.txt"}
    assert cache.load("c") is None


def test_one_variable_moves_it_or_switches_it_off():
    home = {"HOME": "/home/someone", "XDG_CACHE_HOME": "/caches"}
    assert open_cache(home | {"RARE_CACHE": "off"}) is None
    assert open_cache(home)._folder == Path("/caches/rare")
    assert open_cache(home | {"RARE_CACHE": "/elsewhere"})._folder == Path("/elsewhere")
