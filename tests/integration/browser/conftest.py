"""Debian's chromium, driven by playwright. Nothing is downloaded: playwright's own browsers are not used."""

import gzip
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from rarecli.core.engines.model_files import built_in_models
from rarecli.core.engines.segment_page import write_segment_page
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.prediction.predictor import ModelChoice
from rarecli.core.reporting.options import ReportOptions

NO_GPU = "No available adapters."
"""What chromium says of itself where a page asks for WebGPU and there is no GPU."""
AXE = Path(__file__).parent / "libraries" / "axe-core" / "axe.min.js.gz"


def _missing(words):
    if os.environ.get("CI"):
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(scope="session")
def browser_installed():
    """The path of chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        _missing("no chromium here; run tests/integration/browser/install_packages.sh as root")
    if find_spec("playwright") is None:
        _missing("playwright is not installed; run make install")
    return found


@pytest.fixture(scope="session")
def launch(browser_installed):
    """Returns a function that starts chromium with more arguments."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # chromium refuses its sandbox to root; the pages are ours
        yield lambda *more: playwright.chromium.launch(executable_path=browser_installed, args=["--no-sandbox", *more])


@pytest.fixture(scope="session")
def browser(launch):
    opened = launch()
    yield opened
    opened.close()


class Opened:
    """A page opened from file://, with everything that it said and requested."""

    def __init__(self, page, path):
        self.page, self.said, self.requested = page, [], []
        page.set_default_timeout(240_000)  # a busy machine is no failure
        page.on("console", lambda message: message.text == NO_GPU or self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        self.url = path.as_uri()
        page.goto(self.url)

    def require_quiet(self):
        assert self.said == []
        # blob: is what the page itself holds, such as its worker
        assert [url for url in self.requested if not url.startswith("blob:")] == [self.url]

    def require_accessible(self):
        """No serious or critical fault that axe-core finds. The page's policy must be bypassed, since it forbids scripts from outside."""
        self.page.evaluate(gzip.decompress(AXE.read_bytes()).decode())
        found = self.page.evaluate("() => axe.run().then(({ violations, passes }) => ({ violations, passes: passes.length }))")
        assert found["passes"] > 10
        faults = [(fault["id"], node["html"][:200]) for fault in found["violations"] for node in fault["nodes"] if is_grave(fault)]
        assert faults == []


def is_grave(fault):
    return fault["impact"] in ("serious", "critical")


@pytest.fixture(scope="session")
def evaluated(phantom_dataset, run, tmp_path_factory):
    """The output of an evaluation with its report."""
    output = tmp_path_factory.mktemp("evaluated")
    options = EvaluateOptions(depths=[0, 1, 2], surface=False, all_cases=True, report=ReportOptions("rare evaluate data -m run -o scores"))
    evaluate(phantom_dataset, ModelChoice((run,), "cpu"), output, options)
    return output


@pytest.fixture(scope="session")
def page_file(tmp_path_factory):
    """The page that segments with the built-in model."""
    path = tmp_path_factory.mktemp("page") / "segment.html"
    write_segment_page(built_in_models()["hippocampus"], path)
    return path


@pytest.fixture(scope="session")
def open_url():
    """Returns a function that opens a file in a context of the browser."""
    return lambda context, path: Opened(context.new_page(), path)


@pytest.fixture
def open_page(browser):
    contexts = []

    def opened(path, **options):
        contexts.append(browser.new_context(**options))
        return Opened(contexts[-1].new_page(), path)

    yield opened
    for context in contexts:
        context.close()
