"""onnxruntime's own quantizer: pre-processed as its documentation asks, QDQ, per channel, min-max.

python by_onnxruntime.py JOB.json
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


class Images(CalibrationDataReader):
    """The calibration images, one at a time."""

    def __init__(self, name, images):
        self.rest = ({name: images[i : i + 1]} for i in range(len(images)))

    def get_next(self):
        """The next feed, or None."""
        return next(self.rest, None)


def main():
    """Write the int8 file."""
    job = json.loads(Path(sys.argv[1]).read_text())
    source = str(Path(job["output"]).with_suffix(".prepared.onnx"))
    # Symbolic shapes need no more than what the ordinary inference finds for these networks.
    quant_pre_process(job["model"], source, skip_symbolic_shape=True)
    quantize_static(
        source,
        job["output"],
        Images(job["input"], np.load(job["calibration"], mmap_mode="r", allow_pickle=False)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    main()
