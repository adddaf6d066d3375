"""Making the int8 file of a plan: who writes it, and how it is finished."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantize.calibrate import calibrate
from quantize.engines import inc, ort
from quantize.engines.refill import refilled, shape_of
from quantize.files import make_folder, npz_bytes, write_atomic
from quantize.graph import io
from quantize.graph.descriptions import without_descriptions
from quantize.graph.head import restore_signature
from quantize.graph.order import sort_nodes
from quantize.graph.prepare import Prepared
from quantize.graph.shield import shield_float_layers
from quantize.graph.strides import advance
from quantize.graph.widen import widen
from quantize.job import Job
from quantize.journal import STATISTICS
from quantize.plan import Encodings, Plan, Statistics
from quantize.planning import base_plan, inc_rules
from quantize.remedies import Repairs, at_work, plain_encodings, repair, rounded_from, walks
from quantize.repair.bench import WALKED, Bench
from quantize.runtime import cores
from quantize.statistics_store import load_or_calibrate
from quantize.versions import versions

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class Workshop:
    """Writes the int8 file of a plan.

    Attributes:
        job: the inputs.
        prepared: the working copy of the float model.
        folder: where candidates go.
    """

    job: Job
    prepared: Prepared
    folder: Path
    _repairs: dict[str, Repairs] = field(default_factory=dict)
    _written: dict[Hashable, onnx.ModelProto] = field(default_factory=dict)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the calibration images: measured once, when first needed, and kept on disk."""
        images, model = self.job.calibration, self.prepared.model
        parts = {
            "model": hashlib.sha256(io.to_bytes(model)).hexdigest(),
            "images": [sample.digest for sample in images.samples],
            "preprocessing": images.pipeline.key(),
            "versions": versions(),
        }
        return load_or_calibrate(
            self.folder.parent / STATISTICS,
            parts,
            lambda: calibrate(model, images.arrays(), threads=cores()),
        )

    @cached_property
    def prepared_file(self) -> Path:
        """The working copy as a file, for engines that read files."""
        path = self.folder / "prepared.onnx"
        io.save(self.prepared.model, path)
        return path

    def make(self, plan: Plan) -> Path:
        """Write the plan's int8 model, with the float file's signature.

        Raises:
            EngineError: the engine failed.
        """
        made = self._by_inc(plan) if plan.engine == "inc" else self._by_onnxruntime(plan)
        return self.finish(made, f"{plan.key}.onnx")

    def see_images(self, plan: Plan) -> None:
        """Do now what `make` would first do: all that it needs images for.

        Raises:
            QuantizeError: of the images; BudgetError among them.
        """
        _ = self._bench if plan.repairs or plan.scheme.portable else self.statistics

    def finish(self, made: onnx.ModelProto, name: str) -> Path:
        """Give an engine's model the declared signature and write it."""
        path = self.folder / name
        io.save(finished(made, self.job.model.proto), path)
        return path

    def encodings(self, plan: Plan) -> Encodings:
        """The scales, and what the plan's repairs decide.

        Raises:
            EngineError: a repair is unknown.
            ModelError: a node cannot be run by itself.
        """
        if plan.repairs:
            plan = at_work(self._bench, plan)
        if not plan.repairs and not plan.scheme.portable:
            method = plan.scheme.method
            return plain_encodings(self.prepared.model, self.statistics, method)
        if plan.keep_float and walks(plan):
            return repair(self._bench, plan).encodings
        wanted = replace(plan, keep_float=())
        if wanted.key not in self._repairs:
            self._repairs[wanted.key] = repair(self._bench, wanted)
        return self._repairs[wanted.key].leaving(plan.keep_float)

    def rounded_from(self, plan: Plan) -> tuple[onnx.ModelProto, Statistics | None]:
        """The float model whose weights the plan rounds, and the statistics of its tensors.

        None stands for statistics that INC took by itself.
        """
        if plan.engine == "inc":
            return self.prepared.model, None
        if not plan.repairs:
            return self.prepared.model, self.statistics
        return rounded_from(self._bench, plan)

    @cached_property
    def _bench(self) -> Bench:
        few = self.job.calibration.spread(WALKED)
        return Bench(
            self.prepared.model,
            self.statistics,
            np.concatenate(list(few.arrays())),
            cores(),
            frozenset(base_plan("onnxruntime", self.job.config, self.prepared.model).keep_float),
            self.job.calibration.deadline,
        )

    def _by_onnxruntime(self, plan: Plan) -> onnx.ModelProto:
        encodings = self.encodings(plan)
        kept = replace(encodings, source=self.job.model.sha256)
        write_atomic(self.folder / f"{plan.key}.npz", npz_bytes(kept.to_arrays()))
        form = plan.format, plan.scheme, plan.keep_float, shape_of(encodings)
        if form in self._written:
            again = refilled(self._written[form], encodings)
            if again is not None:
                return again
        made = ort.quantize(self.prepared.model, self.statistics, plan, encodings)
        if encodings.constants:  # else the weights are rounded by the quantizer's own scales
            self._written.clear()  # one is enough: candidates of one graph follow each other
            self._written[form] = copy.deepcopy(made)
        return made

    def _by_inc(self, plan: Plan) -> onnx.ModelProto:
        folder = self.folder / f"inc-{plan.key}"
        make_folder(folder)
        try:
            path = inc.quantize_default(
                self.prepared_file,
                self.job.calibration.arrays(),
                plan,
                folder,
                rules=inc_rules(self.job.config, self.prepared.model),
                deadline=self.job.calibration.deadline,
            )
            return io.load(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def finished(made: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """An engine's model as it ships: sorted, made quick, shielded, with the declared signature.

    Nothing in it says where the float model was made.
    """
    sort_nodes(made.graph)
    advance(made)
    widen(made)
    shield_float_layers(made)
    restore_signature(made, original)
    without_descriptions(made)
    return made
