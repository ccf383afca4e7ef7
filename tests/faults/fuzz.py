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
from mutants import mutate

from rarecli.core.data.cases import read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.errors import DataError, ModelError, RareError
from rarecli.core.imaging.volume import read_labels, read_volume

MOST_SECONDS, MOST_BYTES = 2.0, 10**9


@dataclass(frozen=True)
class Target:
    """A kind of file: a valid example, its name in a folder, how it is read, and the allowed errors."""

    name: str
    good: bytes
    file: str
    read: Callable[[Path], object]
    answers: type[RareError]


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
    for dtype, kind, shape, codes in (
        ("<i2", nib.Nifti1Image, (6, 5, 4), (1, 1)),
        (">f4", nib.Nifti1Image, (6, 5, 4), (1, 0)),
        ("<u1", nib.Nifti2Image, (6, 5, 4, 2), (0, 1)),
        ("<f8", nib.Nifti1Image, (32, 32, 32), (0, 1)),
        (">u8", nib.Nifti2Image, (5, 4), (0, 0)),
        ("<i4", nib.Nifti1Image, (3, 2, 1, 1, 4), (2, 2)),
    ):
        name = f"{dtype} {len(shape)}D"
        raw = _scan(kind, rng.integers(0, 4, shape).astype(dtype), codes)
        packed = gzip.compress(raw, mtime=0)
        targets.append(Target(f"{name} .nii", raw, "scan.nii", read_volume, DataError))
        targets.append(Target(f"{name} .nii.gz", packed, "scan.nii.gz", read_volume, DataError))
        if len(shape) == 3:
            targets.append(Target(f"{name} labels", raw, "labels.nii", read_labels, DataError))
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
        targets.append(Target(f"{layout} dataset.json", raw, "dataset.json", _read_dataset, DataError))
    manifest = next(iter(built_in_models().values())) / "manifest.json"
    targets.append(Target("manifest.json", manifest.read_bytes(), "manifest.json", _read_manifest, ModelError))
    return targets


def _scan(kind: type[nib.Nifti1Image], data: np.ndarray, codes: tuple[int, int]) -> bytes:
    """A file whose sform and qform have these codes, on a turned grid."""
    header = kind.header_class(endianness=data.dtype.str[0].replace("|", "<"))
    header.set_data_dtype(data.dtype)
    turn = nib.eulerangles.euler2mat(0.3, 0.2, 0.1)
    image = kind(data, None, header)
    affine = nib.affines.from_matvec(turn @ np.diag([-1.0, 2, 3]), [5, 6, 7])
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    image.header.set_slope_inter(2, 1)
    return image.to_bytes()


def _read_dataset(path: Path) -> None:
    dataset = open_dataset(path.parent)
    read_case(dataset.cases[0], sorted(dataset.label_names or {0: ""}))


def _read_manifest(path: Path) -> None:
    load_manifest(path.parent)


def fuzz(folder: Path, seed: int, *, num_files: int | None = None, seconds: float | None = None) -> Report:
    """Read mutated files until their number or the time is reached. The same seed gives the same files."""
    targets = corpus(folder)
    rng = random.Random(seed)
    report = Report()
    started = time.perf_counter()
    while (num_files is None or report.num_files < num_files) and (seconds is None or report.seconds < seconds):
        target = rng.choice(targets)
        content = mutate(target.good, target.file, rng)
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
