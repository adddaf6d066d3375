"""The real HTTP library against a real https server that misbehaves."""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import trustme

import https_server as web
from quantize.errors import ModelError, OutputError
from quantize.zoo import fetching
from quantize.zoo.fetching import fetch, fetch_entry
from quantize.zoo.table import Entry
from quantize.zoo.transport import Patience

CONTENT = random.Random(1).randbytes(300_000)
ENTRY = Entry("resnet-tiny", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
PATIENCE = Patience(
    connect_s=5, read_s=3, attempts=3, backoff_s=0.01, most_backoff_s=0.05, lock_s=10
)
IMPATIENT = replace(PATIENCE, read_s=0.3, answer_s=0.7, attempts=2)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:3f03\nsize 300000\n"
PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture
def get(tmp_path):
    """Fetch the entry into a cache of this test."""

    def run(*sources, **options):
        options = {"output": None, "patience": PATIENCE, **options}
        return fetch_entry(ENTRY, sources, cache=tmp_path / "cache", **options)

    return run


@pytest.fixture
def left(tmp_path):
    """What is in the cache, locks aside."""

    def names():
        folder = tmp_path / "cache" / "zoo"
        return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")

    return names


def asked(site):
    return [(path, wanted) for path, wanted, _ in site.asked]


# ------------------------------------------------------------------------------ good servers


def test_a_model_comes_in_and_stays(site, get, left):
    site.behave["/zoo/resnet-tiny.onnx"] = web.whole(CONTENT)
    seen = []
    made = get(site.url("/zoo"), on_progress=seen.append)
    assert made.read_bytes() == CONTENT
    assert left() == ["resnet-tiny.onnx"]
    assert made.parent.stat().st_mode & 0o077 == 0
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (300, 300, "kB")
    assert get("https://localhost:1/nobody.onnx") == made, "offline, from the cache"
    assert asked(site) == [("/zoo/resnet-tiny.onnx", None)]


def test_the_names_of_the_model_stand_in_an_address(site, get):
    site.behave["/resnet-tiny/model/resnet-tiny.onnx"] = web.whole(CONTENT)
    assert get(site.url("/{name}/{folder}/{file}?token=1")).read_bytes() == CONTENT


def test_sources_are_tried_in_order(site, get):
    site.behave["/second.onnx"] = web.whole(CONTENT)
    get(site.url("/first.onnx"), site.url("/second.onnx"), site.url("/third.onnx"))
    assert [path for path, _ in asked(site)] == ["/first.onnx", "/second.onnx"]


def test_the_length_need_not_be_told(site, get):
    site.behave["/m.onnx"] = web.chunked(CONTENT)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT


def test_redirects_are_followed_and_asked_for_the_same_range(site, get):
    def hop(h):
        h.head(302, Location="/there?signature=1", Content_Length=0)

    answers = [web.breaking(CONTENT, 100_000), web.whole(CONTENT)]
    site.behave["/m.onnx"] = hop
    site.behave["/there"] = lambda h: answers.pop(0)(h)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert asked(site)[2:] == [("/m.onnx", "bytes=100000-"), ("/there", "bytes=100000-")]


def test_the_table_s_own_sources_are_used_where_none_is_given(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "SOURCES", (site.url("/zoo/{name}/{file}"),))
    monkeypatch.setattr(fetching, "find", lambda name: {"resnet-tiny": ENTRY}[name])
    site.behave["/zoo/resnet-tiny/resnet-tiny.onnx"] = web.whole(CONTENT)
    made = fetch("resnet-tiny", output=tmp_path / "m.onnx", cache=tmp_path / "cache")
    assert made == tmp_path / "m.onnx"
    assert made.read_bytes() == CONTENT


# ------------------------------------------------------------------------------------ resuming


def test_a_broken_download_goes_on_where_it_broke(site, get, left):
    answers = [web.breaking(CONTENT, 100_000, '"a"'), web.whole(CONTENT, '"a"')]
    site.behave["/m.onnx"] = lambda h: answers.pop(0)(h)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert site.asked == [("/m.onnx", None, None), ("/m.onnx", "bytes=100000-", '"a"')]
    assert left() == ["resnet-tiny.onnx"]


def test_a_later_call_goes_on_too(site, get, left):
    site.behave["/m.onnx"] = web.breaking(CONTENT, 50_000)
    with pytest.raises(ModelError, match=r"breaks off \(3 attempts, 150000 of 300000 bytes\)"):
        get(site.url("/m.onnx"))
    assert left() == ["resnet-tiny.onnx.part"]
    site.behave["/m.onnx"] = web.whole(CONTENT)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert asked(site)[-1] == ("/m.onnx", "bytes=150000-")


def test_another_source_goes_on_where_the_first_broke(site, get):
    site.behave["/a.onnx"] = web.breaking(CONTENT, 50_000, '"a"')
    site.behave["/b.onnx"] = web.whole(CONTENT, '"b"')
    get(site.url("/a.onnx"), site.url("/b.onnx"))
    assert site.asked[-1] == ("/b.onnx", "bytes=150000-", None), "the tag is of another address"


def test_a_file_that_changed_meanwhile_is_fetched_whole(site, get):
    wrong = bytes(len(CONTENT))
    answers = [web.breaking(wrong, 100_000, '"old"'), web.whole(CONTENT, '"new"')]
    site.behave["/m.onnx"] = lambda h: answers.pop(0)(h)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert len(site.asked) == 2


def test_a_wrong_beginning_is_fetched_again_once(site, get):
    site.behave["/bad.onnx"] = web.breaking(bytes(len(CONTENT)), 50_000)
    site.behave["/m.onnx"] = web.whole(CONTENT)
    assert get(site.url("/bad.onnx"), site.url("/m.onnx")).read_bytes() == CONTENT
    assert asked(site)[-2:] == [("/m.onnx", "bytes=150000-"), ("/m.onnx", None)]


def test_a_server_that_ignores_ranges_starts_again(site, get):
    answers = [web.ignoring_ranges(CONTENT, 100_000), web.ignoring_ranges(CONTENT)]
    site.behave["/m.onnx"] = lambda h: answers.pop(0)(h)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "covers",
    ["bytes 0-299999/300000", "bytes 100001-299999/300000", "bytes x", "", "bytes */300000"],
)
def test_another_range_than_asked_for_is_not_taken(site, get, covers):
    def other(h):
        h.head(206, Content_Length=10, Content_Range=covers)
        h.wfile.write(bytes(10))

    answers = [web.breaking(CONTENT, 100_000), other, web.whole(CONTENT)]
    site.behave["/m.onnx"] = lambda h: answers.pop(0)(h)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert asked(site)[-1] == ("/m.onnx", None)


def test_a_range_that_cannot_be_satisfied_starts_again(site, get):
    answers = [web.breaking(CONTENT, 100_000), web.status(416), web.whole(CONTENT)]
    site.behave["/m.onnx"] = lambda h: answers.pop(0)(h)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_but_not_for_ever(site, get):
    answers = [web.status(503, Retry_After="3600"), web.status(429), web.whole(CONTENT)]
    site.behave["/m.onnx"] = lambda h: answers.pop(0)(h)
    began = time.monotonic()
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert time.monotonic() - began < 20, "what the server asks for is bounded"
    site.behave["/n.onnx"] = web.status(503)
    with pytest.raises(
        ModelError, match=r"503 Service Unavailable \(3 attempts, 0 of 300000 bytes\)"
    ):
        fetch_entry(
            replace(ENTRY, name="other"), [site.url("/n.onnx")],
            output=None, cache=get(site.url("/m.onnx")).parent.parent, patience=PATIENCE,
        )  # fmt: skip
    assert [path for path, _ in asked(site)].count("/n.onnx") == 3


# --------------------------------------------------------------------------------- liars


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (web.status(404), "answers 404 Not Found"),
        (web.status(403), "answers 403 Forbidden"),
        (web.status(799), "answers 799"),
        (web.status(302), "answers 302 Found"),
        (web.status(302, Location="http://localhost/m.onnx"), "leads to http:, which is not https"),
        (web.status(302, Location="file:///etc/passwd"), "leads to file:, which is not https"),
        (web.status(302, Location="https://u:p@localhost/"), "with a name or a password in it"),
        (web.status(302, Location="https://localhost:99999/"), "is no address"),
        (web.status(301, Location="/m.onnx"), "redirects more than 5 times"),
        (web.whole(CONTENT[:-1] + b"?"), "another sha256"),
        (web.whole(CONTENT[:-1]), "has 299999 bytes instead of 300000"),
        (web.whole(CONTENT + b"?"), "has 300001 bytes instead of 300000"),
        (web.whole(b""), "has 0 bytes instead of 300000"),
        (web.whole(POINTER), "a Git LFS pointer, not the model"),
        (web.chunked(POINTER), "a Git LFS pointer, not the model"),
        (web.whole(PAGE, kind="text/html"), "a web page, not the model"),
        (web.chunked(PAGE), "a web page, not the model"),
        (web.chunked(CONTENT + b"?"), "more than the 300000 bytes"),
        (web.endless, "more than the 300000 bytes"),
        (lambda h: h.head(200, Content_Encoding="gzip", Content_Length=1), "compressed, unasked"),
        (web.ignoring_ranges(CONTENT, 1000), "breaks off (3 attempts, 1000 of 300000 bytes)"),
        (web.chunked(CONTENT[:1000]), "breaks off (3 attempts, 1000 of"),
        (lambda h: None, "breaks off"),
        (web.raw(b"SSH-2.0-nothing\r\n"), "breaks off"),
        (web.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
         "cannot be understood"),
    ],
)  # fmt: skip
def test_nothing_is_kept_of_what_is_wrong(site, get, left, tmp_path, answer, reason):
    site.behave["/m.onnx"] = answer
    began = time.monotonic()
    with pytest.raises(ModelError, match="resnet-tiny could not be fetched") as caught:
        get(site.url("/m.onnx?token=secret"), output=tmp_path / "out.onnx")
    assert f"{site.url('/m.onnx')} " in str(caught.value)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()
    assert "resnet-tiny.onnx" not in left()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda h: h.server.gone.wait(5), "does not answer in time"),
        (web.stalling(CONTENT, 1000), "does not answer in time (2 attempts, 1000 of 300000 bytes)"),
        (web.dripping(CONTENT), "stalls"),
        (web.dripping_header, "does not answer in time"),
        (web.dripping_chunk, "breaks off"),
    ],
)
def test_a_server_is_not_waited_for_for_ever(site, get, left, answer, reason):
    site.behave["/m.onnx"] = answer
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        get(site.url("/m.onnx"), patience=IMPATIENT)
    assert reason in str(caught.value)
    assert time.monotonic() - began < 20
    assert "resnet-tiny.onnx" not in left()


def test_a_certificate_that_nobody_vouches_for_is_refused(site, get, monkeypatch, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    site.behave["/m.onnx"] = web.whole(CONTENT)
    with pytest.raises(ModelError, match="has a certificate that is not trusted here"):
        get(site.url("/m.onnx"))
    assert site.asked == []


def test_a_certificate_for_another_host_is_refused(authority, get, monkeypatch, direct):
    made, file = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with (
        web.serving(made.issue_cert("elsewhere.test")) as wrong,
        pytest.raises(ModelError, match="not trusted"),
    ):
        get(wrong.url("/m.onnx"))


def test_nobody_there(get, direct):
    with pytest.raises(ModelError, match=r"cannot be reached \(3 attempts, 0 of 300000 bytes\)"):
        get("https://localhost:1/m.onnx")


def test_every_source_gets_its_complaint(site, get, tmp_path):
    with pytest.raises(ModelError) as caught:
        get(site.url("/a.onnx"), str(tmp_path / "nowhere"), site.url("/b.onnx"))
    assert str(caught.value).count("404 Not Found") == 2
    assert "nowhere does not exist" in str(caught.value)


def test_through_a_proxy(site, get, monkeypatch):
    """A proxy that cannot be reached is what is complained about, so it was asked."""
    monkeypatch.setenv("https_proxy", "http://u:p@localhost:1")
    monkeypatch.setenv("no_proxy", "example.org")
    site.behave["/m.onnx"] = web.whole(CONTENT)
    with pytest.raises(ModelError, match="by way of the proxy"):
        get(site.url("/m.onnx"))
    monkeypatch.setenv("no_proxy", "localhost")
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT


# ----------------------------------------------------------------------------- local sources


def test_a_folder_or_a_file_of_this_machine(get, tmp_path):
    (tmp_path / "resnet-tiny.onnx").write_bytes(CONTENT)
    for source in (tmp_path, tmp_path / "resnet-tiny.onnx", f"file://{tmp_path}"):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        made = get(str(source), output=tmp_path / "out.onnx")
        assert made.read_bytes() == CONTENT
        made.unlink()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (POINTER, "is a Git LFS pointer"),
        (CONTENT[:-1], "has 299999 bytes instead of 300000"),
        (CONTENT[:-1] + b"?", "has another sha256"),
        (b"", "has 0 bytes"),
        (None, "does not exist"),
    ],
)
def test_a_local_file_is_checked_likewise(get, left, tmp_path, content, reason):
    if content is not None:
        (tmp_path / "resnet-tiny.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        get(str(tmp_path))
    assert left() == []


# -------------------------------------------------------------------------- cache and output


def test_a_damaged_cache_is_mended(site, get):
    site.behave["/m.onnx"] = web.whole(CONTENT)
    made = get(site.url("/m.onnx"))
    made.write_bytes(bytes(len(CONTENT)))
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    made.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(ModelError):
        get(site.url("/gone.onnx"), output=made.parent / "out.onnx")
    assert not (made.parent / "out.onnx").exists()


def test_a_right_output_is_left_alone_and_a_wrong_one_replaced(site, get, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_bytes(CONTENT)
    before = output.stat()
    assert get(site.url("/gone.onnx"), output=output) == output
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    assert site.asked == []
    output.write_bytes(b"old")
    with pytest.raises(ModelError):
        get(site.url("/gone.onnx"), output=output)
    assert output.read_bytes() == b"old"
    site.behave["/m.onnx"] = web.whole(CONTENT)
    assert get(site.url("/m.onnx"), output=output).read_bytes() == CONTENT


def test_an_output_that_cannot_be_written_is_told_before_the_download(site, get, tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"):
        get(site.url("/m.onnx"), output=tmp_path / "no" / "out.onnx")
    assert site.asked == []


FETCHING = """
import sys
from pathlib import Path
from quantize.zoo.fetching import fetch_entry
from quantize.zoo.table import Entry
url, cache, size, digest = sys.argv[1:]
print(fetch_entry(Entry("resnet-tiny", int(size), digest), [url], output=None, cache=Path(cache)))
"""


def start(site, tmp_path):
    arguments = (site.url("/m.onnx"), str(tmp_path / "cache"), str(ENTRY.size), ENTRY.sha256)
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_fetch_once(site, tmp_path, left):
    def slow(h):
        time.sleep(0.3)
        web.whole(CONTENT)(h)

    site.behave["/m.onnx"] = slow
    both = [start(site, tmp_path), start(site, tmp_path)]
    outputs = {process.communicate(timeout=30)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(outputs) == 1
    assert len(site.asked) == 1
    assert left() == ["resnet-tiny.onnx"]


def test_a_killed_process_leaves_a_beginning_and_no_lock(site, tmp_path, get):
    site.behave["/m.onnx"] = web.stalling(CONTENT, 100_000)
    process = start(site, tmp_path)
    part = tmp_path / "cache" / "zoo" / "resnet-tiny.onnx.part"
    end = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    have = part.stat().st_size
    site.behave["/m.onnx"] = web.whole(CONTENT)
    assert get(site.url("/m.onnx")).read_bytes() == CONTENT
    assert asked(site)[-1] == ("/m.onnx", f"bytes={have}-")
