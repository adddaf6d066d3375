"""The one door to MLflow: a client that says nothing, phones nobody, and gives up in time.

MLflow reads its settings from the environment; they are put there while a store is open and taken
away again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from quantize.errors import Interrupted, TrackingError
from quantize.files import check_writable, is_there
from quantize.tracking.record import Record

_T = TypeVar("_T")
_ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it sets its logger up when it is imported
}
_UNLESS_SET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""Its own would try for minutes before it says that nobody is there."""

_SCHEMES = (
    "sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks", "file",
)  # fmt: skip
_SQLITE = b"SQLite format 3\0"
_BATCH = 100
"""Values that one request may hold."""

_MOST_REASON = 300


class Store:
    """A tracking store, for use as a context manager.

    Args:
        uri: where it is.

    Raises:
        TrackingError: MLflow is missing, or the address is none.
        OutputError: a local store cannot be written.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._artifacts = _check_address(uri)
        self._exit = contextlib.ExitStack()
        self._client: Any = None

    def __enter__(self) -> Store:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_settings())
            self._client = self._asked(lambda: _client(self._uri))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def record(
        self, experiment: str, record: Record, artifacts: Mapping[str, Path]
    ) -> tuple[str, bool]:
        """Record a run, unless the same is there.

        Args:
            experiment: its name; made where there is none.
            record: parameters, metrics, tags.
            artifacts: path in the store -> file or folder.

        Returns:
            The run's id, and whether it was there.

        Raises:
            TrackingError: the store refused; a run that was begun is marked as failed.
        """
        where = self._asked(lambda: self._experiment(experiment))
        known = self._asked(lambda: self._known(where, record.tags["quantize.key"]))
        if known:
            return known, True
        started = round(1000 * record.started)
        made = self._asked(
            lambda: self._client.create_run(where, started, record.tags, record.name).info.run_id
        )
        try:
            self._asked(lambda: self._fill(made, record, artifacts))
            finished = round(1000 * record.finished)
            self._asked(lambda: self._client.set_terminated(made, "FINISHED", finished))
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | Interrupted)
            with contextlib.suppress(Exception):  # the first reason is the one to tell
                self._client.set_terminated(made, "KILLED" if stopped else "FAILED")
            raise
        return made, False

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name, self._artifacts))
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {name!r} of {without_password(self._uri)} is deleted",
                "restore it, or give --experiment",
            )
        return str(found.experiment_id)

    def _known(self, experiment: str, key: str) -> str | None:
        """A finished run with this key."""
        query = f"tags.`quantize.key` = '{key}' and attributes.status = 'FINISHED'"
        found = self._client.search_runs([experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _fill(self, run: str, record: Record, artifacts: Mapping[str, Path]) -> None:
        from mlflow.entities import Metric, Param

        at = round(1000 * record.finished)
        params = [Param(key, value) for key, value in record.params.items()]
        metrics = [Metric(one.key, one.value, at, one.step) for one in record.metrics]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(run, params=params[start : start + _BATCH])
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + _BATCH])
        for name, path in artifacts.items():
            if path.is_dir():
                self._client.log_artifacts(run, str(path), name)
            else:
                self._client.log_artifact(run, str(path), name.rpartition("/")[0] or None)

    def _asked(self, ask: Callable[[], _T]) -> _T:
        """The answer, or one line that says why there is none."""
        try:
            return ask()
        except TrackingError:
            raise
        except Exception as error:  # MLflow's own, SQLAlchemy's, requests', an OSError
            reason = _scrubbed(str(error) or type(error).__name__, self._uri)
            raise TrackingError(
                f"tracking store {without_password(self._uri)} cannot be used: {reason}",
                "check --uri, and that the store is there",
            ) from error


def without_password(uri: str) -> str:
    """The address as it may be shown."""
    return re.sub(r"(?<=://)([^/@]*)@", "***@", uri)


def _client(uri: str) -> Any:
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise TrackingError(
            f"MLflow cannot be imported: {error}", "pip install 'quantize[mlflow]'"
        ) from error
    return MlflowClient(tracking_uri=uri)


def _check_address(uri: str) -> str | None:
    """Refuse what MLflow would take minutes to refuse, or would keep nowhere.

    Returns:
        Where a local database's artifacts go: beside it, not into the working directory.
    """
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    if "\n" in uri or not uri.isprintable() or scheme not in _SCHEMES:
        raise TrackingError(
            f"--uri {without_password(uri)[:100]!r} is no address of a tracking store",
            "such as sqlite:///mlflow.db or http://host:5000",
        )
    if scheme != "sqlite":
        return None
    place = uri.partition(":///")[2].partition("?")[0]
    if not place or place == ":memory:":
        raise TrackingError(f"--uri {uri} keeps nothing", "name a file: sqlite:///mlflow.db")
    database = Path(place)
    check_writable(database)
    if is_there(database) and database.stat().st_size:
        with database.open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                raise TrackingError(f"{database} is no SQLite database", "name another file")
    return (database.absolute().parent / "mlruns").as_uri()


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """MLflow's settings, and its silence, as long as a store is open."""
    wanted = {k: v for k, v in _UNLESS_SET.items() if k not in os.environ} | _ALWAYS
    before = {key: os.environ.get(key) for key in wanted}
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    os.environ.update(wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _scrubbed(reason: str, uri: str) -> str:
    """A reason in one short line without the address's password."""
    told = re.search(r"://[^/@:]*:([^/@]+)@", uri)
    for secret in {told[1], unquote(told[1])} if told else ():
        reason = reason.replace(secret, "***")
    line = without_password(" ".join(reason.split()))
    return line if len(line) <= _MOST_REASON else f"{line[: _MOST_REASON - 1]}…"
