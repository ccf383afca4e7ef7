"""TensorRT-RTX builds without a GPU. This proves that every engine parses and compiles, not that it runs."""

import json
import shutil
import types

import pytest
import tensorrt_rtx_bindings
import torch

from rarecli.core.config.geometry import entry_name, isotropic
from rarecli.core.engines import export as exporting
from rarecli.core.engines import tensorrt_build
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import Gpu, PlanFacts
from rarecli.core.engines.tensorrt_build import build_plan, find_gpu, load_tensorrt, profile_for, require_same_machine
from rarecli.core.errors import EnvironmentFault, ModelError
from rarecli.core.jobs.files import sha256


@pytest.fixture
def copied(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.mark.parametrize("depth", range(4))
def test_every_engine_builds_with_the_promised_input_and_output(copied, depth):
    library = load_tensorrt("tensorrt_rtx_bindings")
    engine = load_manifest(copied).engine(isotropic(depth))
    facts = build_plan(library, engine, copied, profile_for(engine), None)
    plan = copied / f"{entry_name(isotropic(depth))}.plan"
    assert plan.stat().st_size > 1000
    assert facts.sha256 == sha256(plan)
    assert facts.onnx_sha256 == engine.sha256
    assert facts.version == tensorrt_rtx_bindings.__version__
    assert facts.shape_min == facts.shape_max == (1, 1, *engine.patch_shape)
    assert facts.parity is None
    assert PlanFacts.model_validate(json.loads((copied / f"{entry_name(isotropic(depth))}.plan.json").read_text())) == facts


def test_a_profile_spans_shapes_given_at_depth_0(copied):
    engine = load_manifest(copied).engine((1, 1, 1))
    profile = profile_for(engine, least=(32, 32, 32), usual=(64, 64, 32), most=(96, 96, 64), batch=2)
    assert (profile.least, profile.usual, profile.most) == ((2, 1, 16, 16, 16), (2, 1, 32, 32, 16), (2, 1, 48, 48, 32))
    facts = build_plan(load_tensorrt("tensorrt_rtx_bindings"), engine, copied, profile, None)
    assert facts.shape_max == (2, 1, 48, 48, 32)
    with pytest.raises(ModelError, match="does not accept this shape"):
        profile_for(engine, usual=(40, 32, 32))
    with pytest.raises(ModelError, match="not in order"):
        profile_for(engine, least=(64, 64, 64), usual=(32, 32, 32))


def test_an_engine_with_other_tensors_than_promised_is_refused(copied):
    engine = load_manifest(copied).engine((3, 3, 3))
    promised = engine.model_copy(update={"output": engine.output.model_copy(update={"name": "probabilities"})})
    with pytest.raises(ModelError, match="differ from the manifest"):
        build_plan(load_tensorrt("tensorrt_rtx_bindings"), promised, copied, profile_for(engine), None)
    assert not (copied / "entry_3_3_3.plan").exists()


def test_a_broken_graph_says_what_the_parser_says(copied):
    engine = load_manifest(copied).engine((3, 3, 3))
    (copied / "entry_3_3_3.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="cannot parse"):
        build_plan(load_tensorrt("tensorrt_rtx_bindings"), engine, copied, profile_for(engine), None)


def test_fault_51_no_library_wrong_version_no_gpu_other_gpu_are_four_errors(monkeypatch, tmp_path):
    """Refused, naming both GPUs, or both versions of TensorRT."""
    with pytest.raises(EnvironmentFault, match="not installed"):
        load_tensorrt("tensorrt_that_is_not_there")
    old = types.ModuleType("tensorrt")
    old.__version__ = "8.6.1"
    monkeypatch.setitem(tensorrt_build.sys.modules, "tensorrt", old)
    with pytest.raises(EnvironmentFault, match="not supported") as caught:
        load_tensorrt()
    assert "8.6.1" in str(caught.value)
    assert "10.12" in str(caught.value)
    monkeypatch.setattr(tensorrt_build, "_CUDA_PROBE", "raise SystemExit(139)")
    with pytest.raises(EnvironmentFault, match="no GPU"):
        find_gpu()
    monkeypatch.setattr(tensorrt_build, "_CUDA_PROBE", "print('[\"H100\", 9, 0]')")
    here = find_gpu()
    assert here == Gpu(name="H100", compute_capability="9.0")
    shape = (1, 1, 32, 32, 32)
    built = PlanFacts(
        library="tensorrt",
        version="10.13.0",
        gpu=Gpu(name="A10", compute_capability="8.6"),
        onnx_sha256="0" * 64,
        file="entry_0_0_0.plan",
        sha256="0" * 64,
        shape_min=shape,
        shape_opt=shape,
        shape_max=shape,
        flags=(),
    )
    with pytest.raises(EnvironmentFault, match="another GPU") as caught:
        require_same_machine(built, tmp_path / "entry_0_0_0.plan", "10.13.0", here)
    assert "A10, 8.6" in str(caught.value)
    assert "H100, 9.0" in str(caught.value)
    with pytest.raises(EnvironmentFault, match="another version of TensorRT"):
        require_same_machine(built, tmp_path / "entry_0_0_0.plan", "11.0.0", here)
    require_same_machine(built, tmp_path / "entry_0_0_0.plan", "10.13.0", built.gpu)


def test_export_builds_plans_and_says_in_the_manifest_that_they_have_not_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "load_tensorrt", lambda: load_tensorrt("tensorrt_rtx_bindings"))
    monkeypatch.setattr(exporting, "find_gpu", lambda: None)
    manifest = exporting.export(
        run, tmp_path / "bundle", exporting.ExportOptions(entries=[(2, 2, 2), (3, 3, 3)], formats=["onnx", "tensorrt"])
    )
    for engine in manifest.engines:
        assert engine.plan.sha256 == sha256(tmp_path / "bundle" / engine.plan.file)
        assert engine.plan.gpu is None
        assert engine.plan.parity is None
    assert load_manifest(tmp_path / "bundle") == manifest


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_export_to_tensorrt_without_it_writes_nothing(run, tmp_path):
    with pytest.raises(EnvironmentFault):
        exporting.export(run, tmp_path / "bundle", exporting.ExportOptions(formats=["tensorrt"]))
    assert list(tmp_path.iterdir()) == []
