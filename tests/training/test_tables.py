"""Tables in a terminal."""

from hdgnn_jax.training.tables import print_table


def test_a_narrow_terminal_breaks_words_but_no_number(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    print_table(
        "Errors [meV]", ("what it is", "molecules seen", "[meV]"),
        [("a [name] longer than there is room for", "1,234,567,890", "12.345")],
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "Errors [meV]" in printed
    assert "│ 1,234,567,890 │ 12.345 │" in printed
    words = "".join(line.split("│")[1] for line in printed.splitlines() if "│" in line)
    assert words.replace(" ", "") == "a[name]longerthanthereisroomfor"
    assert max(map(len, printed.splitlines())) <= 40
