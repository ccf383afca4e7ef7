import re
import shlex

from rarecli.core.reporting.label_tables import itk_snap_table, slicer_table, write_label_tables
from rarecli.core.reporting.plotting import label_colour

LABELS = {1: "left  ventricle", 4: 'the "core"', 255: "Ödem\nzwei"}


def test_itk_snap_reads_value_colour_opacity_visibility_and_name():
    lines = [shlex.split(line) for line in itk_snap_table(LABELS).splitlines() if not line.startswith("#")]
    assert lines[0] == ["0", "0", "0", "0", "0", "0", "0", "Clear Label"]
    assert [(line[0], line[7]) for line in lines[1:]] == [("1", "left ventricle"), ("4", "the 'core'"), ("255", "Ödem zwei")]
    for line in lines[1:]:
        assert all(0 <= int(part) <= 255 for part in line[1:4])
        assert line[4:7] == ["1", "1", "1"]


def test_slicer_reads_one_word_per_name():
    head, *lines = slicer_table(LABELS).splitlines()
    assert head == "# Color table file"
    rows = [line.split(" ") for line in lines if not line.startswith("#")]
    assert [row[:2] for row in rows] == [["0", "Background"], ["1", "left_ventricle"], ["4", 'the_"core"'], ["255", "Ödem_zwei"]]
    assert all(len(row) == 6 for row in rows)
    assert [row[5] for row in rows] == ["0", "255", "255", "255"]


def test_both_tables_have_the_colours_of_the_pictures(tmp_path):
    write_label_tables(tmp_path, LABELS)
    for file in ("labels_itksnap.txt", "labels_slicer.ctbl"):
        numbers = [[int(part) for part in re.findall(r"(?<= )\d+(?= )", line)[:3]] for line in (tmp_path / file).read_text().splitlines()]
        assert [list(label_colour(index)) for index in (1, 2, 3)] == numbers[-3:]


def test_a_hundred_labels_have_a_hundred_colours_none_of_them_black():
    colours = [label_colour(index) for index in range(1, 101)]
    assert len(set(colours)) == 100
    assert all(max(colour) > 150 for colour in colours)
