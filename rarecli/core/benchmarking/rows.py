"""The rows of the table: which there are, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from rarecli.core.benchmarking.suites import ROUTED, Effort, RowSet
from rarecli.core.benchmarking.timing import END_TO_END, Sample
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import RareError
from rarecli.core.types import Shape

OK = "ok"


@dataclass(frozen=True)
class Key:
    """What is opened once and serves many rows."""

    backend: str
    precision: str
    num_threads: int | None


@dataclass
class Row:
    """One line of the table. entry: the depth where the scan enters; that of the scan itself if it is routed there."""

    key: Key
    method: str
    batch: int
    depth: int | None
    status: str = OK
    shape: Shape | None = None
    """Of the scan."""
    entry_shape: Shape | None = None
    """Of what the network is given."""
    load_s: float | None = None
    """Opening the model and its first pass at this depth: reading, checking, compiling, tuning."""
    cold_start_s: float | None = None
    peak_memory_bytes: int | None = None
    on_gpu: bool = False
    max_rel_off: float | None = None
    """Largest difference of a logit to PyTorch's, as a share of the largest, where it was compared."""
    rounds: list[list[Sample]] = field(default_factory=list)

    @property
    def entry(self) -> int:
        """The depth where the scan enters the network."""
        assert self.depth is not None
        return self.depth if self.method == ROUTED else 0

    def seconds(self, stage: str = END_TO_END) -> list[float]:
        """All samples of a stage."""
        return [sample[stage] for samples in self.rounds for sample in samples]


@dataclass(frozen=True)
class Task:
    """What to measure. depths, shape: None for all, and for the patch."""

    sets: Sequence[RowSet]
    effort: Effort
    depths: Sequence[int] | None
    shape: Shape | None
    device: str
    one_by_one: bool
    cold_start: bool
    compare_with_torch: bool
    """Compare each engine with PyTorch on the smallest image that it takes, since nobody has."""


def keys_of(rows: RowSet) -> Iterator[Key]:
    """What is opened for a set of rows."""
    for combination in product(rows.backends, rows.precisions, rows.threads):
        yield Key(*combination)


def rows_of(task: Task, key: Key, spec: ModelSpec) -> list[Row]:
    """The rows of a task that one key serves."""
    depths = range(spec.network.num_depths) if task.depths is None else task.depths
    wanted = dict.fromkeys(
        (method, batch, depth)
        for rows in task.sets
        if key in keys_of(rows)
        for method, batch, depth in product(rows.methods, rows.batches, depths)
        if method == ROUTED or depth > 0
    )
    return [Row(key, method, batch, depth) for method, batch, depth in wanted]


def reason_of(error: BaseException) -> str:
    """A row's reason in one line."""
    if isinstance(error, RareError):
        return error.problem
    words = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or any(sign in words.lower() for sign in ("out of memory", "bad_alloc", "allocate memory")):
        return "out of memory"
    return f"{type(error).__name__}: {words}"
