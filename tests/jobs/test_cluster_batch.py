"""Which items a lost worker is blamed for. The scheduler is one of this file; for real ones see tests/integration/test_cluster.py."""

import asyncio

from rarecli.core.errors import DataError
from rarecli.core.jobs import cluster_batch
from rarecli.core.jobs.progress import Silent


class Future:
    def __init__(self, result):
        self.result, self.status, self.call = result, "pending", None

    def add_done_callback(self, call):
        self.call = call

    def end(self, status):
        if self.status == "pending":
            self.status = status
            self.call(self)


class Cluster:
    """Client and cluster in one. Workers take items in order. A bad one kills its worker, and the word of earlier ends is lost."""

    def __init__(self, num_workers, bad):
        self.workers = {f"worker{number}": [] for number in range(num_workers)}
        self.bad, self.client, self.reporter, self.lost = bad, self, Silent(), []

    def submit(self, run, work, item, again, workers, pure):
        future = Future(work(item))
        self.workers[workers[0]].append((item, future))
        return future

    def cancel(self, futures, force):
        for future in futures:
            future.end("cancelled")

    def addresses(self):
        """Let every worker work on what it has, as a look at the workers comes after a while."""
        for address, held in list(self.workers.items()):
            if any(item in self.bad for item, _ in held):
                self.lost.append([item for item, _ in held])
                del self.workers[address]
                continue
            for _, future in held:
                future.end("finished")
            held.clear()
        return set(self.workers)

    def sync(self, call, futures, callback_timeout):
        return asyncio.run(call(futures))

    async def gather(self, futures, asynchronous):
        return [future.result for future in futures]


def test_the_next_item_is_a_suspect_since_the_end_of_the_first_may_be_lost(monkeypatch):
    monkeypatch.setattr(cluster_batch, "_LOOK_S", 0.0)
    cluster = Cluster(3, bad={"poison"})
    items = ["a", "b", "c", "poison", "d", "e"]  # two each: the second of the worker with `a` is `poison`
    outcomes = dict(cluster_batch.Batch(cluster, str.upper, items).outcomes())
    error = outcomes.pop(3)
    assert isinstance(error, DataError)
    assert "it lost its worker twice" in str(error)
    assert outcomes == {0: "A", 1: "B", 2: "C", 4: "D", 5: "E"}
    assert len(cluster.workers) == 1
    assert cluster.lost == [["a", "poison"], ["poison"]]
