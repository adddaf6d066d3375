"""Turn a trained float ONNX image classifier into a verified, fast int8 one.

The names below load on first use, so that `import quantize` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantize.bundle.checking import Checked, check_bundle
    from quantize.bundle.proving import Proof, verify_bundle
    from quantize.bundle.writing import Released, release
    from quantize.config import Config, load_config
    from quantize.conversion.convert import Converted, convert
    from quantize.errors import (
        BudgetError,
        BundleError,
        ConfigError,
        ConversionError,
        DataError,
        EngineError,
        Interrupted,
        ModelError,
        OutputError,
        QuantizeError,
        RunFolderError,
        TrackingError,
        UnmetError,
    )
    from quantize.explanation import Explanation, explain
    from quantize.imagenet.preparing import PreparedImages, prepare_imagenet
    from quantize.pipeline import Result, benchmark, evaluate, tune, verify
    from quantize.plan import Progress, Verdict
    from quantize.rebuild import apply
    from quantize.tracking.recording import Tracked, track
    from quantize.zoo.fetching import fetch

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "BundleError",
    "Checked",
    "Config",
    "ConfigError",
    "ConversionError",
    "Converted",
    "DataError",
    "EngineError",
    "Explanation",
    "Interrupted",
    "ModelError",
    "OutputError",
    "PreparedImages",
    "Progress",
    "Proof",
    "QuantizeError",
    "Released",
    "Result",
    "RunFolderError",
    "Tracked",
    "TrackingError",
    "UnmetError",
    "Verdict",
    "__version__",
    "apply",
    "benchmark",
    "check_bundle",
    "convert",
    "evaluate",
    "explain",
    "fetch",
    "load_config",
    "prepare_imagenet",
    "release",
    "track",
    "tune",
    "verify",
    "verify_bundle",
]

_CHECKING = {"Checked", "check_bundle"}
_CONFIG = {"Config", "load_config"}
_CONVERT = {"Converted", "convert"}
_EXPLANATION = {"Explanation", "explain"}
_FETCHING = {"fetch"}
_PIPELINE = {"Result", "benchmark", "evaluate", "tune", "verify"}
_PLAN = {"Progress", "Verdict"}
_PREPARING = {"PreparedImages", "prepare_imagenet"}
_PROVING = {"Proof", "verify_bundle"}
_REBUILD = {"apply"}
_TRACKING = {"Tracked", "track"}
_WRITING = {"Released", "release"}


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'quantize' has no attribute {name!r}")
    homes = {
        "bundle.checking": _CHECKING,
        "bundle.proving": _PROVING,
        "bundle.writing": _WRITING,
        "config": _CONFIG,
        "conversion.convert": _CONVERT,
        "explanation": _EXPLANATION,
        "imagenet.preparing": _PREPARING,
        "pipeline": _PIPELINE,
        "plan": _PLAN,
        "rebuild": _REBUILD,
        "zoo.fetching": _FETCHING,
        "tracking.recording": _TRACKING,
    }
    home = next((home for home, names in homes.items() if name in names), "errors")
    value = getattr(import_module(f"quantize.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
