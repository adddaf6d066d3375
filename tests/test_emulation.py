"""The emulator's door: a stand-in program that emulates nothing, and the real one where it is."""

import io
import shutil
import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from graphs import answers, build, noise
from quantize.deadline import Deadline
from quantize.emulation import emulator as room
from quantize.emulation.child import exactly
from quantize.emulation.emulator import Emulator, processor
from quantize.emulation.frames import packed, unpacked
from quantize.errors import BudgetError, EngineError

QEMU = shutil.which("qemu-x86_64")
LISTING = "Available CPUs:\nx86 Haswell   (alias)\nx86 EPYC\n\nRecognized CPUID flags:\n  avx2"
MODEL = build(
    """(float[N,2,2,2] x) => (float[N,3] y) {
        [f] h = Flatten(x)
        [g] y = MatMul(h, w)
    }""",
    w=(8, 3),
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes the stand-in, which runs what it is given or the lines it is told."""

    def make(*lines):
        path = tmp_path / "bin" / room.PROGRAM
        path.parent.mkdir(exist_ok=True)
        body = lines or ('shift 2; exec "$@"',)
        listing = f"if [ \"$2\" = help ]; then cat <<'END'\n{LISTING}\nEND\nexit 0; fi"
        path.write_text("\n".join(["#!/bin/sh", listing, *body, ""]))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")

    return make


# ------------------------------------------------------------------------------- frames


def reader(content):
    stream = io.BytesIO(content)
    return lambda size: exactly(stream, size)


@settings(deadline=None, max_examples=60)
@given(arrays("<f4", array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)))
def test_arrays_arrive_as_they_are(array):
    back = unpacked(reader(packed(array)))
    np.testing.assert_array_equal(back, array)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64))
def test_whatever_else_comes_is_no_array_and_takes_no_memory(content):
    with suppress(ValueError, EOFError):
        unpacked(reader(content))


@pytest.mark.parametrize("shape", [(1 << 40,), (-1, 2), (1 << 20, 1 << 20, 4), ()])
def test_sides_are_checked_before_anything_is_read(shape):
    header = struct.pack(f"<{1 + len(shape)}q", len(shape), *shape)
    with pytest.raises(ValueError, match="an array of"):
        unpacked(reader(header))


# ----------------------------------------------------------------------------- processors


def test_a_processor_is_found_in_whatever_case(program):
    program()
    assert processor("haswell") == "Haswell"
    assert processor("EPYC") == "EPYC"


@pytest.mark.parametrize(
    ("name", "cure"), [("haswel", "write Haswell"), ("avx2", "-cpu help"), ("", "-cpu help")]
)
def test_an_unknown_processor_is_one_line_with_a_cure(program, name, cure):
    program()
    with pytest.raises(EngineError, match="knows no processor") as caught:
        processor(name)
    assert cure in caught.value.cure


def test_without_the_program_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="apt-get install qemu-user"):
        processor("haswell")


def test_other_machines_cannot_emulate(monkeypatch):
    monkeypatch.setattr(room.platform, "machine", lambda: "aarch64")
    with pytest.raises(EngineError, match="this is aarch64"):
        processor("haswell")


# ------------------------------------------------------------------------------ the child


def test_the_child_answers_as_the_model_does(program):
    program()
    images = noise(5, 2, 2, 2)
    with Emulator(MODEL.SerializeToString(), "Haswell") as seen:
        for some in (images[:2], images[2:]):
            np.testing.assert_allclose(
                seen.predict(some), answers(MODEL, some)[0], rtol=1e-5, atol=1e-6
            )
        process = seen._process
    assert process.poll() is not None


def test_a_child_that_dies_is_told_by_its_last_words(program):
    program("echo first >&2", "echo 'out of luck' >&2", "exit 3")
    with pytest.raises(EngineError, match="the emulated Haswell ended: out of luck"):
        Emulator(b"", "Haswell")


def test_a_model_that_does_not_load_is_one_line(program):
    program()
    with pytest.raises(EngineError, match=r"ended: .*does not load"):
        Emulator(b"no model", "Haswell")


def test_answers_that_are_none_are_refused(program):
    program("echo hello world, this is no array of numbers")
    with pytest.raises(EngineError, match="gives an array of"):
        Emulator(b"", "Haswell")


def test_a_child_that_says_nothing_is_given_up(program, monkeypatch):
    program("exec sleep 60")
    monkeypatch.setattr(room, "_START_S", 0.3)
    start = time.monotonic()
    with pytest.raises(BudgetError, match="took too long"):
        Emulator(b"", "Haswell")
    assert time.monotonic() - start < 10


def test_a_start_has_the_deadline_of_its_run(program):
    program("sleep 60")
    start = time.monotonic()
    with pytest.raises(BudgetError, match="took too long"):
        Emulator(b"", "Haswell", Deadline.after(0.3))
    assert time.monotonic() - start < 10


def test_a_question_has_a_deadline(program):
    program()
    left = iter([60.0])

    class Running(Deadline):
        """Enough time to start, none to answer."""

        @property
        def left(self):
            return next(left, 0.0)

    with (
        Emulator(MODEL.SerializeToString(), "Haswell", Running()) as seen,
        pytest.raises(BudgetError, match="took too long"),
    ):
        seen.predict(noise(1, 2, 2, 2))


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_the_real_one_cuts_sums_off():
    images = noise(2, 2, 2, 2)
    with Emulator(MODEL.SerializeToString(), processor("haswell")) as seen:
        assert seen.saturates
        np.testing.assert_allclose(seen.predict(images), answers(MODEL, images)[0], rtol=1e-4)
