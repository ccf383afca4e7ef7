"""Stores the state of a training in few small files, and makes a run of them that `rare train --resume` continues.

    python benchmarks/gpu_checkpoint.py pack RUN FOLDER [--num-files 8] [--file-mib 16] [--total-mib 128] [--beside OUTPUT]
    python benchmarks/gpu_checkpoint.py unpack FOLDER RUN

A checkpoint holds 16 bytes per weight: the weight, its average and both moments of AdamW, in float32. `pack` chooses the best form that
fits:

exact      all tensors as they are: the training continues with the same bits
halves     weights and averages in float16, first moments and the square roots of second moments in bfloat16: 8 bytes per weight
weights    weights and averages in float16: 4 bytes
average    the averages in float16; the weights continue from them: 2 bytes
average8   the averages as 255 steps with a scale per output channel: 1 byte
average6   the averages as 63 steps, likewise: 3/4 byte; they lose some accuracy, which the training regains

float16 has 11 significant bits, enough for weights, whose range is narrow; moments need the range of bfloat16, and their square roots halve
it. Below `halves`, second moments are kept as their means over rows and columns (Source: Adafactor, arXiv 1804.04235, section 3), less than
1 % of their size, and first moments start at zero: with the step count kept, the first updates are small, so the optimiser warms up again.
Tensors of one dimension stay float32. best.safetensors is not kept. The bytes are compressed (zlib) and cut into pieces.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarecli.core.config import run_folder
from rarecli.core.errors import ModelError
from rarecli.core.jobs.files import atomic_file
from rarecli.core.model import checkpoint

FORMS = ("exact", "halves", "weights", "average", "average8", "average6")
_STEPS = {"average8": 127, "average6": 31}
"""Steps between 0 and the largest weight of a channel."""
_MOST_GAIN = 1.5
"""Compression is not tried where it would have to gain more."""
_TEXTS = (run_folder.RUN, run_folder.LOG, run_folder.SPLITS)
_MIB = 2**20
_PIECE = "state_{}_of_{}"


@dataclass(frozen=True)
class Limits:
    """What the files may take together."""

    num_files: int = 8
    file_bytes: int = 16 * _MIB
    total_bytes: int = 128 * _MIB

    def allow(self, num_bytes: int) -> bool:
        """Return whether so many bytes fit, cut into pieces."""
        return num_bytes <= min(self.total_bytes, self.num_files * self.file_bytes)

    def less(self, folder: Path, except_for: Path) -> Limits:
        """Return what is left beside the files of `folder`, with one more file and a quarter of a MiB to come."""
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and except_for not in path.parents]
        return Limits(max(0, self.num_files - len(sizes) - 1), self.file_bytes, max(0, self.total_bytes - sum(sizes) - _MIB // 4))


def pack(run: Path, folder: Path, limits: Limits = Limits()) -> str:
    """Write the state of a run into a folder, in the best form that fits the limits. Returns the form.

    Raises ModelError if the run has no intact checkpoint, ValueError if no form fits or the folder holds other files.
    """
    earlier = set(folder.glob(_PIECE.format("*", "*")))
    if folder.is_dir() and set(folder.iterdir()) - earlier:
        raise ValueError(f"{folder} holds other files than a checkpoint")
    tensors, facts = checkpoint.load_state(run)
    texts = {name: (run / name).read_text(encoding="utf-8") for name in _TEXTS if (run / name).is_file()}
    for form in FORMS:
        coded = dict(_encoded(tensors, form))
        if not limits.allow(int(sum(tensor.nbytes for tensor in coded.values()) / _MOST_GAIN)):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "state"
            checkpoint.save_weights(whole, coded, {"form": form, "facts": facts, "texts": texts})
            content = zlib.compress(whole.read_bytes(), 1)
        if limits.allow(len(content)):
            for path in earlier - _cut(content, folder, limits.file_bytes):
                path.unlink()
            return form
    raise ValueError(f"no form of the state fits {limits}")


def unpack(folder: Path, run: Path) -> str:
    """Make a run that `rare train --resume` continues. Returns the form of its state.

    Raises ModelError for a damaged or incomplete checkpoint, FileExistsError if `run` exists.
    """
    coded, facts = _read(folder)
    tensors = _decoded(coded, facts["form"])
    run.mkdir(parents=True)
    for name, text in facts["texts"].items():
        with atomic_file(run / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    average = {name.removeprefix("average."): tensor for name, tensor in tensors.items() if name.startswith("average.")}
    checkpoint.save_weights(run / run_folder.WEIGHTS, average)
    checkpoint.save_state(run, tensors, facts["facts"])
    return str(facts["form"])


def num_epochs(folder: Path) -> int:
    """Return how many epochs the training of a checkpoint has finished."""
    return int(_read(folder)[1]["facts"]["state"]["epoch"])


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "state"
        pieces = b"".join(piece.read_bytes() for piece in _pieces(folder))
        try:
            whole.write_bytes(zlib.decompress(pieces))
        except zlib.error as error:
            raise ModelError("the checkpoint is damaged", path=folder, found=error) from error
        return checkpoint.load_tensors(whole)


def _cut(content: bytes, folder: Path, file_bytes: int) -> set[Path]:
    num = -(-len(content) // file_bytes)
    step = -(-len(content) // num)
    pieces = [folder / _PIECE.format(index, num) for index in range(num)]
    for index, piece in enumerate(pieces):
        with atomic_file(piece) as temporary:
            temporary.write_bytes(content[index * step : (index + 1) * step])
    return set(pieces)


def _pieces(folder: Path) -> list[Path]:
    found = {path.name for path in folder.glob(_PIECE.format("*", "*"))}
    num = len(found)
    if not num or found != {_PIECE.format(index, num) for index in range(num)}:
        raise FileNotFoundError(f"{folder} holds no complete checkpoint: found {', '.join(sorted(found)) or 'nothing'}")
    return [folder / _PIECE.format(index, num) for index in range(num)]


def _encoded(tensors: dict[str, Tensor], form: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a form; a suffix of the name says how a tensor is stored."""
    for name, tensor in tensors.items():
        small = tensor.dim() < 2
        kind = name.rpartition(".")[2] if name.startswith("optimiser.") else name.partition(".")[0]
        if form == "exact" or small:
            if not (kind == "network" and form.startswith("average")):
                yield name, tensor
        elif name.startswith("optimiser.") and form == "halves":
            root = kind == "exp_avg_sq"
            yield f"{name}:{'root' if root else 'half'}", (tensor.sqrt() if root else tensor).bfloat16()
        elif kind == "exp_avg_sq":
            table = tensor.flatten(1)
            yield f"{name}:rows", table.mean(1)
            yield f"{name}:columns", table.mean(0)
        elif kind == "average" and form in _STEPS:
            scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-30) / _STEPS[form]
            yield f"{name}:scale", scale
            yield f"{name}:int8", (tensor / _beside(scale, tensor)).round().to(torch.int8)
        elif kind == "average" or (kind == "network" and not form.startswith("average")):
            yield f"{name}:half", tensor.half()


def _decoded(coded: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint from what `_encoded` yields."""
    tensors: dict[str, Tensor] = {}
    for coded_name, tensor in coded.items():
        name, _, how = coded_name.partition(":")
        if not how:
            tensors[name] = tensor
        elif how in ("half", "root"):
            tensors[name] = tensor.float() if how == "half" else tensor.float().square()
        elif how == "int8":
            tensors[name] = tensor.float() * _beside(coded[f"{name}:scale"], tensor)
    if form.startswith("average"):
        tensors |= {
            f"network.{name.removeprefix('average.')}": tensor.clone() for name, tensor in tensors.items() if name.startswith("average.")
        }
    if form not in ("exact", "halves"):
        tensors |= _restarted_moments(coded, tensors)
    return tensors


def _restarted_moments(coded: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return second moments from their means over rows and columns, and first moments of zero for all weights."""
    found: dict[str, Tensor] = {}
    for name in {coded_name.partition(":")[0] for coded_name in coded if coded_name.partition(":")[0].endswith(".exp_avg_sq")}:
        weight = tensors["network." + name.removeprefix("optimiser.").removesuffix(".exp_avg_sq")]
        if f"{name}:rows" in coded:
            rows, columns = coded[f"{name}:rows"], coded[f"{name}:columns"]
            found[name] = (torch.outer(rows, columns) / rows.mean().clamp(min=1e-30)).reshape(weight.shape)
        found[name.removesuffix("_sq")] = torch.zeros_like(weight)
    return found


def _beside(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (tensor.dim() - 1))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("run", type=Path)
    packing.add_argument("folder", type=Path)
    packing.add_argument("--num-files", type=int, default=8)
    packing.add_argument("--file-mib", type=float, default=16)
    packing.add_argument("--total-mib", type=float, default=128)
    packing.add_argument("--beside", type=Path, help="files in this folder count as well")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("run", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "unpack":
        form = unpack(options.folder, options.run)
        print(f"unpacked a state of the form {form}")
        return
    limits = Limits(options.num_files, int(options.file_mib * _MIB), int(options.total_mib * _MIB))
    form = pack(options.run, options.folder, limits.less(options.beside, options.folder) if options.beside else limits)
    sizes = [path.stat().st_size for path in options.folder.iterdir()]
    restarts = "" if form in FORMS[:2] else "; the optimiser starts again from the scale of its second moments"
    print(f"packed the state in the form {form}: {len(sizes)} files, {sum(sizes) / _MIB:.1f} MiB{restarts}")


if __name__ == "__main__":
    main()
