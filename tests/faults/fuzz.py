"""Mutate the bytes of valid files and read them. The result must be success or a named error, soon and in bounded memory.

python tests/faults/fuzz.py --seconds 600    a long run (`make fuzz`); --num-files N --seed S    the same files every time

What is read: NIfTI files (.nii, .nii.gz; header, voxels, the packed stream), dataset.json, a bundle's manifest.json.
Files are read in a child process that has imported everything and may take MOST_BYTES more memory than it has, by rlimit;
a file that takes longer than MOST_SECONDS is interrupted. Any result other than success or an expected error is a finding.
"""

import argparse
import gzip
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from rarecli.core.data.cases import read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.errors import DataError, ModelError, RareError
from rarecli.core.imaging.volume import read_labels, read_volume

MOST_SECONDS, MOST_BYTES = 2.0, 10**9
_EDGES = [0, 1, 2, 127, 128, 254, 255]


@dataclass(frozen=True)
class Target:
    """A kind of file: a valid example, its name in a folder, how it is read, and the allowed errors."""

    name: str
    good: bytes
    file: str
    read: Callable[[Path], object]
    answers: type[RareError]
    text: bool = False


@dataclass
class Report:
    """The findings of a run."""

    num_files: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    answers: Counter = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def corpus(folder: Path) -> list[Target]:
    """Return small valid files of every kind. Files that others refer to are in `folder`."""
    targets = []
    rng = np.random.default_rng(0)
    for dtype, kind, shape in (
        ("<i2", nib.Nifti1Image, (6, 5, 4)),
        (">f4", nib.Nifti1Image, (6, 5, 4)),
        ("<u1", nib.Nifti2Image, (6, 5, 4, 2)),
        ("<f8", nib.Nifti1Image, (32, 32, 32)),
    ):
        image = kind(rng.integers(0, 4, shape).astype(dtype), np.diag([-1.0, 2, 3, 1]), dtype=np.dtype(dtype))
        image.header.set_slope_inter(2, 1)
        raw = image.to_bytes()
        packed = gzip.compress(raw, mtime=0)
        targets.append(Target(f"{dtype} .nii", raw, "scan.nii", read_volume, DataError))
        targets.append(Target(f"{dtype} .nii.gz", packed, "scan.nii.gz", read_volume, DataError))
        if len(shape) == 3:
            targets.append(Target(f"{dtype} labels", raw, "labels.nii", read_labels, DataError))
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
        for case in "ab":
            data = rng.integers(0, 2, (4, 4, 4)).astype(np.uint8)
            nib.save(nib.Nifti1Image(data, np.eye(4)), folder / name / f"{case}{'_0000' if name == 'imagesTr' else ''}.nii.gz")
    entries = [{"image": f"./imagesTr/{case}_0000.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    msd = {"name": "x", "modality": {"0": "MR"}, "labels": {"0": "no", "1": "yes"}, "numTraining": 2, "training": entries}
    nnunet = {"channel_names": {"0": "MR"}, "labels": {"no": 0, "yes": 1}, "numTraining": 2, "file_ending": ".nii.gz"}
    for layout, content in (("MSD", msd), ("nnU-Net", nnunet)):
        raw = json.dumps(content, indent=1).encode()
        targets.append(Target(f"{layout} dataset.json", raw, "dataset.json", _read_dataset, DataError, text=True))
    manifest = next(iter(built_in_models().values())) / "manifest.json"
    targets.append(Target("manifest.json", manifest.read_bytes(), "manifest.json", _read_manifest, ModelError, text=True))
    return targets


def _read_dataset(path: Path) -> None:
    dataset = open_dataset(path.parent)
    read_case(dataset.cases[0], sorted(dataset.label_names or {0: ""}))


def _read_manifest(path: Path) -> None:
    load_manifest(path.parent)


def mutate(target: Target, rng: random.Random) -> bytes:
    """Apply a few changes to a valid file: bytes flipped or set, numbers overwritten, parts cut, doubled or moved, values swapped."""
    if target.file.endswith(".gz") and rng.random() < 0.6:  # the content, not the gzip stream
        return gzip.compress(_mutate_bytes(gzip.decompress(target.good), rng), 1, mtime=0)
    if target.text and rng.random() < 0.6:
        return _mutate_json(target.good, rng)
    return _mutate_bytes(target.good, rng)


def _mutate_bytes(good: bytes, rng: random.Random) -> bytes:
    raw = bytearray(good)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        # half of all changes lie in the header
        place = rng.randrange(min(len(raw), 352) if rng.random() < 0.5 else len(raw)) if raw else 0
        match rng.randrange(8):
            case 0:
                raw[place : place + 1] = bytes([rng.choice(_EDGES)])
            case 1:
                raw[place : place + 1] = bytes([rng.randrange(256)])
            case 2 if place < len(raw):
                raw[place] ^= 1 << rng.randrange(8)
            case 3:
                form = rng.choice(["<h", ">h", "<i", "<q"])
                size = struct.calcsize(form) * 8
                raw[place : place + size // 8] = struct.pack(form, rng.choice([0, 1, -1, 2 ** (size - 1) - 1, -(2 ** (size - 1))]))
            case 4:
                number = rng.choice([0.0, -1.0, 1e9, 1e38, float("nan"), float("inf"), 1e-38])
                raw[place : place + 4] = struct.pack(rng.choice(["<f", ">f"]), number)
            case 5:
                del raw[place:]
            case 6:
                del raw[place : place + rng.randrange(1, 64)]
            case 7:
                raw[place:place] = raw[place : place + rng.randrange(1, 64)] * rng.choice([1, 2, 100])
    return bytes(raw)


def _mutate_json(good: bytes, rng: random.Random) -> bytes:
    content = json.loads(good)
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = list(_places(content))
        holder, key = rng.choice(places)
        other, other_key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                holder[key] = _strange(rng)
            case 1:
                holder[key] = json.loads(json.dumps(other[other_key]))
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[rng.choice(["", "surprise", "\ud800", "0", "-1", "1e9", "9" * 5000])] = _strange(rng)
            case 4 if isinstance(holder, list):
                holder += holder[:50]
    return json.dumps(content).encode(errors="surrogatepass")


def _strange(rng: random.Random) -> object:
    deep: object = 0
    for _ in range(rng.choice([10, 60, 400])):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    numbers = [0, -1, 2**31, 2**64, 10**400, 0.5, 1e308, float("nan"), float("inf")]
    texts = ["", "\x00", "../../x", "/etc/passwd", "a" * 10_000, "\ud800"]
    return rng.choice([None, True, *numbers, *texts, [], {}, [[]], [None], {"0": None}, deep])


def _places(content: object) -> Iterator[tuple]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


def fuzz(folder: Path, seed: int, *, num_files: int | None = None, seconds: float | None = None) -> Report:
    """Read mutated files until their number or the time is reached. The same seed gives the same files."""
    targets = corpus(folder)
    rng = random.Random(seed)
    report = Report()
    started = time.perf_counter()
    while (num_files is None or report.num_files < num_files) and (seconds is None or report.seconds < seconds):
        target = rng.choice(targets)
        content = mutate(target, rng)
        path = folder / target.file
        path.write_bytes(content)
        before = time.perf_counter()
        try:
            with _time_limit(), warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                target.read(path)
            report.answers[f"{target.name}: read"] += 1
        except target.answers as error:
            report.answers[f"{target.name}: {error.problem}"] += 1
            str(error)  # the message for the user must be printable
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            kept = folder / f"finding_{len(report.findings)}_{target.file}"
            kept.write_bytes(content)
            report.findings.append(
                f"{target.name}, file {report.num_files} ({kept.name}): {''.join(traceback.format_exception(error)[-3:])}"
            )
        report.slowest = max(report.slowest, time.perf_counter() - before)
        path.unlink()
        report.num_files += 1
        report.seconds = time.perf_counter() - started
    return report


class TooSlowError(BaseException):
    """Not an Exception, so that no handler in the code under test catches it."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory() -> None:
    """Limit this process to MOST_BYTES more address space than it uses now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Fuzz in a child process; exit with 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--num-files", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, help="keep what was found here")
    options = parser.parse_args()
    folder = options.findings or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    limit_memory()
    report = fuzz(folder, options.seed, num_files=options.num_files, seconds=options.seconds)
    lines = [f"{count:8}  {answer}" for answer, count in sorted(report.answers.items())] + report.findings[:20]
    counts = f"{report.num_files} files in {report.seconds:.0f} s, slowest {report.slowest:.2f} s, {len(report.findings)} findings"
    sys.stdout.write("\n".join([*lines, f"seed {options.seed}: {counts}\n"]))
    sys.stdout.flush()
    os._exit(bool(report.findings))


if __name__ == "__main__":
    main()
