import pytest

from rarecli.commands import console
from rarecli.commands.console import Console


def lines(monkeypatch, capsys, seconds, costs):
    """Return what is printed while items take these seconds."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    for item in Console().track(seconds, "check", len(seconds), costs):
        now[0] += item
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("costs", "first", "second"),
    [
        (None, "4 min", "1 min 10 s"),  # 120 s for each of two more; 70 s for one more
        ([6, 1, 1], "40 s", "20 s"),  # 120 s for 6 of 8 parts: 20 s for each of two more
    ],
)
def test_the_time_left_goes_by_the_costs_of_the_items(monkeypatch, capsys, costs, first, second):
    assert lines(monkeypatch, capsys, [120, 20, 20], costs) == [f"check: 1/3, {first} left", f"check: 2/3, {second} left"]


def test_more_items_than_were_told_all_come(capsys):
    assert list(Console().track("abc", "check", 2)) == ["a", "b", "c"]
