"""NNCF's post-training quantization with its defaults (bias correction on).

The ONNX file is pre-processed as for onnxruntime's own quantizer: NNCF leaves BatchNormalization
behind quantized convolutions, and such a file runs slower than the float one.

python by_nncf.py JOB.json       "format" of the job: onnx, or openvino for an .xml file
"""

import json
import sys
from pathlib import Path

import nncf
import numpy as np


def main():
    """Write the int8 file."""
    job = json.loads(Path(sys.argv[1]).read_text())
    images = np.load(job["calibration"], mmap_mode="r", allow_pickle=False)
    positions = list(range(len(images)))
    if job["format"] == "openvino":
        import openvino

        model = openvino.convert_model(job["model"])
        data = nncf.Dataset(positions, lambda i: np.array(images[i : i + 1]))
        made = nncf.quantize(model, data, subset_size=len(images))
        openvino.save_model(made, job["output"], compress_to_fp16=False)
        return
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = str(Path(job["output"]).with_suffix(".prepared.onnx"))
    quant_pre_process(job["model"], source, skip_symbolic_shape=True)
    data = nncf.Dataset(positions, lambda i: {job["input"]: np.array(images[i : i + 1])})
    made = nncf.quantize(onnx.load(source), data, subset_size=len(images))
    onnx.save(made, job["output"])


if __name__ == "__main__":
    main()
