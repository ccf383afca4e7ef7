"""Instance norms over a whole head that is mostly constant background: where single precision shows first."""

import nibabel as nib
import numpy as np
import pytest
from cpp_consumer import infer
from safetensors.numpy import load_file, save_file

from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.probes import background_image
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.imaging.volume import Volume, write_image
from rarecli.core.prediction.predictor import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HEAD = (160, 192, 144)


@pytest.fixture(scope="module")
def whole_head(tmp_path_factory):
    """A random run whose patch is the head, and its bundle."""
    folder = tmp_path_factory.mktemp("whole_head")
    spec = random_spec(load_suite("smoke"))
    plan = spec.plan.model_copy(update={"patch_size": HEAD, "spacing_mm": (1.0, 1.0, 1.0), "num_levels": 4})
    network = spec.network.model_copy(update={"num_levels": 4, "num_depths": 4})
    spec = spec.model_copy(update={"plan": plan, "network": network})
    write_random_run(spec, folder / "run")
    file = folder / "run" / "weights.safetensors"
    rng = np.random.default_rng(0)  # fresh weights find nothing but background
    noisy = {name: values + rng.normal(0, 0.1, values.shape).astype(np.float32) for name, values in load_file(file).items()}
    save_file(noisy, file)
    export(folder / "run", folder / "bundle", ExportOptions(check=False))
    return spec, folder


@pytest.mark.parametrize("depth", range(4))
def test_labels_of_a_head_that_is_mostly_background_are_those_of_pytorch(depth, release, whole_head, tmp_path):
    spec, folder = whole_head
    data = background_image(spec, tuple(size >> depth for size in HEAD))[0]
    assert (data == 0).mean() > 0.75
    scan = Volume(data, np.diag([2.0**depth, 2.0**depth, 2.0**depth, 1.0]))
    write_image(tmp_path / "scan.nii.gz", data[0], scan)
    result = infer(release, tmp_path / "scan.nii.gz", folder / "bundle", tmp_path / "labels.nii.gz")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"depth {depth}, windows of {' x '.join(map(str, data.shape[1:]))};")
    found = np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj)
    with Predictor(folder / "run", backend="torch", device="cpu") as predictor:
        logits = predictor.runner.run(normalise(data, spec.plan.normalisation)[None], (depth, depth, depth))[0]
    second, best = np.partition(logits, -2, axis=0)[-2:]
    certain = best - second > 1e-4 * np.abs(logits).max()
    assert certain.mean() > 0.99
    assert len(np.unique(found)) > 1
    expected = np.array(spec.plan.label_values)[logits.argmax(axis=0)]
    assert np.count_nonzero((found != expected) & certain) == 0
