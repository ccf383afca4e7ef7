"""The tables of docs/scale.md, from the result files: what 100,000 scans cost, and how many workers can be fed. Writes them into the page.

python benchmarks/scale_table.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from recipes import RESULTS

from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.words import times

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- written by benchmarks/scale_table.py -->\n", "<!-- end -->"
DOLLARS_PER_CORE_HOUR = 0.04
NUM_SCANS = 100_000
SUITES = ("hippocampus", "brain-tumour")
RESOLUTIONS = ("full", "1/2", "1/4", "1/8")


def read(name: str) -> dict[str, Any]:
    """Return the content of a result file of one machine, as it is called in LOG.md."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}_amd-epyc-2-cores_202611.json").read_text(encoding="utf-8"))
    return content


def core_hours(suite: str) -> dict[tuple[str, str, int], float]:
    """Return the core hours of 1,000 scans by precision, method and depth: the median end to end, of OpenVINO on all cores."""
    result = read(suite)
    cores = result["machine"]["num_threads"]
    return {
        (row["precision"], row["method"], depth_of(row)): 1000 * cores * row["statistics"]["end_to_end"]["p50_ms"] / 3.6e6
        for row in result["rows"]
        if row["backend"] == "openvino" and row["status"].startswith("ok") and row["batch"] == 1
    }


def depth_of(row: dict[str, Any]) -> int:
    return int(row["entry"][0] if row.get("entry") else row["depth"])


def shape_of(suite: str, depth: int) -> str:
    return times(next(row["shape"] for row in read(suite)["rows"] if row["method"] == "routed" and depth_of(row) == depth))


def cost_table(suite: str) -> list[str]:
    """Return the rows of a suite: each resolution, and the mean over as many scans of each."""
    hours = core_hours(suite)
    rows = [
        (f"{name}, {shape_of(suite, depth)}", [hours["fp32", "routed", depth], hours["bf16", "routed", depth], upsampled(hours, depth)])
        for depth, name in enumerate(RESOLUTIONS)
    ]
    mean = [sum(values) / len(rows) for values in zip(*(values for _, values in rows), strict=True)]
    rows.append(("**a quarter of each**", mean))
    return [f"| {suite}: {name} | {' | '.join(map(cost, values))} | {digits(values[2] / values[0], 2)} |" for name, values in rows]


def upsampled(hours: dict[tuple[str, str, int], float], depth: int) -> float:
    """Return the core hours when every scan is brought to full resolution; there, nothing changes."""
    return hours["fp32", "upsampled" if depth else "routed", depth]


def cost(hours: float) -> str:
    return f"{digits(hours, 3)} h, ${digits(hours * DOLLARS_PER_CORE_HOUR, 2)}"


def digits(value: float, num: int) -> str:
    """Return a number with so many significant digits, and no exponent."""
    return np.format_float_positional(value, num, unique=False, fractional=False, trim="-")


def total(suite: str) -> str:
    hours = core_hours(suite)
    fp32, bf16, full = (
        sum(value(depth) for depth in range(4)) / 4 * NUM_SCANS / 1000
        for value in (
            lambda depth: hours["fp32", "routed", depth],
            lambda depth: hours["bf16", "routed", depth],
            lambda depth: upsampled(hours, depth),
        )
    )
    return f"- {suite}: {cost(fp32)} in fp32; {cost(bf16)} in bf16; upsampled, in fp32, {cost(full)}."


def feeding_table() -> list[str]:
    """Return how many workers, of two cores each, one scheduler or one router keeps busy, by suite and resolution."""
    sharing, router = read("cluster")["per_item"], {depth_of(row): row["router_cpu_ms"] for row in read("triton-overhead")["rows"]}
    slower_ms = max(sharing["scheduler_cpu_ms"], sharing["caller_cpu_ms"])
    rows = []
    for suite in SUITES:
        cores = read(suite)["machine"]["num_threads"]
        for depth, name in enumerate(RESOLUTIONS):
            scan_ms = core_hours(suite)["fp32", "routed", depth] * 3.6e6 / 1000 / cores
            fed = f"{scan_ms / slower_ms:,.0f}", f"{scan_ms / router[depth]:,.1f}" if suite == "hippocampus" else ""
            rows.append(f"| {suite}: {name} | {scan_ms:,.0f} ms | {fed[0]} | {fed[1]} |")
    return rows


def tables() -> str:
    """Return what stands between the marks of the page."""
    item = read("cluster")["per_item"]
    lines = [
        "| scans | fp32 | bf16 | upsampled to full resolution, fp32 | times as much |",
        "|---|---|---|---|---|",
        *(row for suite in SUITES for row in cost_table(suite)),
        "",
        f"{NUM_SCANS:,} scans, a quarter at each resolution:",
        "",
        *map(total, SUITES),
        "",
        "| scans | one worker takes | workers that one scheduler feeds | workers that one router of Triton feeds |",
        "|---|---|---|---|",
        *feeding_table(),
        "",
        f"The scheduler takes {item['scheduler_cpu_ms']:.1f} ms of a core for a case, the command {item['caller_cpu_ms']:.1f} ms.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_file(PAGE) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
