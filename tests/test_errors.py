"""The tree of errors: as drawn, one line each, and whole after a trip between processes."""

import inspect
import pickle
import re

import pytest

from quantize import errors
from quantize.errors import Interrupted, QuantizeError

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
]
MENDABLE = [c for c in CLASSES if issubclass(c, QuantizeError)]


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"    (├── |└── )?([A-Z]\w+)  ", line)
        if found:
            drawn[found[2]] = "QuantizeError" if found[1] else None
    real = {c.__name__: c.__base__.__name__ for c in CLASSES}
    roots = {"QuantizeError", "Interrupted"}
    assert drawn == {name: None if name in roots else base for name, base in real.items()}


def test_errors_exit_with_the_code_in_the_drawing():
    assert QuantizeError.__base__ is Exception
    drawn = dict(re.findall(r"([A-Z]\w+) +exit (\d+)", errors.__doc__))
    assert {c: c.exit_code for c in MENDABLE} == {
        c: int(drawn.get(c.__name__, 2)) for c in MENDABLE
    }
    assert drawn["QuantizeError"] == "2"


def test_an_interrupt_passes_handlers_of_exceptions():
    assert not issubclass(Interrupted, Exception)


@pytest.mark.parametrize("kind", MENDABLE)
@pytest.mark.parametrize("cure", ["", "do this"])
def test_an_error_survives_pickling(kind, cure):
    error = pickle.loads(pickle.dumps(kind("it broke", cure)))
    assert type(error) is kind
    assert (error.message, error.cure) == ("it broke", cure)


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupt_survives_pickling_and_knows_its_exit_code(code):
    stop = pickle.loads(pickle.dumps(Interrupted(code)))
    assert (type(stop), stop.exit_code) == (Interrupted, code)


def test_the_text_is_one_line_with_the_cure_last():
    error = QuantizeError("first\n  second\tthird ", " mend\nit ")
    assert str(error) == "first second third; mend it"
    assert str(QuantizeError("only this")) == "only this"


def test_interrupts_have_the_shells_exit_codes():
    assert (Interrupted().exit_code, str(Interrupted())) == (130, "interrupted")
    assert (Interrupted(143).exit_code, str(Interrupted(143))) == (143, "terminated")
