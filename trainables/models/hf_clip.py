"""Models in the format of transformers' ``CLIPModel``, read without transformers: its files as open_clip has them.

A folder of this format holds ``config.json`` and ``model.safetensors``. What open_clip's ViT and text transformer would
compute in another way is refused. Only functions that open weights or the tokenizer import torch and open_clip.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.models.model_files import plain_name, written_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.models.towers import OpenClip

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
VOCABULARY_FILE = "vocab.json"
_OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
_NESTED_PROCESSOR_FILE = "processor_config.json"
"""File of transformers 5, which prefers its key ``image_processor`` to ``PROCESSOR_FILE``."""
_TOKENIZER_FILE = "tokenizer.json"
_INDEX_FILE = "model.safetensors.index.json"
"""Name of a weight -> file, of weights in several files."""
_WEIGHTS_FILES = (WEIGHTS_FILE, _INDEX_FILE, "pytorch_model.bin")
"""In the order in which transformers looks for them."""

VOCABULARY_SIZE = 49408
"""Tokens of CLIP's byte-pair encoding."""
END_OF_TEXT = VOCABULARY_SIZE - 1
_END_BY_ARGMAX = 2
"""``eos_token_id`` of early configurations; transformers then takes the largest id of a prompt, as open_clip does."""
LAYER_NORM_EPS = 1e-5
SPECIAL_TOKENS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""open_clip's name -> transformers' name."""
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
"""``hidden_act`` -> whether it is QuickGELU."""
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""Pillow's number in ``resample`` -> open_clip's name."""

# Values of keys that a file leaves out: defaults of CLIPTextConfig, CLIPVisionConfig, CLIPImageProcessor (5.24).
_TOWER = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": LAYER_NORM_EPS}
_TEXT = {
    **_TOWER,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": VOCABULARY_SIZE,
    "max_position_embeddings": 77,
    "eos_token_id": END_OF_TEXT,
}
_VISION = {
    **_TOWER,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Layers of a block with a weight and a bias: open_clip's name -> transformers' name."""
_BETWEEN = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers' own spelling
    "visual.ln_post": "vision_model.post_layernorm",
}
_SINGLE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection", "visual.proj")
"""open_clip multiplies features by a matrix (width, d); transformers has a linear layer, whose weight is (d, width)."""
_COUNTERS = frozenset(f"{tower}_model.embeddings.position_ids" for tower in ("text", "vision"))
"""0, 1, 2, ...: transformers before 4.31 wrote them as weights."""


@dataclass(frozen=True)
class ClipModelConfig:
    """A ``CLIPModel`` as open_clip describes models."""

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    assumed: str | None
    """Facts that the folder does not state and that were assumed; to be shown to the user."""


def is_transformers_folder(folder: Path) -> bool:
    """Return whether a folder has transformers' configuration and none of open_clip's."""
    return (folder / CONFIG_FILE).is_file() and not (folder / _OPEN_CLIP_CONFIG_FILE).is_file()


def clip_model_config(folder: Path) -> ClipModelConfig:
    """Return the description of a folder's model; its weights need not exist.

    Raises:
        ValueError: it is no ``CLIPModel``, or open_clip's towers cannot compute it; the message names key and value.
    """
    config = _json(folder / CONFIG_FILE)
    kind, classes = config.get("model_type"), config.get("architectures") or ["CLIPModel"]
    if kind != "clip":
        raise _refused("model_type", kind, "of transformers' models only 'clip' is supported")
    if "CLIPModel" not in classes:
        raise _refused("architectures", classes, "only 'CLIPModel' has both towers and their projections")
    vision, text = _section(config, "vision_config", _VISION), _section(config, "text_config", _TEXT)
    activations = {"vision_config": vision["hidden_act"], "text_config": text["hidden_act"]}
    for section, activation in activations.items():
        if activation not in ACTIVATIONS:
            raise _refused(f"{section}.hidden_act", activation, f"supported are {' and '.join(ACTIVATIONS)}")
    if len(set(activations.values())) > 1:
        wanted = f"text_config.hidden_act {text['hidden_act']!r}; open_clip has one activation for both towers"
        raise _refused("vision_config.hidden_act", vision["hidden_act"], wanted)
    if vision["num_channels"] != 3:
        raise _refused("vision_config.num_channels", vision["num_channels"], "images have 3")
    if text["vocab_size"] != VOCABULARY_SIZE:
        raise _refused("text_config.vocab_size", text["vocab_size"], f"CLIP's tokenizer has {VOCABULARY_SIZE} tokens")
    if text["eos_token_id"] not in (END_OF_TEXT, _END_BY_ARGMAX):
        wanted = f"CLIP's tokenizer ends a prompt with {END_OF_TEXT}"
        raise _refused("text_config.eos_token_id", text["eos_token_id"], wanted)
    sizes = _sizes("text_config", text), _sizes("vision_config", vision)
    projection = {"projection_dim": 512, **{name: value for name, value in config.items() if value is not None}}
    side = _count("vision_config.image_size", vision["image_size"])
    model_cfg = {
        "embed_dim": _count("projection_dim", projection["projection_dim"]),
        "quick_gelu": ACTIVATIONS[vision["hidden_act"]],
        "vision_cfg": {
            "image_size": side,
            "patch_size": _count("vision_config.patch_size", vision["patch_size"]),
            "width": sizes[1].width,
            "layers": sizes[1].layers,
            "head_width": sizes[1].width // sizes[1].heads,
            "mlp_ratio": sizes[1].mlp_ratio,
        },
        "text_cfg": {
            "context_length": _count("text_config.max_position_embeddings", text["max_position_embeddings"]),
            "vocab_size": VOCABULARY_SIZE,
            "width": sizes[0].width,
            "layers": sizes[0].layers,
            "heads": sizes[0].heads,
            "mlp_ratio": sizes[0].mlp_ratio,
        },
    }
    preprocess_cfg, assumed = _preprocessing(folder, side)
    return ClipModelConfig(model_cfg, preprocess_cfg, assumed)


def weights_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights.

    Raises:
        ValueError: there are none, or a file of several is missing.
    """
    first = next((folder / name for name in _WEIGHTS_FILES if (folder / name).is_file()), None)
    if first is None:
        raise ValueError(f"{folder} holds no weights: it has none of {', '.join(_WEIGHTS_FILES)}")
    if first.name != _INDEX_FILE:
        return [first]
    files = [folder / name for name in _indexed(first)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {missing[0]}, which {_INDEX_FILE} names")
    return files


def load_clip_model(folder: Path) -> tuple[OpenClip, ClipModelConfig]:
    """Return open_clip's model with a folder's weights, and its description.

    Raises:
        ValueError: the model is not supported (``clip_model_config``), or its weights are missing or have other names.
        RuntimeError: weights have other shapes than ``config.json`` says.
    """
    import open_clip
    from open_clip.model import set_model_preprocess_cfg

    config = clip_model_config(folder)
    model = open_clip.CLIP(**copy.deepcopy(config.model_cfg))
    model.load_state_dict(_open_clip_state(folder, config.model_cfg))
    set_model_preprocess_cfg(model, config.preprocess_cfg)
    return model, config


def clip_model_tokenizer(folder: Path, context_length: int) -> Callable[[list[str]], Tensor]:
    """Return open_clip's tokenizer, after a comparison with the folder's vocabulary if it has one.

    Raises:
        ValueError: the folder has another vocabulary than CLIP's.
    """
    from open_clip import SimpleTokenizer

    tokenizer: Callable[[list[str]], Tensor] = SimpleTokenizer(context_length=context_length)
    expected = vocabulary(tokenizer)
    for name in (VOCABULARY_FILE, _TOKENIZER_FILE):
        if not (folder / name).is_file():
            continue
        content = _json(folder / name)
        tokens = (content.get("model") or {}).get("vocab") if name == _TOKENIZER_FILE else content
        if tokens != expected:
            raise ValueError(f"{name} is not the vocabulary of CLIP's tokenizer; other tokenizers are not supported")
    return tokenizer


def vocabulary(tokenizer: Any) -> dict[str, int]:
    """Return token -> id of open_clip's ``SimpleTokenizer``, its special tokens under transformers' names."""
    return {SPECIAL_TOKENS.get(token, token): number for token, number in tokenizer.encoder.items()}


def clip_model_state(state: Mapping[str, Tensor], model_cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of an open_clip model under the names and in the shapes of ``CLIPModel``.

    Raises:
        ValueError: the model has other weights than a ``CLIPModel``.
    """
    names = _weight_names(model_cfg)
    _compare(set(names), set(state), "open_clip's weights are not those of a CLIPModel")
    written: dict[str, Tensor] = {}
    for name, theirs in names.items():
        value = state[name].T if name in _TRANSPOSED else state[name]
        if name == "logit_scale":
            value = value.reshape(())
        parts = value.chunk(len(theirs)) if len(theirs) > 1 else (value,)
        written |= {part: tensor.detach().clone().contiguous() for part, tensor in zip(theirs, parts, strict=True)}
    return written


def clip_model_from_hub(repository: str) -> Path | None:
    """Return the folder, in the Hugging Face cache, of a repository with a ``CLIPModel`` and nothing of open_clip's.

    Files that are not in the cache are downloaded, weights last. None: open_clip is to load the repository, or to say
    what is wrong with it.

    Raises:
        ValueError: the model is not supported, see ``clip_model_config``.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetched(name: str, commit: str | None = None) -> Path | None:
        try:
            return Path(hf_hub_download(repository, name, revision=commit))
        except EntryNotFoundError:  # in the repository, or where there is no network in the cache
            return None

    if fetched(_OPEN_CLIP_CONFIG_FILE) is not None or (config := fetched(CONFIG_FILE)) is None:
        return None
    folder, commit = config.parent, config.parent.name
    for name in (PROCESSOR_FILE, _NESTED_PROCESSOR_FILE, VOCABULARY_FILE, _TOKENIZER_FILE):
        fetched(name, commit)
    clip_model_config(folder)
    weights = next((file for name in _WEIGHTS_FILES if (file := fetched(name, commit)) is not None), None)
    if weights is not None and weights.name == _INDEX_FILE:
        for name in _indexed(weights):
            hf_hub_download(repository, name, revision=commit)
    return folder


@dataclass(frozen=True)
class _Sizes:
    width: int
    layers: int
    heads: int
    mlp_ratio: float


def _sizes(section: str, tower: Mapping[str, Any]) -> _Sizes:
    if tower["layer_norm_eps"] != LAYER_NORM_EPS:
        raise _refused(f"{section}.layer_norm_eps", tower["layer_norm_eps"], f"open_clip's is {LAYER_NORM_EPS}")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    width, layers, heads, hidden = (_count(f"{section}.{name}", tower[name]) for name in names)
    if width % heads:
        raise _refused(f"{section}.num_attention_heads", heads, f"it must divide hidden_size {width}")
    return _Sizes(width, layers, heads, _mlp_ratio(width, hidden))


def _mlp_ratio(width: int, hidden: int) -> float:
    """Return the ratio of which open_clip makes ``hidden = int(width * ratio)``; the quotient may be rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _section(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tower's part of ``config.json``; the key with the ending ``_dict`` of early versions overrides it."""
    earlier = config.get(f"{name}_dict")
    stated = earlier if earlier is not None else config.get(name) or {}
    if not isinstance(stated, dict):
        raise _refused(name, stated, "it must be a mapping")
    return {**defaults, **{key: value for key, value in stated.items() if value is not None}}


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(key, value, "it must be a whole number above 0")
    return value


def _refused(key: str, value: Any, wanted: str, file: str = CONFIG_FILE) -> ValueError:
    return ValueError(f"{file} says {key} {value!r}: {wanted}")


def _preprocessing(folder: Path, side: int) -> tuple[dict[str, Any], str | None]:
    """Return open_clip's ``preprocess_cfg`` for images of a side in pixels, and what was assumed."""
    file, stated = _processor(folder)
    said = {**_PROCESSOR, **{key: value for key, value in stated.items() if value is not None}}
    if not str(said["image_processor_type"]).startswith("CLIP"):
        raise _refused("image_processor_type", said["image_processor_type"], "only CLIP's is supported", file)
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if said[key] is not True:
            raise _refused(key, said[key], "open_clip always does it", file)
    if abs(said["rescale_factor"] * 255 - 1) > 1e-6:
        raise _refused("rescale_factor", said["rescale_factor"], "only 1/255 is supported", file)
    if said["resample"] not in INTERPOLATIONS:
        wanted = f"supported are {', '.join(f'{number} ({name})' for number, name in INTERPOLATIONS.items())}"
        raise _refused("resample", said["resample"], wanted, file)
    for key in ("image_mean", "image_std"):
        values = said[key] if isinstance(said[key], list) else []
        if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
            raise _refused(key, said[key], "it must be a list of three numbers", file)
    if not stated:
        said |= {"size": {"shortest_edge": side}, "crop_size": side}
    cfg = {
        "size": (side, side),
        "mean": tuple(said["image_mean"]),
        "std": tuple(said["image_std"]),
        "interpolation": INTERPOLATIONS[said["resample"]],
        "resize_mode": _resize_mode(said, side, file),
    }
    return cfg, None if stated else f"{folder} has no {PROCESSOR_FILE}: the preprocessing of OpenAI's CLIP is used"


def _processor(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the file that states the preprocessing, and what it states; empty if there is none."""
    nested = folder / _NESTED_PROCESSOR_FILE
    content = _json(nested).get("image_processor") if nested.is_file() else None
    if isinstance(content, dict):
        return nested.name, content
    return PROCESSOR_FILE, _json(folder / PROCESSOR_FILE) if (folder / PROCESSOR_FILE).is_file() else {}


def _resize_mode(said: Mapping[str, Any], side: int, file: str) -> str:
    square = {"height": side, "width": side}
    size, crop = said["size"], said["crop_size"]
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    crop = crop if said["do_center_crop"] else None
    if size == {"shortest_edge": side} and crop == square:
        return "shortest"
    if size == square and crop in (None, square):
        return "squash"
    wanted = f"the model takes images of {side} px, resized by their shortest edge and cropped, or by both edges"
    raise _refused("size", f"{said['size']}, do_center_crop {said['do_center_crop']}, crop_size {crop}", wanted, file)


def _indexed(index: Path) -> list[str]:
    """Return the names of the files in an index, which lie beside it."""
    places = _json(index).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ValueError(f"{index.name} has no weight_map with names of files beside it")
    return names


def _open_clip_state(folder: Path, model_cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    files, names = weights_files(folder), _weight_names(model_cfg)
    present = {plain_name(name) for file in files for name in written_shapes(file)}
    expected = {name for theirs in names.values() for name in theirs}
    _compare(expected, present - _COUNTERS, f"the weights do not fit {CONFIG_FILE}")
    written = {name: value for file in files for name, value in _tensors(file).items()}
    state = {}
    for name, theirs in names.items():
        value = torch.cat([written.pop(part) for part in theirs]) if len(theirs) > 1 else written.pop(theirs[0])
        state[name] = value.T if name in _TRANSPOSED else value
    return {**state, "logit_scale": state["logit_scale"].reshape(())}


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: dict[str, Tensor] = load_file(file)
    else:
        import torch

        state = torch.load(file, map_location="cpu", weights_only=True)
    return {plain_name(name): value for name, value in state.items()}


def _weight_names(model_cfg: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return open_clip's name -> transformers' names of each weight; several are its parts along the first axis."""
    names: dict[str, tuple[str, ...]] = {name: (theirs,) for name, theirs in _SINGLE.items()}
    layers = dict(_BETWEEN)
    for tower, prefix, theirs in (
        ("vision_cfg", "visual.transformer.resblocks", "vision_model.encoder.layers"),
        ("text_cfg", "transformer.resblocks", "text_model.encoder.layers"),
    ):
        for i in range(model_cfg[tower].get("layers", 12)):
            layers |= {f"{prefix}.{i}.{name}": f"{theirs}.{i}.{layer}" for name, layer in _BLOCK.items()}
            for kind in ("weight", "bias"):
                parts = tuple(f"{theirs}.{i}.self_attn.{part}_proj.{kind}" for part in "qkv")
                names[f"{prefix}.{i}.attn.in_proj_{kind}"] = parts
    for name, layer in layers.items():
        names |= {f"{name}.{kind}": (f"{layer}.{kind}",) for kind in ("weight", "bias")}
    return names


def _compare(expected: set[str], present: set[str], what: str) -> None:
    parts = [
        f"{len(names)} are {how} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for how, names in (("missing", expected - present), ("unexpected", present - expected))
        if names
    ]
    if parts:
        raise ValueError(f"{what}: {'; '.join(parts)}")


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a JSON object")
    return content
