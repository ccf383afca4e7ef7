import time

import pytest

from rarecli.core.benchmarking import machine


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"cpu": "AMD EPYC", "num_cores": 2}, "amd-epyc-2-cores"),
        ({"cpu": "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", "num_cores": 80}, "intel-xeon-gold-6248-80-cores"),
        ({"cpu": "x", "num_cores": 1, "gpu": "NVIDIA H200"}, "nvidia-h200"),
    ],
)
def test_a_file_can_be_named_after_the_hardware(facts, name):
    assert machine.hardware_name(facts) == name


def test_the_better_peak_counts():
    one = {"fp32": 10.0, "bf16": None, "copy": 3.0}
    assert machine.better(one, {"fp32": 8.0, "bf16": None, "copy": 4.0}) == {"fp32": 10.0, "bf16": None, "copy": 4.0}


def test_peaks_are_rates(monkeypatch):
    monkeypatch.setattr(machine, "_MATRIX", 256)
    monkeypatch.setattr(machine, "_COPY_BYTES", 2**20)
    monkeypatch.setattr(machine, "_best", lambda call: (call(), 0.5)[1])
    peaks = machine.measure_peaks(None, False)
    # 2 x 256^3 FLOP, and a mebibyte read and written, in half a second
    assert peaks["fp32"] == 4 * 256**3
    assert peaks["copy"] == 4 * 2**20


def test_ones_own_work_is_not_that_of_others(monkeypatch):
    # seconds of busy cores, of this process, on the wall: in 2 s two cores were busy for 3.5 s, 1.5 s of them for this process
    looks = iter([(10.0, 5.0, 100.0), (13.5, 6.5, 102.0)])
    monkeypatch.setattr(machine.Others, "_look", staticmethod(lambda: next(looks)))
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    assert machine.Others().share() == 0.5


def test_cpu_time_is_read_in_seconds():
    looked = machine.Others._look()
    if looked is not None:
        busy, own, _ = looked
        assert 0 < own <= time.process_time() + 3600
        assert own <= busy
