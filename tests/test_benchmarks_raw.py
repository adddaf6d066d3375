"""The file of raw figures: the same content, a line for each row."""

import json
from pathlib import Path

import pytest

from benchmarks.raw import write_raw

SHARED = {
    "quick": False,
    "machine": {"cpu": 'a "chip"', "packages": {"numpy": "1.26.4"}},
    "cases": {},
    "peers": {"ours": {"name": "quantize", "packages": ["a==1", "b==2"]}},
    "latency": [{"ms": [1.5, 0.1], "deep": {"low": None}}, {"ms": []}],
    "tuning": [],
    "seconds": 1e-07,
}

WRITTEN = """\
{
 "quick": false,
 "machine": {
  "cpu": "a \\"chip\\"",
  "packages": {"numpy":"1.26.4"}
 },
 "cases": {},
 "peers": {
  "ours": {
   "name": "quantize",
   "packages": ["a==1","b==2"]
  }
 },
 "latency": [
  {"ms":[1.5,0.1],"deep":{"low":null}},
  {"ms":[]}
 ],
 "tuning": [],
 "seconds": 1e-07
}
"""

PUBLISHED = Path(__file__).parent.parent / "docs" / "benchmarks.json"


def test_a_row_is_a_line(tmp_path):
    write_raw(SHARED, tmp_path / "raw.json")
    assert (tmp_path / "raw.json").read_text() == WRITTEN
    assert json.loads(WRITTEN) == SHARED


@pytest.mark.parametrize("value", [{}, [], [[]], {"a": []}, "ä\n", [1, [2, {"b": [3]}]]])
def test_whatever_it_holds_is_read_again(tmp_path, value):
    write_raw(value, tmp_path / "raw.json")
    assert json.loads((tmp_path / "raw.json").read_text()) == value


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the docs are not in the package")
def test_the_published_figures_were_written_so(tmp_path):
    write_raw(json.loads(PUBLISHED.read_text()), tmp_path / "raw.json")
    assert (tmp_path / "raw.json").read_bytes() == PUBLISHED.read_bytes()
