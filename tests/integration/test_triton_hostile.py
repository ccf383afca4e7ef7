"""A real Triton server under requests that are wrong or hostile: it refuses them, or it ends, is not ready, and starts again."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np
import pytest
from hostile_requests import DEADLY, DEADLY_OVER_GRPC, REFUSED, empty, scan, send, spacing, voxels
from triton_server import Server, serving_bundle

from rarecli.core.errors import EnvironmentFault
from rarecli.core.imaging.volume import Volume
from rarecli.core.serving.repository import TritonOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROTOCOLS = ("grpc", "http")
MOST_MEGABYTES = 2000
GOOD = scan(voxels(1, 16, 16, 16))


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    with serving_bundle(bundle, tmp_path_factory.mktemp("triton"), TritonOptions("python", num_routers=2)) as started:
        yield started


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_requests_are_refused_and_take_no_memory(protocol, server):
    server.wait_until("ready")
    assert send(server, protocol, GOOD).ok
    processes, before = {process.pid for process in server.processes()}, server.megabytes()
    for name, request in REFUSED.items():
        answer = send(server, protocol, request)
        assert answer.refused, (name, answer.words)
        assert server.megabytes() < before + 100, name
    assert send(server, protocol, GOOD).ok
    assert {process.pid for process in server.processes()} == processes


def require_restart(server: Server) -> None:
    """The server is not ready now, is ready again later without old processes and memory, and then segments."""
    assert not server.is_ready()
    server.wait_until("ready")
    assert all(send(server, protocol, GOOD).ok for protocol in PROTOCOLS)
    assert not any(process.is_dead for process in server.processes())
    assert server.megabytes() < MOST_MEGABYTES
    assert len(server.shared_memory()) == len(server.model_processes())  # one region each; those of the dead are gone


@pytest.mark.parametrize(
    ("protocol", "name"),
    [("grpc", "no voxels, two huge axes"), ("http", "2^64 voxels, which are 0 modulo 2^64"), ("grpc", "two negative axes")],
)
def test_a_request_that_kills_a_router_ends_the_server_which_starts_again(protocol, name, server):
    """Its answer is an error. At once the server is not ready; later it is, and answers."""
    server.wait_until("ready")
    answer = send(server, protocol, (DEADLY | DEADLY_OVER_GRPC)[name])
    assert not answer.ok
    assert not answer.refused, answer.words
    require_restart(server)


def test_an_entry_that_is_killed_by_a_request_ends_the_server_as_well(server):
    server.wait_until("ready")
    answer = send(server, "http", {"image": empty(1, 1, 0, 2**31, 2**31)}, "rare_entry_3_3_3", "logits")
    assert not answer.ok
    require_restart(server)
    assert "rare: the process of the model rare_entry_3_3_3 died, so the server was ended" in server.log()


def test_a_router_without_work_that_is_killed_ends_the_server_as_well(server):
    server.wait_until("ready")
    router = server.model_processes("/rare")[0].pid
    os.kill(router, signal.SIGKILL)
    while any(process.pid == router for process in server.processes()):  # dying, then dead until its server has ended
        time.sleep(0.01)
    require_restart(server)


def test_serve_stops_when_it_is_told_to(bundle, tmp_path):
    with serving_bundle(bundle, tmp_path, TritonOptions("python", num_routers=1)) as server:
        server.wait_until("ready")
        assert send(server, "grpc", GOOD).ok
        assert server.stop() == 0
        assert not server.processes()
        assert not server.shared_memory()


@dataclass
class Storm:
    """What was seen while clients and hostile requests came at the same time."""

    answers: Counter = field(default_factory=Counter)
    hostile: Counter = field(default_factory=Counter)
    most_megabytes: int = 0
    samples: Counter = field(default_factory=Counter)
    """Of ready, not ready, and untrue: ready although a process that was dead in the sample before is still dead."""


def storm(server: Server, num_hostile: int, num_clients: int, seconds: float) -> Storm:
    """`num_hostile` requests of all kinds, evenly spread over `seconds`, among clients that send one valid scan after another.

    Every second client uses our library over gRPC, the others plain HTTP.
    """
    seen, ended = Storm(), threading.Event()
    expected = {}
    for depth in range(4):
        size, mm = 32 >> depth, 2.0**depth
        volume = Volume(np.random.default_rng(depth).random((1, size, size, size), np.float32), np.diag([mm, mm, mm, 1.0]))
        with server.client() as client:
            expected[depth] = (volume, client.predict(volume).labels)

    def segment(number: int) -> None:
        for depth in cycle(range(4)):
            if ended.is_set():
                return
            volume, labels = expected[depth]
            try:
                if number % 2:
                    answer = send(server, "http", scan(voxels(*volume.data.shape), spacing(*volume.spacing_mm)))
                    seen.answers["answered" if answer.ok else "failed"] += 1
                else:
                    with server.client() as client:
                        assert np.array_equal(client.predict(volume).labels, labels)
                    seen.answers["answered"] += 1
            except EnvironmentFault:
                seen.answers["failed"] += 1
            if not server.is_ready():
                time.sleep(0.5)

    def watch() -> None:
        dead_before: set[int] = set()
        while not ended.is_set():
            processes = server.processes()
            dead = {process.pid for process in processes if process.is_dead and "triton_python" in process.command}
            seen.most_megabytes = max(seen.most_megabytes, sum(process.megabytes for process in processes))
            ready = server.is_ready()
            seen.samples["untrue" if ready and dead & dead_before else "ready" if ready else "not ready"] += 1
            dead_before = dead
            time.sleep(0.1)

    kinds = [(protocol, request) for request in (*DEADLY.values(), *REFUSED.values()) for protocol in PROTOCOLS]
    kinds += [("grpc", request) for request in DEADLY_OVER_GRPC.values()]
    order = np.random.default_rng(0).permutation(len(kinds))
    with ThreadPoolExecutor(num_clients + 1) as pool:
        tasks = [pool.submit(watch), *(pool.submit(segment, number) for number in range(num_clients))]
        for index in islice(cycle(order), num_hostile):
            time.sleep(seconds / num_hostile)
            answer = send(server, *kinds[index])
            assert not answer.ok
            seen.hostile["refused" if answer.refused else "failed"] += 1
        ended.set()
        for task in tasks:
            task.result()
    return seen


def test_clients_get_labels_or_errors_while_hostile_requests_come(server):
    server.wait_until("ready")
    seen = storm(server, num_hostile=32, num_clients=8, seconds=30)
    assert set(seen.answers) == {"answered", "failed"}
    assert seen.hostile["failed"] > 0
    assert seen.samples["untrue"] == 0
    assert seen.samples["not ready"] > 0
    assert seen.most_megabytes < MOST_MEGABYTES
    server.wait_until("ready")
    assert all(send(server, protocol, GOOD).ok for protocol in PROTOCOLS)
