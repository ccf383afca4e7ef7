"""The documentation site builds strictly, asks nothing of a network, leads no link into nothing; its notebook runs."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page links to, what it loads when it is opened, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])
        if tag in ("img", "script", "iframe") and attributes.get("src"):
            self.loaded.add(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.add(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", output]
    ended = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return output


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_no_link_leads_into_nothing(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.exists() or (goal.suffix == ".html" and parts.fragment and unquote(parts.fragment) not in pages[goal].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_a_page_loads_only_files_of_the_site(pages):
    assert [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc] == []


def test_the_reference_has_every_command_and_option(site):
    import typer

    from rarecli.cli import app

    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():
        assert f"rare {name}" in text
        for parameter in command.params:
            assert all(option in text for option in parameter.opts if option.startswith("-")), (name, parameter.opts)


def test_the_reference_has_the_python_functions_and_the_fields_of_the_manifest(site):
    import rarecli
    from rarecli.core.engines.manifest import Manifest

    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert [name for name in rarecli.__all__ if f".{name}" not in python] == []
    manifest = (site / "reference" / "manifest.html").read_text(encoding="utf-8")
    assert [name for name in Manifest.model_fields if f"<code>{name}</code>" not in manifest] == []


def test_the_decisions_are_all_there(site):
    listed = (site / "decisions" / "index.html").read_text(encoding="utf-8")
    for record in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert f"{record.stem}.html" in listed


def test_the_notebook_runs(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    source = ROOT / "docs" / "notebooks" / "first_segmentation.ipynb"
    shutil.copy(source, tmp_path)
    notebook = nbformat.read(source, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without results, which would grow stale
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert any("depth, and the levels that run" in table for table in tables)
    assert any("<td>phantom_002</td>" in table for table in tables)
    assert "(0, 0, 2)" in "".join(data.get("text/plain", "") for data in shown)
