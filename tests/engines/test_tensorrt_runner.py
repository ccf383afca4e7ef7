"""The TensorRT runner without a GPU: real plans of TensorRT-RTX on disk; the GPU and its execution context are replaced.

Tests marked `gpu` use a real GPU.
"""

import json
import shutil
import types
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import torch

from rarecli import Predictor
from rarecli.core.data.phantoms import Phantom
from rarecli.core.engines import export as exporting
from rarecli.core.engines import tensorrt_build, tensorrt_runner
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import Gpu
from rarecli.core.engines.open_model import open_model
from rarecli.core.engines.tensorrt_build import load_tensorrt
from rarecli.core.errors import EnvironmentFault, ModelError, UsageError

HERE = Gpu(name="H200", compute_capability="9.0")


class Context:
    """Returns the output of the ONNX engine beside the plan, and records the call in `served`."""

    served: ClassVar[list[str]] = []

    def __init__(self, plan, shift=0.0):
        self.session = onnxruntime.InferenceSession(plan.with_suffix(".onnx"))
        self.plan, self.shift = plan, shift

    def __enter__(self):
        return self

    def __exit__(self, *_):
        Context.served.append(f"{self.plan.name} closed")

    def infer(self, feed):
        Context.served.append(self.plan.name)
        return {"logits": self.session.run(["logits"], feed)[0] + np.float32(self.shift)}


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that the machine has a GPU; plans are built by TensorRT-RTX."""
    library = load_tensorrt("tensorrt_rtx_bindings")
    for room in (exporting, tensorrt_runner, tensorrt_build):
        monkeypatch.setattr(room, "load_tensorrt", lambda: library)
        monkeypatch.setattr(room, "find_gpu", lambda: HERE)
    for room in (exporting, tensorrt_runner):
        monkeypatch.setattr(room, "open_plan", Context)
    Context.served = []


@pytest.fixture
def planned(gpu, run, tmp_path):
    exporting.export(run, tmp_path / "bundle", exporting.ExportOptions(entries=[(2, 2, 2), (3, 3, 3)], formats=["tensorrt"]))
    return tmp_path / "bundle"


def test_a_plan_that_ran_has_a_parity_record_on_the_shapes_of_its_profile(gpu, planned):
    for engine in load_manifest(planned).engines:
        assert engine.plan.gpu == HERE
        assert engine.plan.parity.max_abs < 1e-3
        assert set(engine.plan.parity.shapes) == {engine.patch_shape}


def test_a_plan_that_disagrees_is_not_written(gpu, run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "open_plan", lambda plan: Context(plan, shift=1.0))
    with pytest.raises(ModelError, match="does not agree") as caught:
        exporting.export(run, tmp_path / "bundle", exporting.ExportOptions(entries=[(3, 3, 3)], formats=["tensorrt"]))
    assert "entry_3_3_3.plan" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_auto_takes_plans_where_they_run_and_opens_each_depth_once(gpu, planned):
    Context.served = []
    with Predictor(planned) as predictor:
        assert predictor.runner.backend == "tensorrt"
        assert Context.served == []
        patch = load_manifest(planned).engine((3, 3, 3)).patch_shape
        image = np.random.default_rng(0).random((1, 1, *patch), dtype=np.float32)
        found = [predictor.runner.run(image, (3, 3, 3)) for _ in range(2)]
    assert Context.served == ["entry_3_3_3.plan", "entry_3_3_3.plan", "entry_3_3_3.plan closed"]
    _, reference = open_model(planned, "onnx")
    with reference:
        np.testing.assert_array_equal(found[0], reference.run(image, (3, 3, 3)))


def test_auto_leaves_plans_that_do_not_take_every_window(gpu, run, tmp_path):
    # from the least shape to the patch: without the option, of 64 x 32 x 32 alone
    spec = json.loads((run / "run.json").read_text())
    spec["spec"]["plan"]["patch_size"] = [64, 32, 32]
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "run.json").write_text(json.dumps(spec))
    exporting.export(folder, tmp_path / "static", exporting.ExportOptions(entries=[(3, 3, 3)], formats=["tensorrt"]))
    assert open_model(tmp_path / "static")[1].backend == "openvino"
    ranged = exporting.TensorRtOptions(shape_min=(32, 32, 32), shape_max=(64, 32, 32))
    exporting.export(folder, tmp_path / "ranged", exporting.ExportOptions(entries=[(3, 3, 3)], formats=["tensorrt"], tensorrt=ranged))
    assert open_model(tmp_path / "ranged")[1].backend == "tensorrt"
    assert open_model(tmp_path / "ranged", device="cuda:1" if torch.cuda.device_count() > 1 else "cpu")[1].backend != "tensorrt"


def test_auto_takes_another_backend_where_the_plans_do_not_run(planned, monkeypatch):
    monkeypatch.setattr(tensorrt_build, "find_gpu", lambda: Gpu(name="A10", compute_capability="8.6"))
    assert open_model(planned)[1].backend == "openvino"
    assert open_model(planned, device="cpu")[1].backend == "openvino"


def test_a_shape_outside_the_profile_is_refused_with_the_profile(gpu, planned):
    x, y, z = load_manifest(planned).engine((2, 2, 2)).patch_shape
    image = np.zeros((1, 1, 2 * x, y, z), dtype=np.float32)
    with Predictor(planned, backend="tensorrt") as predictor, pytest.raises(ModelError, match="does not accept this shape") as caught:
        predictor.runner.run(image, (2, 2, 2))
    assert "--shape-min" in str(caught.value)


def test_a_plan_that_fails_is_a_model_error(gpu, planned, monkeypatch):
    def fail(self, feed):
        raise RuntimeError("invalid engine")

    monkeypatch.setattr(Context, "infer", fail)
    with Predictor(planned, backend="tensorrt") as predictor, pytest.raises(ModelError, match="cannot be run") as caught:
        predictor.predict(Phantom(0).acquire(1.0)[0])
    assert "invalid engine" in str(caught.value)


def test_plans_of_another_machine_a_changed_plan_and_none_at_all(gpu, planned, bundle, monkeypatch):
    image = np.zeros((1, 1, *load_manifest(planned).engine((3, 3, 3)).patch_shape), dtype=np.float32)
    monkeypatch.setattr(tensorrt_runner, "load_tensorrt", lambda: types.SimpleNamespace(__version__="99.0"))
    with Predictor(planned, backend="tensorrt") as predictor, pytest.raises(EnvironmentFault, match="another version of TensorRT"):
        predictor.runner.run(image, (3, 3, 3))
    (planned / "entry_3_3_3.plan").write_bytes(b"changed")
    with Predictor(planned, backend="tensorrt") as predictor, pytest.raises(ModelError, match="was changed"):
        predictor.runner.run(image, (3, 3, 3))
    with pytest.raises(UsageError, match="no TensorRT plans"):
        Predictor(bundle, backend="tensorrt")
    with pytest.raises(UsageError, match="first GPU"):
        Predictor(planned, backend="tensorrt", device="cpu")


@pytest.mark.gpu
def test_real_plans_say_what_pytorch_says(run, tmp_path):
    manifest = exporting.export(run, tmp_path / "bundle", exporting.ExportOptions(formats=["tensorrt"]))
    assert all(engine.plan.parity for engine in manifest.engines)
    scan, _ = Phantom(0).acquire(2.0)
    with Predictor(tmp_path / "bundle", backend="tensorrt") as engines, Predictor(run, device="cpu") as reference:
        assert (engines.predict(scan).labels != reference.predict(scan).labels).mean() < 1e-4
