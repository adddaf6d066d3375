"""onnx-neural-compressor 1.0: its static quantization with its own defaults for a CPU.

python by_onnx_neural_compressor.py JOB.json
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize


class Images(data_reader.CalibrationDataReader):
    """The calibration images, one at a time, from the start after a rewind."""

    def __init__(self, name, images):
        self.name, self.images = name, images
        self.rewind()

    def get_next(self):
        """The next feed, or None."""
        return next(self.rest, None)

    def rewind(self):
        """Start over."""
        self.rest = ({self.name: self.images[i : i + 1]} for i in range(len(self.images)))


def main():
    """Write the int8 file."""
    job = json.loads(Path(sys.argv[1]).read_text())
    images = np.load(job["calibration"], mmap_mode="r", allow_pickle=False)
    settings = config.StaticQuantConfig(
        calibration_data_reader=Images(job["input"], images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    quantize(job["model"], job["output"], settings)
    if not Path(job["output"]).is_file():
        sys.exit("it wrote no file")


if __name__ == "__main__":
    main()
