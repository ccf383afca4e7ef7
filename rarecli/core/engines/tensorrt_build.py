"""Builds TensorRT plans from the ONNX engines of a bundle.

A plan is valid for one TensorRT version and one kind of GPU. It is raw bytes that trtexec and Triton also read; a JSON file beside
it describes it. The ONNX file determines the precision: networks are strongly typed, the only mode of TensorRT 11 (a flag from
10.12 on, which 11 ignores). The same calls run TensorRT-RTX, which builds without a GPU; the tests use it to show that every
engine parses and builds. Source: the TensorRT developer guide, "Strongly Typed Networks".
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rarecli.core.config.geometry import coarsened, entry_text
from rarecli.core.engines.manifest import Engine, Gpu, Parity, PlanFacts
from rarecli.core.errors import EnvironmentFault, ModelError, missing_extra
from rarecli.core.jobs.files import atomic_file, sha256, write_json
from rarecli.core.types import Shape

FIRST_VERSION, FIRST_UNKNOWN_VERSION = (10, 12), (12, 0)

_CUDA_PROBE = """
import ctypes, json
driver = ctypes.CDLL("libcuda.so.1")
count, name, major, minor = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_int(), ctypes.c_int()
assert driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
driver.cuDeviceGetName(name, 100, 0)
driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
print(json.dumps([name.value.decode(), major.value, minor.value]))
"""


@dataclass(frozen=True)
class Profile:
    """The shapes (B, C, X, Y, Z) that a plan accepts: from `least` to `most`, tuned for `usual`."""

    least: tuple[int, int, int, int, int]
    usual: tuple[int, int, int, int, int]
    most: tuple[int, int, int, int, int]


def load_tensorrt(module: str = "tensorrt") -> Any:
    """Import TensorRT (or, for the tests, `tensorrt_rtx_bindings`).

    Raises EnvironmentFault if it is not installed, cannot be loaded, or has an unsupported version.
    """
    try:
        library = import_module(module)
    except ImportError:
        raise missing_extra(module, "gpu") from None
    except OSError as error:  # the bindings are installed, but a library that they load is missing
        raise EnvironmentFault(
            "TensorRT is installed but cannot be loaded", found=error, remedy="install its libraries for this CUDA"
        ) from error
    version = tuple(int(part) for part in library.__version__.split(".")[:2])
    if module == "tensorrt" and not FIRST_VERSION <= version < FIRST_UNKNOWN_VERSION:
        raise EnvironmentFault(
            "this version of TensorRT is not supported",
            found=library.__version__,
            expected=f"{_dotted(FIRST_VERSION)} or later, below {_dotted(FIRST_UNKNOWN_VERSION)}",
        )
    return library


def find_gpu() -> Gpu:
    """Return the first GPU. A separate process queries it, because a missing driver may crash. Raises EnvironmentFault without a GPU."""
    probe = subprocess.run([sys.executable, "-c", _CUDA_PROBE], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise EnvironmentFault("there is no GPU that CUDA can use", remedy="build on the machine that will run the engine, or use ONNX")
    name, major, minor = json.loads(probe.stdout)
    return Gpu(name=name, compute_capability=f"{major}.{minor}")


def profile_for(
    engine: Engine, least: Shape | None = None, usual: Shape | None = None, most: Shape | None = None, batch: int = 1
) -> Profile:
    """Return the profile of an engine: only its patch, or shapes given at depth 0. Raises ModelError for shapes it does not accept."""
    channels = engine.input.shape[1]

    def at_entry(shape: Shape | None) -> tuple[int, int, int, int, int]:
        x, y, z = engine.patch_shape if shape is None else coarsened(shape, engine.entry)
        for axis, size, divisor, least_size in zip("xyz", (x, y, z), engine.divisors, engine.min_shape, strict=True):
            if size % divisor or size < least_size:
                raise ModelError(
                    "the engine does not accept this shape",
                    field=f"{entry_text(engine.entry)}, {axis}",
                    found=size,
                    expected=f"a multiple of {divisor}, at least {least_size}",
                )
        return batch, channels, x, y, z

    usual = usual or most or least
    profile = Profile(at_entry(least or usual), at_entry(usual), at_entry(most or usual))
    if not all(a <= b <= c for a, b, c in zip(profile.least, profile.usual, profile.most, strict=True)):
        raise ModelError("the shapes of the profile are not in order", found=profile, expected="least <= usual <= most on every axis")
    return profile


def build_plan(
    library: Any,
    engine: Engine,
    bundle: Path,
    profile: Profile,
    gpu: Gpu | None,
    cache: Path | None = None,
    check: Callable[[Path], Parity] | None = None,
) -> PlanFacts:
    """Build an entry's plan and its facts, `ENTRY.plan` and `ENTRY.plan.json`, beside the ONNX engine.

    TF32 is off, so fp32 means fp32. cache: keeps the timings of tuning for the next build on this machine. check: runs the plan and
    compares it with PyTorch; without it the facts state that the plan has never run.
    Raises ModelError with the library's message if the ONNX file does not parse or build, or lacks the expected input and output.
    """
    log = _Log(library)
    builder = library.Builder(log.logger)
    strongly_typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = library.OnnxParser(network, log.logger)
    onnx_file = bundle / engine.file
    if not parser.parse_from_file(str(onnx_file)):
        words = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ModelError("TensorRT cannot parse the engine", path=onnx_file, found=words)
    _require_promised(library, network, engine, onnx_file)
    config = builder.create_builder_config()
    flags = []
    if hasattr(library.BuilderFlag, "TF32"):
        config.clear_flag(library.BuilderFlag.TF32)
        flags.append("no TF32")
    shapes = builder.create_optimization_profile()
    shapes.set_shape(engine.input.name, profile.least, profile.usual, profile.most)
    config.add_optimization_profile(shapes)
    if cache is not None:
        config.set_timing_cache(config.create_timing_cache(cache.read_bytes() if cache.is_file() else b""), ignore_mismatch=True)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError("TensorRT cannot build the engine", path=onnx_file, found="; ".join(log.errors) or "no reason given")
    plan_file = onnx_file.with_suffix(".plan")
    _write_bytes(plan_file, plan)
    if cache is not None:
        _write_bytes(cache, config.get_timing_cache().serialize())
    facts = PlanFacts(
        library=library.__name__,
        version=library.__version__,
        gpu=gpu,
        onnx_sha256=engine.sha256,
        file=plan_file.name,
        sha256=sha256(plan_file),
        shape_min=profile.least,
        shape_opt=profile.usual,
        shape_max=profile.most,
        flags=tuple(flags),
        parity=check(plan_file) if check else None,
    )
    write_json(plan_file.with_name(f"{plan_file.name}.json"), facts.model_dump(mode="json"))
    return facts


def require_same_machine(facts: PlanFacts, plan: Path, version: str, gpu: Gpu) -> None:
    """Raise EnvironmentFault, with both versions, unless this is the TensorRT version and the kind of GPU that the plan was built with."""
    if facts.version != version:
        raise EnvironmentFault(
            "the plan was built by another version of TensorRT",
            path=plan,
            found=facts.version,
            expected=version,
            remedy="build it again here",
        )
    if facts.gpu is None or facts.gpu.compute_capability != gpu.compute_capability:
        found = f"{facts.gpu.name}, {facts.gpu.compute_capability}" if facts.gpu else "none"
        expected = f"{gpu.name}, {gpu.compute_capability}"
        raise EnvironmentFault(
            "the plan was built for another GPU", path=plan, found=found, expected=expected, remedy="build it again here"
        )


def runs_here(plans: Iterable[PlanFacts]) -> bool:
    """Return whether this machine has the TensorRT version and the kind of GPU that the plans were built with."""
    try:
        version, gpu = load_tensorrt().__version__, find_gpu()
        for facts in plans:
            require_same_machine(facts, Path(facts.file), version, gpu)
    except EnvironmentFault:
        return False
    return True


class _Log:
    """A TensorRT logger that keeps errors for rare's own messages and prints nothing."""

    def __init__(self, library: Any) -> None:
        self.errors: list[str] = []
        errors, severity = self.errors, library.ILogger

        class Logger(library.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                severity.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in (severity.INTERNAL_ERROR, severity.ERROR):
                    errors.append(text)

        self.logger = Logger()


def _require_promised(library: Any, network: Any, engine: Engine, onnx_file: Path) -> None:
    """Raise ModelError unless the parsed network has the manifest's input and output: names, float32, shapes with -1 for free sizes."""
    for tensors, promised in ((_inputs(network), engine.input), (_outputs(network), engine.output)):
        found = [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
        if found != [(promised.name, library.DataType.FLOAT, promised.shape)]:
            raise ModelError("the tensors of the parsed engine differ from the manifest", path=onnx_file, found=found, expected=promised)


def _inputs(network: Any) -> Iterable[Any]:
    return (network.get_input(index) for index in range(network.num_inputs))


def _outputs(network: Any) -> Iterable[Any]:
    return (network.get_output(index) for index in range(network.num_outputs))


def _write_bytes(path: Path, content: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
