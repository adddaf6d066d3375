import re

import pytest

from quantize.errors import ModelError
from quantize.zoo.sources import parse_source
from quantize.zoo.table import SOURCES, TABLE, find


def test_the_table_is_whole():
    assert len(TABLE) == 19
    assert len({entry.name for entry in TABLE}) == len({entry.sha256 for entry in TABLE}) == 19
    assert sum(entry.folder == "preproc" for entry in TABLE) == 1
    for entry in TABLE:
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert re.fullmatch(r"resnet[a-z0-9-]+", entry.name)
    depths = [re.match(r"resnet(\d+)-v[12]-7$", entry.name) for entry in TABLE]
    assert sorted(int(d[1]) for d in depths if d) == sorted([18, 34, 50, 101, 152] * 2)


def test_sizes_grow_with_depth_and_int8_is_a_quarter():
    size = {entry.name: entry.size for entry in TABLE}
    for version in ("v1", "v2"):
        deep = [size[f"resnet{n}-{version}-7"] for n in (18, 34, 50, 101, 152)]
        assert deep == sorted(deep)
    assert size["resnet50-v1-12-int8"] / size["resnet50-v1-12"] < 0.26
    assert size["resnet-preproc-v1-18"] < 10_000


def test_a_name_is_found_as_people_write_it():
    for name in ("resnet50-v1-12", "resnet50-v1-12.onnx", "ResNet50-v1-12"):
        assert find(name).name == "resnet50-v1-12"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnet50-v1-13", "did you mean resnet50-v1-12"),
        ("", "quantize fetch --list"),
        ("../../etc/passwd", "quantize fetch --list"),
        ("x" * 10_000, "quantize fetch --list"),
    ],
)
def test_an_unknown_name_is_one_line(name, advice):
    with pytest.raises(ModelError, match="no model is called") as caught:
        find(name)
    assert advice in str(caught.value)
    assert len(str(caught.value)) < 250


def test_every_source_gives_an_address_for_every_model():
    for entry in TABLE:
        for source in SOURCES:
            url = parse_source(source, entry).url
            assert url.startswith("https://")
            assert url.endswith(f"/{entry.file}")
            assert "{" not in url
