"""The peak of the cores: instructions as GNU as encodes them, sums that only multiply-adds give, rates and limits counted by hand."""

import platform
import sys
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest

from rarecli.core.benchmarking import fma_peak
from rarecli.core.benchmarking.fma_peak import INSTRUCTIONS, Kernel, assemble, fma_peaks, usable
from rarecli.core.benchmarking.machine import cache_bytes
from rarecli.core.benchmarking.records import least_seconds, notes
from rarecli.core.config.network_cost import Work
from rarecli.core.engines.model_cache import cpu_features

YMM, ZMM, BF16, INT8 = INSTRUCTIONS
HERE = usable(cpu_features().split()) if (sys.platform, platform.machine()) == ("linux", "x86_64") else []


@pytest.mark.parametrize(
    ("instruction", "encoded"),
    [
        (YMM, "c4 42 0d b8 cf"),  # vfmadd231ps %ymm15,%ymm14,%ymm9
        (ZMM, "62 d2 0d 48 b8 c7"),  # vfmadd231ps %zmm15,%zmm14,%zmm0
        (BF16, "62 d2 0e 48 52 df"),  # vdpbf16ps %zmm15,%zmm14,%zmm3
        (INT8, "62 52 0d 48 50 df"),  # vpdpbusd %zmm15,%zmm14,%zmm11
    ],
)
def test_instructions_are_encoded_as_an_assembler_does(instruction, encoded):
    code = assemble(instruction)
    assert bytes.fromhex(encoded) in code
    # twelve of them, then dec %rsi, and back to the first
    loop = code.index(b"\x48\xff\xce\x0f\x85")
    length = len(bytes.fromhex(encoded))
    assert int.from_bytes(code[loop + 5 : loop + 9], "little", signed=True) == -(12 * length + 9)
    assert code.endswith(b"\xc5\xf8\x77\xc3")  # vzeroupper, ret


@pytest.mark.skipif(not HERE, reason="no such instructions on this machine")
def test_the_kernel_adds_products():
    for instruction in HERE:
        registers = np.zeros((14, instruction.register_bytes), np.uint8)
        dtype, one, two, per_value = {
            "fp32": (np.float32, np.float32(2).tobytes(), np.float32(3).tobytes(), 1),
            "bf16": (np.float32, b"\x00\x40", b"\x40\x40", 2),
            "int8": (np.int32, b"\x02", b"\x03", 4),
        }[instruction.precision]
        registers[12], registers[13] = (np.frombuffer(value * (instruction.register_bytes // len(value)), np.uint8) for value in (one, two))
        Kernel(instruction).run(registers, 5)
        assert set(registers[:12].view(dtype).ravel().tolist()) == {5 * 2 * 3 * per_value}
        # two FLOP per product
        assert instruction.flop == 2 * per_value * instruction.register_bytes // 4


def test_a_rate_is_that_of_all_threads_in_their_best_bursts(monkeypatch):
    """Each burst takes 2, 1 and 4 s: the best is 1,000 repetitions of 12 instructions of 16 FLOP in a second, for each of two threads."""
    monkeypatch.setattr(fma_peak, "_BURSTS", 3)
    kernel = Kernel.__new__(Kernel)
    kernel._instruction = YMM
    moments = iter([0, 2, 2, 3, 3, 7])
    monkeypatch.setattr(fma_peak.time, "perf_counter", lambda: next(moments))
    monkeypatch.setattr(Kernel, "run", lambda *_: None)
    assert kernel.best_rate(Barrier(1)) == 1000 * 12 * 16
    monkeypatch.setattr(Kernel, "best_rate", lambda *_: 5.0)
    monkeypatch.setattr(Kernel, "__init__", lambda *_: None)
    assert fma_peak._rate(YMM, 2) == 10


def test_a_cpu_has_the_peaks_of_its_instructions():
    avx2, avx512 = {"avx2", "fma"}, {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"}
    assert usable({"sse2"}) == []
    assert usable(avx2) == [YMM]
    assert usable(avx512) == [YMM, ZMM, BF16, INT8]
    assert usable(avx512 | {"amx_bf16", "amx_int8"}) == [YMM, ZMM]  # its matrix units are faster


def test_where_memory_must_not_be_executed_there_is_no_peak(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(fma_peak, "Kernel", refuse)
    monkeypatch.setattr(fma_peak, "usable", lambda _: [replace(YMM)])
    assert fma_peaks(1) == {"fp32": None, "bf16": None, "int8": None}


def test_the_last_caches_count_once_each(tmp_path):
    """Four cores with a cache of level 2 each, and two of level 3 that two cores share."""
    for core in range(4):
        for index, (level, shared, size) in enumerate([(2, str(core), "1024K"), (3, f"{core // 2 * 2}-{core // 2 * 2 + 1}", "8192K")]):
            place = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            place.mkdir(parents=True)
            for name, value in (("level", level), ("shared_cpu_list", shared), ("size", size)):
                (place / name).write_text(f"{value}\n")
    assert cache_bytes(tmp_path) == 2 * 8 * 2**20
    assert cache_bytes(tmp_path / "none") is None


def test_the_limit_is_that_of_each_layer():
    """At 100 FLOP/s and 10 bytes/s, caches of 40 bytes: 2 s of arithmetic; 4 bytes * 60 values, 200 too many, 20 s; a norm fused."""
    layers = [Work(250, 5, 10, 200), Work(100, 10, 50, 100), Work(0, 0, 10**6, 0)]
    assert least_seconds(layers, "fp32", 100, 10, 40) == 22
    assert least_seconds(layers, "int8", 100, 10, 40) == pytest.approx(2 + 2)


def test_a_share_above_1_is_said():
    row = {"status": "ok", "stable": True, "num_samples": 20, "precision": "fp32"}
    rows = [row | {"work": {"share_of_peak": share}} for share in (1.01, 0.9, None)]
    result = {"rows": rows, "others_cpu_share": 0, "timer": {"share_of_shortest_row": 0}, "model": {"random_weights": False}}
    assert any(note.startswith("1 of 3 rows exceed the peak of the cores") for note in notes(result))
