"""A plan from JSON that nobody vouches for: of a plan.json, a report.json or a journal."""

from __future__ import annotations

from typing import cast, get_args

from quantize.checked_json import Value
from quantize.plan import EngineName, Format, Granularity, Method, Plan, Scheme


def plan_of(value: Value) -> Plan:
    """A plan as JSON; what it leaves out, as older ones and edited ones do, is as in a plain plan.

    The hash of its encodings is not read.

    Raises:
        The error of the value: it is of another kind, or unknown; names it.
    """
    scheme, repairs, keep_float = map(value.maybe, ("scheme", "repairs", "keep_float"))
    walked = value.maybe("walked")
    return Plan(
        cast("EngineName", value.at("engine").one_of(*get_args(EngineName))),
        cast("Format", value.at("format").one_of(*get_args(Format))),
        Scheme() if scheme is None else _scheme(scheme),
        () if repairs is None else repairs.texts(),
        () if keep_float is None else keep_float.texts(),
        walked=None if walked is None else walked.count(),
    )


def _scheme(value: Value) -> Scheme:
    granularity, method = map(value.maybe, ("weight_granularity", "method"))
    reduced, portable = map(value.maybe, ("reduce_range", "portable"))
    usual = Scheme()
    return Scheme(
        cast("Granularity", granularity.one_of(*get_args(Granularity)))
        if granularity
        else usual.weight_granularity,
        cast("Method", method.one_of(*get_args(Method))) if method else usual.method,
        reduced.flag() if reduced else usual.reduce_range,
        portable.flag() if portable else usual.portable,
    )
