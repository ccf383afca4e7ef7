"""The model repository, read with Triton's own protobuf and compared with the engines."""

import hashlib
import json
import shutil
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rarecli.core.config.geometry import entry_name
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import Gpu, PlanFacts
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.serving.repository import BACKENDS, TritonOptions, render_repository

FP32 = onnx.TensorProto.FLOAT
ENTRIES = ["entry_0_0_0", "entry_1_1_1", "entry_2_2_2", "entry_3_3_3"]


def parse(model: Path) -> model_config_pb2.ModelConfig:
    """Parse a configuration. It refuses unknown fields, wrong types and unknown enumerators, like the server."""
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def with_plans(bundle, tmp_path_factory):
    """Return a bundle with plans in its manifest: depth 0 fixed at the patch, other depths with several sizes and up to 3 windows."""
    folder = shutil.copytree(bundle, tmp_path_factory.mktemp("plans") / "bundle")
    manifest = load_manifest(folder)
    engines = []
    for engine in manifest.engines:
        file = folder / f"{entry_name(engine.entry)}.plan"
        file.write_bytes(file.name.encode())
        patch, fixed = engine.patch_shape, engine.entry == (0, 0, 0)
        plan = PlanFacts(
            file=file.name,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            library="tensorrt",
            version="11.2",
            gpu=Gpu(name="a", compute_capability="9.0"),
            onnx_sha256=engine.sha256,
            shape_min=(1, 1, *(patch if fixed else engine.min_shape)),
            shape_opt=(1, 1, *patch),
            shape_max=(1, 1, *patch) if fixed else (3, 1, *(2 * size for size in patch)),
            flags=(),
        )
        engines.append(engine.model_copy(update={"plan": plan}))
    (folder / "manifest.json").write_text(manifest.model_copy(update={"engines": tuple(engines)}).model_dump_json())
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_server_can_parse_the_configs_and_they_fit_the_engines(backend, bundle, with_plans, tmp_path):
    source = with_plans if backend == "tensorrt" else bundle
    names = render_repository(source, tmp_path, TritonOptions(backend, "scan", num_instances=3, max_delay_us=70))
    assert names == ("scan", "scan_entry_0_0_0", "scan_entry_1_1_1", "scan_entry_2_2_2", "scan_entry_3_3_3")
    kind = model_config_pb2.ModelInstanceGroup
    for depth, entry in enumerate(ENTRIES):
        config = parse(tmp_path / f"scan_{entry}")
        graph = onnx.load(bundle / f"{entry}.onnx", load_external_data=False).graph
        assert (config.name, config.backend) == (f"scan_{entry}", backend)
        for ours, theirs in ((config.input, graph.input), (config.output, graph.output)):
            (tensor,), (value,) = ours, theirs
            assert tensor.name == value.name
            assert value.type.tensor_type.elem_type == FP32
            assert tensor.data_type == model_config_pb2.TYPE_FP32
            static = backend == "tensorrt" and depth == 0
            channels = value.type.tensor_type.shape.dim[1].dim_value
            assert list(tensor.dims) == [channels, *((32, 32, 32) if static else (-1, -1, -1))]  # the batch is not in it
        most = {"tensorrt": (1, 3, 3, 3)}.get(backend, (2, 4, 8, 16))[depth]
        assert config.max_batch_size == most
        assert config.dynamic_batching.max_queue_delay_microseconds == 70
        (group,) = config.instance_group
        wanted = {"python": kind.KIND_CPU, "onnxruntime": kind.KIND_AUTO, "tensorrt": kind.KIND_GPU}[backend]
        assert (group.count, group.kind) == (3, wanted)
        assert sorted({warmup.batch_size for warmup in config.model_warmup}) == sorted({1, most})
        for warmup in config.model_warmup:
            assert list(warmup.inputs["image"].dims) == [1, 32 >> depth, 32 >> depth, 32 >> depth]
        version = tmp_path / f"scan_{entry}" / "1"
        engine_file = f"{entry}.plan" if backend == "tensorrt" else f"{entry}.onnx"
        assert config.default_model_filename == ("" if backend == "python" else engine_file)
        assert {file.name for file in version.iterdir()} == {
            "manifest.json",
            engine_file,
            *(["weights.safetensors"] if backend != "tensorrt" else []),
            *(["model.py"] if backend == "python" else []),
        }
        assert (version / engine_file).read_bytes() == (source / engine_file).read_bytes()
    router = parse(tmp_path / "scan")
    assert (router.backend, router.max_batch_size) == ("python", 0)
    assert {tensor.name: (tensor.data_type, list(tensor.dims), tensor.optional) for tensor in router.input} == {
        "image": (model_config_pb2.TYPE_FP32, [-1, -1, -1, -1], False),
        "spacing_mm": (model_config_pb2.TYPE_FP64, [3], False),
        "entry": (model_config_pb2.TYPE_INT32, [3], True),
    }
    assert {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in router.output} == {
        "labels": (model_config_pb2.TYPE_UINT8, [-1, -1, -1]),
        "entry": (model_config_pb2.TYPE_INT32, [3]),
        "reason": (model_config_pb2.TYPE_STRING, [1]),
        "grid_spacing_mm": (model_config_pb2.TYPE_FP64, [3]),
        "zoom": (model_config_pb2.TYPE_FP64, [3]),
        "probabilities": (model_config_pb2.TYPE_FP32, [3, -1, -1, -1]),
        "warnings": (model_config_pb2.TYPE_STRING, [-1]),
    }


def test_large_label_values_widen_the_labels(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    content = json.loads((folder / "manifest.json").read_text())
    content["spec"]["plan"]["label_values"] = [0, 1, 1000]
    (folder / "manifest.json").write_text(json.dumps(content))
    render_repository(folder, tmp_path / "repository", TritonOptions())
    labels = next(tensor for tensor in parse(tmp_path / "repository" / "rare").output if tensor.name == "labels")
    assert labels.data_type == model_config_pb2.TYPE_UINT16


def test_the_weights_lie_on_disk_once_and_apart_from_the_bundle(bundle, tmp_path):
    render_repository(bundle, tmp_path, TritonOptions("python"))
    inodes = {(tmp_path / f"rare_{entry}" / "1" / "weights.safetensors").stat().st_ino for entry in ENTRIES}
    assert len(inodes) == 1
    assert inodes != {(bundle / "weights.safetensors").stat().st_ino}


def test_batch_sizes_and_routers_are_what_was_asked_for(bundle, tmp_path):
    render_repository(bundle, tmp_path, TritonOptions("python", max_batch=[1, 2, 3, 4], num_routers=5))
    assert [parse(tmp_path / f"rare_{entry}").max_batch_size for entry in ENTRIES] == [1, 2, 3, 4]
    assert parse(tmp_path / "rare").instance_group[0].count == 5
    render_repository(bundle, tmp_path, TritonOptions("python", max_batch=[7]))
    assert [parse(tmp_path / f"rare_{entry}").max_batch_size for entry in ENTRIES] == [7] * 4


def test_rendering_again_replaces_ours_and_nothing_else(bundle, tmp_path):
    other = tmp_path / "rare_entry_0"
    other.mkdir()
    render_repository(bundle, tmp_path, TritonOptions("python"))
    render_repository(bundle, tmp_path, TritonOptions("python", "rarely"))
    fewer = shutil.copytree(bundle, tmp_path.with_name(f"{tmp_path.name}-fewer"))
    content = json.loads((fewer / "manifest.json").read_text())
    content["engines"], content["routing"]["entries"] = content["engines"][:2], [[0, 0, 0], [1, 1, 1]]
    (fewer / "manifest.json").write_text(json.dumps(content))
    shutil.copytree(tmp_path / "rare_entry_3_3_3", tmp_path / "rare_depth3")  # as models were named before there were entries
    render_repository(fewer, tmp_path, TritonOptions("onnxruntime"))
    rare, rarely = {f"rare_{entry}" for entry in ENTRIES[:2]}, {f"rarely_{entry}" for entry in ENTRIES}
    assert {folder.name for folder in tmp_path.iterdir()} == {"rare", *rare, other.name, "rarely", *rarely}
    assert not (tmp_path / "rare_entry_0_0_0" / "1" / "model.py").exists()


def test_thick_entries_are_models_like_others(thick_bundle, tmp_path):
    """12 entries; a batch grows with the mean depth, because windows shrink."""
    names = render_repository(thick_bundle, tmp_path, TritonOptions("python"))
    assert len(names) == 13
    config = parse(tmp_path / "rare_entry_0_0_2")
    assert config.parameters["entry"].string_value == "[0, 0, 2]"
    (warmup, *_) = config.model_warmup
    assert list(warmup.inputs["image"].dims) == [1, 32, 32, 8]
    batches = {name: parse(tmp_path / f"rare_entry_{name}").max_batch_size for name in ("0_0_2", "1_1_2", "2_1_1", "2_2_2")}
    assert batches == {"0_0_2": 2, "1_1_2": 4, "2_1_1": 4, "2_2_2": 8}


def test_what_cannot_be_served_is_refused_and_nothing_is_written(bundle, run, tmp_path):
    repository = tmp_path / "repository"
    with pytest.raises(UsageError, match="no engines to serve"):
        render_repository(run, repository, TritonOptions())
    with pytest.raises(UsageError, match="no TensorRT plans"):
        render_repository(bundle, repository, TritonOptions("tensorrt"))
    for name in ("", "../up", "two words", ".hidden"):
        with pytest.raises(UsageError, match="invalid model name"):
            TritonOptions(name=name)
    for batches in ([1, 2], [0]):
        with pytest.raises(UsageError, match="batch sizes"):
            render_repository(bundle, repository, TritonOptions(max_batch=batches))
    assert not repository.exists()
    (repository / "rare_entry_2_2_2").mkdir(parents=True)
    (repository / "rare_entry_2_2_2" / "config.pbtxt").write_text('name: "rare_entry_2_2_2"\n')
    with pytest.raises(UsageError, match="was not rendered by rare"):
        render_repository(bundle, repository, TritonOptions())
    assert [folder.name for folder in repository.iterdir()] == ["rare_entry_2_2_2"]


def test_an_altered_bundle_is_not_rendered(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    with (folder / "entry_2_2_2.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="a file of the bundle was changed"):
        render_repository(folder, tmp_path / "repository", TritonOptions())
    assert not (tmp_path / "repository" / "rare").exists()
