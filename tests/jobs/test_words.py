import pytest

from rarecli.core.jobs.words import counted, duration, memory, volume


@pytest.mark.parametrize(
    ("num", "noun", "text"),
    [(0, "case", "0 cases"), (1, "thread", "1 thread"), (1234567, "step", "1,234,567 steps")],
)
def test_a_number_has_its_noun(num, noun, text):
    assert counted(num, noun) == text


def test_a_plural_of_its_own():
    assert (counted(1, "entry", "entries"), counted(22, "entry", "entries")) == ("1 entry", "22 entries")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.23, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (76, "1 min 16 s"),
        (599.4, "9 min 59 s"),
        (600, "10 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (12_000, "3 h 20 min"),
        (24 * 3600 - 1, "1 d"),
        (51 * 3600, "2 d 3 h"),
    ],
)
def test_a_time_has_one_or_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("mm3", "text"), [(0, "0 mL"), (812, "0.812 mL"), (3456.7, "3.46 mL"), (1_234_567, "1,235 mL")])
def test_a_volume_is_in_millilitres(mm3, text):
    assert volume(mm3) == text


@pytest.mark.parametrize(("num_bytes", "text"), [(11_400_000, "11 MB"), (999_000_000, "999 MB"), (8_800_000_000, "8.80 GB")])
def test_memory_is_in_powers_of_ten(num_bytes, text):
    assert memory(num_bytes) == text
