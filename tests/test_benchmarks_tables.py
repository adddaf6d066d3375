"""Tables, and the place in a file that a script writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tables import BEGIN, END, MarkerError, between, table, write_between

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.lists(words, min_size=2, max_size=2), max_size=4))
def test_every_row_of_a_table_is_one_line_of_as_many_cells(rows):
    lines = table(("a", "b"), rows).split("\n")
    assert len(lines) == 2 + len(rows)
    for line in lines:
        assert line.replace("\\|", "").count("|") == 3


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 cells below 2 heads"):
        table(("a", "b"), [["x"]])


@given(words, words, words, words)
def test_only_what_stands_between_the_markers_changes(before, old, after, new):
    text = f"{before}{BEGIN}{old}{END}{after}"
    changed = between(text, new)
    assert changed.startswith(f"{before}{BEGIN}")
    assert changed.endswith(f"{END}{after}")
    assert new.strip() in changed
    assert between(changed, new) == changed


@pytest.mark.parametrize(
    "text",
    ["", BEGIN, END, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}", f"{BEGIN} {END} {END}"],
)
def test_a_file_without_one_place_is_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(MarkerError, match=r"README\.md cannot be written: it needs the line"):
        write_between(path, "x")
    assert path.read_text() == text


def test_content_with_a_marker_in_it_is_refused():
    with pytest.raises(MarkerError, match="holds a marker"):
        between(f"{BEGIN}{END}", f"x {END}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MarkerError, match=r"README\.md cannot be written"):
        write_between(tmp_path / "README.md", "x")
