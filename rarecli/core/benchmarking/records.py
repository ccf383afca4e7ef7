"""Turns measured samples into records: statistics, work relative to the machine's peaks, ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rarecli.core.benchmarking.rows import OK, Row
from rarecli.core.benchmarking.stages import PAPER_STAGES
from rarecli.core.benchmarking.suites import ROUTED, UPSAMPLED
from rarecli.core.benchmarking.timing import END_TO_END, STABLE_WITHIN, Sample, spread, statistics_ms
from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.config.network_cost import BYTES_PER_VALUE, Work, count, layers_of
from rarecli.core.jobs.words import counted

Record = dict[str, Any]
Peaks = dict[str, float | None]
"""What `machine.measure_peaks` returns."""
PAPER_RATIOS = {0: 1.0, 1: 0.229, 2: 0.060, 3: 0.023}
"""Seconds per case at 1/2^k divided by those at full resolution. Source: arXiv 2507.15524, the brain-tumour table."""
FEW_ITERATIONS = 10
_IDENTITY = ("backend", "precision", "threads", "batch", "method", "entry")


def describe_row(row: Row, network: NetworkConfig | None, peaks: Peaks | None, cache_bytes: int | None = None) -> Record:
    """Returns the record of one row in results.json. cache_bytes: the CPU's last level of caches; None if unknown."""
    record: Record = {
        "backend": row.key.backend,
        "precision": row.key.precision,
        "threads": row.key.num_threads,
        "batch": row.batch or None,
        "method": row.method or None,
        "entry": list(row.own) if row.own else None,
        "status": row.status,
        "shape": list(row.shape) if row.shape else None,
    }
    if row.status != OK or not row.rounds or network is None or row.entry_shape is None or row.shape is None:
        return record
    stages = list(row.rounds[0][0])
    statistics = {stage: statistics_ms(row.seconds(stage)) for stage in stages}
    paper = [_paper_seconds(sample) for samples in row.rounds for sample in samples]
    drift = spread([[sample[END_TO_END] for sample in samples] for samples in row.rounds])
    x, y, z = row.shape
    per_second = row.batch / (statistics[END_TO_END]["p50_ms"] / 1e3)
    return record | {
        "num_samples": len(paper),
        "statistics": statistics,
        "paper_timing": statistics_ms(paper),
        "volumes_per_s": per_second,
        "voxels_per_s": per_second * x * y * z,
        "load_ms": None if row.load_s is None else row.load_s * 1e3,
        "cold_start_ms": None if row.cold_start_s is None else row.cold_start_s * 1e3,
        "peak_memory_mb": None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e6,
        "spread": drift,
        "stable": drift <= STABLE_WITHIN,
        "max_rel_off_torch": row.max_rel_off,
        "work": _work(row, network, statistics["compute"]["p50_ms"] / 1e3, peaks, cache_bytes),
        "samples_ms": {stage: [[round(sample[stage] * 1e3, 4) for sample in samples] for samples in row.rounds] for stage in stages},
    }


def compare_methods(records: Sequence[Record]) -> list[Record]:
    """Returns, per entry, how many times slower than routing it is to upsample the scan and run the full network."""
    good = {identity(record): record for record in records if record["status"] == OK}
    pairs = []
    for record in good.values():
        baseline = good.get(identity(record | {"method": UPSAMPLED}))
        if record["method"] == ROUTED and baseline is not None:
            ratios = {
                stage: baseline["statistics"][stage]["p50_ms"] / record["statistics"][stage]["p50_ms"] for stage in ("compute", END_TO_END)
            }
            pairs.append({key: record[key] for key in _IDENTITY if key != "method"} | ratios)
    return pairs


def compare_with_paper(records: Sequence[Record]) -> list[Record]:
    """Returns the time of network, argmax and copy back at each isotropic entry relative to depth 0, next to the paper's ratios.

    The paper measured its ratios on another GPU with another network.
    """
    good = {identity(record): record for record in records if record["status"] == OK and record["method"] == ROUTED}
    result = []
    for record in good.values():
        first = good.get(identity(record | {"entry": [0, 0, 0]}))
        depth = record["entry"][0]
        if first is not None and record["entry"] == [depth] * 3:
            own = record["paper_timing"]["p50_ms"]
            facts = {"p50_ms": own, "ratio": own / first["paper_timing"]["p50_ms"], "paper_ratio": PAPER_RATIOS.get(depth)}
            result.append({key: record[key] for key in _IDENTITY if key != "method"} | facts)
    return result


def identity(record: Record) -> tuple[Any, ...]:
    """Returns the values that identify a row across results."""
    return tuple(tuple(value) if isinstance(value := record[key], list) else value for key in _IDENTITY)


def entry_label(record: Record) -> str:
    """Returns the entry of a row in a table: `2` for one depth along all axes, else `0,0,2`."""
    entry = record["entry"]
    return "" if entry is None else str(entry[0]) if len(set(entry)) == 1 else ",".join(map(str, entry))


def title(record: Record) -> str:
    """Returns the backend of a row and its non-default settings."""
    words = [record["backend"]]
    words += [record["precision"]] if record["precision"] != "fp32" else []
    words += [counted(record["threads"], "thread")] if record["threads"] else []
    words += [f"batch {record['batch']}"] if (record["batch"] or 1) > 1 else []
    return ", ".join(words)


def notes(result: Record) -> list[str]:
    """Returns the caveats that a reader must know to interpret the numbers."""
    good = [record for record in result["rows"] if record["status"] == OK]
    said = []
    if shaky := [record for record in good if not record["stable"]]:
        said.append(f"{len(shaky)} of {len(good)} rows are not stable: the medians of their rounds differ by more than {STABLE_WITHIN:.0%}")
    others = result["others_cpu_share"]
    if others is not None and others > 0.05:
        said.append(f"the machine was not idle: other processes took {others:.0%} of its CPU time")
    if few := [record for record in good if record["num_samples"] < FEW_ITERATIONS]:
        said.append(f"{len(few)} of {len(good)} rows have fewer than {FEW_ITERATIONS} iterations: their percentiles are unreliable")
    if good:
        said.append(f"the timer takes {result['timer']['share_of_shortest_row']:.3%} of the shortest row")
    if above := [record for record in good if (record["work"]["share_of_peak"] or 0) > 1]:
        said.append(
            f"{len(above)} of {len(good)} rows exceed the peak of the cores: it was measured at a slower moment, and is no limit here"
        )
    if result["model"]["random_weights"]:
        said.append("random weights; the engines were exported without the parity gate of `rare export`")
        for precision in dict.fromkeys(record["precision"] for record in good):
            offs = [record["max_rel_off_torch"] for record in good if record["precision"] == precision]
            if known := [off for off in offs if off is not None]:
                said.append(
                    f"{precision}: logits differ from fp32 PyTorch by at most {max(known):.1e} of the largest, on small and large images"
                )
    return said


def least_seconds(layers: Iterable[Work], precision: str, flop_per_s: float, bytes_per_s: float, cache_bytes: int) -> float:
    """Returns the least time of a network, layer by layer: its arithmetic at the peak, or what the caches cannot hold through memory.

    Layers without arithmetic (norms, pooling) cost nothing: an engine may fuse them into others.
    """
    size = BYTES_PER_VALUE[precision]
    beyond = ((layer.least_flop, max((layer.weights + layer.values) * size - cache_bytes, 0)) for layer in layers if layer.flop)
    return sum(max(flop / flop_per_s, moved / bytes_per_s) for flop, moved in beyond)


def _work(row: Row, network: NetworkConfig, seconds: float, peaks: Peaks | None, cache_bytes: int | None) -> Record:
    """Returns the work of the network, its measured rate, and the rate that the roofline allows.

    Without the peak of the cores, as on a GPU, the matrix product stands for it; an engine may be faster than that.
    """
    assert row.entry_shape is not None
    work = count(network, row.entry, row.entry_shape, row.batch)
    moved = work.num_bytes(row.key.precision)
    rate, known = work.flop / seconds, peaks or {}
    matmul, peak, copy = known.get(row.key.precision), known.get(f"peak_{row.key.precision}"), known.get("copy")
    bound = None
    if (limit := peak or matmul) and copy:
        # of a GPU the caches are not known: as if it had none
        caches = 0 if row.on_gpu else moved if cache_bytes is None else cache_bytes
        layers = layers_of(network, row.entry, row.entry_shape, row.batch)
        bound = work.flop / least_seconds(layers, row.key.precision, limit, copy, caches)
    return {
        "gflop": work.flop / 1e9,
        "gbyte": moved / 1e9,
        "flop_per_byte": work.flop / moved,
        "gflop_per_s": rate / 1e9,
        "share_of_matmul": None if matmul is None else rate / matmul,
        "share_of_peak": None if peak is None else work.least_flop / seconds / peak,
        "roofline_gflop_per_s": None if bound is None else bound / 1e9,
        "share_of_roofline": None if bound is None else rate / bound,
    }


def _paper_seconds(sample: Sample) -> float:
    return sum(sample.get(stage, 0.0) for stage in PAPER_STAGES)
