"""Datasets and transforms: from INC's YAML names and options to the data room's values.

Names, fields, types and defaults stand in `quantize.data` alone; this file reads them there.
What INC knows and the data room does not is kept as unsupported, so that the file loads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from quantize.config.complaints import expected, fault, unknown
from quantize.config.fields import Whole, one_of, words
from quantize.config.section import Section
from quantize.config.text import KeyPath
from quantize.data.datasets import DATASETS
from quantize.data.transforms import TRANSFORMS

DEFAULT_BATCH_SIZE = 64

_FOREIGN_DATASETS = (
    "COCONpy", "COCORaw", "COCORecord", "GLUE", "ImageRecord", "TFRecordDataset", "VOCRecord",
    "bert", "mzbert", "sparse_dummy_v2", "style_transfer",
)  # fmt: skip
_FOREIGN_TRANSFORMS = (
    "KerasRescale", "PaddedCenterCrop", "ParseDecodeCoco", "ParseDecodeImagenet",
    "ParseDecodeVoc", "QuantizedInput", "ResizeWithRatio", "ToNDArray", "ToPILImage", "ToTensor",
)  # fmt: skip
_FOREIGN_OPTIONS = {
    "Normalize": ("rescale",),
    "ResizeCropImagenet": ("random_flip_left_right", "scale", "slice_crop"),
}
"""Options that INC reads, but not with ONNX Runtime."""


@dataclasses.dataclass(frozen=True)
class _Unsupported:
    """What INC's configurations may have, and a job here cannot use.

    Attributes:
        name: as in the YAML.
        options: what stood below it, as JSON.
    """

    name: str
    options: str


class UnsupportedDataset(_Unsupported):
    """A dataset of INC's that is not for image classification."""


class UnsupportedTransform(_Unsupported):
    """A transform of INC's that its ONNX Runtime backend does not have."""


# ------------------------------------------------------------------- YAML -> values


def read_dataset(value: Any, info: ValidationInfo) -> Any:
    """Read `dataset: {<name>: {<options>}}`, exactly one name.

    Raises:
        PydanticCustomError: naming the key below `dataset`.
    """
    options = _mapping(value, ())
    if len(options) != 1:
        found = ", ".join(options) or "none"
        raise fault(f"names {found}", f"name one dataset out of {', '.join(DATASETS)}")
    name = next(iter(options))
    if name in DATASETS:
        return _build(DATASETS[name], name, _mapping(options[name], (name,)), _folder(info))
    if name in _FOREIGN_DATASETS:
        return UnsupportedDataset(name, json.dumps(options[name], default=str))
    raise unknown(name, DATASETS)


def read_transforms(value: Any, info: ValidationInfo) -> tuple[Any, ...]:
    """Read `transform: {<name>: {<options>}, ...}`, in the order of the file.

    Raises:
        PydanticCustomError: naming the key below `transform`.
    """
    return tuple(
        _read_transform(name, options, _folder(info))
        for name, options in _mapping(value, ()).items()
    )


def _read_transform(name: str, value: Any, folder: Path) -> Any:
    options = _mapping(value, (name,)) if name in TRANSFORMS else {}
    if name in _FOREIGN_TRANSFORMS or set(options) & set(_FOREIGN_OPTIONS.get(name, ())):
        return UnsupportedTransform(name, json.dumps(value, default=str))
    if name in TRANSFORMS:
        return _build(TRANSFORMS[name], name, options, folder)
    raise unknown(name, TRANSFORMS)


def _folder(info: ValidationInfo) -> Path:
    """Where relative paths start."""
    return info.context["folder"] if info.context else Path.cwd()


def _mapping(value: Any, path: KeyPath) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise expected("names with options below them", value, path)
    return value


# -------------------------------------------------------------- options -> dataclass


def _build(cls: type, name: str, options: Mapping[str, Any], folder: Path) -> Any:
    """Make the data room's value from the options below its name."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = get_type_hints(cls)
    for key in options:
        if key not in fields:
            raise unknown(key, fields, (name,))
    for key, field in fields.items():
        if key not in options and _required(field):
            raise fault("is missing", "add it", (name, key))
    values = {
        key: _convert(hints[key], value, folder, (name, key)) for key, value in options.items()
    }
    try:
        return cls(**values)
    except ValueError as error:
        raise fault(f"cannot be used: {error}", "correct its options", (name,)) from error


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, folder: Path, path: KeyPath) -> Any:
    """Read one option as the type that the field declares."""
    kinds = _members(hint)
    if value is None and NoneType in kinds:
        return None
    if Path in kinds:
        return _path(value, folder, path)
    if hint is Any:
        return _frozen(value, path)
    if isinstance(value, bool) and bool not in kinds:
        raise expected(_describe(hint), value, path)
    listed = isinstance(value, str) and any(get_origin(kind) is tuple for kind in kinds)
    try:
        return _adapter(hint).validate_python(words(value) if listed else value)
    except ValidationError as error:
        raise expected(_describe(hint), value, path) from error


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _path(value: Any, folder: Path, path: KeyPath) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise expected("a path", value, path)
    return folder / value


def _frozen(value: Any, path: KeyPath) -> Any:
    if isinstance(value, Mapping):
        raise expected("a value or a list", value, path)
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, path) for item in value)
    return value


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _describe(hint: Any) -> str:
    """A type as a sentence asks for it."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"a list of {count}{names.get(parts[0], 'value').removeprefix('a ')}s"
    members = [kind for kind in _members(hint) if kind is not NoneType]
    return " or ".join(names.get(kind) or _describe(kind) for kind in members)


# ------------------------------------------------------------------- values -> YAML


def dataset_tree(dataset: Any) -> dict[str, Any]:
    """The mapping that `read_dataset` reads."""
    return dict([_named_options(dataset, DATASETS)])


def transforms_tree(transforms: tuple[Any, ...]) -> dict[str, Any]:
    """The mapping that `read_transforms` reads."""
    return dict(_named_options(transform, TRANSFORMS) for transform in transforms)


def _named_options(value: Any, registry: Mapping[str, type]) -> tuple[str, Any]:
    if isinstance(value, _Unsupported):
        return value.name, json.loads(value.options)
    name = next(name for name, cls in registry.items() if cls is type(value))
    pairs = [
        (field.name, getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.init
    ]
    return name, {key: _plain(item) for key, item in pairs if item is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# ------------------------------------------------------------------------- the loader


class LabelBalance(Section):
    """INC's filter that keeps images with `size` boxes."""

    size: Annotated[Whole, Field(gt=0)]


class Filter(Section):
    """Filters of a dataset; none of them is for classification."""

    label_balance: LabelBalance | None = Field(default=None, alias="LabelBalance")


LastBatch = Literal["rollover", "discard"]


class DataLoader(Section):
    """Which images, how they become arrays, and in what batches.

    Attributes:
        batch_size: images per run of the model.
        dataset: a value of one of the classes in `DATASETS`, or `UnsupportedDataset`.
        filter: INC's filters.
        transforms: values of the classes in `TRANSFORMS` or `UnsupportedTransform`, in order;
            the key is `transform`.
        last_batch: whether a last, smaller batch is used or dropped.
        shuffle: read, without effect (as in INC with ONNX Runtime).
        distributed: read, without effect.
    """

    batch_size: Annotated[Whole, Field(gt=0, le=4096)] = DEFAULT_BATCH_SIZE
    dataset: Annotated[Any, PlainValidator(read_dataset), PlainSerializer(dataset_tree)]
    filter: Filter = Filter()
    transforms: Annotated[
        tuple[Any, ...], PlainValidator(read_transforms), PlainSerializer(transforms_tree)
    ] = Field(default=(), alias="transform")
    last_batch: Annotated[LastBatch, one_of(LastBatch)] = "rollover"
    shuffle: bool = False
    distributed: bool = False
