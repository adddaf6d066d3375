"""Intel Neural Compressor 2.6, its default candidate: no evaluation, so its first is its last.

python by_inc.py JOB.json        "format" of the job: QDQ or QOperator
"""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np


class Images:
    """The calibration images as INC's loader, batch 1: (image, label) pairs."""

    batch_size = 1

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return ((self.images[i : i + 1], 0) for i in range(len(self.images)))

    def __len__(self):
        return len(self.images)


class Complaints(logging.Handler):
    """The first error that INC logs: it raises none."""

    first = ""

    def emit(self, record):
        """Keep it."""
        if record.levelno >= logging.ERROR and not self.first:
            self.first = " ".join(record.getMessage().split())


def main():
    """Write the int8 file."""
    job = json.loads(Path(sys.argv[1]).read_text())
    os.chdir(job["folder"])  # INC writes its workspace where it is started
    from neural_compressor import PostTrainingQuantConfig, quantization

    images = np.load(job["calibration"], mmap_mode="r", allow_pickle=False)
    settings = PostTrainingQuantConfig(
        approach="static",
        quant_format="QDQ" if job["format"] == "QDQ" else "default",
        calibration_sampling_size=[len(images)],
    )
    complaints = Complaints()
    logging.getLogger("neural_compressor").addHandler(complaints)
    made = quantization.fit(job["model"], settings, calib_dataloader=Images(images))
    if made is None:
        sys.exit(complaints.first or "INC found no model")
    made.save(job["output"])


if __name__ == "__main__":
    main()
