"""A result as a fragment of HTML for notebooks: a title, a table, a picture inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path


def shown(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], picture: Path | None = None) -> str:
    """Return the fragment. picture: a PNG file; it is left out if it is not there."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div>{table}{_image(picture, title)}</div>"


def _cell(text: str) -> str:
    """Return text as HTML. Several lines may be a drawing, whose columns must stay."""
    return f"<pre>{escape(text)}</pre>" if "\n" in text else escape(text)


def _image(picture: Path | None, title: str) -> str:
    if picture is None or not picture.is_file():
        return ""
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
