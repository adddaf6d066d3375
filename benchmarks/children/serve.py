"""One runtime in a process of its own: loads files once, then answers a line of JSON with another.

    {"op": "load", "key", "path", "threads", "images", "batch"}   -> {"seconds"}
    {"op": "run", "key", "untimed", "repeats"}                    -> {"seconds"}, of one run
    {"op": "predict", "key", "images", "scores"}                  -> {"count"}, written as .npy
    {"op": "drop"}                                                -> {}

Whatever goes wrong is answered as {"failed": one line}. It needs numpy and the runtime, nothing
of this project, because each peer has an environment of its own. It ends when its input does.
"""

import json
import os
import sys
import time

import numpy as np


class OnnxRuntime:
    """A file in onnxruntime's CPU provider."""

    def __init__(self, path, threads, shape):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin after a run would slow whoever has the next turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images):
        """The scores of images float32 [N,C,H,W]."""
        return self.session.run(None, {self.input: images})[0]


class OpenVino:
    """A file in OpenVINO's CPU plugin, for this very shape, which it is fastest with."""

    def __init__(self, path, threads, shape):
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape(list(shape))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_HYPER_THREADING": True,
        }
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, images):
        """The scores of images float32 [N,C,H,W], N as loaded."""
        self.request.infer({0: images}, share_inputs=True)
        return self.request.get_output_tensor(0).data


RUNTIMES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


class Server:
    """The loaded files."""

    def __init__(self, runtime):
        self.runtime = RUNTIMES[runtime]
        self.loaded = {}

    def load(self, key, path, threads, images, batch):
        """Load a file and run it once on the first images."""
        few = np.load(images, mmap_mode="r", allow_pickle=False)[:batch]
        few = np.ascontiguousarray(np.resize(few, (batch, *few.shape[1:])))
        start = time.perf_counter()
        run = self.runtime(path, threads, few.shape)
        run(few)
        self.loaded[key] = run, few
        return {"seconds": time.perf_counter() - start}

    def run(self, key, untimed, repeats):
        """Time runs; those before are not timed, since the others' turns emptied the caches."""
        run, images = self.loaded[key]
        for _ in range(untimed):
            run(images)
        start = time.perf_counter()
        for _ in range(repeats):
            run(images)
        return {"seconds": (time.perf_counter() - start) / repeats}

    def predict(self, key, images, scores):
        """Write the scores of all images, a batch at a time."""
        run, few = self.loaded[key]
        every = np.load(images, mmap_mode="r", allow_pickle=False)
        found = []
        for start in range(0, len(every), len(few)):
            piece = np.asarray(every[start : start + len(few)])
            filled = np.concatenate([piece, few[: len(few) - len(piece)]])
            found.append(np.array(run(filled))[: len(piece)])
        np.save(scores, np.concatenate(found).astype(np.float32), allow_pickle=False)
        return {"count": len(every)}

    def drop(self):
        """Forget the files."""
        self.loaded.clear()
        return {}


def main():
    """Answer until the input ends. Libraries that print must not be taken for answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("op"))(**request)
        except Exception as error:
            told = " ".join(str(error).split()) or "no reason given"
            answer = {"failed": f"{type(error).__name__}: {told}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
