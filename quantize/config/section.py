"""The base of every part of the schema: frozen, and an unknown key is named with the nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from quantize.config.complaints import expected, unknown


class Section(BaseModel):
    """A mapping with known keys. `null` reads as an empty one, as INC reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, data: Any) -> Any:
        if data is None:
            return {}
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise expected("keys with values below it", data)
        known = [info.alias or name for name, info in cls.model_fields.items()]
        for key in data:
            if key not in known:
                raise unknown(key, known)
        return data
