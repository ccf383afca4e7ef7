from contextlib import ExitStack

import numpy as np
import pytest
import torch

from rarecli.core.benchmarking.comparison import Comparison
from rarecli.core.benchmarking.rows import entry_shape
from rarecli.core.benchmarking.stages import CudaSteps, HostSteps, Opened, open_steps, random_scan, segment
from rarecli.core.config.geometry import isotropic
from rarecli.core.engines.open_model import open_model
from rarecli.core.errors import EnvironmentFault, UsageError
from rarecli.core.imaging.resampling import resample
from rarecli.core.imaging.volume import Volume
from rarecli.core.prediction.predictor import Predictor


@pytest.mark.parametrize(("depth", "enters"), [(0, 0), (2, 2), (2, 0)])
def test_the_labels_are_those_of_predict_but_for_the_way_back_of_upsampled_scans(run, depth, enters):
    """The timed steps are those of `rare predict`, but labels of upsampled scans (entry 0) take the nearest voxel, of two the upper."""
    marks = []
    with Predictor(run, device="cpu") as predictor:
        own, entry = isotropic(depth), isotropic(enters)
        scan = random_scan(predictor.spec, own, predictor.spec.patch_shape(own))
        step = 2 ** (depth - enters)
        fine = Volume(resample(scan.data, (step, step, step)), np.diag([*predictor.spec.grid_spacing_mm(entry), 1.0]))
        expected = predictor.predict(fine).labels[step // 2 :: step, step // 2 :: step, step // 2 :: step]
        one, two = segment([scan, scan], predictor.rules, entry, HostSteps(predictor.runner), marks.append)
    np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(two, expected)
    assert marks == ["preprocess", "compute", "argmax", "postprocess"]


def test_steps_on_a_device_give_the_same_and_tell_the_copies(run, monkeypatch):
    """The steps of a GPU, run on the CPU, without synchronisation and CUDA graph."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    marks = []
    rules, runner = open_model(run, "torch", "cpu")
    spec = rules.spec
    with runner:
        scan = random_scan(spec, (1, 1, 1), spec.patch_shape((1, 1, 1)))
        (expected,) = segment([scan], rules, (1, 1, 1), HostSteps(runner), lambda _: None)
        (found,) = segment([scan], rules, (1, 1, 1), CudaSteps(runner.network, runner.device), marks.append)
    np.testing.assert_array_equal(found, expected)
    assert marks == ["preprocess", "copy_in", "compute", "argmax", "copy_out", "postprocess"]


def test_pytorch_also_computes_in_bfloat16_on_the_host_and_on_a_device(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    image = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    full, half = (open_steps(run, "torch", precision, None, "cpu") for precision in ("fp32", "bf16"))
    exact, rounded = (opened.steps.forward(image, (1, 1, 1)) for opened in (full, half))
    off = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-5 < off < 0.1  # bfloat16 has 8 significant bits
    steps = CudaSteps(half.runner.network, torch.device("cpu"), amp=True)
    np.testing.assert_allclose(steps.forward(steps.put(image), (1, 1, 1)).float().numpy(), rounded)
    with ExitStack() as stack:
        off = Comparison(run, stack).off(Opened(half.rules, half.runner, steps, True), [(1, 1, 1)])
    assert 1e-5 < off[1, 1, 1] < 0.2
    with pytest.raises(UsageError, match="computes in fp32"):
        open_steps(run, "torch", "int8", None, "cpu")


def test_what_a_backend_lacks_is_said_before_anything_runs(run, monkeypatch):
    with pytest.raises(EnvironmentFault, match="need a GPU"):
        open_steps(run, "torch-cuda-graph", "fp32", None, "cpu")
    monkeypatch.setattr("rarecli.core.benchmarking.stages.which", lambda _: None)
    with pytest.raises(EnvironmentFault, match="C\\+\\+ compiler"):
        open_steps(run, "torch-compile", "fp32", None, "cpu")
    with pytest.raises(UsageError, match="no such backend"):
        open_steps(run, "abacus", "fp32", None, "cpu")


def test_only_shapes_that_the_network_takes_unpadded(run):
    rules, _ = open_model(run, "torch", "cpu")
    spec = rules.spec
    assert entry_shape(spec, (1, 1, 1), None) == (16, 16, 16)
    assert entry_shape(spec, (3, 3, 3), (64, 32, 32)) == (8, 4, 4)
    for depth, shape in ((0, (32, 32, 40)), (3, (32, 32, 36)), (0, (16, 32, 32))):  # no multiple of 16; of 8; a bottleneck of one voxel
        with pytest.raises(UsageError, match="does not accept this shape"):
            entry_shape(spec, isotropic(depth), shape)
