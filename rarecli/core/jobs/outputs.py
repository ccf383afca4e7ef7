"""One policy for every output: rare never replaces files it did not write, and its own only with --resume or --overwrite."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rarecli.core.errors import UsageError, some

_FILE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".hdr", ".img", ".dcm", ".npy", ".npz", ".h5"),
    *(".json", ".csv", ".txt", ".md", ".yaml", ".zip", ".gz", ".pt", ".pth", ".onnx", ".safetensors"),
)


def require_folder_name(output: Path) -> None:
    """Raise UsageError if the output folder has the name of a file, which the user did not mean."""
    if output.suffix.lower() in _FILE_SUFFIXES and not output.is_dir():
        raise UsageError(
            "the output is a folder, but this is the name of a file", path=output, found=output.suffix, remedy="choose another -o"
        )


def require_replaceable(targets: Sequence[Path], ours: Collection[Path], *, again: bool, resumable: bool = True) -> None:
    """Raise UsageError if a target exists and must not be replaced: any file without `again`, and files that are not `ours`.

    ours: the files that rare wrote. again: --resume or --overwrite was given. resumable: the command has --resume.
    """
    existing = [path for path in targets if path.exists() or path.is_symlink()]
    if foreign := sorted(set(existing) - set(ours)):
        raise UsageError(
            "the output holds files that rare did not write",
            path=foreign[0].parent,
            found=some(path.name for path in foreign),
            expected="a new folder, or one that this command wrote",
            remedy="choose another -o",
        )
    if existing and not again:
        choices = "--resume keeps what is finished there, --overwrite replaces it" if resumable else "--overwrite replaces it"
        raise UsageError("the output exists", path=existing[0], remedy=f"{choices}; or choose another -o")


def require_new_folder(output: Path, mark: str, kind: str, *, again: bool, resumable: bool = True) -> None:
    """Raise UsageError unless the folder `output` may be written as a whole: it is missing or empty, or rare wrote it and `again` is set.

    mark: the file or folder inside by which rare recognises its own output. kind: the kind of output, for the error.
    """
    require_folder_name(output)
    target = output / mark
    if output.exists() and not target.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError(f"the output exists and is not {kind}", path=output, remedy="choose another -o, or remove it")
    require_replaceable([target], [target], again=again, resumable=resumable)


def require_new_result(output: Path, files: Sequence[str], mark: str, *, again: bool, resumable: bool = True) -> None:
    """Raise UsageError unless `files` may be written into the folder `output`. They are ours if the file `mark` is beside them.

    `mark` must be written before the others, so that rare recognises the files of a killed call too.
    """
    require_folder_name(output)
    targets = [output / name for name in files]
    require_replaceable(targets, targets if (output / mark).is_file() else [], again=again, resumable=resumable)
