"""Groups NIfTI files into cases by their names: one file per case, or one per channel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rarecli.core.data.cases import Case
from rarecli.core.errors import DataError

SUFFIXES = (".nii.gz", ".nii")
CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def scans_in(folder: Path, num_channels: int | None = None) -> list[Case]:
    """Return the scans of a folder by name. Files CASE_0000, CASE_0001 ... are channels of one scan.

    num_channels: channels per scan, if known. With 1, files with such names are separate scans.
    Raises DataError for a folder without scans, and for missing or duplicate channels.
    """
    files = nifti_files(folder)
    if not files:
        raise DataError("no scans in this folder", path=folder, expected="files named *.nii or *.nii.gz")
    return _group(files, num_channels)


def label_files(folder: Path) -> list[Case]:
    """Return the label files of a folder by name, each as one case."""
    if not folder.is_dir():
        raise DataError("no such folder", path=folder, expected="a folder of label files")
    return one_each(nifti_files(folder))


def one_each(files: Iterable[Path]) -> list[Case]:
    """Return one case per file. Raises DataError for two files with the same name."""
    cases = [Case(case_name(file), (file,)) for file in files]
    require_unique(cases)
    return cases


def nifti_files(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder by name, without hidden files."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith("."))


def find_scans(inputs: Sequence[Path], num_channels: int | None = None) -> list[Case]:
    """Return the cases to predict. Each input is a file or a folder of scans. num_channels: the channels that the model takes.

    Raises DataError for a missing file, a file that is not NIfTI, and two scans with the same name.
    """
    files: list[Path] = []
    cases: list[Case] = []
    for path in inputs:
        if path.is_dir():
            cases += scans_in(path, num_channels)
        elif not path.exists():
            raise DataError("no such file", path=path, expected="a scan, or a folder of scans")
        elif not path.name.endswith(SUFFIXES):
            raise DataError("not a scan", path=path, expected="a name ending in .nii or .nii.gz")
        else:
            files.append(path)
    cases += _group(files, num_channels)
    require_unique(cases)
    return cases


def case_name(path: Path) -> str:
    """Return the file name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _group(files: Iterable[Path], num_channels: int | None) -> list[Case]:
    """Group files into cases. Four digits at the end of a name are a channel if some name ends in _0000, otherwise part of the name.

    A file without digits is a separate scan and does not affect the others. Patients named scan_0000, scan_0001 ... look like the
    channels of one scan; with `num_channels` 1 they are separate scans.
    """
    files = list(files)
    matches = {file: match for file in files if (match := CHANNEL.match(case_name(file)))}
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for file, match in matches.items():
        channels = groups.setdefault((file.parent, match["case"]), {})
        if (number := int(match["channel"])) in channels:
            raise DataError("a channel occurs twice", case=match["case"], path=file, found=channels[number].name)
        channels[number] = file
    several = num_channels == 1 and any(len(channels) > 1 for channels in groups.values())
    if several or not any(match["channel"] == "0000" for match in matches.values()):
        return one_each(files)
    for (folder, name), channels in groups.items():
        if missing := sorted(set(range(max(channels) + 1)) - channels.keys()):
            raise DataError(
                "a channel is missing",
                case=name,
                path=folder,
                found=", ".join(file.name for file in channels.values()),
                expected=", ".join(f"{name}_{number:04d}.nii.gz" for number in missing),
            )
    cases = [Case(name, tuple(file for _, file in sorted(channels.items()))) for (_, name), channels in groups.items()]
    cases += one_each(file for file in files if file not in matches)
    require_unique(cases)
    return cases


def require_unique(cases: Iterable[Case]) -> None:
    """Raise DataError if two cases have the same name."""
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(
                "two scans have the same name", case=case.name, path=case.images[0], found=seen[case.name], expected="different names"
            )
        seen[case.name] = case.images[0]
