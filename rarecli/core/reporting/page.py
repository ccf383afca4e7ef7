"""Writes a page: the template, the style sheet and the scripts in one file that requests nothing.

Decision: docs/decisions/0022-report.md.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rarecli.core.errors import RareError, missing_extra
from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.progress import Noting
from rarecli.core.reporting.figure import Figure
from rarecli.core.reporting.options import FILE_NAME, ReportOptions
from rarecli.core.reporting.tables import Table
from rarecli.core.reporting.viewer import Viewer
from rarecli.core.versions import installed_versions

_ASSETS = Path(__file__).with_name("assets")
STYLES = _ASSETS / "report.css"
MARK = '<meta name="generator" content="rare">'
"""By this a page is recognised as written by rare."""
_PACKAGES = ("rare-unet", "torch", "numpy", "nibabel", "onnxruntime", "openvino", "monai")


@dataclass(frozen=True)
class Picture:
    """A PNG file that becomes a part of the page."""

    title: str
    path: Path

    @property
    def data(self) -> str:
        """The file as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a page. figures stand side by side, above the pictures and the tables. notes: paragraphs below the heading."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    viewer: Viewer | None = None
    pictures: Sequence[Picture] = ()

    @property
    def holds_something(self) -> bool:
        """Whether the page shows the section."""
        return any((self.figures, self.pictures, self.tables, self.viewer, self.notes))


@dataclass(frozen=True)
class Page:
    """The content of a report.

    kind: the command that wrote it. lead: the result in one sentence. facts: names and values, shown at the top.
    versions: those of this environment by default.
    """

    title: str
    kind: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    command: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: versions_here())


def versions_here() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | installed_versions(_PACKAGES)


def write_report(build: Callable[[ReportOptions], Page], folder: Path, options: ReportOptions | None, reporter: Noting) -> None:
    """Write report.html into `folder`, after the results. Any failure is a warning: a report never loses results.

    An older report is removed if no new one takes its place, since it would not belong to the results. A file that rare did not write
    stays as it is.
    """
    path = folder / FILE_NAME
    if path.is_symlink() or (path.exists() and not is_ours(path)):
        if options is not None:
            reporter.warn_once(
                f"{FILE_NAME} is not written: a file of this name is there that rare did not write; the results are complete"
            )
        return
    if options is not None:
        try:
            text = render(build(options))
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names that are not Unicode
            return
        except Exception as error:
            why = error.brief if isinstance(error, RareError) else f"{type(error).__name__}: {error}"
            reporter.warn_once(f"{FILE_NAME} is not written: {why}; the results are complete")
    with suppress(OSError):
        path.unlink(missing_ok=True)


def is_ours(path: Path) -> bool:
    """Return whether a file is a page that rare wrote."""
    try:
        with path.open("rb") as file:
            return path.is_file() and MARK.encode() in file.read(1000)
    except OSError:
        return False


def render(page: Page) -> str:
    """Returns the HTML of a page. Raises EnvironmentFault if jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("jinja2", "cpu", "--no-report leaves the report out") from None
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = [section for section in page.sections if section.holds_something]
    assets = {name: (_ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "tables.js", "viewer.js")}
    written_at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return environment.get_template("report.html.jinja").render(
        page=page, sections=sections, assets=assets, written_at=written_at, mark=MARK
    )
