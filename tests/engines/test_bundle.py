"""Variants and contents of bundles: precisions, weights inside, conformance vectors, backends."""

import json
import shutil
from collections import Counter

import nibabel as nib
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rarecli import Predictor
from rarecli.core import versions
from rarecli.core.config.geometry import entry_name, isotropic
from rarecli.core.data.phantoms import Phantom
from rarecli.core.engines import bundle as bundle_room
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.open_model import open_model
from rarecli.core.engines.probes import phantom_image
from rarecli.core.errors import EnvironmentFault, ModelError, UsageError
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.volume import read_volume, write_image
from rarecli.core.info.info import info
from rarecli.core.jobs.files import sha256

BACKENDS = ["torch", "onnx", "openvino"]


@pytest.fixture
def copied(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def half(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("half") / "bundle"
    export(run, output, ExportOptions(precision="fp16"))
    return output


def test_fp16_halves_the_weights_and_keeps_norms_and_io_in_fp32(half, bundle):
    assert (half / "weights.safetensors").stat().st_size < 0.55 * (bundle / "weights.safetensors").stat().st_size
    weights = load_file(half / "weights.safetensors")
    assert weights["bottleneck.0.weight"].dtype == np.float16
    assert weights["bottleneck.1.weight"].dtype == np.float32  # an instance norm
    for depth in range(4):
        graph = onnx.load(half / f"{entry_name(isotropic(depth))}.onnx", load_external_data=False).graph
        assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
        plain = onnx.load(bundle / f"{entry_name(isotropic(depth))}.onnx", load_external_data=False).graph
        operators = Counter(node.op_type for node in graph.node)
        assert operators.pop("Cast") > 0
        assert operators == Counter(node.op_type for node in plain.node)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fp16_engines_stay_within_the_stated_tolerance(half, bundle, backend):
    image = np.random.default_rng(0).random((1, 1, 32, 48, 32), dtype=np.float32)
    _, reference = open_model(bundle, "torch")
    _, engines = open_model(half, backend)
    with reference, engines:
        expected, found = reference.run(image, (0, 0, 0)), engines.run(image, (0, 0, 0))
    assert 0 < np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()


def test_self_contained_engines_need_no_other_file(run, bundle, tmp_path):
    export(run, tmp_path / "bundle", ExportOptions(entries=[(2, 2, 2), (3, 3, 3)], self_contained=True))
    assert not (tmp_path / "bundle" / "weights.safetensors").exists()
    alone = tmp_path / "alone.onnx"
    shutil.copy(tmp_path / "bundle" / "entry_3_3_3.onnx", alone)
    image = np.random.default_rng(0).random((1, 1, 4, 4, 4), dtype=np.float32)
    found = onnxruntime.InferenceSession(alone).run(None, {"image": image})[0]
    _, engines = open_model(bundle, "onnx")
    with engines:
        np.testing.assert_array_equal(found, engines.run(image, (3, 3, 3)))
    with pytest.raises(UsageError, match="no weights for PyTorch"):
        Predictor(tmp_path / "bundle", backend="torch")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_passes_the_conformance_vectors(bundle, backend):
    facts = info(bundle, verify=True, backend=backend)
    vectors, large_images = facts["verified"][:4], facts["verified"][4:]
    assert all(f"labels correct ({backend})" in line for line in vectors)
    assert len(large_images) == 4
    assert all(("of onnx" if backend == "torch" else "of torch") in line for line in large_images)
    assert facts["verdict"] == "8 checks passed: 4 conformance vectors and 4 large images; tolerance 0.0001 of the largest logit"
    assert list(facts)[-1] == "verdict"


def test_vectors_exercise_orientation_resampling_and_every_depth(bundle):
    manifest = load_manifest(bundle)
    for vector in manifest.conformance:
        scan = nib.load(bundle / vector.scan.file)
        labels = nib.load(bundle / vector.labels.file)
        arrays = load_file(bundle / vector.arrays.file)
        grid = manifest.engine(vector.entry).grid_spacing_mm
        assert nib.aff2axcodes(scan.affine) == ("P", "L", "S")
        # array axes are P, L, S: their spacings are those of y, x, z
        np.testing.assert_allclose(scan.header.get_zooms(), (1.25 * grid[1], grid[0], 0.8 * grid[2]), rtol=1e-6)
        assert labels.shape == scan.shape
        assert arrays["logits"].shape[1:] == arrays["image"].shape[1:]
        # the y axis was resampled from 1.25 of the grid: a quarter more voxels
        assert arrays["image"].shape[2] == int(scan.shape[0] * 1.25 + 0.5)
        # the z axis from 0.8 of it: a fifth fewer, so that labels go back both ways
        assert arrays["image"].shape[3] == int(scan.shape[2] * 0.8 + 0.5)


@pytest.mark.parametrize("what", ["logits", "image", "labels"])
def test_a_vector_with_another_answer_is_found(copied, what):
    manifest = json.loads((copied / "manifest.json").read_text())
    vector = manifest["conformance"][1]
    if what == "labels":
        path = copied / vector["labels"]["file"]
        image = nib.load(path)
        nib.save(nib.Nifti1Image((np.asarray(image.dataobj) + 1) % 3, image.affine, image.header), path)
        vector["labels"]["sha256"] = sha256(path)
    else:
        path = copied / vector["arrays"]["file"]
        arrays = load_file(path)
        arrays[what][0, 0, 0, 0] += 0.1
        save_file(arrays, path)
        vector["arrays"]["sha256"] = sha256(path)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="prepared differently" if what == "image" else "reproduce the conformance vector"):
        info(copied, verify=True, backend="onnx")


def test_a_changed_vector_or_a_run_is_refused(copied, run):
    (copied / "conformance" / "entry_2_2_2_scan.nii.gz").write_bytes(b"changed")
    with pytest.raises(ModelError, match="was changed"):
        info(copied, verify=True, backend="onnx")
    with pytest.raises(ModelError, match="only a bundle"):
        info(run, verify=True)


@pytest.mark.parametrize(("field", "value"), [("schema_version", 1), ("surprise", 1), ("precision", "fp8"), ("engines", None)])
def test_a_manifest_of_another_kind_is_refused(copied, field, value):
    manifest = json.loads((copied / "manifest.json").read_text()) | {field: value}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError) as caught:
        load_manifest(copied)
    assert field in str(caught.value)
    assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname"])
def test_fault_32_a_manifest_that_leaves_its_folder_is_refused(copied, name):
    """Paths out of the bundle are refused as well."""
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["engines"][3]["file"] = name
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (copied.parent / "outside.onnx").write_bytes(b"")
    _, engines = open_model(copied, "onnx")
    with engines, pytest.raises(ModelError, match="leaves the bundle"):
        engines.run(np.zeros((1, 1, 4, 4, 4), dtype=np.float32), (3, 3, 3))


def test_auto_takes_openvino_on_a_cpu(bundle):
    with Predictor(bundle) as predictor:
        assert predictor.runner.backend == "openvino"


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.1), ("int8", 0.5)])
def test_lower_precision_is_for_openvino_on_a_cpu_that_has_it(bundle, precision, most):
    with pytest.raises(UsageError, match="computes in fp32"):
        Predictor(bundle, backend="onnx", precision=precision)
    if precision.upper() not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EnvironmentFault, match="does not support"):
            Predictor(bundle, precision=precision)
        return
    image = phantom_image(load_manifest(bundle).spec, (32, 32, 32), 99)
    _, plain = open_model(bundle, "openvino")
    _, fast = open_model(bundle, "openvino", precision=precision)
    with plain, fast:
        expected, found = plain.run(image, (0, 0, 0)), fast.run(image, (0, 0, 0))
        assert 0 < np.abs(found - expected).max() < most * np.abs(expected).max()
        np.testing.assert_array_equal(fast.run(image, (0, 0, 0)), found)


def test_threads_and_denormals_are_what_was_asked_for(bundle):
    image = np.zeros((1, 1, 4, 4, 4), dtype=np.float32)
    _, engines = open_model(bundle, "onnx", num_threads=1)
    with engines:
        engines.run(image, (3, 3, 3))
        options = engines._sessions[3, 3, 3].get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    _, engines = open_model(bundle, "openvino", num_threads=1)
    with engines:
        engines.run(image, (3, 3, 3))
        compiled = next(iter(engines._requests.values())).get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("CPU_DENORMALS_OPTIMIZATION")
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    _, network = open_model(bundle, "torch", "cpu", num_threads=1)
    with network:
        assert torch.get_num_threads() == 1
        assert float(torch.tensor(1e-40) * torch.tensor(0.5)) == 0  # flushed


def test_engines_open_lazily_and_each_file_is_hashed_once(bundle, monkeypatch):
    hashed = Counter()

    def count(path):
        hashed[path.name] += 1
        return sha256(path)

    monkeypatch.setattr(bundle_room, "sha256", count)
    _, engines = open_model(bundle, "openvino")
    with engines:
        assert not hashed
        for size in (4, 6):
            engines.run(np.zeros((1, 1, size, size, size), dtype=np.float32), (3, 3, 3))
        engines.run(np.zeros((1, 1, 8, 8, 8), dtype=np.float32), (2, 2, 2))
    assert hashed == {"entry_3_3_3.onnx": 1, "entry_2_2_2.onnx": 1, "weights.safetensors": 1}


def test_a_bundle_is_a_model_that_can_be_exported_again(bundle, tmp_path):
    again = export(bundle, tmp_path / "again", ExportOptions(entries=[(3, 3, 3)], precision="fp16"))
    assert again.spec == load_manifest(bundle).spec
    export(bundle, tmp_path / "sealed", ExportOptions(entries=[(3, 3, 3)], self_contained=True))
    with pytest.raises(UsageError, match="no weights for PyTorch"):
        export(tmp_path / "sealed", tmp_path / "third")


@pytest.mark.parametrize(("depths", "taken"), [([0, 1], [0, 1, 1, 1]), ([2, 3], [2, 2, 2, 3])])
def test_a_scan_whose_depth_was_not_exported_goes_to_the_nearest(run, tmp_path, depths, taken):
    export(run, tmp_path / "bundle", ExportOptions(entries=[isotropic(depth) for depth in depths]))
    with Predictor(tmp_path / "bundle") as predictor:
        found = [predictor.predict(Phantom(0).acquire(spacing)[0]) for spacing in (1.0, 2.0, 4.0, 8.0)]
    assert [prediction.entry[0] for prediction in found] == taken


@pytest.mark.parametrize("device", ["cuda:x", "tpu", "cpu:1", "cuda:-1"])
def test_a_device_that_is_none_is_refused_by_onnxruntime(bundle, device):
    with pytest.raises(UsageError, match="no such device"):
        open_model(bundle, "onnx", device)


def test_a_bundle_of_some_depths_is_entered_at_them_whatever_the_backend(run, tmp_path):
    export(run, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 0), (1, 1, 1)]))
    scan, _ = Phantom(0).acquire(8.0)
    write_image(tmp_path / "scan.nii.gz", scan.data[0], scan)
    for backend in BACKENDS:
        with Predictor(tmp_path / "bundle", device="cpu", backend=backend) as predictor:
            assert predictor.predict(scan).entry == (1, 1, 1)
            with pytest.raises(UsageError, match="no such entry"):
                predictor.predict(scan, depth=3)
    assert info(tmp_path / "scan.nii.gz", tmp_path / "bundle")["route"].startswith("depth 1 of")


def test_info_looks_at_every_file(copied):
    assert info(copied)["files"] == "all match the manifest"
    (copied / "conformance" / "entry_0_0_0_labels.nii.gz").write_bytes(b"changed")
    assert "entry_0_0_0_labels" in info(copied)["files"]


def test_an_export_records_what_is_installed_and_misses_nothing_else(run, tmp_path, monkeypatch):
    """With onnxruntime-gpu there is no package named onnxruntime."""
    real = versions.version

    def without_onnxruntime(package):
        if package == "onnxruntime":
            raise versions.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(versions, "version", without_onnxruntime)
    found = export(run, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)])).versions
    assert "onnxruntime" not in found
    assert found["torch"] == real("torch")


def test_vectors_of_a_model_that_takes_scans_as_they_are_are_still_resampled(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    info["spec"]["as_is_octaves"] = 0.5
    (folder / "run.json").write_text(json.dumps(info))
    export(folder, tmp_path / "bundle", ExportOptions(entries=[(3, 3, 3)]))
    manifest = load_manifest(tmp_path / "bundle")
    assert manifest.routing.as_is_octaves == 0.5
    scan = read_volume(tmp_path / "bundle" / manifest.conformance[0].scan.file)
    assert prepare_scan(scan, manifest.rules).route.resampled == (False, True, True)
