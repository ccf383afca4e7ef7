from rarecli.core.reporting.tables import Cell, Table, number, text


def test_a_cell_shows_a_rounded_number_and_sorts_by_the_full_one():
    assert (number(0.12345678901).text, number(0.12345678901).key) == ("0.1235", "0.12345678901")
    assert (number(1234.5, ".0f", " mm³").text, number(1234.5, ".0f", " mm³").key) == ("1234 mm³", "1234.5")
    assert number(None) == Cell("")
    assert number(float("nan")).key == ""
    assert text("a").key == "a"


def test_columns_of_numbers_are_numeric_and_empty_columns_can_be_left_out():
    rows = [[text("a"), number(1.0), text(None), number(None)], [text("b"), number(None), text(None), text("x")]]
    table = Table("t", ["name", "value", "nothing", "mixed"], rows)
    assert table.numeric == [False, True, False, False]
    assert table.without_empty.columns == ["name", "value", "mixed"]
    assert [cell.text for cell in table.without_empty.rows[1]] == ["b", "", "x"]
