"""Tables in a terminal."""

import pytest

from hdgnn_jax.training.tables import print_table

HEADER = ("what it is", "molecules seen", "[meV]")


@pytest.mark.parametrize(
    "name", ["a [name] longer than there is room for", "runs/one/word/longer/than/there/is/room"]
)
def test_a_narrow_terminal_breaks_words_but_no_number(monkeypatch, capsys, name):
    monkeypatch.setenv("COLUMNS", "40")
    print_table("Errors [meV]", HEADER, [(name, "1,234,567,890", "12.345")])
    printed = capsys.readouterr().out
    assert "Errors [meV]" in printed
    assert "│ 1,234,567,890 │ 12.345 │" in printed
    words = "".join(line.split("│")[1] for line in printed.splitlines() if "│" in line)
    assert words.replace(" ", "") == name.replace(" ", "")
    assert max(map(len, printed.splitlines())) <= 40


def test_cells_are_broken_at_spaces_only_where_headings_are_not_enough(monkeypatch, capsys):
    row = ("validation", "408.2 (0.00%)", "1408.2 (0.00%)")
    for width, whole in ((50, True), (40, False)):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table("", ("split", "ours", "mean predictor"), [row])
        printed = capsys.readouterr().out
        assert "│ validation │" in printed
        assert ("408.2 (0.00%)" in printed) == whole
        assert "(0.00%)" in printed


def test_where_nothing_helps_the_table_leaves_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    print_table("", HEADER, [("a name", "1,234,567,890", "12.345")])
    assert "│ 1,234,567,890 │ 12.345 │" in capsys.readouterr().out
    print_table("", HEADER, [])
    assert "seen" in capsys.readouterr().out
