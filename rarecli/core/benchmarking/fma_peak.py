"""Measures the peak of the cores: multiply-adds on registers, which no program on the same threads can exceed.

The kernel has no memory traffic but one load and one store per call: twelve independent accumulators keep two units of a latency of up
to six cycles busy. It is a few hundred bytes of x86-64 code for Linux, assembled here, so that no compiler is needed.
Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: VEX and EVEX prefixes.
Decision: docs/decisions/0032-peak-of-the-cores.md.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Barrier

import numpy as np

from rarecli.core.engines.model_cache import cpu_features
from rarecli.core.types import AnyArray

_ACCUMULATORS = 12
_A, _B = 14, 15
"""Registers of the factors."""
_BURST_S, _BURSTS = 5e-4, 40
"""A burst is shorter than a time slice, so that the best of many was not interrupted."""


@dataclass(frozen=True)
class Instruction:
    """accumulator += a * b for every value of a register. flop: two per multiply-add. needs: the CPU's features."""

    precision: str
    register_bytes: int
    opcode: int
    prefix: int
    """0: none, 1: 66, 2: F3."""
    flop: int
    needs: frozenset[str]


INSTRUCTIONS = (
    Instruction("fp32", 32, 0xB8, 1, 16, frozenset({"avx2", "fma"})),  # vfmadd231ps ymm
    Instruction("fp32", 64, 0xB8, 1, 32, frozenset({"avx512f"})),  # vfmadd231ps zmm
    Instruction("bf16", 64, 0x52, 2, 64, frozenset({"avx512f", "avx512_bf16"})),  # vdpbf16ps zmm
    Instruction("int8", 64, 0x50, 1, 128, frozenset({"avx512f", "avx512_vnni"})),  # vpdpbusd zmm
)
_MATRIX_UNITS = {"bf16": "amx_bf16", "int8": "amx_int8"}
"""Where the cores have matrix units for a precision, these instructions are not their peak."""


def fma_peaks(num_threads: int | None) -> dict[str, float | None]:
    """Measure multiply-adds on registers, as FLOP/s of all threads together, by precision; None where it cannot be measured.

    Each thread takes its best burst while the others run as well. num_threads: all the process may use by default.
    """
    features = set(cpu_features().split())
    peaks: dict[str, float | None] = dict.fromkeys(("fp32", "bf16", "int8"))
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return peaks
    for instruction in usable(features):
        with suppress(OSError):  # a system where memory must not be executed
            rate = _rate(instruction, num_threads or len(os.sched_getaffinity(0)))
            peaks[instruction.precision] = max(rate, peaks[instruction.precision] or 0.0)
    return peaks


def usable(features: Collection[str]) -> list[Instruction]:
    """Return the instructions that a CPU with these features has, and that are its peak."""
    return [one for one in INSTRUCTIONS if one.needs <= set(features) and _MATRIX_UNITS.get(one.precision) not in features]


def assemble(instruction: Instruction) -> bytes:
    """Return the code of a function f(registers, count) that repeats the instruction `count` times on each accumulator.

    registers: the values of 14 registers in memory, first the accumulators, which it changes, then a and b. Calling convention: System V.
    """
    size = instruction.register_bytes
    places = [(register, size * place) for place, register in enumerate((*range(_ACCUMULATORS), _A, _B))]
    load = b"".join(_encoded(size, 1, 0, 0x10, register, None, offset) for register, offset in places)
    store = b"".join(_encoded(size, 1, 0, 0x11, register, None, offset) for register, offset in places[:_ACCUMULATORS])
    body = b"".join(_encoded(size, 2, instruction.prefix, instruction.opcode, register, _A) for register in range(_ACCUMULATORS))
    body += b"\x48\xff\xce"  # dec rsi
    back = -(len(body) + 6)
    return load + body + b"\x0f\x85" + back.to_bytes(4, "little", signed=True) + store + b"\xc5\xf8\x77\xc3"  # jnz; vzeroupper; ret


def _encoded(size: int, opcodes: int, prefix: int, opcode: int, register: int, first: int | None, offset: int | None = None) -> bytes:
    """Encode an instruction on `register`: with the factors `first` and B, or with memory at rdi + offset.

    opcodes: the map of opcodes, 1 for 0F, 2 for 0F38.
    """
    high, low = register < 8, register & 7
    second = _B < 8 or offset is not None  # inverted bits: set for registers below 8
    operand = ~(first or 0) & 15
    if size == 32:
        start = bytes([0xC4, high << 7 | 1 << 6 | second << 5 | opcodes, operand << 3 | 1 << 2 | prefix])
    else:
        start = bytes([0x62, high << 7 | 1 << 6 | second << 5 | 1 << 4 | opcodes, operand << 3 | 1 << 2 | prefix, 0x48])
    if offset is None:
        return start + bytes([opcode, 0xC0 | low << 3 | _B & 7])
    return start + bytes([opcode, 0x80 | low << 3 | 7]) + offset.to_bytes(4, "little")


class Kernel:
    """An instruction, ready to run on this CPU. Raises OSError where memory must not be executed."""

    def __init__(self, instruction: Instruction) -> None:
        self._instruction = instruction
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory.write(assemble(instruction))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        # the call releases Python's lock, so threads run at once
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)

    def run(self, registers: AnyArray, count: int) -> None:
        """Repeat the instruction `count` times on every accumulator. registers: 14 of them, C-contiguous; the accumulators change."""
        assert registers.nbytes == (_ACCUMULATORS + 2) * self._instruction.register_bytes
        self._call(registers.ctypes.data, count)

    def best_rate(self, barrier: Barrier) -> float:
        """Return the FLOP/s of the best burst. barrier: the threads start each burst together."""
        registers = np.zeros((_ACCUMULATORS + 2) * self._instruction.register_bytes, dtype=np.uint8)
        flop, count, fastest = _ACCUMULATORS * self._instruction.flop, 1000, 0.0
        for _ in range(_BURSTS):
            barrier.wait()
            before = time.perf_counter()
            self.run(registers, count)
            fastest = max(fastest, count * flop / (time.perf_counter() - before))
            count = max(1000, int(_BURST_S * fastest / flop))
        return fastest


def _rate(instruction: Instruction, num_threads: int) -> float:
    kernel, barrier = Kernel(instruction), Barrier(num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(kernel.best_rate, [barrier] * num_threads))
