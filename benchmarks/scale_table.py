"""The tables of docs/scale.md, from the result files: what 100,000 scans cost, and how many workers can be fed. Writes them into the page.

python benchmarks/scale_table.py
"""

import json
from pathlib import Path
from typing import Any

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
    return [f"| {suite}: {name} | {' | '.join(map(cost, values))} | {values[2] / values[0]:.2g} |" for name, values in rows]


def upsampled(hours: dict[tuple[str, str, int], float], depth: int) -> float:
    """Return the core hours when every scan is brought to full resolution; there, nothing changes."""
    return hours["fp32", "upsampled" if depth else "routed", depth]


def cost(hours: float) -> str:
    return f"{hours:.3g} h, ${hours * DOLLARS_PER_CORE_HOUR:.2g}"


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
    words = [f"{value:,.0f} core hours (${value * DOLLARS_PER_CORE_HOUR:,.0f})" for value in (fp32, bf16, full)]
    return f"- {suite}: {words[0]} in fp32, {words[1]} in bf16; upsampled {words[2]}."


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
    sharing = read("cluster")
    item, sleeps, real = sharing["per_item"], sharing["sleeps"], sharing["real"]
    pools = sharing["beside_pools"]["dask_over_pool"]
    num, share = sleeps["num_workers"], sleeps["share_of_linear"]
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
        f"With engines that sleep {sharing['sleep_s']:g} s, {num} workers did {share:.2f} times {num} times what one did; "
        f"with real ones, {real['num_workers']} workers on two cores {real['share_of_linear']:.2f} times {real['num_workers']} times.",
        f"A Dask cluster of two local workers, started for the command, took {pools['predict']:.2f} times as long as `--nproc 2`, and "
        f"{pools['preprocess']:.2f} times as long as `--jobs 2`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_file(PAGE) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
