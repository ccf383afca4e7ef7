"""Run the readers of Python and C++ side by side on mutants of good scans: one verdict, soon, in bounded memory.

python tests/faults/differential.py BUILD --num-files N --seed S [--findings FOLDER]

BUILD holds `rare_verdicts`, with or without sanitizers. A verdict is the exit code and the problem, or shape, affine, voxels, entry and
shape in the built-in bundle. A finding is a difference, a program that ends, over 5 s of CPU time, over 1 GB more than a good file takes.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz import corpus
from mutants import mutate
from readers import MOST_BYTES, MOST_CPU_SECONDS, CppReader, difference, measured

from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import MANIFEST
from rarecli.core.engines.model_files import built_in_models

LEAKS = Path(__file__).parents[2] / "export" / "cpp" / "tests" / "leaks.supp"
ENVIRONMENT = os.environ | {
    "TBB_ENABLE_SANITIZERS": "1",
    "LSAN_OPTIONS": f"suppressions={LEAKS}:print_suppressions=0",
    # without them a file that is large needs the memory of all before it
    "ASAN_OPTIONS": "quarantine_size_mb=16:allocator_may_return_null=1",
}
_BATCH = 200


@dataclass
class Comparison:
    """What a run found."""

    num_files: int = 0
    verdicts: Counter = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=lambda: {"Python": 0.0, "C++": 0.0})
    largest_bytes: dict[str, int] = field(default_factory=lambda: {"Python": 0, "C++": 0})
    findings: list[str] = field(default_factory=list)

    def take(self, path: Path, name: str, python: dict, cpp: dict) -> bool:
        """Note what came of a file; whether it is a finding."""
        self.num_files += 1
        self.verdicts[f"{cpp['exit']} {cpp.get('problem', 'read')}"] += 1
        known = len(self.findings)
        if found := difference(python, cpp):
            self.findings.append(f"{name} {path.name}: {found}\n  {python}\n  {cpp}")
        for reader, verdict in (("Python", python), ("C++", cpp)):
            cpu_s, peak = verdict.get("cpu_s", 0.0), verdict.get("peak_bytes", 0)
            self.slowest_s[reader] = max(self.slowest_s[reader], cpu_s)
            self.largest_bytes[reader] = max(self.largest_bytes[reader], peak)
            if cpu_s > MOST_CPU_SECONDS:
                self.findings.append(f"{name} {path.name}: {cpu_s:.1f} s in {reader}")
            if peak > MOST_BYTES:
                self.findings.append(f"{name} {path.name}: {peak} bytes in {reader}")
        return len(self.findings) > known


def compare(program: Path, folder: Path, seed: int, num_files: int, *, manifests: bool = False) -> Comparison:
    """Read mutants of scans, or of a manifest, with both readers. The same seed gives the same files."""
    bundle = next(iter(built_in_models().values()))
    manifest = load_manifest(bundle)
    (folder / "good").mkdir(parents=True)
    good = {target.name: target for target in corpus(folder / "good") if target.file == MANIFEST or target.file.startswith("scan.nii")}
    targets = [target for target in good.values() if (target.file == MANIFEST) == manifests]
    rng = random.Random(seed)
    result = Comparison()
    with CppReader(program, bundle, ENVIRONMENT) as cpp:
        for first in range(0, num_files, _BATCH):
            batch = [(rng.choice(targets), folder / f"{first + index:05}") for index in range(min(_BATCH, num_files - first))]
            paths = []
            for target, place in batch:
                place.mkdir()
                paths.append(place / target.file)
                paths[-1].write_bytes(mutate(target.good, target.file, rng))
            theirs = cpp.verdicts(paths)
            for (target, place), path, verdict in zip(batch, paths, theirs, strict=True):
                if not result.take(path.relative_to(folder), target.name, measured(path, manifest), verdict):
                    shutil.rmtree(place)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--num-files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--manifests", action="store_true", help="mutants of a manifest instead of scans")
    parser.add_argument("--findings", type=Path, help="an empty folder to keep what was found in")
    options = parser.parse_args()
    folder = options.findings or Path(tempfile.mkdtemp())
    result = compare(options.build / "rare_verdicts", folder, options.seed, options.num_files, manifests=options.manifests)
    lines = [f"{count:8}  {verdict}" for verdict, count in sorted(result.verdicts.items())] + result.findings[:20]
    lines.append(f"seed {options.seed}: {result.num_files} files, {len(result.findings)} findings in {folder}")
    lines.append(f"most CPU time {result.slowest_s} s, most memory {result.largest_bytes} bytes")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(result.findings))


if __name__ == "__main__":
    main()
