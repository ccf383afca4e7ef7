"""The record of a benchmark, as `rare benchmark` writes it: three rows, and one that was skipped."""


def row(depth, milliseconds, method="routed", **more):
    times = {stage: {"p50_ms": milliseconds / 4} for stage in ("preprocess", "compute", "argmax", "postprocess")}
    facts = {"backend": "onnx", "precision": "fp32", "threads": None, "batch": 1, "method": method, "entry": [depth] * 3}
    facts |= {"shape": [32 >> depth] * 3, "status": "ok", "stable": depth != 1, "cold_start_ms": None, "peak_memory_mb": 100.0}
    work = {"gflop_per_s": 40.0 - depth, "flop_per_byte": 20.0 - depth, "share_of_matmul": 0.5}
    work |= {"share_of_peak": 0.4, "share_of_roofline": 0.8, "roofline_gflop_per_s": 50.0}
    end_to_end = {"p50_ms": milliseconds, "p95_ms": milliseconds + 1}
    return facts | {"statistics": times | {"end_to_end": end_to_end}, "work": work} | more


def result():
    """The content of a results.json with everything that the page shows."""
    rows = [row(0, 8.0, dice=0.9), row(1, 2.0, dice=0.8), row(1, 9.0, "upsampled")]
    skipped = dict.fromkeys(("precision", "threads", "batch", "method", "entry", "shape")) | {"precision": "fp32"}
    rows.append(skipped | {"backend": "tensorrt", "status": "skipped: no GPU"})
    key = {"backend": "onnx", "precision": "fp32", "threads": None, "batch": 1, "entry": [1, 1, 1]}
    return {
        "model": {"name": "Phantoms", "random_weights": False},
        "machine": {"cpu": "A CPU", "num_cores": 2, "python": "3.11", "versions": {"numpy": "2"}},
        "peaks": [{"threads": None, "on_gpu": False, "fp32": 50.0, "bf16": None, "copy": 10.0}],
        "notes": ["the timer takes 0.1% of the shortest row"],
        "rows": rows,
        "speed_up": [key | {"compute": 4.5, "end_to_end": 4.25}],
        "paper_timing": [key | {"p50_ms": 2.0, "ratio": 0.25, "paper_ratio": None}],
        "against": None,
        "fitting": [key | {"p95_ms": 3.0, "peak_memory_mb": 100.0, "dice": 0.8, "dice_cost": 0.1}],
        "accuracy": [{"precision": "fp32", "status": "ok", "backend": "onnx", "dice": {"0": 0.9, "1": 0.8}}],
    }
