import errno
import json
import os
import stat
from pathlib import Path

import pytest

from rarecli.core.errors import DataError, EnvironmentFault, UsageError
from rarecli.core.jobs import files, folders


def fill_the_disk(monkeypatch):
    def refuse(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def test_atomic_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.nii.gz"
    with files.atomic_file(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_file_obeys_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with files.atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_file(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    fill_the_disk(monkeypatch)
    with pytest.raises(EnvironmentFault, match="No space left"), files.atomic_file(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    fill_the_disk(monkeypatch)
    with pytest.raises(EnvironmentFault, match="No space left"), folders.atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_atomic_folder_replaces_the_old_one(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")
    with folders.atomic_folder(path) as temporary:
        (temporary / "new").write_text("new")
        assert (path / "old").exists()
    assert [item.name for item in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_folder_failing_keeps_the_old_one(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), folders.atomic_folder(path) as temporary:
        temporary.joinpath("new").write_text(f"half {temporary.joinpath('part').write_text('x') / 0}")
    assert [item.name for item in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back_as_it_was(tmp_path):
    content = {"Fälle": [1, 2.5, None, "日本"], "nested": {"a": True}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json") == content
    assert "Fälle" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == 1


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 200_000])
def test_broken_json_is_a_data_error_with_its_path(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value)


def test_missing_json_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="missing"):
        files.read_json(tmp_path / "no.json")


def test_an_output_that_cannot_be_written_is_said_early(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot write"):
        files.require_writable(tmp_path / "file" / "below")


def test_a_writable_output_is_made_and_left_empty(tmp_path):
    files.require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_files_of_a_folder_are_as_readable_as_the_umask_allows(tmp_path):
    with folders.atomic_folder(tmp_path / "made") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "private").write_bytes(b"x")
        (folder / "inner" / "private").chmod(0o600)
    usual = tmp_path / "usual"
    usual.write_bytes(b"x")
    assert (tmp_path / "made" / "inner" / "private").stat().st_mode == usual.stat().st_mode


def test_the_file_that_is_replaced_can_be_kept(tmp_path):
    for content in "abc":
        with files.atomic_file(tmp_path / "new.txt", keep=tmp_path / "old.txt") as temporary:
            temporary.write_text(content)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"new.txt": "c", "old.txt": "b"}


def test_a_lock_is_held_by_one_and_goes_with_it(tmp_path):
    with files.locked(tmp_path / ".lock"):
        with pytest.raises(UsageError, match="another process"), files.locked(tmp_path / ".lock"):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    (tmp_path / ".lock").touch()  # left by a killed process
    with files.locked(tmp_path / ".lock"):
        pass


def test_leftovers_are_told_from_files(tmp_path):
    for name in ("run.json", ".run.json.k2j3h4.json", ".tmpAbC123", ".tmpfile", ".other.json.abcdef.json", ".lock"):
        (tmp_path / name).touch()
    assert {path.name for path in files.leftovers(tmp_path, ["run.json"])} == {".run.json.k2j3h4.json", ".tmpAbC123"}


@pytest.mark.parametrize("refused", ["chmod", "fsync"])
def test_what_a_file_system_need_not_give_is_no_error(tmp_path, monkeypatch, refused):
    """CIFS, FUSE and S3 mounts refuse file modes and syncing a folder."""
    real = os.fsync

    def refuse_folders(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    def refuse(self, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if refused == "chmod":
        monkeypatch.setattr(Path, "chmod", refuse)
    else:
        monkeypatch.setattr(os, "fsync", refuse_folders)
    with files.atomic_file(tmp_path / "a.json") as temporary:
        temporary.write_text("x")
    with folders.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("x")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "folder" / "a").read_text() == "x"


def test_a_failing_disk_is_an_error(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnvironmentFault, match="Input/output error") as caught, files.atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert "free some space" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_kept(tmp_path):
    path, precious = tmp_path / "a.json", tmp_path / "precious"
    precious.write_text("mine")
    left, others = tmp_path / ".a.json.k2j3h4_9.json", [".b.json.k2j3h4_9.json", ".a.json.k2j3h4_9.txt", ".a.json.json"]
    link = tmp_path / ".a.json.aaaaaaaa.json"
    for name in others:
        (tmp_path / name).touch()
    link.symlink_to(precious)
    with files.atomic_file(path) as living:
        left.touch()
        files._hidden_names.cache_clear()  # the next process
        files.write_json(path, 1)
        assert living.exists()
        assert not left.exists()
        living.write_text("2")
    assert files.read_json(path) == 2
    assert {item.name for item in tmp_path.iterdir()} == {"a.json", "precious", link.name, *others}
    assert precious.read_text() == "mine"


def test_what_a_killed_maker_of_a_folder_left_is_removed_by_the_next(tmp_path):
    for name in (".out.k2j3h4_9", ".out.k2j3h4_9.old", ".other.k2j3h4_9"):
        (tmp_path / name / "inner").mkdir(parents=True)
    with folders.atomic_folder(tmp_path / "out") as living:
        assert not (tmp_path / ".out.k2j3h4_9").exists()
        assert (tmp_path / ".out.k2j3h4_9.old").exists()  # there is no other result
        with folders.atomic_folder(tmp_path / "out"):
            assert living.exists()
    with folders.atomic_folder(tmp_path / "out"):
        pass
    assert {item.name for item in tmp_path.iterdir()} == {"out", ".other.k2j3h4_9"}


@pytest.mark.parametrize("make", [lambda path: folders.resumable_folder(path, resume=False), folders.shared_folder])
def test_fault_53_a_link_in_place_of_an_unfinished_folder_is_not_followed(tmp_path, make):
    """An unfinished folder that is a link is refused."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / ".out.unfinished").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="is a link"), make(tmp_path / "out"):
        pass
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_link_inside_an_unfinished_folder_is_removed_and_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "cases").symlink_to(tmp_path / "precious")
    with folders.resumable_folder(tmp_path / "out", resume=False) as folder:
        assert list(folder.iterdir()) == []
    assert (tmp_path / "precious").is_dir()


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFault), files.locked(tmp_path / ".lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("letter", ["x", "\u65e5", "\udc80"])
def test_temporaries_of_long_names_that_begin_alike_are_told_apart(tmp_path, letter):
    """safetensors puts a new file in the place of the one that holds the lock."""
    one, other = tmp_path / f"{letter * 50}1.json", tmp_path / f"{letter * 50}2.json"
    with files.atomic_file(one) as temporary:
        temporary.unlink()
        temporary.write_text("1")
        files.write_json(other, 2)
        assert len(os.fsencode(temporary.name)) < 255
    assert (files.read_json(one), files.read_json(other)) == (1, 2)
