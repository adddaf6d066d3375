import os
import pickle
import random
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.errors import DataError
from quantize.imagenet import pickled
from quantize.imagenet.pickled import plain

PLAIN = st.recursive(
    st.one_of(st.text(), st.integers(), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text(), inner),
    ),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from(range(6)))
def test_plain_data_comes_out_as_it_went_in(value, protocol):
    assert plain(pickle.dumps(value, protocol), "x") == value


def test_what_python_2_wrote():
    assert plain(b"(lp0\nS'n01440764'\np1\na(S'a.JPEG'\ng1\ntp2\na.", "x") == [
        "n01440764",
        ("a.JPEG", "n01440764"),
    ]


class Calls:
    def __reduce__(self):
        return os.mkdir, ("called",)


def unpickler_would_call(value, protocol):
    """The same content, twice dangerous: in a list, after good data."""
    return pickle.dumps([["n01440764"], [("a.JPEG", value)]], protocol)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Calls(), date(2020, 1, 1), os.mkdir, {1}, 1j, object()])
def test_code_and_objects_are_refused_and_nothing_is_called(tmp_path, monkeypatch, value, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"carries code or objects \([A-Z0-9_]+\)"):
        plain(unpickler_would_call(value, protocol), "map.pklz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch called'\ntR.",
        b"(S'touch called'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
        b"\x80\x02\x82\x01.",
        b"(lPpersistent\na.",
        b"\x80\x02]Qa.",
    ],
)
def test_hand_made_code_is_refused(content):
    with pytest.raises(DataError, match="carries code or objects"):
        plain(content, "x")


@pytest.mark.parametrize(
    "content",
    [b"", b".", b"(.", b"a.", b"]]", b"t.", b"(lp0\n", b"g7\n.", b"I1\nI2\n.", b"(I1\nd.",
     b"](I1\nu.", b"}(I1\nI2\ne.", b"X\xff\xff\xff\x7fab.", b"]I1\n\x94h\x09.", b"I" + b"9" * 9999,
     b"\x86.", b"]\x94(h\x00]u."],
)  # fmt: skip
def test_what_is_no_whole_pickle_is_one_line(content):
    with pytest.raises(DataError, match="x is no whole pickle"):
        plain(content, "x")


def test_a_bomb_of_opcodes_ends(monkeypatch):
    monkeypatch.setattr(pickled, "MOST_STEPS", 1000)
    assert len(plain(b"]" + b"]a" * 400 + b".", "x")) == 400
    with pytest.raises(DataError, match="too many parts"):
        plain(b"]" * 1_000_000 + b".", "x")


@settings(max_examples=500)
@given(st.binary(max_size=60), st.sampled_from(range(4)), st.integers(0, 400))
def test_any_bytes_are_data_or_a_complaint(junk, kind, at):
    good = pickle.dumps([["n01440764"], [("a.JPEG", "n01440764")] * 3], kind)
    content = junk if kind == 3 else good[: at % len(good)] + junk + good[at % len(good) + 1 :]
    try:
        value = plain(content, "x")
    except DataError:
        return
    assert isinstance(value, list | tuple | dict | str | int | None)


def test_a_list_that_holds_itself_is_no_endless_loop():
    inner = []
    inner.append(inner)
    seen = plain(pickle.dumps(inner), "x")
    assert seen[0] is seen


@pytest.mark.slow
def test_a_hundred_thousand_damaged_maps():
    random.seed(3)
    value = [["n01440764", "n01443537"], [("a.JPEG", "n01440764")] * 3]
    good = [pickle.dumps(value, protocol) for protocol in range(6)]
    for _ in range(100_000):
        content = bytearray(random.choice(good))
        for _ in range(random.randint(1, 4)):
            content[random.randrange(len(content))] = random.randrange(256)
        try:
            plain(bytes(content), "x")
        except DataError:
            continue
