"""Segments scans with a Triton server that serves a bundle (`rare export --triton`). A command and a library.

    pip install "rare-unet[triton]"
    python client.py SCAN... -o OUTPUT [--url HOST:PORT] [--protocol grpc|http] [--model rare] [--jobs N] [--overwrite]

    with Client("localhost:8001") as client:
        prediction = client.predict("scan.nii.gz")        # a Prediction, as from Predictor.predict

The client reads the scan, reorients it to RAS axes and sends it with its spacing. The server does the rest and returns the labels of the
scan's voxels, which the client reorients back. Reading and reorienting are those of `rare predict`: rarecli without PyTorch.
"""

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rarecli.core.data.case_files import find_scans
from rarecli.core.data.cases import Case, read_image
from rarecli.core.data.fingerprint import Difference
from rarecli.core.errors import DataError, EnvironmentFault, RareError, SomeCasesFailed, UsageError, missing_extra, some
from rarecli.core.imaging import routing
from rarecli.core.imaging.cropping import crop
from rarecli.core.imaging.orientation import from_ras, to_ras
from rarecli.core.imaging.preprocessing import RoutedScan
from rarecli.core.imaging.routing import Route
from rarecli.core.imaging.scan_rules import forced_entry
from rarecli.core.imaging.volume import Volume, read_volume, require_finite, write_labels, write_probabilities
from rarecli.core.jobs.files import require_writable, write_json
from rarecli.core.jobs.journal import Journal
from rarecli.core.prediction.predict import RECORDS, PredictOptions, choose_targets, require_replaceable_results
from rarecli.core.prediction.predictor import Prediction
from rarecli.core.prediction.results import TABLES, probabilities_file, remove_stale_files, result_files
from rarecli.core.serving import contract
from rarecli.core.types import Entry

_REFUSED = ("400", "StatusCode.INVALID_ARGUMENT")
_ALWAYS = (contract.LABELS, contract.ENTRY, contract.REASON, contract.GRID_SPACING, contract.ZOOM, contract.WARNINGS)


class Client:
    """A connection to a server that segments scans. Use it as a context manager, or call `close`. Use one client per thread.

    url: HOST:PORT, without a scheme. protocol: grpc (port 8001 by default on the server) or http (8000). model: the router's name.
    """

    def __init__(self, url: str, protocol: str = "grpc", model: str = "rare", timeout_s: float = 120.0) -> None:
        if protocol not in ("grpc", "http"):
            raise UsageError("unknown protocol", field="protocol", found=protocol, expected="grpc, http")
        try:
            if protocol == "grpc":
                import tritonclient.grpc as library
            else:
                import tritonclient.http as library
        except (ImportError, RuntimeError):  # RuntimeError: tritonclient without this protocol
            raise missing_extra(f"tritonclient[{protocol}]", "triton") from None
        self._library, self._url, self._model, self._timeout_s = library, url, model, timeout_s
        if protocol == "grpc":
            self._server = library.InferenceServerClient(url)
            self._limit = {"client_timeout": timeout_s}
        else:
            self._server = library.InferenceServerClient(url, connection_timeout=timeout_s, network_timeout=timeout_s)
            self._limit = {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def predict(
        self, scan: str | Path | Volume, *, depth: int | None = None, entry: Entry | None = None, probabilities: bool = False
    ) -> Prediction:
        """Segment a NIfTI file or a Volume. `depth` forces one depth along all axes, `entry` a depth per axis. Nothing is retried.

        Raises UsageError for both a depth and an entry; DataError for a broken file, and with the server's message for a scan that the
        server refuses; EnvironmentFault for a server that is not there, does not have the model, or fails.
        """
        started = time.perf_counter()
        forced = forced_entry(depth, entry)
        volume = scan if isinstance(scan, Volume) else read_volume(Path(scan))
        require_finite(volume)
        routing.require_spacing(volume.spacing_mm)
        ras = to_ras(volume)
        wanted = (*_ALWAYS, contract.PROBABILITIES) if probabilities else _ALWAYS
        inputs = {contract.IMAGE: np.ascontiguousarray(ras.data, dtype=np.float32), contract.SPACING: np.array(ras.spacing_mm)}
        if forced is not None:
            inputs[contract.ENTRY] = np.array(forced, dtype=np.int32)
        answer = self.infer(self._model, inputs, wanted)
        (x, y, z), (reason,) = answer[contract.ENTRY].tolist(), answer[contract.REASON].tolist()
        route = Route((x, y, z), tuple(answer[contract.GRID_SPACING].tolist()), tuple(answer[contract.ZOOM].tolist()), reason.decode())
        way_back = RoutedScan(inputs[contract.IMAGE], route, *crop(volume, "none"))
        maps = way_back.restore_probabilities(answer[contract.PROBABILITIES]) if probabilities else None
        labels = from_ras(answer[contract.LABELS], volume.affine)
        unlike = tuple(Difference(None, text.decode()) for text in answer[contract.WARNINGS].tolist())
        return Prediction(labels, volume.affine, route.entry, route.reason, route.zoom, maps, time.perf_counter() - started, unlike)

    def infer(self, model: str, inputs: dict[str, np.ndarray], outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Send one request to any model of the server: named arrays in, named arrays out. Raises the errors of `predict`."""
        from tritonclient.utils import InferenceServerException, np_to_triton_dtype

        tensors = []
        for name, array in inputs.items():
            tensors.append(self._library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            tensors[-1].set_data_from_numpy(array)
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._server.infer(model, tensors, outputs=wanted, **self._limit)
        except InferenceServerException as error:
            if error.status() in _REFUSED:
                raise DataError(error.message()) from error
            raise self._failed(model, error.message()) from error
        except OSError as error:  # HTTP: no server listens, or the connection broke
            raise self._failed(model, error) from error
        return {name: result.as_numpy(name) for name in outputs}

    def _failed(self, model: str, found: object) -> EnvironmentFault:
        return EnvironmentFault("the server does not answer", path=self._url, field=model, found=found)


def segment_files(cases: list[Case], output: Path, options: argparse.Namespace) -> dict[str, object]:
    """Segment every case and return the records and the errors, by case. A case that fails does not stop the others."""
    targets = choose_targets(cases, output)
    written = PredictOptions(probabilities=options.probabilities)
    files = {name: result_files(target, written, in_folder=False) for name, target in targets.items()}
    require_replaceable_results(files, output, again=options.overwrite, resumable=False)
    to_file = output in targets.values()
    require_writable(output.parent if to_file else output)
    if not to_file:
        Journal(output, resume=False, writes=targets)  # so that a later call knows the files as ours
        for table in TABLES:
            (output / table).unlink(missing_ok=True)  # of an earlier call: they would tell of other labels
    clients: list[Client] = []
    own = threading.local()

    def open_client() -> None:
        own.client = Client(options.url, options.protocol, options.model)
        clients.append(own.client)

    def segment(case: Case) -> dict[str, object] | RareError:
        try:
            volume = read_image(case)
            prediction = own.client.predict(volume, depth=options.depth, entry=options.entry, probabilities=options.probabilities)
            target = targets[case.name]
            remove_stale_files(target, files[case.name])
            write_labels(target, prediction.labels, volume)
            if prediction.probabilities is not None:
                write_probabilities(probabilities_file(target), prediction.probabilities, volume)
        except RareError as error:
            return error
        return {
            "entry": list(prediction.entry),
            "reason": prediction.reason,
            "residual_zoom": list(prediction.zoom),
            "seconds": prediction.seconds,
            "warnings": list(prediction.warnings),
        }

    with ThreadPoolExecutor(options.jobs, initializer=open_client) as pool:
        results = dict(zip([case.name for case in cases], pool.map(segment, cases), strict=True))
    for client in clients:
        client.close()
    failures = {name: result for name, result in results.items() if isinstance(result, RareError)}
    if len(cases) == 1 and failures:
        raise next(iter(failures.values()))
    records = {name: result for name, result in results.items() if name not in failures}
    result = {"model": options.model, "cases": records, "failed": {name: str(error) for name, error in failures.items()}}
    if not to_file:
        write_json(output / RECORDS, result)
    if failures:
        raise SomeCasesFailed(f"{len(failures)} of {len(cases)} cases failed: {some(failures)}", result=result, path=output)
    return result


def three_depths(text: str) -> Entry:
    """X,Y,Z -> the depth of each axis."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 3 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,Z with a depth per axis, e.g. 0,0,2")
    x, y, z = map(int, parts)
    return x, y, z


def main() -> int:
    """Run the command and return its exit code, as for `rare`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=Path, metavar="SCAN", help="scans, or folders of scans")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a file for one scan, otherwise a folder")
    parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server (localhost:8001)")
    parser.add_argument("--protocol", default="grpc", choices=("grpc", "http"))
    parser.add_argument("--model", default="rare", help="the router's name (rare)")
    forced = parser.add_mutually_exclusive_group()
    forced.add_argument("--depth", type=int, metavar="K", help="force one depth along all axes")
    forced.add_argument("--entry", type=three_depths, metavar="X,Y,Z", help="force an entry: a depth per axis, e.g. 0,0,2")
    parser.add_argument("--probabilities", action="store_true", help="also write CASE_probabilities.nii.gz")
    parser.add_argument("--jobs", type=int, default=1, help="scans processed at a time (1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier call")
    options = parser.parse_args()
    try:
        result, exit_code = segment_files(find_scans(options.inputs), options.output, options), 0
    except SomeCasesFailed as error:
        result, exit_code = error.result, error.exit_code
        print(f"Error: {error}", file=sys.stderr)
    except RareError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2))
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
