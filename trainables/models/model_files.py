"""Information from the files of a model: configurations, bare checkpoints, the record of a training run beside them.

Only functions that open weights import torch and open_clip.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.models.torchscript import is_torchscript, script_shapes, script_state
from trainables.settings.task import ModelSettings, Preprocess
from trainables.text_files import LFS_POINTER, names_lfs_pointer

TRAINING_FILE = "params.txt"
"""File that open_clip's training writes into ``logs/NAME/``; its checkpoints go into ``logs/NAME/checkpoints/``."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
"""Files of a Hugging Face tokenizer; one of them is enough."""

Shapes = Mapping[str, tuple[int, ...]]

_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def refuse_architecture(config: Mapping[str, Any], folder: Path | None) -> None:
    """Check that an open_clip ``model_cfg`` describes a two-tower CLIP that can be loaded.

    Raises:
        ValueError: it does not.
    """
    if not all(isinstance(config.get(key), dict) for key in ("vision_cfg", "text_cfg")):
        raise ValueError("its configuration has no vision_cfg and text_cfg; is it an open_clip model?")
    if "multimodal_cfg" in config or any(config[key].get("output_tokens") for key in ("vision_cfg", "text_cfg")):
        raise ValueError(
            "the towers of a CoCa model return tokens beside the embedding, for its captions; "
            "only CLIPs with two towers are supported"
        )
    text = config["text_cfg"]
    tokenizer = text.get("hf_tokenizer_name") or ""
    needs = [f"tokenizer {tokenizer}"] if tokenizer else []
    needs += [f"text tower {text['hf_model_name']}"] if text.get("hf_model_name") else []
    if needs and importlib.util.find_spec("transformers") is None:
        raise ValueError(
            f"its {' and '.join(needs)} needs the package transformers, which is not installed: "
            "pip install transformers sentencepiece"
        )
    if tokenizer and folder is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"its tokenizer {tokenizer} is looked for in {folder} itself, which holds none of its files "
            f"({', '.join(TOKENIZER_FILES[:4])}, ...); copy them there from hf-hub:{tokenizer}"
        )


def plain_name(name: str) -> str:
    """Return the name of a weight without the prefixes that DistributedDataParallel, torch.compile and FSDP add."""
    plain = _WRAPPERS.sub("", name)
    while plain.startswith("module."):
        plain = plain.removeprefix("module.")
    return plain


@contextlib.contextmanager
def unwrapped(file: Path) -> Iterator[Path]:
    """Yield a file with the same weights under their plain names, see ``plain_name``.

    It is a temporary copy if open_clip, which removes only one ``module.``, could not load the file itself, and of a
    TorchScript archive, which open_clip would load with PyTorch's unsafe mode.

    Raises:
        ValueError: the file holds no state dict.
    """
    import torch

    is_script = is_torchscript(file)
    if not is_script and all(plain_name(name) == name.removeprefix("module.") for name in _written_shapes(file)):
        yield file
        return
    if is_script:
        state: Any = script_state(file)
    elif file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state["state_dict"] if isinstance(state.get("state_dict"), dict) else state
    with tempfile.TemporaryDirectory(prefix="sweeper-weights-") as folder:
        copy = Path(folder, "weights.pt")
        torch.save({plain_name(name): value for name, value in state.items()}, copy)
        del state
        yield copy


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return plain name (see ``plain_name``) -> shape of the weights; the weights stay on disk.

    Raises:
        ValueError: the file holds no state dict.
    """
    return {plain_name(name): shape for name, shape in _written_shapes(file).items()}


def _written_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the same as ``tensor_shapes``, with the names as the file has them."""
    import torch

    if names_lfs_pointer(file):
        raise ValueError(f"{file} {LFS_POINTER}")
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, "pt") as opened:
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        if is_torchscript(file):
            return script_shapes(file)
        state: Any = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, KeyError: any error, depending on the bytes
        reason = next((line for line in str(error).splitlines() if "nsupported" in line), str(error).partition("\n")[0])
        raise ValueError(
            f"{file} cannot be read as weights ({type(error).__name__}: {reason.strip()}); a state dict written by "
            "torch.save, a checkpoint of open_clip's training and safetensors can. Pickled code is never run"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{file} holds no state dict; it holds: {_listed(str(name) for name in state)}")
    return {name: tuple(value.shape) for name, value in tensors.items()}


def likely_architectures(shapes: Shapes, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the open_clip models whose ViT or ResNet these weights fit, by the main sizes; none for timm towers."""
    seen = _sizes_of_weights(shapes)
    return [name for name, config in configs.items() if seen is not None and _sizes_of_config(config) == seen]


def preprocessing(settings: ModelSettings, tag: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the preprocessing of a bare checkpoint as open_clip's ``force_preprocess_cfg``, and the assumptions made.

    The spec's settings have priority, then the ``params.txt`` of the training run, then open_clip's training defaults.

    Args:
        tag: open_clip's preprocessing for the weights that the run began with, see ``started_from``.

    Raises:
        ValueError: ``params.txt`` contradicts the spec.
    """
    assert settings.pretrained is not None
    file = Path(settings.pretrained)
    defaults = {**_named("openai"), "interpolation": "bicubic", "resize_mode": "shortest"}
    stated, recorded = _stated(settings.preprocess), _recorded(training_settings(file), tag)
    for key in stated.keys() & recorded.keys():
        if recorded[key] != stated[key]:
            raise ValueError(
                f"model.preprocess says {key} {_shown(stated[key])}, but {training_file(file)} of the training run "
                f"says {_shown(recorded[key])}; leave `preprocess` out to follow it"
            )
    notes = []
    for chosen, source in ((recorded, f"from {training_file(file)}"), (defaults, "open_clip's default")):
        earlier = stated.keys() if chosen is recorded else stated.keys() | recorded.keys()
        values = [f"{key} {_shown(value)}" for key, value in chosen.items() if key not in earlier]
        notes += [f"{', '.join(values)} ({source})"] if values else []
    assumed = f"{file.name} does not state its preprocessing: {'; '.join(notes)}" if notes else None
    return {**defaults, **recorded, **stated}, assumed


def resizing(shapes: Shapes, config: Mapping[str, Any], size: int | None) -> str | None:
    """Return a note on the position embeddings that open_clip interpolates without a message; None if it does not."""
    seen, notes = _sizes_of_weights(shapes), []
    vision, text = config["vision_cfg"], config["text_cfg"]
    side = size or vision.get("image_size", 224)
    if seen is not None and "visual.conv1.weight" in shapes and "visual.positional_embedding" in shapes:
        patch = vision.get("patch_size", 16)
        if seen[-1] != side // patch * patch:
            notes.append(f"position embeddings of {seen[-1]} px images interpolated to {side} px")
    length = shapes.get("positional_embedding", shapes.get("text.positional_embedding", (0,)))[0]
    if length and length != text.get("context_length", 77):
        notes.append(f"position embeddings of {length} tokens interpolated to {text.get('context_length', 77)}")
    return "; ".join(notes) or None


def check_training_settings(settings: ModelSettings, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare the spec with the ``params.txt`` of the training run.

    Raises:
        ValueError: ``params.txt`` names another architecture or activation than the spec.
    """
    assert settings.pretrained is not None
    file = Path(settings.pretrained)
    said = training_settings(file)
    trained = str((said or {}).get("model", "")).replace("/", "-")
    if said is None or trained not in configs:
        return
    if trained.removesuffix("-quickgelu") != settings.architecture.replace("/", "-").removesuffix("-quickgelu"):
        raise ValueError(
            f"model.architecture is {settings.architecture}, but {training_file(file)} of the training run says "
            f"{trained}"
        )
    quick = bool(said.get("force_quick_gelu")) or bool(configs[trained].get("quick_gelu"))
    if quick != settings.quick_gelu:
        raise ValueError(
            f"model.quick_gelu is {str(settings.quick_gelu).lower()}, but {training_file(file)} of the training run "
            f"says model {trained}, force_quick_gelu {bool(said.get('force_quick_gelu'))}: {str(quick).lower()}"
        )


def started_from(file: Path) -> tuple[str, str] | None:
    """Return the (architecture, tag) of the weights that the training run began with; None if not known."""
    said = training_settings(file) or {}
    model, tag = said.get("model"), said.get("pretrained")
    return (model.replace("/", "-"), tag) if isinstance(model, str) and isinstance(tag, str) and tag else None


def training_file(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's settings: ``logs/NAME/checkpoints/epoch_3.pt`` -> ``logs/NAME/params.txt``."""
    return checkpoint.parent.parent / TRAINING_FILE


def training_settings(checkpoint: Path) -> dict[str, Any] | None:
    """Return the arguments of open_clip's training (``name: value`` lines); None if the file is missing."""
    file = training_file(checkpoint)
    if not file.is_file():
        return None
    values: dict[str, Any] = {}
    for line in file.read_text(errors="replace").splitlines():
        name, colon, text = line.partition(": ")
        if colon:
            try:
                values[name.strip()] = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError):
                values[name.strip()] = text.strip()
    return values if "model" in values else None


def _named(name: str) -> dict[str, Any]:
    from open_clip import constants

    prefix = {"openai": "OPENAI_DATASET", "inception": "INCEPTION", "imagenet": "IMAGENET"}[name]
    return {"mean": getattr(constants, f"{prefix}_MEAN"), "std": getattr(constants, f"{prefix}_STD")}


def _stated(preprocess: str | Preprocess | None) -> dict[str, Any]:
    if preprocess is None:
        return {}
    if isinstance(preprocess, str):
        return _named(preprocess)
    return {key: value for key, value in preprocess.model_dump(exclude_unset=True).items() if value is not None}


def _recorded(said: Mapping[str, Any] | None, tag: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing in the arguments of a training run; default: that of the weights it began with."""
    if said is None:
        return {}
    names = ("mean", "std", "interpolation", "resize_mode")
    recorded = {name: tag[name] for name in names if name in tag}
    recorded |= {name: said[f"image_{name}"] for name in names if said.get(f"image_{name}") is not None}
    if (
        recorded.get("interpolation") == "random"
    ):  # used in training only; open_clip evaluates such a model with bicubic
        recorded["interpolation"] = "bicubic"
    if said.get("force_image_size"):
        recorded["size"] = said["force_image_size"]
    return {name: _plain(value) for name, value in recorded.items()}


def _plain(value: Any) -> Any:
    """Return a value in a form comparable with the spec: lists as tuples, [224, 224] as 224."""
    if isinstance(value, list | tuple):
        values = tuple(value)
        return values[0] if len(values) == 2 and values[0] == values[1] else values
    return value


def _shown(value: Any) -> str:
    return "(" + ", ".join(f"{part:g}" for part in value) + ")" if isinstance(value, tuple) else str(value)


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sizes_of_weights(shapes: Shapes) -> tuple[Any, ...] | None:
    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})

    text = "text." if "text.text_projection" in shapes else ""
    projection = shapes.get(f"{text}text_projection")
    if projection is None or len(projection) != 2:
        return None
    vocabulary = shapes.get(f"{text}token_embedding.weight", (0,))[0]
    words = (*projection, count(f"{text}transformer.resblocks."), vocabulary)
    if "visual.layer1.0.conv1.weight" in shapes:
        side = shapes["visual.attnpool.positional_embedding"][0]
        return (*words, *(count(f"visual.layer{i}.") for i in (1, 2, 3, 4)), round((side - 1) ** 0.5) * 32)
    if "visual.conv1.weight" in shapes and "visual.positional_embedding" in shapes:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5) * patch
        return (*words, width, patch, count("visual.transformer.resblocks."), side)
    return None


def _sizes_of_config(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or "multimodal_cfg" in config:
        return None
    words = (text.get("width", 512), config["embed_dim"], text.get("layers", 12), text.get("vocab_size", 49408))
    layers, side = vision.get("layers", 12), vision.get("image_size", 224)
    if isinstance(layers, list):
        return (*words, *layers, side)
    patch = vision.get("patch_size", 16)
    return (*words, vision.get("width", 768), patch, layers, side // patch * patch)
