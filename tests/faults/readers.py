"""Verdicts on files by the readers of Python and C++, made comparable."""

import json
import subprocess
import time
import warnings
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np

from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import Manifest
from rarecli.core.errors import RareError
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.resampling import resampled_shape
from rarecli.core.imaging.volume import read_volume

MOST_CPU_SECONDS, MOST_BYTES = 5.0, 10**9
_BROKEN = {"the file is not valid JSON", "the file is not UTF-8 text", "the file is nested too deeply"}
_MOST_LINES_AT_ONCE = 200  # what a pipe holds


def python_verdict(path: Path, manifest: Manifest) -> dict:
    """What becomes of a file in Python; of a scan that is read: shape, affine, checksum, entry and shape in the bundle."""
    try:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            if path.name == "manifest.json":
                load_manifest(path.parent)
                return {"exit": 0}
            volume = read_volume(path)
            ras = to_ras(volume)
            way = manifest.rules.route(ras.spacing_mm)
            routed_shape = list(resampled_shape(ras.shape, way.zoom, manifest.resampling))
    except RareError as error:
        return {"exit": error.exit_code, "problem": error.problem, "words": str(error)}
    in_file_order = np.ascontiguousarray(volume.data.transpose(0, 3, 2, 1))
    return {
        "exit": 0,
        "shape": list(volume.data.shape),
        "affine": volume.affine[:3].tolist(),
        "crc32": zlib.crc32(in_file_order),
        "entry": list(way.entry),
        "routed_shape": routed_shape,
    }


class CppReader:
    """The program `rare_verdicts` of `export/cpp`, started again when a file ends it."""

    def __init__(self, program: Path, bundle: Path, environment: dict[str, str]) -> None:
        self._command, self._environment = [program, bundle], environment

    def __enter__(self) -> "CppReader":
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def verdicts(self, paths: list[Path]) -> list[dict]:
        """The verdict on each path. Of a file that ends the program, `exit` is its return code and `words` what it printed."""
        return [
            verdict for first in range(0, len(paths), _MOST_LINES_AT_ONCE) for verdict in self._some(paths[first:][:_MOST_LINES_AT_ONCE])
        ]

    def _some(self, paths: list[Path]) -> list[dict]:
        verdicts: list[dict] = []
        while len(verdicts) < len(paths):
            self._process.stdin.write("".join(f"{path}\n" for path in paths[len(verdicts) :]))
            self._process.stdin.flush()
            while len(verdicts) < len(paths) and (line := self._process.stdout.readline()):
                verdicts.append(json.loads(line))
            if len(verdicts) < len(paths):
                verdicts.append(
                    {"exit": self._process.wait(), "problem": "the program ended", "words": self._process.stderr.read()[-4000:]}
                )
                self._start()
        return verdicts

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=self._environment)


def measured(path: Path, manifest: Manifest) -> dict:
    """The verdict of Python with the CPU time and the peak memory that it took."""
    _peak_bytes()
    started = time.process_time()
    return python_verdict(path, manifest) | {"cpu_s": time.process_time() - started, "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    """Most memory that this process held since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes * 1024


def _comparable(verdict: dict) -> dict:
    """A verdict without what the libraries say of a manifest. Python's json reads NaN, lone surrogates and numbers of 400 digits."""
    problem = verdict.get("problem", "")
    return (
        verdict | {"problem": "a broken manifest"}
        if problem in _BROKEN or problem.startswith("the bundle's manifest is invalid")
        else verdict
    )


def difference(python: dict, cpp: dict) -> str | None:
    """What two verdicts differ in; None if they agree."""
    python, cpp = _comparable(python), _comparable(cpp)
    for name in ("exit", "problem", "shape", "crc32", "entry", "routed_shape"):
        if python.get(name) != cpp.get(name):
            return f"{name}: {python.get(name)} in Python, {cpp.get(name)} in C++"
    if "affine" in python:
        ours, theirs = (np.array(verdict["affine"]) for verdict in (python, cpp))
        if not np.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.linalg.norm(ours[:, :3], axis=0).min()):
            return f"affine: {ours.tolist()} in Python, {theirs.tolist()} in C++"
    return None
