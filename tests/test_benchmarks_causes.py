"""What people wrote about the rows in which we are behind."""

import pytest

from benchmarks.causes import UNKNOWN, Causes, load


def test_the_file_that_is_here_can_be_read():
    assert isinstance(load(), Causes)


def test_the_first_entry_that_fits_is_taken(tmp_path):
    file = tmp_path / "causes.toml"
    file.write_text(
        '[[cause]]\nrows = "latency/a/*/batch1/*"\nsays = "one"\n'
        '[[cause]]\nrows = "latency/a/*"\nsays = "two"\n'
    )
    known = load(file)
    assert known.of("latency/a/nncf/batch1/threads1") == "one"
    assert known.of("latency/a/nncf/batch8/threads1") == "two"
    assert known.of("tuning/a/ours") == UNKNOWN


@pytest.mark.parametrize("text", ['[[cause]]\nrows = "x"\n', 'cause = "x"\n', "cause = 3\n", "["])
def test_a_file_of_another_form_is_refused(tmp_path, text):
    file = tmp_path / "causes.toml"
    file.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - tomllib's own is one, too
        load(file)
