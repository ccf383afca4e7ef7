"""The options of `rare predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rarecli.core.imaging.routing import RouteBy
from rarecli.core.jobs.shards import WHOLE, Shard
from rarecli.core.prediction.regions import WHOLE_SCAN, Where
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.types import Entry


@dataclass(frozen=True)
class PredictOptions:
    """What to predict for every case, and how to process the cases.

    entry: force an entry; by default the spacing decides. route: choose by another rule than the model's.
    pad: False refuses a scan that needs padding. probabilities: also write the probabilities.
    resume: skip the cases that an earlier call finished in the same output from the same scans, with the same model and options.
    overwrite: replace the files of an earlier call.
    num_processes: the number of processes that share the scans. Each loads the model. With device auto or cuda,
    they take the GPUs in turn.
    scheduler: the address of a Dask scheduler whose workers share the scans instead; see `cluster_model.py`.
    shard: only this part of the scans.
    format: of the labels files, see `RESULT_SUFFIXES` in `imaging/scan_files.py`; by default that of each scan. series: the UID of a
    DICOM series. codes: a table that adds to `rarecli/codes/segments.yaml`. anonymise: leave the patient out of DICOM segmentations.
    resample_channels: bring channels on other grids to that of a scan's first.
    report: also write report.html, with these options, if the output is a folder.
    quality: also count components and compare with the next coarser entry, see `quality.assess`.
    where: the part of every scan that is predicted.
    postprocess: clean up the labels with the steps that validation chose for the model, see `postprocessing.py`.
    picture: also draw every case, see `picture.py`.
    """

    entry: Entry | None = None
    route: RouteBy | None = None
    pad: bool = True
    probabilities: bool = False
    resume: bool = False
    overwrite: bool = False
    num_processes: int = 1
    scheduler: str | None = None
    shard: Shard = WHOLE
    format: str | None = None
    series: str | None = None
    codes: Path | None = None
    anonymise: bool = False
    resample_channels: bool = False
    report: ReportOptions | None = None
    quality: bool = False
    where: Where = WHOLE_SCAN
    postprocess: bool = False
    picture: bool = False
