"""Images per second from JPEG files to float batches, several ways, and with a model behind it.

    python benchmarks/data_path.py --shared ../shared --json data_path.json --markdown data_path.md

All ways prepare the same files for the same model: short side 256, centre 224, /255, mean and
standard deviation, [N,3,224,224]. The published example's way squashes instead, as it did. Rounds
are interleaved, so that drift hits all alike; a figure is the median with the quartiles. Decoding
alone is the limit: no way can be faster. The second table is about a pass with a model behind it:
`cores / (decode + inference core-seconds an image)` is the limit there, and a pass from the cache
cannot be faster than inference on arrays that are ready. Core-seconds are the process's own, so
they hold on a busy machine; images per second do not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantize.data.cache import ArrayCache
from quantize.data.datasets import digest_samples
from quantize.data.images import decode
from quantize.data.loader import batches
from quantize.data.resize import resize
from quantize.data.transforms import Pipeline, Preset
from quantize.evaluation import evaluate
from quantize.measure import predictor
from quantize.plan import Batch, Sample
from quantize.runtime import cores, cpu

BATCH = 16
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
PIPELINE = Pipeline((Preset("short_side"),))

Array = NDArray[Any]


@dataclass
class Way:
    """One way, and what its rounds took.

    Attributes:
        name: as the table calls it.
        run: goes over all images once.
        wall: seconds of each round.
        core: core-seconds of each round.
    """

    name: str
    run: Callable[[], None]
    wall: list[float] = field(default_factory=list)
    core: list[float] = field(default_factory=list)

    def round(self) -> None:
        """Once more."""
        wall, core = time.perf_counter(), time.process_time()
        self.run()
        self.wall.append(time.perf_counter() - wall)
        self.core.append(time.process_time() - core)


def published(path: Path) -> Array:
    """PIL, then a resize in OpenCV's arithmetic, then numpy: one image at a time.

    OpenCV itself where it is installed.
    """
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"))
    values = _cv_resize(image).astype(np.float32) / 255
    return ((values - MEAN) / STD).transpose(2, 0, 1)


def _cv_resize(image: Array) -> Array:
    try:
        import cv2
    except ImportError:
        return resize(image, 224, 224, "bilinear")
    return cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)


def pillow(path: Path) -> Array:
    """As torchvision's transforms do on Pillow images: resize, crop, to float, normalise."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    scale = 256 / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    values = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1))


def by_threads(one: Callable[[Path], Array], files: list[Path], threads: int) -> None:
    """Prepare and stack, so many images at a time in threads."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), BATCH):
            np.stack(list(pool.map(one, files[start : start + BATCH])))


def one_by_one(one: Callable[[Path], Array], files: list[Path]) -> None:
    """Prepare and stack in this thread."""
    for start in range(0, len(files), BATCH):
        np.stack([one(file) for file in files[start : start + BATCH]])


def decoding(files: list[Path]) -> None:
    """Nothing but decoding, on all cores."""
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(decode, files):
            pass


def ours(samples: list[Sample], cache: ArrayCache | None = None) -> Any:
    """The package's loader."""
    return batches(
        samples, PIPELINE, batch_size=BATCH, workers=cores(), unreadable=None, cache=cache
    )


def drain(made: Any) -> None:
    """Take all batches and do nothing with them."""
    for _ in made:
        pass


def ways(samples: list[Sample], cache: ArrayCache) -> list[Way]:
    """From files to batches."""
    files = [Path(sample.source) for sample in samples]
    return [
        Way("decoding alone", lambda: decoding(files)),
        Way("this package", lambda: drain(ours(samples))),
        Way("this package, from its cache", lambda: drain(ours(samples, cache))),
        Way("Pillow as torchvision, all cores", lambda: by_threads(pillow, files, cores())),
        Way("Pillow as torchvision, one thread", lambda: one_by_one(pillow, files)),
        Way("published example, one at a time", lambda: one_by_one(published, files)),
    ]


def passes(samples: list[Sample], cache: ArrayCache, model: Path) -> list[Way]:
    """The same with a model behind it; the first is inference alone."""
    predict = predictor(model)
    ready: list[Batch] = list(ours(samples))
    return [
        Way("batches alone", lambda: drain(ours(samples))),
        Way("inference alone", lambda: drain([evaluate(predict, ready)])),
        Way("first pass", lambda: drain([evaluate(predict, ours(samples))])),
        Way("pass from the cache", lambda: drain([evaluate(predict, ours(samples, cache))])),
    ]


def table(measured: list[Way], images: int) -> list[str]:
    """Markdown."""
    rows = [
        "| way | images/s, median (quartiles) | core-ms an image |",
        "| --- | ---: | ---: |",
    ]
    for way in measured:
        rates = sorted(images / seconds for seconds in way.wall)
        low, high = np.percentile(rates, [25, 75])
        core = 1e3 * statistics.median(way.core) / images
        rate = f"{statistics.median(rates):.0f} ({low:.0f} to {high:.0f})"
        rows.append(f"| {way.name} | {rate} | {core:.2f} |")
    return rows


def limits(measured: list[Way]) -> dict[str, float]:
    """How near the passes come to what is possible, as ratios: best round against best round."""
    alone, inference, first, cached = measured
    needed = (min(alone.core) + min(inference.core)) / cores()
    return {
        "first pass, of cores / core-seconds": needed / min(first.wall),
        "first pass, core-seconds against its parts": needed * cores() / min(first.core),
        "cached pass, of inference alone": min(inference.wall) / min(cached.wall),
        "cached pass, core-seconds against inference": min(inference.core) / min(cached.core),
    }


def main() -> None:
    """Measure and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="few images: does it run?")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    images, rounds = (32, 2) if chosen.quick else (chosen.images, chosen.rounds)
    files = sorted((chosen.shared / "data" / "imagenet-sample").rglob("*.JPEG"))
    files = files or sorted((chosen.shared / "data" / "imagenet-sample").rglob("*.jp*g"))
    samples = digest_samples([(file, None) for file in files[:images]], cores())
    model = chosen.shared / "models" / "mobilenet_v1_0.75_224.onnx"
    with tempfile.TemporaryDirectory() as folder, ArrayCache(Path(folder) / "c", 1 << 32) as cache:
        drain(ours(samples, cache))
        loading, running = ways(samples, cache), passes(samples, cache, model)
        for _ in range(rounds):
            for way in (*loading, *running):
                way.round()
    near = limits(running)
    lines = [f"{cpu().name}, {cores()} cores; {len(samples)} images, {rounds} rounds", ""]
    lines += [*table(loading, len(samples)), "", *table(running, len(samples)), ""]
    lines += [f"- {name}: {100 * ratio:.0f} %" for name, ratio in near.items()]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text)
    if chosen.json:
        rounds_of = {w.name: {"wall": w.wall, "core": w.core} for w in (*loading, *running)}
        content = {"cpu": asdict(cpu()), "images": len(samples), "ways": rounds_of, "near": near}
        chosen.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
