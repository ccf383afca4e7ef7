"""docs/faults.md from the tests: fault -> answer -> test. `make faults` writes it; a test keeps it fresh."""

import ast
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
FAULTS = {
    "NIfTI files": {
        1: "slope 0 or NaN",
        2: "intercept NaN",
        3: "spacing 0 or NaN, and no form to take it from",
        4: "neither sform nor qform",
        5: "qform and sform disagree on the spacing",
        6: "sform NaN or singular",
        7: "shear",
        8: "oblique axes",
        9: "units of micron or metre",
        10: "further axes",
        11: "RGB or complex voxels",
        12: "int64; many classes",
        13: "big-endian",
        14: "NaN or infinite voxels",
        15: "bad magic",
        16: "truncated",
        17: "gzip checksum wrong",
        18: "plain file named .gz, or the other way",
        19: "declared 32767^3; a gzip bomb",
        20: "sizes 0, negative; 9 axes",
        21: "voxels that begin at 1e9",
    },
    "DICOM series": {
        57: "gantry tilt",
        58: "missing slice",
        59: "duplicate slice",
        60: "localizer inside the series",
        61: "mixed orientations",
        62: "frames and instance numbers in either order",
        63: "irregular gaps",
        64: "cine (2D + t)",
        65: "objects that are no images",
        66: "one slice",
        67: "shuffled names",
        68: "several echoes",
        69: "broken headers, files and zips",
        70: "several series",
    },
    "Datasets": {
        22: "float labels",
        23: "undeclared labels; gaps between labels",
        24: "scan and labels on different grids",
        25: "empty labels",
        26: "constant image",
        27: "missed structure; class in neither",
        28: "one voxel thick, or smaller than the divisor",
        29: "channel missing or doubled",
        30: "broken dataset.json, wrong numbers, duplicates",
        31: "spaces, unicode, a leading - in names",
        32: "paths out of the folder",
    },
    "At run time": {
        33: "read-only output",
        34: "disk full",
        35: "prepared case cut short",
        36: "changed configuration",
        37: "two trainings into one run",
        38: "data worker killed",
        39: "small /dev/shm",
        40: "SIGTERM",
        41: "kill -9 while saving",
        42: "flipped byte in a checkpoint",
        43: "resume",
        44: "5 cases on 2 ranks",
        45: "a rank dies",
        46: "NaN loss on one rank",
        47: "augmentation in workers",
        48: "weights of another depth or channel count",
        49: "pickle renamed .safetensors",
        50: "engine that answers background",
        51: "engine of another GPU or TensorRT",
        52: "one bad case of three",
        53: "a link planted where a temporary is written",
        54: "engine that is wrong on large constant background alone",
        55: "manifest with hostile numbers",
        56: "manifest that says something else than at export",
    },
}


def fault_tests() -> dict[int, list[tuple[str, str, str]]]:
    """Return, by fault, the answer (first line of the docstring), the file below tests/ and the name of each of its tests."""
    found: dict[int, list[tuple[str, str, str]]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_fault_"):
                answer = (ast.get_docstring(node) or "").partition("\n")[0]
                found.setdefault(int(node.name.split("_")[2]), []).append((answer, path.relative_to(TESTS).as_posix(), node.name))
    return found


def table() -> str:
    """Return the content of docs/faults.md."""
    found = fault_tests()
    lines = ["# Faults and answers", "", "Made from the tests by `make faults`: what goes wrong, what is done then, which test shows it."]
    for title, faults in FAULTS.items():
        lines += ["", f"## {title}", "", "| | fault | answer | test |", "|---|---|---|---|"]
        for number, fault in faults.items():
            for index, (answer, path, name) in enumerate(found.get(number, [])):
                lines.append(f"| {number if not index else ''} | {fault if not index else ''} | {answer} | `{path}` `{name}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
