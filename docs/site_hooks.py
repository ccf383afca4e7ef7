"""Pages of the documentation site that are made from other files: the app, the manifest's schema, and documents outside of docs/.

MkDocs calls the functions `on_...` (hooks in mkdocs.yml). A link to a file of the repository leads to its page; without a page only its
text remains.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "export/README.md": "export/index.md",
    "export/cpp/README.md": "export/cpp.md",
    "export/triton/README.md": "export/triton.md",
    "export/web/README.md": "export/web.md",
    "benchmarks/results/accuracy.md": "results.md",
    "rarecli/models/hippocampus/README.md": "models/hippocampus.md",
    "rarecli/models/hippocampus-paper/README.md": "models/hippocampus-paper.md",
}
"""Documents outside of docs/, and the pages that show them."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_BLOCK = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    pages |= {
        "reference/commands.md": commands(),
        "reference/manifest.md": manifest(),
        "reference/python.md": python(),
        "reference/json.md": results(),
        "decisions/index.md": decisions(),
    }
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links between files of the repository to their pages."""
    here = page.file.src_uri
    source = next((source for source, name in PAGES.items() if name == here), f"docs/{here}")
    return "".join(part if part.startswith("```") else _relinked(part, source, here, files) for part in _BLOCK.split(markdown))


def _relinked(text: str, source: str, here: str, files: Files) -> str:
    def lead(found: re.Match[str]) -> str:
        mark, label, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        goal = os.path.normpath(os.path.join(os.path.dirname(source), target))  # noqa: PTH118, PTH120
        place = PAGES.get(goal, goal.removeprefix("docs/"))
        if goal in ("docs/decisions", "docs/schemas"):
            place = "decisions/index.md" if goal.endswith("decisions") else "reference/json.md"
        if files.get_file_from_path(place) is None:
            return str(label)
        return f"{mark}[{label}]({os.path.relpath(place, os.path.dirname(here) or '.')}{anchor})"  # noqa: PTH120

    return _LINK.sub(lead, text)


def commands() -> str:
    """Return the reference of the command line, from the app itself."""
    import typer

    from rarecli.cli import app

    group = typer.main.get_command(app)
    lines = ["# Commands", "", _prose(group.help), "", "Options of `rare` itself come before the command.", "", *_options(group)]
    for name, command in group.commands.items():
        lines += [f"## rare {name}", "", _prose(command.help), "", *_options(command)]
    return "\n".join(lines) + "\n"


def _prose(text: str | None) -> str:
    """Return help as Markdown: an example becomes a block of code."""
    parts = [part.strip() for part in (text or "").replace("\f", "").split("\n\n")]
    return "\n\n".join(f"```console\n$ {part.removeprefix('Example: ')}\n```" if part.startswith("Example: ") else part for part in parts)


def _options(command: Any) -> Iterator[str]:
    """Yield tables of the arguments and options, one for each panel of the help."""
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            title = "Arguments" if parameter.param_type_name == "argument" else getattr(parameter, "rich_help_panel", None) or "Options"
            panels.setdefault(title, []).append(parameter)
    for title in sorted(panels, key=lambda name: (name != "Arguments", name == "Options")):
        yield from (f"**{title}**", "", "| | default | |", "|---|---|---|")
        for parameter in panels[title]:
            yield f"| {_names(parameter)} | {_cell(_default(parameter))} | {_cell(getattr(parameter, 'help', '') or '')} |"
        yield ""


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    choices = getattr(parameter.type, "choices", None)
    value = "" if parameter.is_flag else parameter.metavar or ("/".join(map(str, choices)) if choices else parameter.type.name.upper())
    return _cell(f"`{', '.join(names)}{' ' + value.replace('|', '/') if value else ''}`")


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    value = getattr(parameter.default, "value", parameter.default)
    if parameter.required:
        return "required"
    if value is None or callable(value):
        return ""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def manifest() -> str:
    """Return the reference of manifest.json, from its schema."""
    from rarecli.core.engines.manifest import Manifest

    schema = Manifest.model_json_schema(mode="serialization")
    lines = ["# The manifest", "", "Every bundle has a `manifest.json`. Its bounds are enforced by every reader.", ""]
    for name, part in {"Manifest": schema, **schema["$defs"]}.items():
        lines += [f"## {name}", "", " ".join((part.get("description") or "").split()), ""]
        lines += ["| field | type | |", "|---|---|---|"] if part.get("properties") else []
        for field, facts in part.get("properties", {}).items():
            lines.append(f"| `{field}` | {_cell(_type(facts))} | {_cell(facts.get('description', ''))} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def _type(facts: dict[str, Any]) -> str:
    """Return the type of a field in words, with a link to its definition and its bounds."""
    if "$ref" in facts:
        name = facts["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in facts:
        return f"`{json.dumps(facts['const'])}`"
    if "enum" in facts:
        return ", ".join(f"`{json.dumps(value)}`" for value in facts["enum"])
    if "anyOf" in facts or "oneOf" in facts:
        return " or ".join(_type(choice) for choice in facts.get("anyOf") or facts["oneOf"])
    if facts.get("type") == "array":
        inner = facts.get("items") or (facts.get("prefixItems") or [{}])[0]
        return f"list of {_type(inner)}"
    if isinstance(facts.get("additionalProperties"), dict):
        return f"object of {_type(facts['additionalProperties'])}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = ", ".join(f"{word} {facts[key]:g}" for key, word in words.items() if key in facts)
    return " ".join(part for part in (str(facts.get("type", "anything")), bounds) if part)


def python() -> str:
    """Return the reference of the Python package, for mkdocstrings."""
    import rarecli

    lines = ["# Python", "", "`import rarecli` imports nothing else; every name is imported when it is first used.", ""]
    for name in rarecli.__all__:
        thing = getattr(rarecli, name)
        lines += [f"::: {thing.__module__}.{thing.__qualname__}", ""]
    lines += ["## Results", "", "::: rarecli.api.results", ""]
    return "\n".join(lines)


def results() -> str:
    """Return the list of the JSON schemas."""
    from rarecli.commands.schemas import schemas

    lines = ["# JSON", "", "With `--json` every command prints its result, or its error, as one JSON object on stdout.", ""]
    lines += ["| schema | content |", "|---|---|"]
    lines += [f"| [{name}](../schemas/{name}.schema.json) | {_cell(schema['description'])} |" for name, schema in schemas().items()]
    return "\n".join(lines) + "\n"


def decisions() -> str:
    """Return the list of the decision records by number."""
    lines = ["# Decisions", "", "Why things are as they are.", ""]
    for record in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title = record.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"- [{record.stem[:4]}]({record.name}) {title}")
    return "\n".join(lines) + "\n"
