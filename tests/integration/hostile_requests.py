"""Requests that no client of ours sends, as bytes on the wire, over gRPC and HTTP."""

import http.client
import json
import struct
from dataclasses import dataclass

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

HUGE = 2**31
Tensor = tuple[str, list[int], bytes]
"""Type, shape and content."""


@dataclass(frozen=True)
class Answer:
    """ok: labels came back. refused: the request was called invalid; otherwise the server failed or was not there."""

    ok: bool
    refused: bool
    words: str


def voxels(*shape: int, value: float | None = None) -> Tensor:
    data = np.random.default_rng(0).random(shape, dtype=np.float32) if value is None else np.full(shape, value, np.float32)
    return "FP32", list(shape), data.tobytes()


def empty(*shape: int) -> Tensor:
    return "FP32", list(shape), b""


def spacing(*mm: float) -> Tensor:
    return "FP64", [len(mm)], np.array(mm, np.float64).tobytes()


def entry(*depths: int) -> Tensor:
    return "INT32", [len(depths)], struct.pack(f"<{len(depths)}i", *depths)


def words(*texts: str) -> Tensor:
    return "BYTES", [len(texts)], b"".join(struct.pack("<I", len(text)) + text.encode() for text in texts)


def scan(image: Tensor, mm: Tensor | None = None, **more: Tensor) -> dict[str, Tensor]:
    return {"image": image, "spacing_mm": mm or spacing(2, 2, 2), **more}


DEADLY = {
    "no voxels, two huge axes": scan(empty(1, 0, HUGE, HUGE)),
    "no channels, three huge axes": scan(empty(0, 2**40, 2**40, 2**40)),
    "2^64 voxels, which are 0 modulo 2^64": scan(empty(1, 2**32, 2**32, 1)),
    "2^62 voxels, whose bytes are 0 modulo 2^64": scan(empty(1, 1, 1, 2**62)),
    "2^62 + 4 voxels, whose bytes are 16 modulo 2^64": scan(("FP32", [1, 1, 1, 2**62 + 4], bytes(16))),
}
"""Triton 2.51 hands these shapes to numpy in the router's process, which ends on numpy's error."""
DEADLY_OVER_GRPC = {
    "two negative axes": scan(("FP32", [1, -4, -4, 4], bytes(256))),
    "the least integer": scan(empty(1, -(2**63), 4, 4)),
}
"""JSON has no negative sizes for Triton."""
REFUSED = {
    "no voxels": scan(empty(0, 0, 0, 0)),
    "no voxels, one huge axis": scan(empty(1, 0, 1, 2**40)),
    "a negative axis": scan(("FP32", [1, -1, 4, 4], bytes(64))),
    "too few bytes": scan(("FP32", [1, 64, 64, 64], bytes(16))),
    "float64 voxels": scan(("FP64", [1, 4, 4, 4], bytes(512))),
    "strings for voxels": scan(("BYTES", [1, 1, 1, 1], words("voxel")[2])),
    "strings for a spacing": scan(voxels(1, 8, 8, 8), words("2", "2", "2")),
    "three axes": scan(voxels(8, 8, 8)),
    "five axes": scan(voxels(1, 1, 8, 8, 8)),
    "two channels": scan(voxels(2, 8, 8, 8)),
    "NaN voxels": scan(voxels(1, 8, 8, 8, value=float("nan"))),
    "no spacing": {"image": voxels(1, 8, 8, 8)},
    "two spacings": scan(voxels(1, 8, 8, 8), spacing(2, 2)),
    "spacing NaN": scan(voxels(1, 8, 8, 8), spacing(float("nan"), 2, 2)),
    "spacing 0": scan(voxels(1, 8, 8, 8), spacing(0, 2, 2)),
    "spacing -2": scan(voxels(1, 8, 8, 8), spacing(2, 2, -2)),
    "spacing inf": scan(voxels(1, 8, 8, 8), spacing(float("inf"), 2, 2)),
    "spacing 1e300": scan(voxels(1, 8, 8, 8), spacing(1e300, 1e300, 1e300)),
    "spacing 5e-324": scan(voxels(1, 8, 8, 8), spacing(5e-324, 2, 2)),
    "spacing 1e-9": scan(voxels(1, 64, 64, 64), spacing(1e-9, 1e-9, 1e-9)),
    "spacing 1e-9 along one axis": scan(voxels(1, 64, 64, 64), spacing(1e-9, 1, 1e9)),
    "spacing 1e-9 at depth 0": scan(voxels(1, 64, 64, 64), spacing(1e-9, 1e-9, 1e-9), entry=entry(0, 0, 0)),
    "1 MB that would become 1 GB": scan(voxels(1, 64, 64, 64), spacing(1, 32, 32)),
    "a line that would be padded to 1 GB": scan(voxels(1, 1, 1, 250_000), spacing(1, 1, 1)),
    "entry 99,99,99": scan(voxels(1, 8, 8, 8), entry=entry(99, 99, 99)),
    "entry -1,-1,-1": scan(voxels(1, 8, 8, 8), entry=entry(-1, -1, -1)),
    "an entry that is not there": scan(voxels(1, 8, 8, 8), entry=entry(0, 0, 3)),
    "an entry of one depth": scan(voxels(1, 8, 8, 8), entry=entry(0)),
    "an entry of four depths": scan(voxels(1, 8, 8, 8), entry=entry(0, 0, 0, 0)),
    "an entry of fractions": scan(voxels(1, 8, 8, 8), entry=("FP32", [3], bytes(12))),
}


def send(server, protocol: str, inputs: dict[str, Tensor], model: str = "rare", output: str = "labels") -> Answer:
    """Send a request on a connection of its own."""
    return (_send_grpc if protocol == "grpc" else _send_http)(server, inputs, model, output)


def _send_grpc(server, inputs: dict[str, Tensor], model: str, output: str) -> Answer:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, (kind, shape, content) in inputs.items():
        request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.append(content)
    request.outputs.add(name=output)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
        except grpc.RpcError as error:
            return Answer(False, error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"{error.code()}: {error.details()}")
    return Answer(True, False, "")


def _send_http(server, inputs: dict[str, Tensor], model: str, output: str) -> Answer:
    tensors = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for name, (kind, shape, content) in inputs.items()
    ]
    header = json.dumps({"inputs": tensors, "outputs": [{"name": output, "parameters": {"binary_data": True}}]}).encode()
    body = header + b"".join(content for _, _, content in inputs.values())
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=60)
    try:
        connection.request("POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(len(header))})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace") if answer.status != 200 else ""
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, False, repr(error))
    finally:
        connection.close()
    # Triton answers 500 to JSON that it cannot read
    return Answer(answer.status == 200, answer.status == 400 or "Unable to parse" in text, f"{answer.status}: {text}")
