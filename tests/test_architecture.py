"""The house itself: who may import whom, one door for each third party, sizes, the public face."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import quantize

ROOT = Path(quantize.__file__).parent

# Top to bottom. A module may import what stands below it, and beside it only in its own package,
# within the layer of composition, or as SIDEWAYS says.
LEVELS = (
    "__main__",
    "cli console",
    "pipeline strategy attempts judging loops measure price outcome candidates planning job sanity"
    " inspection classify report demo portability rebuild explanation bundle conversion zoo"
    " imagenet tracking",
    "config",
    "search verdict journal remedies sequential layer_table overflow",
    "repair",
    "calibrate emulation engines evaluation paired latency probe statistics_store versions",
    "data runtime graph plan_json histogram answers remembered trinomial pairs",
    "plan private",
    "files npz deadline checked_json ahead distributions",
    "errors",
)
COMPOSITION = 2
SIDEWAYS = {("cli", "console")}

DOORS = {
    "PIL": r"data\.images",
    "yaml": r"config\..*",
    "pydantic": r"config\..*",
    "pydantic_core": r"config\..*",
    "neural_compressor": r"engines\.inc.*",
    "onnxruntime": r"runtime|engines\.ort",
    "onnx": r"graph\..*|engines\..*|repair\..*|bundle\..*|conversion\..*|demo\.train",
    "google": r"graph\.io|bundle\.model",
    "scipy": r"distributions|paired|sequential|trinomial|demo\.train",
    "mlflow": r"tracking\.store",
    "threadpoolctl": r"remedies",
    "torch": r"conversion\.torch_pickle",
    "typer": r"cli\..*",
    "rich": r"console",
    "jinja2": r"report\.page",
    "markupsafe": r"report\.page",
    "matplotlib": r"report\.plots",
    "jax": r"demo\.train",
    "optax": r"demo\.train",
    "sklearn": r"demo\.train",
    "urllib3": r"zoo\.transport",
    "numpy": r".*",
}
HEAVY = {
    "PIL", "jinja2", "matplotlib", "mlflow", "numpy", "onnx", "onnxruntime", "pydantic", "scipy",
    "urllib3", "yaml",
}  # fmt: skip
MOST_LINES = 60


@cache
def modules():
    """Name within the package -> syntax tree."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text(), str(path))
    return found


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(tree):
    """Every dotted name that is imported when the code runs, names of `from` imports included."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            for child in node.orelse:
                yield from imported(child)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


@cache
def uses():
    """Module -> the modules of this package that it imports when it runs."""
    names = set(modules())
    packages = {name.removesuffix(".__init__") for name in names if name.endswith(".__init__")}
    graph = {}
    for name, tree in modules().items():
        targets = set()
        for dotted in imported(tree):
            parts = dotted.split(".")
            if parts[0] != "quantize":
                continue
            # The longest prefix that is a module: the rest is a name in it.
            for end in range(len(parts), 1, -1):
                target = ".".join(parts[1:end])
                if target in names or target in packages:
                    targets.add(f"{target}.__init__" if target in packages else target)
                    break
        graph[name] = targets - {name}
    return graph


def room(name):
    return name.split(".")[0]


def level(name):
    found = [i for i, rooms in enumerate(LEVELS) if room(name) in rooms.split()]
    assert found, f"{name} has no place in LEVELS"
    return found[0]


def may_import(user, used):
    """Whether the floor plan lets one module import another."""
    if used == "__init__" or room(user) == room(used):
        return True
    if (room(user), room(used)) in SIDEWAYS:
        return True
    if level(user) == level(used):
        return level(user) == COMPOSITION
    return level(user) < level(used)


# ----------------------------------------------------------------------------- imports


def test_imports_go_down_only():
    wrong = [
        f"{user} imports {used}"
        for user, targets in uses().items()
        if user != "__init__"
        for used in targets
        if not may_import(user, used)
    ]
    assert wrong == []


def test_the_rule_is_not_toothless():
    assert may_import("pipeline", "config.__init__")
    assert may_import("loops", "candidates")
    assert may_import("verdict", "paired")
    assert not may_import("paired", "verdict")
    assert not may_import("evaluation", "latency")
    assert not may_import("graph.io", "runtime")
    assert not may_import("data.images", "graph.io")
    assert not may_import("plan", "data.images")
    assert not may_import("search", "journal")
    assert not may_import("errors", "files")
    assert uses()["pipeline"] >= {"measure", "config.__init__", "graph.prepare"}
    assert uses()["graph.prepare"] >= {"graph.fold", "graph.view", "errors"}


def test_no_imports_run_in_circles():
    graph, done = uses(), set()

    def visit(name, path):
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                if target != "__init__":
                    visit(target, (*path, name))
            done.add(name)

    for name in graph:
        if name != "__init__":
            visit(name, ())


def test_below_the_top_only_the_version_is_taken_from_the_package():
    wrong = [
        f"{name}: {dotted}"
        for name, tree in modules().items()
        if room(name) not in ("cli", "demo", "__main__", "__init__")
        for dotted in imported(tree)
        if dotted == "quantize"
        or (re.fullmatch(r"quantize\.\w+", dotted) and not is_module(dotted.split(".")[1]))
        if dotted != "quantize.__version__"
    ]
    assert wrong == []


def is_module(name):
    return name in modules() or f"{name}.__init__" in modules()


def test_each_third_party_has_one_door():
    wrong = []
    for name, tree in modules().items():
        for package in {dotted.split(".")[0] for dotted in imported(tree)}:
            if package in sys.stdlib_module_names or package == "quantize":
                continue
            if not re.fullmatch(DOORS.get(package, "nobody"), name):
                wrong.append(f"{name} imports {package}")
    assert wrong == []


def test_there_is_no_room_for_leftovers():
    assert not {"utils", "util", "helpers", "common", "misc"} & {
        part for name in modules() for part in name.split(".")
    }


def test_only_the_command_line_prints_or_exits():
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        if room(name) not in ("cli", "console", "demo") and name != "engines.inc_child"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit")
    ]
    assert wrong == []


def test_untrusted_files_are_data():
    banned = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in banned
    ]
    assert wrong == []


# ------------------------------------------------------------------------- light start

LOADED = """
import runpy, sys
try:
    {statement}
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sorted(sys.modules))
"""


def loaded_by(statement):
    run = subprocess.run(
        [sys.executable, "-c", LOADED.format(statement=statement)],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import quantize")
    assert "quantize" in loaded
    assert loaded & HEAVY == set()


def test_asking_for_help_loads_nothing_heavy():
    loaded = loaded_by(
        "sys.argv = ['quantize', '--help']; runpy.run_module('quantize', run_name='__main__')"
    )
    assert "quantize.cli" in loaded
    assert loaded & HEAVY == set()


EVERY_HELP = """
import contextlib, io, sys, typer.main
from quantize.cli import app
names = sorted(typer.main.get_command(app).commands)
for name in names:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        app([name, "--help"], standalone_mode=False)
    assert "Usage:" in text.getvalue(), name
print("commands:", *names)
print("loaded:", *sorted(sys.modules))
"""


def test_the_help_of_no_command_loads_anything_heavy():
    """In one process: what any of them loads would be seen. Typer itself looks for pydantic."""
    run = subprocess.run(
        [sys.executable, "-c", EVERY_HELP],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    commands, loaded = (set(line.split()[1:]) for line in run.stdout.splitlines())
    assert commands >= {"tune", "verify", "release", "inspect", "predict", "fetch", "demo"}
    assert loaded & HEAVY <= {"pydantic"}


# ------------------------------------------------------------------------- public face


def test_the_public_names_are_sorted_and_there():
    assert quantize.__all__ == sorted(quantize.__all__)
    assert len(set(quantize.__all__)) == len(quantize.__all__)
    for name in quantize.__all__:
        assert getattr(quantize, name) is not None
    assert dir(quantize) == quantize.__all__
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        quantize.nosuch  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = modules()["__init__"]
    block = next(node for node in tree.body if is_type_checking(node))
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen | {"__version__"} == set(quantize.__all__)


def test_public_errors_are_all_exported():
    from quantize import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes <= set(quantize.__all__)


def test_the_version_is_that_on_top_of_the_changelog():
    changelog = ROOT.parent / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("there is no CHANGELOG.md yet")
    found = re.search(r"^## \[?v?(\d+\.\d+\.\d+\w*)", changelog.read_text(), re.MULTILINE)
    assert found, "CHANGELOG.md has no line such as `## 0.1.0`"
    assert found[1] == quantize.__version__


def test_the_version_is_that_of_the_project():
    text = (ROOT.parent / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1] == quantize.__version__


# ------------------------------------------------------------------------------- sizes


def functions(tree):
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_no_function_is_longer_than_a_screen():
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in modules().items()
        for node in functions(tree)
        if node.end_lineno - node.lineno + 1 > MOST_LINES
    }
    assert long == {}


def public(body):
    return [
        node
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


def test_everything_public_says_what_it_is_for():
    bare = []
    for name, tree in modules().items():
        if name != "demo.__init__" and not ast.get_docstring(tree):
            bare.append(name)
        for node in public(tree.body):
            if not ast.get_docstring(node):
                bare.append(f"{name}.{node.name}")
            if isinstance(node, ast.ClassDef):
                bare += [
                    f"{name}.{node.name}.{method.name}"
                    for method in public(node.body)
                    if not ast.get_docstring(method)
                ]
    assert bare == []
