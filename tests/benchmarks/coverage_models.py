"""Small configurations and inputs for any architecture of transformers: fewer layers, and tensors by the names that `forward` takes."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch

LAYERS = re.compile(
    r"^(num_hidden_layers|num_layers|n_layers?|n_blocks?|depth|num_blocks|.*_(num_)?(hidden_)?layers|num_.*_layers|.*depth|num_stages_layers)$"
)
NOT_LAYERS = re.compile(
    r"feat_extract|output|feature|conv|out_|mlp|fpn|adapter_layers|_mlp_|kernel|num_hidden_layers_to|max_depth|min_depth|skip|dense_"
)
BATCH, TOKENS = 2, 16


def small_config(config_class: Any) -> Iterator[Any]:
    """The default configuration with two layers a stack where that builds; then the default as it is."""
    try:
        default = config_class()
    except Exception:
        default = None
    if default is not None:
        try:
            yield config_class(**_shrunk(default))
        except Exception:  # some sizes depend on each other: the default then
            pass
        yield default


def _shrunk(config: Any) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            small = _shrunk(part)
            if small:
                changed[name] = {"model_type": part.model_type, **small}
    for name, value in config.__dict__.items():
        if name in changed or name in getattr(config, "sub_configs", {}):
            continue
        if LAYERS.match(name) and not NOT_LAYERS.search(name):
            if type(value) is int and value > 2:
                changed[name] = 2
    return changed


def _find(config: Any, *names: str) -> Any:
    """The first of these that the configuration or one of its parts has."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    for name in names:
        for part in parts:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return None


def _image(config: Any) -> tuple[int, int, int]:
    size = _find(config, "image_size", "img_size", "input_size")
    if isinstance(size, dict):
        size = (size.get("height", 224), size.get("width", 224))
    if not isinstance(size, (list, tuple)):
        size = (size or 224,) * 2
    channels = _find(config, "num_channels", "in_channels", "in_chans") or 3
    return int(channels), int(size[0]), int(size[-1])


def _ids(config: Any, length: int, *names: str) -> torch.Tensor:
    vocabulary = _find(config, *names, "vocab_size") or 100
    vocabulary = min(vocabulary) if isinstance(vocabulary, (list, tuple)) else vocabulary
    return torch.randint(3, max(5, min(int(vocabulary), 90)), (BATCH, length))


def inputs_for(model: Any, config: Any) -> Iterator[dict[str, Any]]:
    """Candidate inputs, the likeliest first: the arguments without default, and the usual ones that the model takes."""
    parameters = inspect.signature(model.forward).parameters
    channels, height, width = _image(config)
    mels = int(_find(config, "num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels") or 80)
    frames = int(_find(config, "num_frames") or 8)
    ones = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    images = torch.randn(BATCH, channels, height, width)
    decoder = {"decoder_input_ids": _ids(config, 8)} if "decoder_input_ids" in parameters else {}
    text = {
        "input_ids": _ids(config, TOKENS),
        "attention_mask": ones,
        "bbox": torch.zeros(BATCH, TOKENS, 4, dtype=torch.int64),
    }
    text = {name: value for name, value in text.items() if name in parameters}
    required = [
        name
        for name, p in parameters.items()
        if p.default is inspect.Parameter.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    audio = torch.randn(1, 16000)
    by_name: dict[str, list[Any]] = {
        "pixel_values": [
            images,
            torch.randn(BATCH, frames, channels, height, width),
            torch.randn(BATCH, channels, 224, 224),
        ],
        "pixel_values_videos": [torch.randn(BATCH, frames, channels, height, width)],
        "input_values": [audio, torch.randn(1, 1, 24000), torch.randn(1, 1024, 128)],
        "input_features": [torch.randn(1, mels, 3000), torch.randn(1, 100, mels), torch.randn(1, mels, 1000)],
        "input_ids": [_ids(config, TOKENS)],
    }
    main = getattr(model, "main_input_name", "input_ids")
    if "input_ids" in parameters and "pixel_values" in parameters:
        for pixels in by_name["pixel_values"][:1]:
            yield {**text, "pixel_values": pixels, **decoder}
    if "input_ids" in text:
        yield {**text, **decoder}
    names = [main if main in parameters else None, *by_name]
    for name in dict.fromkeys(n for n in names if n in parameters):
        for value in by_name.get(name, []):
            given = {name: value, **decoder}
            others = {other: by_name[other][0] for other in required if other in by_name and other != name}
            yield {**given, **others}
