"""The rows of the table and the values measured for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from rarecli.core.benchmarking.suites import ROUTED, Effort, RowSet
from rarecli.core.benchmarking.timing import END_TO_END, Sample
from rarecli.core.config.geometry import EntrySet, coarsened, entry_set, entry_text
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import RareError, UsageError
from rarecli.core.types import Entry, Shape

OK = "ok"


@dataclass(frozen=True)
class Key:
    """Identifies a session: a model that is opened once and measured for many rows."""

    backend: str
    precision: str
    num_threads: int | None


@dataclass
class Row:
    """One row of the table: a scan on the grid of the entry `own`, measured with one method."""

    key: Key
    method: str
    batch: int
    own: Entry | None
    status: str = OK
    shape: Shape | None = None
    """The shape of the scan."""
    entry_shape: Shape | None = None
    """The shape of the network's input."""
    load_s: float | None = None
    """Seconds to open the model and run its first pass at this entry: reading, checking, compiling, tuning."""
    cold_start_s: float | None = None
    peak_memory_bytes: int | None = None
    on_gpu: bool = False
    max_rel_off: float | None = None
    """Largest difference of a logit from PyTorch's, as a share of the largest logit; None if it was not compared."""
    rounds: list[list[Sample]] = field(default_factory=list)

    @property
    def entry(self) -> Entry:
        """Where the scan enters the network: on its own grid if it is routed, at depth 0 if it is upsampled."""
        assert self.own is not None
        return self.own if self.method == ROUTED else (0, 0, 0)

    def seconds(self, stage: str = END_TO_END) -> list[float]:
        """Returns the seconds of all samples of a stage."""
        return [sample[stage] for samples in self.rounds for sample in samples]


@dataclass(frozen=True)
class Task:
    """What to measure. entries: a set, or chosen ones; None for the isotropic ones. shape: at depth 0; None for the patch."""

    sets: Sequence[RowSet]
    effort: Effort
    entries: EntrySet | Sequence[Entry] | None
    shape: Shape | None
    device: str
    one_by_one: bool
    cold_start: bool
    compare_with_torch: bool
    """Compare each engine with PyTorch, since the export skipped the parity gate."""


def keys_of(rows: RowSet) -> Iterator[Key]:
    """Yields the keys of a set of rows."""
    for combination in product(rows.backends, rows.precisions, rows.threads):
        yield Key(*combination)


def rows_of(task: Task, key: Key, spec: ModelSpec) -> list[Row]:
    """Returns the rows of a task that use one key."""
    entries = entries_of(spec, task.entries)
    wanted = dict.fromkeys(
        (method, batch, entry)
        for rows in task.sets
        if key in keys_of(rows)
        for method, batch, entry in product(rows.methods, rows.batches, entries)
        if method == ROUTED or max(entry) > 0
    )
    return [Row(key, method, batch, entry) for method, batch, entry in wanted]


def entries_of(spec: ModelSpec, asked: EntrySet | Sequence[Entry] | None) -> Sequence[Entry]:
    """Returns the entries to measure; the isotropic ones by default."""
    return entry_set(asked or "isotropic", spec.network.num_depths) if asked is None or isinstance(asked, str) else asked


def entry_shape(spec: ModelSpec, entry: Entry, shape: Shape | None) -> Shape:
    """Returns the shape of the network's input at an entry, from `shape` (at depth 0) or from the patch.

    Raises UsageError for an entry that the model does not have, and for a shape that needs padding.
    """
    if entry not in spec.entries:
        expected = "; ".join(entry_text(there) for there in spec.entries)
        raise UsageError("the model has no such entry", field="entry", found=entry_text(entry), expected=expected)
    found = spec.patch_shape(entry) if shape is None else coarsened(shape, entry)
    takes = spec.engine_shape(found, entry)
    exact = shape is None or all(size % 2**depth == 0 for size, depth in zip(shape, entry, strict=True))
    if found != takes or not (exact or spec.any_size):
        raise UsageError(
            "the engine does not accept this shape",
            field=f"shape at {entry_text(entry)}",
            found=found if exact else tuple(size / 2**depth for size, depth in zip(shape or (), entry, strict=True)),
            expected=f"a shape that needs no padding, e.g. {takes}",
        )
    return found


def reason_of(error: BaseException) -> str:
    """Returns the reason why a row has no result, in one line."""
    if isinstance(error, RareError):
        return error.problem
    words = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or any(sign in words.lower() for sign in ("out of memory", "bad_alloc", "allocate memory")):
        return "out of memory"
    return f"{type(error).__name__}: {words}"
