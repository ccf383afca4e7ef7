import pytest

from rarecli.core.errors import DataError, EnvironmentFault, UsageError
from rarecli.core.jobs.journal import Journal
from rarecli.core.jobs.outcomes import Done, collect
from rarecli.core.jobs.progress import Noting, Silent
from rarecli.core.jobs.workers import ThisProcess, results_of


def test_outcomes_in_any_order_are_given_in_that_of_the_cases(tmp_path):
    """New results are journaled and told as they end; those of an earlier call are neither."""
    told, reporter = [], Noting(Silent())
    journal = Journal(tmp_path, resume=False)
    ended = [(2, Done(30, "c")), (1, DataError("broken")), (3, Done(40, "d", new=False)), (0, Done(10, "a"))]
    results, failures = collect(["a", "b", "c", "d"], ended, reporter, "work", journal=journal, tell=lambda *one: told.append(one))
    assert list(results.items()) == [("a", 10), ("c", 30), ("d", 40)]
    assert [(name, error.case) for name, error in failures.items()] == [("b", "b")]
    assert told == [("c", 30), ("a", 10)]
    assert [warning.partition(":")[0] for warning in reporter.warnings] == ["b"]
    again = Journal(tmp_path, resume=True)
    assert [again.find(name, name) for name in "abcd"] == [10, None, 30, None]


def test_of_many_errors_the_first_are_told():
    reporter, said = Noting(Silent()), []
    reporter.say = said.append
    _, failures = collect("abcdefgh", [(number, DataError("broken")) for number in range(8)], reporter, "work")
    assert list(failures) == list("abcdefgh")
    assert [warning.partition(":")[0] for warning in reporter.warnings] == list("abcde")
    assert said == ["more than 5 cases fail; the others are listed at the end"]


@pytest.mark.parametrize("error", [UsageError("a wrong option"), EnvironmentFault("a full disk")])
def test_what_every_case_would_raise_is_raised_at_once(error):
    outcomes = iter([(0, Done(1)), (1, error), (2, Done(3))])
    with pytest.raises(type(error)):
        collect(["a", "b", "c"], outcomes, Silent(), "work")
    assert next(outcomes)[0] == 2


def test_the_error_of_an_only_case_is_raised():
    with pytest.raises(DataError, match="broken") as caught:
        collect(["a"], [(0, DataError("broken"))], Silent(), "work")
    assert caught.value.case == "a"


class Backwards(ThisProcess):
    def outcomes(self, work, items):
        yield from reversed(list(super().outcomes(work, items)))


def test_results_are_in_the_order_of_the_items():
    assert results_of(Backwards(), str, [3, 1, 2]) == ["3", "1", "2"]


def test_the_error_of_a_lost_item_is_raised():
    with pytest.raises(DataError, match="lost"):
        results_of(Backwards(), lambda item: DataError("lost") if item == 2 else item, [1, 2, 3])
