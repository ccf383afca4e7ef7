"""The backend of a page, where there is no browser. tests/integration/browser runs it in one."""

import os
import subprocess

import pytest

from rarecli.core.benchmarking import browser_runner, cold_start
from rarecli.core.benchmarking.benchmark import BenchmarkOptions, benchmark, require_success
from rarecli.core.benchmarking.stages import open_steps
from rarecli.core.benchmarking.suites import Effort
from rarecli.core.errors import EnvironmentFault, UsageError

ONCE = Effort(warm_up_iterations=1, warm_up_seconds=0, iterations=1, seconds=0, rounds=1)


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setattr(browser_runner, "which", lambda _: None)


def test_without_a_browser_its_row_is_skipped_with_the_reason_and_the_others_are_measured(bundle, no_browser, tmp_path):
    options = BenchmarkOptions(backends=["onnx", "browser"], entries=[(2, 2, 2)], cold_start=False, upsampled=False, effort=ONCE)
    result = benchmark(bundle, tmp_path / "timing", options)
    assert {row["backend"]: row["status"] for row in result["rows"]} == {"onnx": "ok", "browser": "skipped: no Chromium was found"}
    require_success(result, tmp_path / "timing")


def test_the_processes_below_one_count_for_its_peak_memory():
    with subprocess.Popen(["sh", "-c", "cat & cat; wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        shell.stdin.write(b"both have started")
        shell.stdin.flush()
        shell.stdout.read(1)
        family = cold_start._family(os.getpid())
        assert {os.getpid(), shell.pid} < set(family)
        assert len(family) >= 3
    assert shell.pid not in cold_start._family(os.getpid())


def test_a_page_has_one_thread_the_cpu_fp32_and_a_bundle(bundle, run, no_browser):
    with pytest.raises(UsageError, match="a page has one thread"):
        open_steps(bundle, "browser", "fp32", 2, "auto")
    with pytest.raises(UsageError, match="computes on the CPU"):
        open_steps(bundle, "browser", "fp32", 1, "cuda")
    with pytest.raises(UsageError, match="computes in fp32"):
        open_steps(bundle, "browser", "bf16", 1, "cpu")
    with pytest.raises(UsageError, match="a run has no engines"):
        open_steps(run, "browser", "fp32", 1, "cpu")
    with pytest.raises(EnvironmentFault, match="no Chromium"):
        open_steps(bundle, "browser", "fp32", None, "cpu")
