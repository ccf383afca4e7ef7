"""NIfTI files become cases by their names: one file, or one per channel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rarecli.core.data.cases import Case
from rarecli.core.errors import DataError

SUFFIXES = (".nii.gz", ".nii")
CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def scans_in(folder: Path, num_channels: int | None = None) -> list[Case]:
    """The scans of a folder by name; files CASE_0000, CASE_0001 ... are channels of one scan.

    num_channels: of every scan, where it is known. With 1, files that are named so without being channels are scans of their own.
    """
    files = nifti_files(folder)
    if not files:
        raise DataError("no scans here", path=folder, expected="files named *.nii or *.nii.gz")
    return _group(files, num_channels)


def label_files(folder: Path) -> list[Case]:
    """The label files of a folder by name, each a case of its own."""
    if not folder.is_dir():
        raise DataError("there is no such folder", path=folder, expected="a folder of label files")
    return one_each(nifti_files(folder))


def one_each(files: Iterable[Path]) -> list[Case]:
    """Make one case of every file. Raises DataError for two of one name."""
    cases = [Case(case_name(file), (file,)) for file in files]
    require_unique(cases)
    return cases


def nifti_files(folder: Path) -> list[Path]:
    """List the NIfTI files of a folder by name, hidden ones left out."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith("."))


def find_scans(inputs: Sequence[Path], num_channels: int | None = None) -> list[Case]:
    """Cases for prediction: each input is a file, or a folder of scans. num_channels: those that the model takes."""
    files: list[Path] = []
    cases: list[Case] = []
    for path in inputs:
        if path.is_dir():
            cases += scans_in(path, num_channels)
        elif not path.exists():
            raise DataError("there is no such file", path=path, expected="a scan, or a folder of scans")
        elif not path.name.endswith(SUFFIXES):
            raise DataError("not a scan", path=path, expected="a name ending in .nii or .nii.gz")
        else:
            files.append(path)
    cases += _group(files, num_channels)
    require_unique(cases)
    return cases


def case_name(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _group(files: Iterable[Path], num_channels: int | None) -> list[Case]:
    """Cases of files. Four digits at the end of a name are a channel if some name ends in _0000, and else part of the name.

    A file without digits is a scan of its own and changes nothing about the others. Patients called scan_0000, scan_0001 ... look like the
    channels of one scan: with `num_channels` 1 they are scans.
    """
    files = list(files)
    matches = {file: match for file in files if (match := CHANNEL.match(case_name(file)))}
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for file, match in matches.items():
        channels = groups.setdefault((file.parent, match["case"]), {})
        if (number := int(match["channel"])) in channels:
            raise DataError("a channel is there twice", case=match["case"], path=file, found=channels[number].name)
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
    """Raise DataError if two cases have one name."""
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(
                "two scans have one name", case=case.name, path=case.images[0], found=seen[case.name], expected="different names"
            )
        seen[case.name] = case.images[0]
