"""A real Triton server on the CPU: the backend `python` over gRPC and HTTP, under load, with bad input, and killed.

`make test-triton` sets up what this needs (`export/triton/install_server.sh`).
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from triton_server import ROOT, VENV, Client, Server, serving, serving_bundle

from rarecli import Phantom, Predictor
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.probes import background_image
from rarecli.core.errors import DataError, EnvironmentFault, RareError
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.restore import classes_of, label_values, mean_probabilities
from rarecli.core.imaging.sliding_window import sliding_logits
from rarecli.core.imaging.volume import Volume, read_volume, write_image
from rarecli.core.serving.repository import TritonOptions, render_repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DATASETS = [path for path in (ROOT.parent / "shared" / "data" / "Task04_Hippocampus",) if path.is_dir()]
TOLERANCE = 1e-4
"""Of a logit, as a share of the largest: the parity gate's for fp32. A label may differ where two logits are closer than twice that."""


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    with serving_bundle(bundle, tmp_path_factory.mktemp("triton"), TritonOptions("python")) as started:
        yield started


@pytest.fixture(scope="module")
def predictor(bundle):
    with Predictor(bundle, backend="onnx") as opened:
        yield opened


SPACINGS = (1.0, 2.0, 4.0, 8.0, 0.8, 1.3, 2.83, 5.0, (1.0, 1.6, 3.0), (4.0, 4.0, 9.5))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """20 phantoms of mixed spacings, axes and fields of view."""
    folder = tmp_path_factory.mktemp("scans")
    for index in range(20):
        orientation = ("RAS", "LPS", "PIR", "ASL")[index % 4]
        extent = (32.0, 40.0, 32.0) if index % 3 else (56.0, 48.0, 40.0)
        scan, _ = Phantom(index, extent).acquire(SPACINGS[index % len(SPACINGS)], orientation)
        write_image(folder / f"scan_{index:02}.nii.gz", scan.data[0], scan)
    return folder


def require_same(scan: Path, found: np.ndarray, predictor: Predictor) -> None:
    """Assert that labels equal those of `rare predict`, except where the two best probabilities are within the tolerance of logits."""
    volume = read_volume(scan)
    routed = prepare_scan(volume, predictor.rules)
    logits = sliding_logits(routed.image, predictor.rules, routed.route.entry, predictor.runner.run)
    second, best = np.sort(mean_probabilities(logits, routed), axis=0)[-2:]
    uncertain = routed.restore_labels((best - second <= TOLERANCE * np.abs(logits).max()).astype(np.uint8)).astype(bool)
    expected = label_values(classes_of(logits, routed), predictor.spec)
    assert found.shape == expected.shape
    assert not ((found != expected) & ~uncertain).any()


def run_client(server: Server, protocol: str, *arguments: object) -> subprocess.CompletedProcess:
    url = f"127.0.0.1:{getattr(server, protocol)}"
    command = [VENV / "bin" / "python", ROOT / "export" / "triton" / "client.py", *arguments, "--url", url, "--protocol", protocol]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_labels_are_those_of_rare_predict_at_all_resolutions(protocol, server, scans, predictor, tmp_path):
    result = run_client(server, protocol, scans, "-o", tmp_path, "--jobs", 2)
    assert result.returncode == 0, result.stderr
    records = json.loads(result.stdout)["cases"]
    assert len(records) == 20
    assert {tuple(record["entry"]) for record in records.values()} == {(depth, depth, depth) for depth in range(4)}
    foreground = 0
    for scan in sorted(scans.iterdir()):
        found = nib.load(tmp_path / scan.name)
        labels = np.asarray(found.dataobj)
        assert np.array_equal(found.affine, nib.load(scan).affine)
        require_same(scan, labels, predictor)
        foreground += np.count_nonzero(labels)
    assert foreground > 0


def test_real_scans_at_four_resolutions(predictor, tmp_path):
    """The built-in model on real scans, also reacquired at coarser resolutions."""
    if not DATASETS:
        assert not os.environ.get("CI"), "CI must have the dataset beside the checkout"
        pytest.skip("no dataset beside the checkout")
    from rarecli.core.imaging.resampling import resample, resampled_affine

    for file in sorted((DATASETS[0] / "imagesTr").glob("[!.]*.nii.gz"))[:3]:
        scan = read_volume(file)
        for depth in range(4):
            zoom = (0.5**depth,) * 3
            coarse = Volume(resample(scan.data, zoom), resampled_affine(scan.affine, scan.shape, zoom))
            write_image(tmp_path / "scans" / f"{file.name.removesuffix('.nii.gz')}_{depth}.nii.gz", coarse.data[0], coarse)
    with (
        serving_bundle(Path("hippocampus"), tmp_path, TritonOptions("python", "hippocampus")) as server,
        Predictor("hippocampus", backend="onnx") as built_in,
    ):
        result = run_client(server, "grpc", tmp_path / "scans", "-o", tmp_path / "labels", "--model", "hippocampus", "--jobs", 2)
        assert result.returncode == 0, result.stderr
        for scan in sorted((tmp_path / "scans").iterdir()):
            labels = np.asarray(nib.load(tmp_path / "labels" / scan.name).dataobj)
            require_same(scan, labels, built_in)
            if scan.name.endswith("_0.nii.gz"):
                assert np.count_nonzero(labels) > 1000


def test_a_bundle_without_conv_transpose_is_served(run, scans, tmp_path):
    export(run, tmp_path / "bundle", ExportOptions(conv_transpose=False))
    with (
        serving_bundle(tmp_path / "bundle", tmp_path, TritonOptions("python")) as server,
        Predictor(tmp_path / "bundle", backend="onnx") as predictor,
    ):
        result = run_client(server, "grpc", *sorted(scans.iterdir())[:4], "-o", tmp_path / "labels")
        assert result.returncode == 0, result.stderr
        for file in (tmp_path / "labels").glob("*.nii.gz"):
            require_same(scans / file.name, np.asarray(nib.load(file).dataobj), predictor)
        assert len(json.loads(result.stdout)["cases"]) == 4


HEAD = (160, 192, 144)


def test_a_large_scan_of_constant_background_gets_the_logits_of_pytorch(server, run):
    """A fifth of the image is not 0. The engines see it whole: float32 sums over so much background were not exact enough once."""
    with Predictor(run, backend="torch", device="cpu") as predictor, server.client(timeout_s=300) as client:
        image = background_image(predictor.spec, HEAD)
        assert 0.79 < np.mean(image == 0) < 0.81
        for depth in (0, 2):
            expected = predictor.runner.run(image, (depth, depth, depth))
            found = client.infer(f"rare_entry_{depth}_{depth}_{depth}", {"image": image}, ("logits",))["logits"]
            allowed = TOLERANCE * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
            second, best = np.sort(expected, axis=1)[:, -2:].swapaxes(0, 1)
            differs = found.argmax(axis=1) != expected.argmax(axis=1)
            assert not (differs & (best - second > 2 * allowed)).any()


@pytest.mark.parametrize("depth", [0, 1])
def test_a_large_scan_of_constant_background_gets_the_labels_of_rare_predict(depth, server, predictor, tmp_path):
    data = background_image(predictor.spec, HEAD)[0]
    write_image(tmp_path / "head.nii.gz", data[0], Volume(data, np.diag([*[2.0**depth] * 3, 1.0])))
    with server.client(timeout_s=300) as client:
        found = client.predict(tmp_path / "head.nii.gz")
    assert found.entry == (depth, depth, depth)
    assert np.count_nonzero(found.labels) > 0
    require_same(tmp_path / "head.nii.gz", found.labels, predictor)


def test_probabilities_a_forced_depth_and_what_the_library_returns(server, scans, predictor):
    scan = scans / "scan_03.nii.gz"
    with server.client() as client:
        for depth in (None, 1):
            found = client.predict(scan, depth=depth, probabilities=True)
            expected = predictor.predict(scan, depth=depth, probabilities=True)
            assert (found.entry, found.reason, found.zoom, found.warnings) == (
                expected.entry,
                expected.reason,
                expected.zoom,
                expected.warnings,
            )
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
            np.testing.assert_array_equal(found.affine, expected.affine)


def test_thick_slices_enter_at_a_depth_per_axis_or_where_the_client_says(thick_run, tmp_path):
    export(thick_run, tmp_path / "bundle", ExportOptions(entries=[(0, 0, 0), (0, 0, 2)], check=False))
    scan, _ = Phantom(5, (35.0, 50.0, 36.0)).acquire((1.0, 1.0, 4.0), "PLI")
    write_image(tmp_path / "scan.nii.gz", scan.data[0], scan)
    with (
        serving_bundle(tmp_path / "bundle", tmp_path, TritonOptions("python", num_routers=1)) as server,
        Predictor(tmp_path / "bundle", backend="onnx") as predictor,
    ):
        with server.client() as client:
            for forced, entry in ((None, (0, 0, 2)), ((0, 0, 2), (0, 0, 2)), ((0, 0, 0), (0, 0, 0))):
                found, expected = client.predict(scan, entry=forced), predictor.predict(scan, entry=forced)
                assert (found.entry, found.zoom, found.reason) == (entry, expected.zoom, expected.reason)
                np.testing.assert_array_equal(found.labels, expected.labels)
            with pytest.raises(DataError, match="the model has no such entry"):
                client.predict(scan, entry=(0, 2, 0))
        for forced, entry in ((("--entry", "0,0,2"), [0, 0, 2]), (("--depth", 0), [0, 0, 0])):
            result = run_client(server, "http", tmp_path / "scan.nii.gz", "-o", tmp_path / "labels.nii.gz", "--overwrite", *forced)
            assert result.returncode == 0, result.stderr
            assert json.loads(result.stdout)["cases"]["scan"]["entry"] == entry


def test_the_windows_of_a_scan_are_merged_into_batches(server):
    image = np.random.default_rng(0).random((1, 20, 20, 20), dtype=np.float32)
    windows, executions = server.merged("rare_entry_3_3_3")
    with server.client() as client:
        client.predict(Volume(image, np.diag([8.0, 8.0, 8.0, 1.0])))
    more_windows, more_executions = server.merged("rare_entry_3_3_3")
    assert more_windows - windows == 9**3  # ceil((20 - 4) / 2) + 1 = 9 along each axis
    assert more_executions - executions < (more_windows - windows) / 2


def broken(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[0, 1, 2, 3] = np.inf
    return data


REFUSED = {
    "voxels": (broken, 2.0, None),
    "channels": (lambda data: np.concatenate([data, data]), 2.0, None),
    "would be too large": (lambda data: data, 9e9, None),
    "depth": (lambda data: data, 2.0, 9),
}


def test_bad_input_gets_the_words_of_rare_and_the_server_goes_on(server, predictor):
    good = np.random.default_rng(0).random((1, 12, 12, 12), dtype=np.float32)
    with server.client() as client:
        for change, spacing, depth in REFUSED.values():
            scan = Volume(change(good), np.diag([2.0, spacing, 2.0, 1.0]))
            with pytest.raises(RareError) as expected:
                predictor.predict(scan, depth=depth)
            with pytest.raises(DataError) as refused:
                client.predict(scan, depth=depth)
            assert str(expected.value) in str(refused.value)
            assert client.predict(Volume(good, np.diag([2.0, 2.0, 2.0, 1.0]))).entry == (1, 1, 1)
        for spacing in (0.0, -1.0, float("nan")):
            with pytest.raises(DataError, match="the spacing is not finite and positive"):
                client.infer("rare", {"image": good, "spacing_mm": np.array([2.0, spacing, 2.0])}, ("labels",))
        with pytest.raises(EnvironmentFault, match="does not answer"):
            client.infer("nobody", {"image": good}, ("labels",))
        assert client.predict(Volume(good, np.diag([2.0, 2.0, 2.0, 1.0]))).entry == (1, 1, 1)


def test_the_command_reports_a_broken_scan_over_http_and_does_the_others(server, scans, predictor, tmp_path):
    shutil.copy(scans / "scan_01.nii.gz", tmp_path / "good.nii.gz")
    two = nib.load(scans / "scan_01.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([two.get_fdata()] * 2, axis=-1), two.affine), tmp_path / "two.nii.gz")
    result = run_client(server, "http", tmp_path / "good.nii.gz", tmp_path / "two.nii.gz", "-o", tmp_path / "labels")
    assert result.returncode == 6
    failed = json.loads(result.stdout)["failed"]
    with pytest.raises(RareError) as expected:
        predictor.predict(tmp_path / "two.nii.gz")
    assert failed == {"two": str(expected.value)}
    require_same(tmp_path / "good.nii.gz", np.asarray(nib.load(tmp_path / "labels" / "good.nii.gz").dataobj), predictor)
    assert run_client(server, "http", tmp_path / "two.nii.gz", "-o", tmp_path / "alone.nii.gz").returncode == 3


def test_an_altered_or_unknown_bundle_is_not_served_and_the_others_are(bundle, tmp_path):
    repository = tmp_path / "repository"
    for name in ("good", "altered", "unknown"):
        render_repository(bundle, repository, TritonOptions("python", name, num_routers=1))
    engine = repository / "altered_entry_1_1_1" / "1" / "entry_1_1_1.onnx"
    engine.write_bytes(engine.read_bytes() + b"\0")
    manifest = repository / "unknown" / "1" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"schema_version": 99}))
    scan = Volume(np.random.default_rng(0).random((1, 8, 8, 8), dtype=np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    with serving(repository, tmp_path, "--exit-on-error=false", "--strict-readiness=false") as server:
        with server.client("good") as client:
            assert client.predict(scan).entry == (2, 2, 2)
        for name, words in (("altered", "a file of the bundle was changed"), ("unknown", "the bundle's manifest")):
            with server.client(name) as client, pytest.raises(EnvironmentFault):
                client.predict(scan)
            assert words in server.log()
        with server.client("altered") as client:  # unchanged models are served
            image = np.zeros((1, 1, 8, 8, 8), np.float32)
            assert client.infer("altered_entry_2_2_2", {"image": image}, ("logits",))["logits"].shape == (1, 3, 8, 8, 8)


def send(client: Client, number: int) -> tuple[int, int, float, str | None]:
    """Send one request. Return its number, its depth, the seconds, and the error if it failed."""
    depth = number % 4
    shape = tuple(size >> depth for size in (32, 32, 32))
    scan = Volume(np.random.default_rng(number).random((1, *shape), dtype=np.float32), np.diag([*[2.0**depth] * 3, 1.0]))
    started = time.perf_counter()
    try:
        prediction = client.predict(scan)
    except RareError as error:
        return number, depth, time.perf_counter() - started, str(error)
    assert prediction.entry == (depth, depth, depth)
    assert prediction.labels.shape == shape
    return number, depth, time.perf_counter() - started, None


def load(server: Server, total: int, num_clients: int, kill_after: int | None = None) -> list[tuple[int, int, float, str | None]]:
    """Send `total` requests from `num_clients` concurrent clients. The server is killed after `kill_after` answers."""
    answers: list[tuple[int, int, float, str | None]] = []

    def send_share(first: int) -> None:
        with server.client(timeout_s=30) as client:
            for number in range(first, total, num_clients):
                answers.append(send(client, number))

    with ThreadPoolExecutor(num_clients) as pool:
        shares = [pool.submit(send_share, first) for first in range(num_clients)]
        if kill_after is not None:
            while len(answers) < kill_after:
                time.sleep(0.01)
            server.kill()
        for share in shares:
            share.result()
    return sorted(answers)


def test_500_requests_of_8_clients_are_all_answered(server, capsys):
    answers = load(server, 500, 8)
    assert [number for number, *_ in answers] == list(range(500))
    assert [error for *_, error in answers if error] == []
    with capsys.disabled():
        sys.stdout.write("\n")
        for depth in range(4):
            seconds = sorted(1e3 * taken for _, at, taken, _ in answers if at == depth)
            cuts = statistics.quantiles(seconds, n=100)
            sys.stdout.write(f"depth {depth}: {len(seconds)} requests, ms p50 {cuts[49]:.1f}, p90 {cuts[89]:.1f}, p99 {cuts[98]:.1f}\n")


def test_a_server_that_is_killed_loses_no_request_silently(bundle, tmp_path):
    with serving_bundle(bundle, tmp_path, TritonOptions("python", num_routers=1)) as server, server.client() as survivor:
        assert send(survivor, 0)[3] is None
        answers = load(server, 400, 8, kill_after=50)
        assert [number for number, *_ in answers] == list(range(400))
        failed = [error for *_, error in answers if error]
        assert 0 < len(failed) <= 350
        assert all(re.match("the server does not answer\n", error) for error in failed)
        server.start()
        assert [error for *_, error in load(server, 16, 8) if error] == []
        # a client from before the crash reaches the new server, at the latest when gRPC retries
        deadline = time.monotonic() + 30
        while (again := send(survivor, 1)[3]) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert again is None
