"""What can go wrong, as one tree. Each error is one line: what, where, why, and the cure.

    QuantizeError            exit 2
    ├── ConfigError          the YAML file or an override: file, key, value
    ├── ModelError           the ONNX file: missing, damaged, not an image classifier
    ├── DataError            images, labels, folders
    ├── OutputError          a path that cannot be written, a full disk
    ├── RunFolderError       a run folder in use or from something else
    ├── EngineError          a quantization engine that is missing or failed
    ├── BundleError          a release bundle that is damaged, unsafe or was changed
    ├── TrackingError        MLflow is missing, or its tracking store cannot be used
    ├── UnmetError           exit 3: a run that did not meet its goal is not released
    ├── ConversionError      exit 3: a converted model that does not prove itself is not written
    └── BudgetError          exit 3: the time budget is spent
    Interrupted              exit 130 (Ctrl-C) or 143 (SIGTERM); tune and downloads continue. Like
                             KeyboardInterrupt it is no Exception, so that nothing swallows it

Anything else that escapes is a defect of this package: exit 1, with a traceback.
"""


class QuantizeError(Exception):
    """Something the user can mend.

    Args:
        message: what is wrong, with the thing, its place and the reason, no full stop.
        cure: what to do about it, as an imperative; empty where nothing can be advised.
    """

    exit_code = 2

    def __init__(self, message: str, cure: str = "") -> None:
        self.message = " ".join(message.split())
        self.cure = " ".join(cure.split())
        super().__init__(f"{self.message}; {self.cure}" if self.cure else self.message)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.message, self.cure)


class ConfigError(QuantizeError):
    """A configuration file or an override cannot be used: names file, key and value."""


class ModelError(QuantizeError):
    """A model file cannot be read, or is not what the job needs."""


class DataError(QuantizeError):
    """Images, labels or folders cannot be used."""


class OutputError(QuantizeError):
    """Something could not be written; nothing half written is left behind."""


class RunFolderError(QuantizeError):
    """The run folder is used by another process or cannot be used."""


class EngineError(QuantizeError):
    """A quantization engine is missing, or failed with no candidate left."""


class BundleError(QuantizeError):
    """A release bundle is damaged, unsafe, or not what was published: names the file."""


class TrackingError(QuantizeError):
    """MLflow is missing, or its tracking store is none, is not there, or refuses."""


class UnmetError(QuantizeError):
    """A run did not meet its goal, so it is not released."""

    exit_code = 3


class ConversionError(QuantizeError):
    """A converted model computes something else, or does not suit its target: names the layer."""

    exit_code = 3


class BudgetError(QuantizeError):
    """The time budget is spent; whatever was finished is kept."""

    exit_code = 3


class Interrupted(BaseException):
    """The run was asked to stop.

    Args:
        exit_code: 130 for an interrupt, 143 for a termination.
    """

    def __init__(self, exit_code: int = 130) -> None:
        self.exit_code = exit_code
        super().__init__("interrupted" if exit_code == 130 else "terminated")

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.exit_code,)
