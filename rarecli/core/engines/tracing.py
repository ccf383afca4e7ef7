"""Traces all entries of a model. A trace takes two seconds of one core, so many entries are traced in several processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.onnx_export import Graph, GraphOptions, trace
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.workers import started_workers
from rarecli.core.model import RareUNet, build_network, checkpoint
from rarecli.core.types import Entry

_ENTRIES_PER_WORKER = 4
"""With fewer, a worker takes longer to import torch than to trace."""


def trace_all(
    spec: ModelSpec, weights: Path, entries: Sequence[Entry], options: GraphOptions, num_jobs: int = 1, reporter: Reporter = Silent()
) -> dict[Entry, Graph]:
    """Return the graph of every entry, with its weights inside. weights: the weights file. Raises the errors of `trace`.

    num_jobs: worker processes at most. They import the main module again, so a script that asks for several needs a main guard.
    """
    num = min(num_jobs, len(entries) // _ENTRIES_PER_WORKER)
    if num < 2:
        network = load_network(spec, weights)
        return {entry: trace(network, spec, entry, options) for entry in reporter.track(entries, "trace", len(entries))}
    import onnx

    with started_workers(num) as workers:
        work = partial(_trace_in_worker, spec_json=spec.model_dump_json(), weights=weights, options=options)
        traced = reporter.track(workers.map(work, entries), "trace", len(entries))
        return {entry: onnx.load_from_string(data) for entry, data in zip(entries, traced, strict=True)}


def load_network(spec: ModelSpec, weights: Path) -> RareUNet:
    """Return the network of a model in evaluation mode, on the CPU. Raises ModelError for a broken weights file."""
    network = build_network(spec.network)
    checkpoint.load_weights(network, weights)
    return network.eval()


def _trace_in_worker(entry: Entry, *, spec_json: str, weights: Path, options: GraphOptions) -> bytes:
    spec, network = _model(spec_json, weights)
    data: bytes = trace(network, spec, entry, options).SerializeToString()
    return data


@cache
def _model(spec_json: str, weights: Path) -> tuple[ModelSpec, RareUNet]:
    """Load the model once per worker, which has one core."""
    torch.set_num_threads(1)
    spec = ModelSpec.model_validate_json(spec_json)
    return spec, load_network(spec, weights)
