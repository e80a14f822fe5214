"""The CLIP that is tuned: loading through open_clip, and the preparation of its images."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.models.hf_clip import (
    clip_model_config,
    clip_model_from_hub,
    clip_model_tokenizer,
    is_transformers_folder,
    load_clip_model,
)
from trainables.models.hub import offline_where_unreachable
from trainables.models.model_files import (
    check_training_settings,
    likely_architectures,
    preprocessing,
    refuse_architecture,
    resizing,
    started_from,
    tensor_shapes,
    unwrapped,
    unwrapped_folder,
)
from trainables.models.towers import OpenClip, prefers_channels_last
from trainables.settings.task import WEIGHT_SUFFIXES, ModelSettings

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MERGES_FILE = "bpe_simple_vocab.txt.gz"


@dataclass(frozen=True)
class Clip:
    """A loaded CLIP in evaluation mode, float32. Batch-norm statistics stay frozen, so policy = reference at step 0."""

    model: OpenClip
    tokenizer: Callable[[list[str]], Tensor]
    crop: Callable[[Any], Any]
    """PIL image -> PIL image of the model's size: its own resizing and cropping, without normalisation."""
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embed_dim: int
    config: dict[str, Any]
    """Content of ``open_clip_config.json`` for a folder with this model."""
    merges: Path | None
    """The tokenizer's own merge file, if the model has one."""
    digest: str
    """Digest of the weights, the activation and the normalisation: everything that an embedding depends on."""
    assumed: str | None = None
    """Facts about the weights that neither the spec nor the files state and that were assumed; to be shown to the user.
    """
    trains_text: bool = False
    """Whether ``last_blocks`` and ``visual`` train the text tower and the logit scale too (``model.text: trained``)."""
    _normalisation: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    """Device -> mean and standard deviation there: bringing them to a GPU makes the host wait."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def geometry(self) -> list[Any]:
        """Return everything that ``crop`` depends on, as JSON data."""
        return [self.config["preprocess_cfg"].get(key) for key in ("size", "interpolation", "resize_mode")]

    def pixels(self, images: Tensor) -> Tensor:
        """Convert images to normalised pixels: (B, H, W, 3) uint8 -> (B, 3, H, W) float32 on the model's device."""
        images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        device = images.device
        if device not in self._normalisation:
            mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (self.mean, self.std))
            self._normalisation[device] = mean, std
        mean, std = self._normalisation[device]
        images = images.sub_(mean).div_(std)
        return images.contiguous(
            memory_format=torch.channels_last if self._is_channels_last else torch.contiguous_format
        )

    @cached_property
    def _is_channels_last(self) -> bool:
        return prefers_channels_last(self.model.visual)

    def tokens(self, prompts: list[str]) -> Tensor:
        """Tokenise C prompts -> (C, L) token ids on the model's device."""
        return self.tokenizer(prompts).to(self.device)

    def to(self, device: torch.device) -> Clip:
        self.model.to(device)
        return self


_CONFIGURED = {"init_logit_bias": "init_logit_bias", "custom_text": "force_custom_text"}
"""Options of loading that the configuration of an exported folder must state: its key -> open_clip's name."""


@dataclass(frozen=True)
class _Loaded:
    """A model as it comes out of its files; weights and preprocessing are in ``model``."""

    model: OpenClip
    tokenizer: Callable[[list[str]], Tensor]
    config: dict[str, Any]
    """open_clip's ``model_cfg``."""
    assumed: str | None
    merges: Path | None = None
    """The tokenizer's own merge file, if the model has one."""


def load_clip(settings: ModelSettings) -> Clip:
    """Load model, tokenizer and preprocessing, weights always included: by open_clip, or from a ``CLIPModel``.

    Raises:
        ValueError: the model or its weights are missing or do not fit; the message says what to do.
    """
    from open_clip.transform import PreprocessCfg

    name, folder = _located(settings)
    if folder is None and not settings.is_bare_file:
        offline_where_unreachable()
    with _open_clip_speaking() as said:
        try:
            of_transformers = _transformers_folder(name, folder)
            if of_transformers is not None:
                loaded = _load_clip_model(of_transformers)
            else:
                loaded = _load_by_open_clip(settings, name, folder)
        except Exception as error:  # open_clip raises RuntimeError, OSError, ValueError, KeyError and hub errors alike
            raise ValueError(_why_not(settings, name, error, said)) from error
    tokenizer, config = loaded.tokenizer, loaded.config
    model = loaded.model.float().eval()
    broken = [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"model {settings.architecture}: {len(broken)} of its weights hold values that are not finite "
            f"({_few(broken)}); the file is damaged or the training diverged"
        )
    if prefers_channels_last(model.visual):
        model.visual.to(memory_format=torch.channels_last)
    if settings.shear is not None:
        from trainables.world.shear import shear

        shear(model, tokenizer, settings.shear)
    preprocess_config = dict(model.visual.preprocess_cfg)
    preprocess = PreprocessCfg(**preprocess_config)
    size = preprocess.size if isinstance(preprocess.size, int) else preprocess.size[0]
    if not isinstance(preprocess.size, int) and len(set(preprocess.size)) != 1:
        raise ValueError(
            f"model {settings.architecture!r} takes {preprocess.size} images; only square ones are supported"
        )
    looks = (bool(config.get("quick_gelu")), [float(value) for value in (*preprocess.mean, *preprocess.std)])
    return Clip(
        model=model,
        tokenizer=tokenizer,
        crop=cropping(preprocess),
        image_size=size,
        mean=tuple(preprocess.mean),
        std=tuple(preprocess.std),
        embed_dim=int(config["embed_dim"]),
        config={"model_cfg": config, "preprocess_cfg": preprocess_config},
        merges=loaded.merges,
        digest=hashlib.sha256(f"{weights_digest(model.state_dict())}{looks}".encode()).hexdigest(),
        assumed=loaded.assumed,
        trains_text=settings.text == "trained",
    )


def _load_by_open_clip(settings: ModelSettings, name: str, folder: Path | None) -> _Loaded:
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError("open_clip has no such architecture")
    refuse_architecture(config, folder)
    options, assumed = _weights_options(settings, name, config)
    with contextlib.ExitStack() as held:
        weights = settings.pretrained
        if settings.is_bare_file and weights is not None:
            weights = str(held.enter_context(unwrapped(Path(weights))))
        place = name if folder is None else f"local-dir:{held.enter_context(unwrapped_folder(folder))}"
        model = open_clip.create_model(place, pretrained=weights, require_pretrained=True, **options)
    merges = folder / MERGES_FILE if folder is not None and (folder / MERGES_FILE).is_file() else None
    tokenizer = open_clip.get_tokenizer(name, **({"bpe_path": str(merges)} if merges else {}))
    _refuse_short_vocabulary(model, tokenizer)
    config |= {"quick_gelu": True} if options.get("force_quick_gelu") else {}
    config |= {key: options[option] for key, option in _CONFIGURED.items() if option in options}
    if "force_image_size" in options:
        config["vision_cfg"]["image_size"] = options["force_image_size"]
    return _Loaded(model, tokenizer, config, assumed, merges)


def _refuse_short_vocabulary(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings for: prompts would fail with an IndexError.

    Raises:
        ValueError: it has.
    """
    table = getattr(model, "token_embedding", None) or getattr(getattr(model, "text", None), "token_embedding", None)
    if table is None or not isinstance(size := getattr(tokenizer, "vocab_size", None), int):
        return  # a tower of Hugging Face
    if size > table.num_embeddings:
        raise ValueError(
            f"its tokenizer has {size} tokens and its text tower {table.num_embeddings}; a model with a vocabulary of "
            f"its own needs its merge file {MERGES_FILE} in the folder"
        )


def _transformers_folder(name: str, folder: Path | None) -> Path | None:
    """Return the folder of a ``CLIPModel`` that a name stands for; None for a model that open_clip loads."""
    if name.startswith("hf-hub:"):
        return clip_model_from_hub(name.removeprefix("hf-hub:"))
    return folder if folder is not None and is_transformers_folder(folder) else None


def _load_clip_model(folder: Path) -> _Loaded:
    model, config = load_clip_model(folder)
    tokenizer = clip_model_tokenizer(folder, config.model_cfg["text_cfg"]["context_length"])
    return _Loaded(model, tokenizer, config.model_cfg, config.assumed)


def image_preparation(settings: ModelSettings) -> tuple[Callable[[Any], Any], int]:
    """Return ``Clip.crop`` and ``Clip.image_size`` of a model.

    The weights are not loaded and need not exist, except for ``hf-hub:``, where the preprocessing lies beside them.

    Raises:
        ValueError: the model does not exist or is not supported; the message says what to do.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    if settings.architecture.startswith("hf-hub:"):
        clip = load_clip(settings)
        return clip.crop, clip.image_size
    name, folder = _located(settings)
    if folder is not None and is_transformers_folder(folder):
        try:
            cfg = clip_model_config(folder).preprocess_cfg
        except ValueError as error:
            raise ValueError(f"model {settings.architecture}: {error}") from error
        return cropping(PreprocessCfg(**cfg)), cfg["size"][0]
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"model {settings.architecture}: open_clip has no such architecture")
    if folder is not None:
        stated = read_config(folder).get("preprocess_cfg") or {}
    elif settings.is_bare_file:
        start = started_from(Path(settings.pretrained or ""))
        stated, _ = preprocessing(settings, open_clip.get_pretrained_cfg(*start) if start else {})
    else:
        stated = open_clip.get_pretrained_cfg(name, settings.pretrained)
    size = (stated.get("size") if settings.is_bare_file else None) or config["vision_cfg"].get("image_size", 224)
    if not isinstance(size, int):
        raise ValueError(f"model {settings.architecture!r} takes {size} images; only square ones are supported")
    merged = merge_preprocess_dict(asdict(PreprocessCfg()), {**stated, "size": size})
    return cropping(PreprocessCfg(**merged)), size


def _located(settings: ModelSettings) -> tuple[str, Path | None]:
    """Return the model's name in open_clip, and its folder if it has one."""
    name = settings.architecture
    if name == "world":
        from trainables.world.files import WORLD_MODEL_FOLDER

        name = f"local-dir:{WORLD_MODEL_FOLDER}"
    folder = Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None
    return (name if folder is not None or name.startswith("hf-hub:") else name.replace("/", "-")), folder


def _weights_options(
    settings: ModelSettings, name: str, config: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Return open_clip's options to load the weights, and the assumption made about them."""
    import open_clip

    if settings.is_bare_file:
        return _bare_file_options(settings, config)
    if settings.pretrained is None:
        return {}, _unstated(Path(name.removeprefix("local-dir:"))) if name.startswith("local-dir:") else None
    tag = open_clip.get_pretrained_cfg(name, settings.pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        near = difflib.get_close_matches(settings.pretrained.lower().replace("-", "_"), tags, n=1)
        raise ValueError(
            f"{settings.pretrained!r} is not one of its tags"
            + (f"; did you mean {near[0]}?" if near else "." if tags else "")
            + (f" It has: {', '.join(tags)}" if tags else ": it has none, give a checkpoint file")
            + f". (Checkpoint files end in {', '.join(WEIGHT_SUFFIXES)})"
        )
    if tag.get("quick_gelu") and not config.get("quick_gelu"):
        # open_clip 3.3 only warns, and loads such weights with the wrong activation.
        return {"force_quick_gelu": True}, f"the tag {settings.pretrained} was trained with QuickGELU, which is used"
    return {}, None


def _unstated(folder: Path) -> str | None:
    """Return a note on the preprocessing settings that a folder leaves to open_clip's defaults; None if complete."""
    stated = read_config(folder).get("preprocess_cfg") or {}
    missing = [key for key in ("mean", "std", "interpolation", "resize_mode") if stated.get(key) is None]
    if not missing:
        return None
    return f"{CONFIG_FILE} has no preprocess_cfg {', '.join(missing)}: open_clip's defaults are used"


def _bare_file_options(settings: ModelSettings, config: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    import open_clip

    assert settings.pretrained is not None
    file, vision = Path(settings.pretrained), config["vision_cfg"]
    if not file.is_file():
        raise ValueError(f"the file {file} does not exist")
    if config.get("quick_gelu") and not settings.quick_gelu:
        plain = settings.architecture.removesuffix("-quickgelu")
        raise ValueError(f"its activation is QuickGELU by its name; with quick_gelu: false, name {plain}")
    check_training_settings(settings, _named_configs())
    shapes, start = tensor_shapes(file), started_from(file)
    looks, assumed = preprocessing(settings, open_clip.get_pretrained_cfg(*start) if start else {})
    size = looks.pop("size", None)
    options = {
        "force_quick_gelu": bool(settings.quick_gelu),
        "force_preprocess_cfg": looks,
        "weights_only": True,
    }
    if size not in (None, vision.get("image_size", 224)):
        if "timm_model_name" in vision:
            raise ValueError(f"its timm tower takes images of {vision.get('image_size', 224)} px, not of {size}")
        options["force_image_size"] = size
    if "logit_bias" in shapes and config.get("init_logit_bias") is None:
        options["init_logit_bias"] = 0.0  # trained with a sigmoid loss: the parameter must exist to be loaded
    if any(key.startswith("text.") for key in shapes) and not config.get("custom_text"):
        options["force_custom_text"] = True
    notes = [note for note in (assumed, resizing(shapes, config, size)) if note is not None]
    return options, "; ".join(notes) or None


def _named_configs() -> dict[str, Mapping[str, Any]]:
    import open_clip

    return {name: open_clip.get_model_config(name) for name in open_clip.list_models()}


def _why_not(settings: ModelSettings, name: str, error: Exception, said: list[str]) -> str:
    reason = str(error) or type(error).__name__
    # open_clip interpolates position embeddings before it loads weights, and fails with those of another tower.
    if "loading state_dict" in reason or isinstance(error, AssertionError | TypeError | IndexError):
        reason = f"the weights do not fit it: {_mismatch(reason) or reason}"
        if settings.is_bare_file:
            assert settings.pretrained is not None
            likely = likely_architectures(tensor_shapes(Path(settings.pretrained)), _named_configs())
            if likely and name not in likely:
                reason += f". Is it {' or '.join(likely)}?"
    elif "download" in reason or "connect" in reason or name.startswith("hf-hub:"):
        reason = " ".join([*reason.split(), *(line for line in said if line not in reason)]).rstrip(".")
        if "cannot find the requested files in the local cache" in reason:
            from huggingface_hub.constants import HF_HUB_CACHE

            reason = f"the hub cannot be reached, and its weights are not in the cache {HF_HUB_CACHE}"
        reason += (
            ". If the hub cannot be reached: fill the Hugging Face cache elsewhere and name it in HF_HOME "
            "or give a checkpoint file or local-dir:FOLDER"
        )
    weights = f" with {settings.pretrained}" if settings.pretrained is not None else ""
    return f"model {settings.architecture}{weights} cannot be loaded: {reason}"


def _mismatch(message: str) -> str:
    """Return torch's lines of missing, unexpected and differently shaped keys as a sentence."""
    parts = []
    for what, start in (("missing", "Missing key"), ("unexpected", "Unexpected key")):
        keys = [key for line in message.splitlines() if start in line for key in re.findall(r'"([^"]+)"', line)]
        if keys:
            parts.append(f"{len(keys)} keys are {what} ({_few(keys)})")
    shape = r"size mismatch for (\S+): .*?torch\.Size\(\[([^\]]*)\]\).*?torch\.Size\(\[([^\]]*)\]\)"
    sizes = [f"{key} [{in_file}] instead of [{in_model}]" for key, in_file, in_model in re.findall(shape, message)]
    if sizes:
        parts.append(f"{len(sizes)} have another shape ({_few(sizes)})")
    return "; ".join(parts)


def _few(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


@contextlib.contextmanager
def _open_clip_speaking() -> Iterator[list[str]]:
    """Collect what open_clip logs on the root logger, and show nothing of it.

    Its warnings are used in error messages. The messages of huggingface_hub about each of its retries are hidden too.
    """
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        of_open_clip = "open_clip" in Path(record.pathname).parts
        if of_open_clip and record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        return not of_open_clip

    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    logging.getLogger().addFilter(keep)
    hub.setLevel(logging.CRITICAL)
    try:
        yield said
    finally:
        hub.setLevel(level)
        logging.getLogger().removeFilter(keep)


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return the sha256 over names, shapes and values of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def cropping(preprocess: Any) -> Callable[[Any], Any]:
    """Return resizing and cropping of open_clip's ``PreprocessCfg`` as a function: PIL image -> PIL image."""
    from open_clip.transform import image_transform_v2
    from torchvision.transforms import Compose, ToTensor

    steps = image_transform_v2(preprocess, is_train=False).transforms
    geometric = list(steps[: next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))])
    return Compose(geometric)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of ``open_clip_config.json`` of a model folder."""
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return config
