"""NNCF's post-training quantization with its defaults (bias correction on).

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

    data = nncf.Dataset(positions, lambda i: {job["input"]: np.array(images[i : i + 1])})
    made = nncf.quantize(onnx.load(job["model"]), data, subset_size=len(images))
    onnx.save(made, job["output"])


if __name__ == "__main__":
    main()
