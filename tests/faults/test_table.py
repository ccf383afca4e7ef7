"""Every fault has a test with an answer, and docs/faults.md is up to date."""

from table import FAULTS, TESTS, fault_tests, table

NUMBERS = {number for faults in FAULTS.values() for number in faults}


def test_every_fault_has_a_test():
    assert set(range(1, len(NUMBERS) + 1)) == NUMBERS
    assert fault_tests().keys() == NUMBERS


def test_every_fault_test_says_its_answer():
    tests = [test for found in fault_tests().values() for test in found]
    assert [name for answer, _, name in tests if not answer] == []


def test_the_table_is_fresh():
    assert (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8") == table(), "run: make faults"
