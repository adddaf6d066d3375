"""What can be fetched: the zoo's 18 ResNets and its preprocessing model, each pinned by sha256."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from quantize.errors import ModelError

_FOLDER = "validated/vision/classification/resnet"

SOURCES = (
    "https://huggingface.co/onnxmodelzoo/{name}/resolve/main/{file}",
    f"https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/{_FOLDER}/{{folder}}/{{file}}",
    f"https://media.githubusercontent.com/media/onnx/models/main/{_FOLDER}/{{folder}}/{{file}}",
)
"""Where to ask, in this order: the zoo's successor, its copy of the old zoo, the old zoo itself."""


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: as the zoo calls it.
        size: of the .onnx file in bytes.
        sha256: of the .onnx file, in hex.
    """

    name: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.name}.onnx"

    @property
    def folder(self) -> str:
        """Where the old zoo keeps it."""
        return "preproc" if "preproc" in self.name else "model"


# Name, bytes and sha256 as in the zoo's manifest since June 2022, when the batches became free.
_ROWS = """
resnet18-v1-7 46820737 4e8f8653e7a2222b3904cc3fe8e304cd8b339ce1d05fd24688162f86fb6df52c
resnet34-v1-7 87302588 883a41b2e30ddc2e422c108b091b5e70b92d37dc5c345a2c563dcae27971e2cc
resnet50-v1-7 102583340 af16a04a6ec48ac494065d4439fe9dea590d337b9ca6dc328160ccf04a217b9c
resnet101-v1-7 178914043 760702f6ec0138f71ebac66f4e95d1c72dc9267a8544f4d4667a53075fd0497c
resnet152-v1-7 241816206 b0ec92437bf8c9d0739bf9bafdea9638e13f9e3c1e2fb766ad546cc182fd3f6d
resnet18-v2-7 46806737 3b4d048057854022232aa20bf68262e31718ab7119a17f920b8a2dc1433f824b
resnet34-v2-7 87288587 3d3815e25f4b1ea967e2a526a3b27ef2a03af1725bdc199a63a271c26862d914
resnet50-v2-7 102442452 79102261eb6e5fd7af5d27f41316293e388c5cb691e5d25bfb035c4f64fefe31
resnet101-v2-7 178682301 3a0a819ea0953fb4700b0d98e43540aeee253e5b4c503c552b0c7979fc67767d
resnet152-v2-7 241503848 40fb3f6dd313ba786a2c8077a0ef7d7b4afeda5d037365400d3a7fbc2b1bee64
resnet50-v1-12 102576593 3f03fdef724b22947eed826f1eef1dc5c34151bb4c37d634f1db89dfa2dd1526
resnet50-v1-12-int8 25816052 c234f30975989788b4405f25253275aae247ab6dbdd34aaa69ab0a59ff76f6d0
resnet50-v1-12-qdq 25753167 e6429d274805654c79ba68dc886c1efd4eff95393e747c35d3fdab579febd8a0
resnet50-caffe2-v1-3 102491873 22cbd5723582d9e4636c46da43732980c8a60f8fc74c37f15db522034e6ae84d
resnet50-caffe2-v1-6 102490291 166b367d86f2afe34f7438154f2798d081b13d369df20c75b485b76763c16a0e
resnet50-caffe2-v1-7 102489425 48c377bd20b8e7c1b4a2e371c1badefbb9db906f57bcc5c800a28835c6b988bf
resnet50-caffe2-v1-8 102489425 4f4a244f1485883fbf4faa0f967409a747164733a7b59b2d07d124d6bbd26ae0
resnet50-caffe2-v1-9 102489425 822daa93e11ecd505f282eb16e02d7fa6d7a88a4db0c9f832320798e508ba0dd
resnet-preproc-v1-18 1129 9cda24af90b4cd2ced4167fa36a41956ea0ce5e55c6ae475614a097cb89762c7
"""

TABLE = tuple(
    Entry(name, int(size), sha256)
    for name, size, sha256 in (row.split() for row in _ROWS.split("\n") if row)
)
"""Every model that can be fetched."""


def find(name: str) -> Entry:
    """The model of that name, with or without `.onnx`.

    Raises:
        ModelError: there is none.
    """
    wanted = name.removesuffix(".onnx").lower()
    names = {entry.name: entry for entry in TABLE}
    if wanted in names:
        return names[wanted]
    near = difflib.get_close_matches(wanted[:80], names, n=1)
    advice = f"did you mean {near[0]}? " if near else ""
    raise ModelError(f"no model is called {name[:80]!r}", f"{advice}list: quantize fetch --list")
