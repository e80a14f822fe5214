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

FOLDER_WEIGHTS = (".safetensors", ".bin", ".pth")
"""Suffixes by which open_clip finds the weights of a folder; .pt is not among them."""
_FIRST_WEIGHTS = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
"""Names of weights in a folder that open_clip takes before others, in their order."""
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

_REAL = {"weight", "bias", "proj", "text_projection", "positional_embedding", "class_embedding", "logit_scale"}
"""Last parts of names of weights, which are real numbers."""
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


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name of a state dict with its plain name: without the prefixes of wrappers (``plain_name``), nor one
    that all names share, as a Lightning module gives to those of its model (``model.visual.proj``)."""
    plain = {name: plain_name(name) for name in names}
    while True:
        firsts = {name.partition(".")[0] for name in plain.values()}
        if len(firsts) != 1 or not all("." in name for name in plain.values()):
            return plain
        plain = {name: plain_name(short.partition(".")[2]) for name, short in plain.items()}


@contextlib.contextmanager
def unwrapped(file: Path) -> Iterator[Path]:
    """Yield a file with the same weights under their plain names, see ``plain_names``.

    It is a temporary copy if open_clip, which removes only one ``module.``, could not load the file itself, and of a
    TorchScript archive, which open_clip would load with PyTorch's unsafe mode.

    Raises:
        ValueError: the file holds no state dict.
    """
    import torch

    is_script = is_torchscript(file)
    if not is_script and all(
        plain == name.removeprefix("module.") for name, plain in plain_names(written_shapes(file)).items()
    ):
        key = None if file.suffix == ".safetensors" else _key_of_state(_unpickled(file, "meta"), file)
        if key in (None, "state_dict"):  # open_clip finds the weights there
            yield file
            return
    if is_script:
        state: Any = script_state(file)
    elif file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        content = _unpickled(file, "cpu")
        key = _key_of_state(content, file)
        state = content if key is None else content[key]
    names = plain_names([name for name, value in state.items() if isinstance(value, torch.Tensor)])
    with tempfile.TemporaryDirectory(prefix="sweeper-weights-") as folder:
        copy = Path(folder, "weights.pt")
        torch.save({plain: state[name] for name, plain in names.items()}, copy)
        del state
        yield copy


@contextlib.contextmanager
def unwrapped_folder(folder: Path) -> Iterator[Path]:
    """Yield a model folder whose weights have their plain names, see ``unwrapped``: the folder itself, or a copy of
    links to its files.

    Raises:
        ValueError: its file of weights holds no state dict.
    """
    file = folder_weights(folder)
    if file is None:
        yield folder
        return
    with unwrapped(file) as plain, tempfile.TemporaryDirectory(prefix="sweeper-model-") as copy:
        if plain == file:
            yield folder
            return
        for other in folder.iterdir():
            if other.suffix not in FOLDER_WEIGHTS:
                Path(copy, other.name).symlink_to(other.absolute())
        Path(copy, "open_clip_pytorch_model.bin").symlink_to(plain)
        yield Path(copy)


def folder_weights(folder: Path) -> Path | None:
    """Return the file of weights that open_clip 3 chooses in a model folder; None if there is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix in FOLDER_WEIGHTS)
    files.sort(key=lambda file: file.suffix != ".safetensors")
    known = [folder / name for name in _FIRST_WEIGHTS if folder / name in files]
    return next(iter(known or files), None)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return plain name (see ``plain_names``) -> shape of the weights; the weights stay on disk.

    Raises:
        ValueError: the file holds no state dict.
    """
    shapes = written_shapes(file)
    return {plain: shapes[name] for name, plain in plain_names(shapes).items()}


def written_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the same as ``tensor_shapes``, with the names as the file has them.

    Raises:
        ValueError: the file holds no state dict.
    """
    import torch

    if names_lfs_pointer(file):
        raise ValueError(f"{file} {LFS_POINTER}")
    if (other := _no_weights(file)) is not None:
        raise ValueError(f"{file} is {other}, not weights; fetch the file again")
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(file, "pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                integer = [name for name, value in slices.items() if _is_integer(value.get_dtype(), name)]
                shapes = {name: tuple(value.get_shape()) for name, value in slices.items()}
        except Exception as error:  # SafetensorError and others, depending on the bytes
            raise _unreadable(file, error) from error
        _refuse_integers(file, integer)
        return shapes
    if is_torchscript(file):
        try:
            return script_shapes(file)
        except Exception as error:  # any error, depending on the bytes
            raise _unreadable(file, error) from error
    content = _unpickled(file, "meta")
    key = _key_of_state(content, file)
    state = content if key is None else content[key]
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    _refuse_integers(file, [name for name, value in tensors.items() if _is_integer(str(value.dtype), name)])
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _unpickled(file: Path, device: str) -> Any:
    """Return the content of a file that torch.save wrote.

    Raises:
        ValueError: it cannot be read, or would run code.
    """
    import torch

    try:
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, KeyError: any error, depending on the bytes
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ValueError:
    reason = next((line for line in str(error).splitlines() if "nsupported" in line), str(error).partition("\n")[0])
    reason = reason.partition(" Please use `torch.serialization")[0].strip() or "it ends too early"
    if "GLOBAL" in reason:
        reason += "; save the state dict alone: torch.save(model.state_dict(), FILE)"
    return ValueError(
        f"{file} cannot be read as weights ({type(error).__name__}: {reason}); a state dict written by "
        "torch.save, a checkpoint of open_clip's training and safetensors can. Pickled code is never run"
    )


def _key_of_state(content: Any, file: Path) -> str | None:
    """Return the key of the state dict in a checkpoint; None if the checkpoint is the state dict.

    Raises:
        ValueError: there is none, or there are several.
    """
    import torch

    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no state dict, but a {type(content).__name__}")
    inside = [
        str(name)
        for name, value in content.items()
        if isinstance(value, dict) and any(isinstance(tensor, torch.Tensor) for tensor in value.values())
    ]
    if "state_dict" in inside:
        return "state_dict"
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return None
    if len(inside) > 1:
        raise ValueError(f"{file} holds several state dicts ({_listed(inside)}); save the one that is meant alone")
    if not inside:
        raise ValueError(f"{file} holds no state dict; it holds: {_listed(str(name) for name in content) or 'nothing'}")
    return inside[0]


def _is_integer(dtype: str, name: str) -> bool:
    """Return whether a tensor holds whole numbers and is not a counter or a list of positions, as towers have them."""
    plain = dtype.lower().removeprefix("torch.")
    return plain.startswith(("i", "u", "qint", "quint")) and name.rpartition(".")[2] in _REAL


def _refuse_integers(file: Path, names: list[str]) -> None:
    """Refuse weights that are quantised.

    Raises:
        ValueError: there are any.
    """
    if names:
        raise ValueError(f"{file}: {len(names)} weights are whole numbers ({_listed(names)}); are they quantised?")


def _no_weights(file: Path) -> str | None:
    """Return what a file holds that is surely no weights; None if it may hold some."""
    if not file.is_file():
        return "a folder" if file.is_dir() else None
    with file.open("rb") as opened:
        start = opened.read(512).lstrip().lower()
    if not start:
        return "empty"
    return "a web page" if start.startswith((b"<!doctype", b"<html", b"<?xml")) else None


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
