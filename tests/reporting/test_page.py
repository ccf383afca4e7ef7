import sys

import pytest
from html_pages import ReadPage, require_self_contained

from rarecli.core.errors import DataError
from rarecli.core.jobs.progress import Noting, Silent
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import Page, Section, render, write_report
from rarecli.core.reporting.tables import Table, number, text

HOSTILE = "<script>alert(1)</script>\"'&"


def page(name="a case"):
    table = Table(f"Table of {name}", ["case", "Dice"], [[text(name), number(0.123456789)], [text("other"), number(None)]])
    return Page(name, "rare evaluate", name, [(name, name)], [Section(name, tables=[table], notes=[name])], [name], name, {"python": "3"})


def test_a_page_is_one_file_that_requests_nothing():
    read = ReadPage(render(page()))
    require_self_contained(read)
    assert read.texts["h1"] == ["a case"]
    assert read.tables["Table of a case"] == (
        ["case", "Dice"],
        [[("a case", "a case"), ("0.1235", "0.123456789")], [("other", "other"), ("", "")]],
    )
    assert read.texts["pre"] == ["a case"]
    assert "python 3." in read.texts["p"][-1]


def test_text_of_unknown_origin_stays_text():
    read = ReadPage(render(page(HOSTILE)))
    require_self_contained(read)
    assert "<script>alert" not in read.source
    assert len(read.scripts) == 1  # the one that sorts tables
    assert read.texts["h1"] == read.texts["pre"] == [HOSTILE]
    assert next(iter(read.tables.values()))[1][0][0] == (HOSTILE, HOSTILE)


def test_a_page_that_cannot_be_built_is_a_warning_and_its_older_one_is_removed(tmp_path):
    noted = Noting(Silent())
    write_report(lambda options: page(), tmp_path, ReportOptions(), noted)
    assert noted.warnings == []
    assert (tmp_path / "report.html").is_file()

    def broken(options):
        raise DataError("nothing to show", path=tmp_path)

    for _ in range(2):  # a training says it once
        write_report(broken, tmp_path, ReportOptions(), noted)
    assert noted.warnings == ["report.html is not written: nothing to show; the results are complete"]
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_a_warning_with_the_reason(tmp_path):
    noted = Noting(Silent())
    (tmp_path / "file").write_text("")
    write_report(lambda options: page(), tmp_path / "file", ReportOptions(), noted)
    (warning,) = noted.warnings
    assert "cannot write" in warning


def test_without_jinja2_the_warning_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    noted = Noting(Silent())
    write_report(lambda options: page(), tmp_path, ReportOptions(), noted)
    assert noted.warnings == ["report.html is not written: the package jinja2 is not installed; the results are complete"]


@pytest.mark.parametrize("options", [None, ReportOptions()])
def test_a_file_that_rare_did_not_write_is_left_alone(tmp_path, options):
    mine = tmp_path / "report.html"
    mine.write_text("precious")
    noted = Noting(Silent())
    write_report(lambda options: page(), tmp_path, options, noted)
    assert mine.read_text() == "precious"
    assert len(noted.warnings) == (options is not None)


def test_without_a_report_an_older_one_is_removed(tmp_path):
    write_report(lambda options: page(), tmp_path, ReportOptions(), Noting(Silent()))
    write_report(lambda options: page(), tmp_path, None, Noting(Silent()))
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_unicode_can_be_written(tmp_path):
    write_report(lambda options: page("case_\udcff"), tmp_path, ReportOptions(), noted := Noting(Silent()))
    assert noted.warnings == []
    assert ReadPage((tmp_path / "report.html").read_text(encoding="utf-8")).texts["h1"] == ["case_\\udcff"]
