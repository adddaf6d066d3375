"""report.html: its structure, its policy, hostile names, what may be missing, and in a browser."""

import base64
import copy
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import cycle, islice, pairwise

import pytest
from PIL import Image

from browser import CHROMIUM, Browser
from quantize.errors import DataError, OutputError, RunFolderError
from quantize.paired import agreement_interval, images_to_decide
from quantize.plan import Drop, Goal
from quantize.report import plots
from quantize.report.certainty import certainty
from quantize.report.details import details_of
from quantize.report.page import page
from quantize.report.plots import (
    NARROW,
    WIDE,
    Bar,
    Point,
    Span,
    Told,
    bar_plot,
    candidates_plot,
    interval_plot,
    prospect_plot,
)
from quantize.report.reading import account_of, report_value
from quantize.report.rendering import render
from quantize.report.thumbnails import thumbnails
from quantize.report.values import minus

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECTIONS = [
    "Accuracy, size and speed",
    "What each repair bought",
    "The candidates",
    "Layers, one by one",
    "Images that changed their answer",
    "Classes",
    "How sure this is",
    "Data and splits",
    "Versions and hashes",
]
HOSTILE = (
    "</script><script>alert(1)</script></style>\"'><img src=x onerror=alert(2)>\x1b[31m\u202e\udc80"
)
SHOWN = "</script><script>alert(1)</script></style>\"'><img src=x onerror=alert(2)>�[31m��"


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children, self.parts = [], []

    @property
    def text(self):
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def walk(self):
        yield self
        for child in self.children:
            yield from child.walk()


class Reader(HTMLParser):
    """The page as a tree; fails where elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.root = self.here = Element("", {}, None)
        self.feed(text)
        self.close()
        assert self.here is self.root

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} repeats an attribute"
        new = Element(tag, attributes, self.here)
        self.here.children.append(new)
        self.here.parts.append(new)
        if tag not in VOID:
            self.here = new

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.here.tag == tag, f"{tag} ends where {self.here.tag} is open"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.parts.append(data)

    def all(self, *tags):
        return [element for element in self.root.walk() if element.tag in tags]


def words(text):
    """Text of a page or of an element, every space one blank."""
    return " ".join((text if isinstance(text, str) else text.text).split())


def rows(tree):
    """Every row of every table, as texts."""
    return [[words(cell) for cell in row.children] for row in tree.all("tr")]


@pytest.fixture(scope="module")
def made(done):
    """What the run itself wrote."""
    return (done[0].run / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def report(done):
    """A copy to edit: with figures for each part."""
    content = json.loads((done[0].run / "report.json").read_text())
    content["accuracy"] |= {
        "drop_points": 5.0,
        "drop_interval_points": [-2.0, 13.0],
        "lost": 4,
        "gained": 1,
    }
    content["measured"]["latency"] = {
        "float_ms": 2.0,
        "int8_ms": 1.0,
        "ratio": 2.0,
        "low": 1.8,
        "high": 2.2,
        "threads": 1,
        "threads_asked": 2,
        "rounds": 6,
    }
    first = [changed(number) for number in range(30)]
    content["changed"] = {"images": 30, "first": first}
    content["classes"] = [lossy(2, 4, 0), lossy(0, 0, 1)]
    return content


def changed(number, name=None):
    return {
        "image": name or f"{number:03d}.png",
        "digest": f"{number:064x}",
        "label": 0,
        "float": number % 2,
        "int8": 2,
        "right": "neither" if number % 2 else "float",
    }


def lossy(label, lost, gained):
    counts = {"float_right": 10 - gained, "int8_right": 10 - lost, "lost": lost, "gained": gained}
    return {"class": label, "images": 15, **counts, "drop_points": 100 * (lost - gained) / 15}


def unlabelled(content):
    content["accuracy"] = content["classes"] = None
    content["verdict"]["goal"] = {
        "kind": "agreement",
        "tolerance": 0.9,
        "confidence": None,
        "speed_floor": 0,
    }
    for one in content["changed"]["first"]:
        one["label"] = one["right"] = None
    return content


def facts(content):
    found = report_value(content)
    return account_of(found, "run"), details_of(found)


# ------------------------------------------------------------------------------ structure


def check(text):
    """What must hold of every page; returns it as a tree."""
    text.encode("utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    tree = Reader(text)
    check_nothing_is_loaded(tree, text)
    check_headings(tree)
    for svg in tree.all("svg"):
        title, description = svg.children[:2]
        assert (title.tag, description.tag, svg.attributes["role"]) == ("title", "desc", "img")
        ids = f"{title.attributes['id']} {description.attributes['id']}"
        assert svg.attributes["aria-labelledby"] == ids
        assert words(title)
        assert words(description)
    assert all(image.attributes["alt"].strip() for image in tree.all("img"))
    for table in tree.all("table"):
        assert table.children[0].tag == "caption"
        assert words(table.children[0])
    assert all(cell.attributes["scope"] in ("row", "col") for cell in tree.all("th"))
    ids = [e.attributes["id"] for e in tree.root.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    pointed = re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^)"]+)', text)
    assert {one for value in pointed for one in value.split()} <= set(ids)
    return tree


def check_nothing_is_loaded(tree, text):
    assert not tree.all("script", "link", "iframe", "object", "embed", "form", "base", "audio")
    for element in tree.root.walk():
        for name, value in element.attributes.items():
            assert name != "style"
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "xlink:href", "action", "data"):
                assert value.startswith(("#", "data:image/jpeg;base64,"))
    (style,) = tree.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    (policy,) = (
        meta.attributes["content"]
        for meta in tree.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    pictures = " img-src data:;" if tree.all("img") else ""
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}';{pictures}"
        " base-uri 'none'; form-action 'none'"
    )
    assert text.index("Content-Security-Policy") < text.index("<style>")


def check_headings(tree):
    levels = [int(heading.tag[1]) for heading in tree.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [words(heading) for heading in tree.all("h2")] == SECTIONS


def test_the_run_leaves_its_page(made, done):
    tree = check(made)
    assert words(tree.all("h1")[0]) == "float.onnx"
    assert minus(done[1].report["verdict"]["reason"]) in words(made)
    for digest in (done[1].report["float_model"]["sha256"], done[1].report["int8_model"]["sha256"]):
        assert digest in made
    for row in done[1].report["layers"]:
        assert row["name"] in made
    assert str(done[0].folder) not in made
    assert "\N{REPLACEMENT CHARACTER}" not in made


def test_the_page_of_every_part(report):
    tree = check(page(report))
    plots_seen = {svg.attributes["aria-labelledby"].split("-")[0] for svg in tree.all("svg")}
    assert plots_seen >= {"verdict", "speed", "candidates", "layers", "classes", "prospects"}
    text = words(tree.root)
    assert "30 of 60 images have another best class" in text
    assert "4 lost (only float was right), 1 gained (only int8 is right), 25 wrong in both" in text
    assert "2.00× as fast (1.80 to 2.20)" in text
    assert "1 threads (2 asked, the machine has fewer)" in text


def test_each_plot_comes_for_wide_and_narrow_windows(report):
    found = [svg.attributes for svg in Reader(page(report)).all("svg")]
    kinds = [(one["class"], int(one["viewbox"].split()[2])) for one in found]
    assert kinds[::2] == [("wide", WIDE)] * (len(kinds) // 2)
    assert kinds[1::2] == [("narrow", NARROW)] * (len(kinds) // 2)


def test_classes_have_names_where_they_are_given(report):
    told = rows(Reader(page(report, names=["ant", "bee", "crab"])))
    assert ["crab", "15", "10", "6", "4", "0", "26.67"] in told
    assert ["000.png", "ant", "ant ✓ right", "crab"] in told
    assert ["001.png", "ant", "bee", "crab"] in told


# --------------------------------------------------------------------------- hostile names


def test_hostile_names_are_shown_and_harmless(report):
    name = f"a{HOSTILE}b"
    report["float_model"]["file"] = report["verdict"]["reason"] = name
    report["layers"][0]["name"] = name
    report["int8_model"]["stayed_float"] = [name]
    report["changed"]["first"][0]["image"] = name
    report["changed"]["first"][20]["image"] = name
    report["data"]["notes"] = report["prepare"] = [name]
    report["data"]["holdout"]["unreadable"] = {"images": 1, "first": {name: name}}
    report["data"]["holdout"]["preprocessing"] = [{name: {name: [name, {name: name}]}}]
    report["search"]["stopped"] = report["search"]["trials"][0]["note"] = name
    report["search"]["trials"][0]["plan"]["keep_float"] = [name]
    report["versions"][name] = report["measured"]["cpu"]["name"] = name
    report["verdict"]["instruction_set"] = report["tool"]["version"] = name
    text = page(report, names=[name] * 3)
    tree = check(text)
    assert not tree.all("img")
    assert tree.all("h1")[0].text == f"a{SHOWN}b"
    assert words(tree.all("title")[0]).startswith(("Goal", "Undecided"))
    assert text.count("<script") == 0
    assert tree.root.text.count("alert(1)") >= 20
    assert {c for c in text if not c.isprintable()} <= {"\n", "\N{NO-BREAK SPACE}"}


def test_hostile_names_in_plots_are_text(report):
    report["layers"][0] |= {"name": "<b>&#0;$x^2$", "noise_share": 0.9, "sqnr_db": 1.0}
    report["classes"][0]["class"] = 0
    tree = check(page(report, names=["日本 $\\frac{1}{2}$"]))
    texts = [text.text for text in tree.all("text")]
    assert texts.count("<b>&#0;$x^2$") == 2
    assert texts.count("日本 $\\frac{1}{2}$") == 2


# ---------------------------------------------------------------------------- same bytes


def test_the_verb_writes_the_bytes_of_the_run(done, tmp_path, cli, made):
    target = tmp_path / "again.html"
    answer = cli("report", done[0].run, "--output", target)
    assert (answer.code, answer.err) == (0, "")
    assert str(target) in answer.out
    assert target.read_text(encoding="utf-8") == made


def test_equal_reports_give_equal_bytes_whatever_the_hash_seed(report, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report))
    program = "import sys; from pathlib import Path; from quantize.report.rendering import render;"
    program += " render(Path(sys.argv[1]), Path(sys.argv[2]))"
    target = tmp_path / "other.html"
    command = [sys.executable, "-c", program, str(tmp_path), str(target)]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "1", "HOME": str(tmp_path)})
    assert target.read_text() == page(report) == page(report)


def test_only_what_is_measured_makes_a_difference(report):
    other = copy.deepcopy(report)
    other["measured"] |= {"finished": "2001-02-03T04:05:06+00:00", "seconds": 7.0}
    one, two = (page(content).splitlines() for content in (report, other))
    differing = [line for line, again in zip(one, two, strict=True) if line != again]
    assert len(differing) == 1
    assert differing[0].startswith("<div><dt>Finished</dt>")


def test_a_matplotlibrc_of_the_user_changes_nothing(report):
    expected = page(report)
    with plots.mpl.rc_context({"svg.fonttype": "path", "lines.linewidth": 9, "axes.grid": True}):
        assert page(report) == expected


# ------------------------------------------------------------------------- missing parts


def test_without_labels(report):
    tree = check(page(unlabelled(report)))
    text = words(tree.root)
    assert "no labels, so no accuracy" in text
    assert "Not told: the images have no labels." in text
    assert "Label" not in [words(cell) for cell in tree.all("th")]
    assert "at least 90.00 %" in text
    assert "✓ right" not in text


@pytest.mark.parametrize(
    ("outcome", "word"),
    [("met", "✓ Goal met:"), ("unmet", "✕ Goal not met:"), ("undecided", "? Undecided:")],
)
def test_the_verdict_in_words_and_signs(report, outcome, word):
    report["verdict"]["outcome"] = outcome
    (verdict,) = (
        one for one in check(page(report)).all("p") if "verdict" in one.attributes.get("class", "")
    )
    assert words(verdict).startswith(word)
    assert outcome in verdict.attributes["class"].split()


def test_without_layers_changes_times_and_gains(report):
    report["layers"] = []
    report["changed"] = {"images": 0, "first": []}
    report["classes"] = []
    report["measured"]["latency"] = None
    for trial in report["search"]["trials"]:
        trial["probe"] = trial["gain_db"] = trial["top1"] = trial["fidelity"] = None
    for trial in report["measured"]["trials"]:
        trial["latency"] = None
    tree = check(page(report))
    text = words(tree.root)
    assert "No layer was measured by itself" in text
    assert "No class has an image that only one of the models has right." in text
    assert "0 of 60 images have another best class" in text
    titles = {svg.attributes["aria-labelledby"].split("-")[0] for svg in tree.all("svg")}
    assert titles == {"verdict", "prospects"}


def test_medians_that_contradict_the_rounds_are_told(report):
    seen = report["measured"]["latency"]
    seen.update(float_ms=2.0, int8_ms=1.0, ratio=2.0, low=1.9, high=2.1)
    assert "The machine was busy" not in words(page(report))
    seen.update(int8_ms=2.0)
    assert "The machine was busy" in words(page(report))


def test_a_report_without_trials(report):
    report["search"]["trials"] = report["measured"]["trials"] = []
    check(page(report))


@pytest.mark.parametrize("key", ["layers", "changed", "classes"])
def test_an_older_report_is_refused_with_a_cure(report, tmp_path, cli, key):
    del report[key]
    (tmp_path / "report.json").write_text(json.dumps(report))
    answer = cli("report", tmp_path)
    assert answer.code == 2
    assert re.search(r"older version.*run the same tune command again", answer.err)
    assert not (tmp_path / "report.html").exists()


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from paths_of(value[0], (*path, 0))


def test_a_damaged_value_is_refused_or_shown_never_a_traceback(report, monkeypatch):
    monkeypatch.setattr(plots, "_both", lambda *_: None)  # drawing is tested below
    messages, junks = [], cycle((None, "x", -1, 1e308, 10**400, [], {}, [[]], True, 0))
    for path in list(paths_of(report))[1:]:
        for junk in islice(junks, 3):
            broken = copy.deepcopy(report)
            here = broken
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = junk
            try:
                Reader(page(broken))
            except RunFolderError as error:
                messages.append(error.message)
    assert len(messages) > 150
    assert all("damaged" in message for message in messages)


# --------------------------------------------------------------------------------- sure


def test_the_first_prospect_is_what_was_seen(done):
    seen = certainty(*facts(done[1].report))
    low, high = done[1].report["accuracy"]["drop_interval_points"]
    assert (seen.prospects[0].low, seen.prospects[0].high) == pytest.approx((low, high))
    widths = [one.high - one.low for one in seen.prospects]
    assert widths == sorted(widths, reverse=True)
    assert [one.images for one in seen.prospects] == [60, 120, 240, 600]


def test_images_that_would_decide_at_the_confidence_that_is_usual(report):
    seen = certainty(*facts(report))
    goal = Goal(0.1, "relative", 0.95, 0)
    drop = Drop(5.0, 0, 0, 4, 1, 60)
    top1 = report["accuracy"]["float"]["top1"]
    assert (seen.outcome, seen.asked, seen.confidence) == ("undecided", False, 0.95)
    assert seen.decisive == images_to_decide(drop, top1, goal)
    text = words(Reader(page(report)).root)
    assert f"About {seen.decisive:,} images in all, {seen.decisive - 60:,} more," in text
    report["accuracy"] |= {"lost": 0, "gained": 20}
    assert certainty(*facts(report)).decisive is None
    assert "no more are needed" in words(Reader(page(report)).root)


def test_an_asked_confidence_is_used(report):
    report["verdict"]["goal"]["confidence"] = 0.8
    seen = certainty(*facts(report))
    assert (seen.asked, seen.confidence) == (True, 0.8)
    assert "No confidence was asked" not in page(report)


def test_agreement_looks_ahead_too(report):
    report = unlabelled(report)
    report["fidelity"]["agreement"] = 0.95
    seen = certainty(*facts(report))
    assert (seen.seen, seen.limit) == (95, 90)
    low, high = agreement_interval(0.95, 240)
    assert (seen.prospects[2].low, seen.prospects[2].high) == (100 * low, 100 * high)


def test_counts_that_cannot_be_tell_nothing(report):
    report["accuracy"]["lost"] = 61
    assert certainty(*facts(report)) is None
    assert "The report does not tell." in page(report)


# -------------------------------------------------------------------------------- plots


TOLD = Told("key", "title", "description")


@pytest.mark.parametrize(
    "drawn",
    [
        interval_plot(TOLD, Span(0.5, -1, 2), 1, " points", most=True),
        interval_plot(TOLD, Span(0, 0, 0), 0, " points", most=False),
        interval_plot(TOLD, Span(1e-9, -1e8, 1e8), 1e9, "", most=True),
        bar_plot(TOLD, [Bar("one", 1, "1", True), Bar("two", -2, "−2", False)]),
        bar_plot(TOLD, [Bar("", 0, "", True)]),
        candidates_plot(TOLD, [Point(1, 1.0, 20, "ships"), Point(2, None, 3, "left")], "dB", 2.0),
        candidates_plot(TOLD, [Point(1, None, 20, "kept")], "dB", None),
        candidates_plot(TOLD, [Point(1, 0.5, 20, "kept")], "dB", None),
        prospect_plot(TOLD, [("1", Span(0, -1, 1)), ("2", Span(0, 0, 0))], 2, "", most=False),
    ],
)
def test_a_plot_has_no_style_and_takes_its_colours_from_the_page(drawn):
    for svg, width in ((drawn.wide, WIDE), (drawn.narrow, NARROW)):
        (root,) = Reader(svg).all("svg")
        assert root.attributes["viewbox"].startswith(f"0 0 {width} ")
        colours = set()
        for element in root.walk():
            assert "style" not in element.attributes
            colours |= {element.attributes.get(name, "none") for name in ("fill", "stroke")}
        assert all(c == "none" or c.startswith(("var(--", "url(#key-")) for c in colours)
        assert not re.search(r"#\d+<", svg)
        assert "nan" not in svg


def test_what_is_too_large_is_not_drawn():
    huge = 1e300
    assert interval_plot(TOLD, Span(huge, 0, huge), 1, "", most=True) is None
    assert interval_plot(TOLD, Span(0, 0, math.nan), 1, "", most=True) is None
    assert bar_plot(TOLD, [Bar("a", huge, "", True)]) is None
    assert candidates_plot(TOLD, [Point(1, huge, 1, "kept")], "dB", None) is None
    assert prospect_plot(TOLD, [("1", Span(0, -huge, 0))], 2, "", most=True) is None
    assert bar_plot(TOLD, []) is None
    assert candidates_plot(TOLD, [], "dB", None) is None


def test_what_is_left_out_differs_by_more_than_colour():
    solid, hatched = (
        bar_plot(TOLD, [Bar("a", 1, "1", kind)]).wide.count("<pattern") for kind in (True, False)
    )
    assert (solid, hatched) == (0, 1)
    shapes = {
        mark: re.search(r'<path id="key-wide-m[^"]*" d="([^"]*)"', drawn.wide)[1]
        for mark in ("ships", "kept")
        if (drawn := candidates_plot(TOLD, [Point(1, None, 1, mark)], "dB", None))
    }
    assert shapes["ships"] != shapes["kept"]


# ----------------------------------------------------------------------------- pictures


@pytest.fixture
def pictures(tmp_path, report):
    """A folder of images, and a report in which two of them changed, and one that is gone."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    Image.new("RGB", (200, 100), "red").save(folder / "below" / "000.png", pnginfo=None)
    Image.new("RGB", (20, 10), "blue").save(folder / "001.png")
    Image.new("RGB", (20, 10), "lime").save(folder / "000.png")  # another image of that name
    for one, path in zip(report["changed"]["first"], ("below/000.png", "001.png"), strict=False):
        one["digest"] = hashlib.sha256((folder / path).read_bytes()).hexdigest()
    (tmp_path / "report.json").write_text(json.dumps(report))
    return folder


def test_pictures_come_only_when_asked_and_are_small(pictures, tmp_path, cli):
    assert cli("report", tmp_path).code == 0
    assert "<img" not in (tmp_path / "report.html").read_text()
    assert cli("report", tmp_path, "--images", pictures).code == 0
    tree = check((tmp_path / "report.html").read_text())
    shown = []
    for image in tree.all("img"):
        content = base64.b64decode(image.attributes["src"].partition(",")[2])
        with Image.open(io.BytesIO(content)) as small:
            shown.append(
                (image.attributes["alt"], small.format, small.size, small.getpixel((5, 5)))
            )
    (first, second) = shown
    assert first[:3] == ("Image 000.png", "JPEG", (64, 32))
    assert first[3][0] > 240
    assert second[:3] == ("Image 001.png", "JPEG", (20, 10))
    assert second[3][2] > 240
    assert words(tree.root).count("not found") == 28
    changes = facts(json.loads((tmp_path / "report.json").read_text()))[0].changes
    assert set(thumbnails(pictures, changes)) == {change.digest for change in changes[:2]}


def test_an_image_that_cannot_be_decoded_is_no_picture(report, tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "000.png").write_bytes(b"no image")
    Image.new("RGB", (20, 10)).save(folder / "001.png")
    for one in report["changed"]["first"][:2]:
        one["digest"] = hashlib.sha256((folder / one["image"]).read_bytes()).hexdigest()
    changes = facts(report)[0].changes
    assert set(thumbnails(folder, changes)) == {changes[1].digest}
    assert "000.png cannot be read" in caplog.text


def test_a_folder_without_any_of_the_images_is_an_error(report, tmp_path):
    changes = facts(report)[0].changes
    with pytest.raises(DataError, match="holds none of the images"):
        thumbnails(tmp_path, changes)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        thumbnails(tmp_path / "nowhere", changes)
    assert thumbnails(tmp_path / "nowhere", []) == {}


# -------------------------------------------------------------------------------- errors


def test_the_report_itself_is_never_replaced(report, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    before = file.read_bytes()
    with pytest.raises(OutputError, match="is the report itself"):
        render(tmp_path, file)
    with pytest.raises(OutputError, match="is a folder"):
        render(tmp_path, tmp_path)
    assert file.read_bytes() == before
    assert render(file) == tmp_path / "report.html"


def test_no_run_is_one_line(tmp_path, cli):
    answer = cli("report", tmp_path / "nowhere")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "does not exist" in answer.err


# ------------------------------------------------------------------------------- browser


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_nothing_complains_and_nothing_is_too_wide(report, tmp_path):
    long = "a_very_long_name/of_a_layer/" * 8 + HOSTILE
    hostile = copy.deepcopy(report)
    hostile["float_model"]["file"] = hostile["verdict"]["reason"] = long
    hostile["layers"][0]["name"] = hostile["changed"]["first"][0]["image"] = long
    hostile["measured"]["cpu"]["name"] = hostile["search"]["stopped"] = long
    files = {"plain": page(report), "hostile": page(hostile, names=[long] * 3)}
    files["bad"] = files["plain"].replace("</main>", "<script>1</script></main>")
    for name, text in files.items():
        (tmp_path / f"{name}.html").write_text(text)
    with Browser() as browser:
        for name in ("plain", "hostile"):
            for width, dark in ((360, True), (360, False), (1280, False)):
                browser.open(tmp_path / f"{name}.html", width, dark=dark)
                browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
                assert browser.ask("document.documentElement.scrollWidth") == width
                assert browser.ask("innerWidth") == width
                shown = "[...document.querySelectorAll('svg.{}')].filter(s => s.clientWidth).length"
                counts = [browser.ask(shown.format(kind)) for kind in ("wide", "narrow")]
                assert bool(counts[0]) == (width == 1280)
                assert bool(counts[1]) == (width == 360)
                paper = browser.ask("getComputedStyle(document.body).backgroundColor")
                assert paper == ("rgb(18, 22, 27)" if dark else "rgb(255, 255, 255)")
                assert browser.complaints == []
        browser.open(tmp_path / "bad.html", 360)
        assert "Content Security Policy" in json.dumps(browser.complaints)
