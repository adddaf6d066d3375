"""Configuration: INC's 1.x YAML schema and this package's additions -> frozen, validated values.

The only place with defaults, and the only door to yaml and pydantic. Read in this order: `text`
(YAML, safely), `overrides`, `schema` with `fields`, `loaders` and `rules` (what may stand where),
`configuration` (the value that the other rooms get), `tunable` (what `tune` refuses).
"""

from quantize.config.configuration import Config, load_config, parse_config
from quantize.config.loaders import DataLoader, UnsupportedDataset, UnsupportedTransform
from quantize.config.rules import ActivationRule, OpRule, WeightRule, pinned_float
from quantize.config.schema import TopK, UnsupportedMetric
from quantize.config.tunable import INC_STRATEGIES, check_tunable

__all__ = [
    "INC_STRATEGIES",
    "ActivationRule",
    "Config",
    "DataLoader",
    "OpRule",
    "TopK",
    "UnsupportedDataset",
    "UnsupportedMetric",
    "UnsupportedTransform",
    "WeightRule",
    "check_tunable",
    "load_config",
    "parse_config",
    "pinned_float",
]
