"""Every fault has a test with an answer, and docs/faults.md says so."""

from table import FAULTS, TESTS, fault_tests, table

NUMBERS = {number for faults in FAULTS.values() for number in faults}
NOT_YET = set(range(33, 50))
"""Faults whose tests are still to come."""


def test_every_fault_has_a_test():
    assert set(range(1, 53)) == NUMBERS
    assert NUMBERS - NOT_YET <= fault_tests().keys() <= NUMBERS


def test_every_fault_test_says_its_answer():
    tests = [test for number, found in fault_tests().items() if number not in NOT_YET for test in found]
    assert [name for answer, _, name in tests if not answer] == []


def test_the_table_is_fresh():
    assert (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8") == table(), "run: make faults"
