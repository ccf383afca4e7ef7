"""What the checks of workers say. The client is one of this file; for real ones see tests/integration/test_cluster.py."""

from pathlib import Path

import pytest

from rarecli.core.errors import EnvironmentFault
from rarecli.core.jobs.cluster import Cluster
from rarecli.core.jobs.progress import Noting, Silent


class Client:
    """Workers that run calls in this process. kinds: by address, `good`, `denied` (its folders may not be read), or `lost`."""

    def __init__(self, monkeypatch, **kinds):
        self.monkeypatch, self.kinds = monkeypatch, kinds

    def wait_for_workers(self, num, timeout):
        pass

    def nthreads(self):
        return dict.fromkeys(self.kinds, 1)

    def run(self, call, *arguments, workers, on_error):
        return {address: self._answer(self.kinds[address], call, arguments) for address in workers}

    def _answer(self, kind, call, arguments):
        if kind == "lost":
            return OSError("Timed out trying to connect")
        with self.monkeypatch.context() as patch:
            if kind == "denied":
                patch.setattr(Path, "exists", denied)
            try:
                return call(*arguments)
            except Exception as error:
                return error


def denied(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_worker_that_may_not_look_at_a_folder_is_named_with_it(monkeypatch, tmp_path):
    with pytest.raises(EnvironmentFault, match="the worker b does not see the files") as caught:
        Cluster(Client(monkeypatch, a="good", b="denied"), [tmp_path], tmp_path, Silent())
    assert f"path: {tmp_path}" in str(caught.value)
    assert "found: system error: Permission denied" in str(caught.value)


def test_a_new_worker_that_may_not_look_at_a_folder_is_not_used(monkeypatch, tmp_path):
    client, noted = Client(monkeypatch, a="good"), Noting(Silent())
    cluster = Cluster(client, [tmp_path], tmp_path, noted)
    client.kinds["b"] = "denied"
    assert cluster.addresses() == {"a"}
    assert ["worker b does not see" in text for text in noted.warnings] == [True]


def test_a_worker_that_is_lost_during_its_check_is_no_worker_until_it_answers(monkeypatch, tmp_path):
    client, noted = Client(monkeypatch, a="good", b="lost"), Noting(Silent())
    cluster = Cluster(client, [tmp_path], tmp_path, noted)
    assert (cluster.addresses(), cluster.num) == ({"a"}, 1)
    client.kinds["b"] = "good"
    assert cluster.addresses() == {"a", "b"}
    assert not noted.warnings


def test_workers_that_are_all_lost_are_none(monkeypatch, tmp_path):
    with pytest.raises(EnvironmentFault, match="the scheduler has no workers"):
        Cluster(Client(monkeypatch, a="lost"), [tmp_path], tmp_path, Silent())
