import json
import os

import pytest

from rarecli.core.errors import DataError
from rarecli.core.jobs.journal import FILE_NAME, Journal, key_of
from rarecli.core.jobs.shards import Shard


def test_what_was_added_is_found_by_whoever_resumes(tmp_path):
    journal = Journal(tmp_path, resume=False)
    journal.add("a", "key", {"depth": 1, "dice": [0.1, None]})
    assert Journal(tmp_path, resume=True).find("a", "key") == {"depth": 1, "dice": [0.1, None]}
    assert Journal(tmp_path, resume=True).find("a", "another key") is None
    assert Journal(tmp_path, resume=True).find("b", "key") is None
    assert Journal(tmp_path, resume=False).find("a", "key") is None
    assert (tmp_path / FILE_NAME).read_text() == ""


@pytest.mark.parametrize(
    "torn", ['{"case": "b", "key": "key", "resu', "[1, 2]", '{"case": ["b"], "key": 1}', "null", "\x00\xff", "[" * 9999]
)
def test_a_torn_line_is_done_again_and_does_no_harm(tmp_path, torn):
    Journal(tmp_path, resume=False).add("a", "key", 1)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(torn)
    journal = Journal(tmp_path, resume=True)
    assert (journal.find("a", "key"), journal.find("b", "key")) == (1, None)
    journal.add("b", "key", 2)
    assert Journal(tmp_path, resume=True).find("b", "key") == 2
    assert [json.loads(line)["case"] for line in (tmp_path / FILE_NAME).read_text().splitlines()] == ["a", "b"]


def test_the_newest_line_of_a_case_counts(tmp_path):
    journal = Journal(tmp_path, resume=False)
    journal.add("a", "old", 1)
    journal.add("a", "new", 2)
    again = Journal(tmp_path, resume=True)
    assert (again.find("a", "old"), again.find("a", "new")) == (None, 2)


def test_a_whole_takes_over_what_its_parts_have_noted(tmp_path):
    Journal(tmp_path, resume=False).add("a", "old", 0)
    for number, case in ((1, "a"), (2, "b")):
        part = Journal(tmp_path, resume=False, shard=Shard(number, 2))
        os.utime(tmp_path / FILE_NAME, (0, 0))  # older than any clock tick
        part.add(case, "key", number)
    assert {path.name for path in tmp_path.iterdir()} == {"finished.jsonl", "finished_1of2.jsonl", "finished_2of2.jsonl"}
    whole = Journal(tmp_path, resume=True)
    assert (whole.find("a", "key"), whole.find("b", "key"), whole.find("a", "old")) == (1, 2, None)
    assert [path.name for path in tmp_path.iterdir()] == ["finished.jsonl"]
    assert Journal(tmp_path, resume=True).find("b", "key") == 2


def test_a_part_that_is_resumed_finds_what_others_have_done_and_leaves_it_to_them(tmp_path):
    Journal(tmp_path, resume=False).add("a", "key", 1)
    Journal(tmp_path, resume=False, shard=Shard(1, 2)).add("b", "key", 2)
    resumed = Journal(tmp_path, resume=True, shard=Shard(2, 2))
    assert (resumed.find("a", "key"), resumed.find("b", "key")) == (1, 2)
    assert (tmp_path / "finished_2of2.jsonl").read_text() == ""
    assert Journal(tmp_path, resume=True, shard=Shard(1, 2)).find("b", "key") == 2
    # a new start of one shard drops only its own lines; a start of all cases drops all lines
    Journal(tmp_path, resume=False, shard=Shard(2, 2))
    assert Journal(tmp_path, resume=True, shard=Shard(1, 2)).find("b", "key") == 2
    Journal(tmp_path, resume=False)
    assert Journal(tmp_path, resume=True).find("b", "key") is None


def test_a_key_changes_with_every_file_and_fact(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    keys = [key_of([one]), key_of([other]), key_of([one, other]), key_of([other, one]), key_of([one], 1), key_of([one], {"depth": None})]
    assert len(set(keys)) == len(keys)
    before = key_of([one])
    one.write_bytes(b"3")
    assert key_of([one]) != before


def test_files_that_cannot_be_read_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would hang
    for name in ("pipe", "none", "."):
        with pytest.raises(DataError, match="missing") as caught:
            key_of([tmp_path / name])
        assert caught.value.path == tmp_path / name
