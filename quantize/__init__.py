"""Turn a trained float ONNX image classifier into a verified, fast int8 one.

The names below load on first use, so that `import quantize` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantize.config import Config, load_config
    from quantize.errors import (
        BudgetError,
        ConfigError,
        DataError,
        EngineError,
        Interrupted,
        ModelError,
        OutputError,
        QuantizeError,
        RunFolderError,
    )
    from quantize.pipeline import Result, benchmark, evaluate, tune, verify
    from quantize.plan import Progress, Verdict
    from quantize.rebuild import apply

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "Config",
    "ConfigError",
    "DataError",
    "EngineError",
    "Interrupted",
    "ModelError",
    "OutputError",
    "Progress",
    "QuantizeError",
    "Result",
    "RunFolderError",
    "Verdict",
    "__version__",
    "apply",
    "benchmark",
    "evaluate",
    "load_config",
    "tune",
    "verify",
]

_CONFIG = {"Config", "load_config"}
_PIPELINE = {"Result", "benchmark", "evaluate", "tune", "verify"}
_PLAN = {"Progress", "Verdict"}
_REBUILD = {"apply"}


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'quantize' has no attribute {name!r}")
    homes = {"config": _CONFIG, "pipeline": _PIPELINE, "plan": _PLAN, "rebuild": _REBUILD}
    home = next((home for home, names in homes.items() if name in names), "errors")
    value = getattr(import_module(f"quantize.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
