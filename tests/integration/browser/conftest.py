"""Debian's chromium, driven by playwright. Nothing is downloaded: playwright's own browsers are not used."""

import os
import shutil

import pytest


def _missing(words):
    if os.environ.get("CI"):
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        _missing("no chromium here; run tests/integration/browser/install_packages.sh as root")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed; run make install")
    with sync_playwright() as playwright:
        # chromium refuses its sandbox to root; the pages are ours
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page opened from file://, with everything that it said and requested."""

    def __init__(self, page, path):
        self.page, self.said, self.requested = page, [], []
        page.set_default_timeout(240_000)  # a busy machine is no failure
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        self.url = path.as_uri()
        page.goto(self.url)

    def require_quiet(self):
        assert self.said == []
        # blob: is what the page itself holds, such as its worker
        assert [url for url in self.requested if not url.startswith("blob:")] == [self.url]


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
