"""WebGPU in SwiftShader, which computes it on the CPU: the page uses it if it agrees with a test scan."""

import pytest

from rarecli import Phantom
from rarecli.core.engines.segment_page import write_segment_page
from rarecli.core.imaging.volume import write_image

pytestmark = pytest.mark.slow
SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")


@pytest.fixture(scope="module")
def small_page(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "page.html"
    write_segment_page(bundle, path)
    return path


@pytest.fixture(scope="module")
def with_gpu(launch):
    opened = launch(*SOFTWARE)
    yield opened
    opened.close()


def test_it_is_used_where_it_agrees(with_gpu, open_url, small_page, tmp_path):
    opened = open_url(with_gpu.new_context(), small_page)
    opened.page.wait_for_selector("body[data-model=webgpu]")
    assert "WebGPU" in opened.page.inner_text("#provider")
    opened.page.click("#verify")
    opened.page.wait_for_selector("body[data-state=ready]")
    assert opened.page.text_content("#error") == ""
    scan, _ = Phantom(3).acquire(4)
    write_image(tmp_path / "good.nii.gz", scan.data[0], scan)
    opened.page.set_input_files("#files", tmp_path / "good.nii.gz")
    opened.page.wait_for_selector("#result:not([hidden])")
    opened.require_quiet()


def test_it_is_not_used_where_it_does_not_agree(with_gpu, open_url, small_page, tmp_path):
    """The page takes logits of WebGPU as a tenth too large."""
    text = small_page.read_text()
    right = "const logits = results[engine.output.name].data;"
    wrong = right.replace(".data;", '.data.map((value) => (provider === "webgpu" ? 1.1 * value : value));')
    assert text.count(right) == 1
    (tmp_path / "page.html").write_text(text.replace(right, wrong))
    opened = open_url(with_gpu.new_context(), tmp_path / "page.html")
    opened.page.wait_for_selector("body[data-model=wasm]")
    assert "WebAssembly" in opened.page.inner_text("#provider")
