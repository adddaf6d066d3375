"""Wishes that exclude each other are refused before any work."""

import pytest

from quantize.conversion.opset import check_opset
from quantize.conversion.wishes import Wishes
from quantize.errors import ConfigError, ModelError


@pytest.mark.parametrize(
    ("wishes", "options", "message"),
    [
        (Wishes(float16_io=True), {}, "--float16-io needs --float16"),
        (Wishes(float16=True, format="qdq"), {}, "--float16 is for float models"),
        (
            Wishes(float16=True, float16_io=True, with_preprocessing=True, preprocessing="short"),
            {},
            "gives float32",
        ),
        (Wishes(), {"axon": True, "external_data": True}, "reads no external data"),
        (Wishes(with_preprocessing=True), {}, "needs --preprocessing"),
        (Wishes(with_preprocessing=True, preprocessing="a", batch=2), {}, "takes one image"),
        (Wishes(with_preprocessing=True, preprocessing="a", batch="free"), {}, "takes one image"),
    ],
)
def test_what_does_not_go_together(wishes, options, message):
    with pytest.raises(ConfigError, match=message):
        wishes.check(**{"axon": False, "external_data": False} | options)


@pytest.mark.parametrize("wishes", [Wishes(opset=6), Wishes(opset=99), Wishes(image_size=(10, 10))])
def test_values_that_nothing_has(wishes):
    with pytest.raises(ModelError, match="is not from"):
        wishes.check(axon=False, external_data=False)


def test_what_goes_together():
    wishes = Wishes(
        opset=17, float16=True, batch=1, with_preprocessing=True, preprocessing="short_side"
    )
    wishes.check(axon=True, external_data=False)
    assert wishes.needs_many
    assert not Wishes(opset=17).needs_many
    check_opset(7)
