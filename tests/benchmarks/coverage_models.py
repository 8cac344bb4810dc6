"""Small configurations and inputs for any architecture of transformers: fewer layers, and tensors by the names that `forward` takes."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from coverage_own import CONFIG, INPUTS

LAYERS = re.compile(
    r"^(num_hidden_layers|num_layers|n_layers?|n_blocks?|depth|num_blocks|.*_(num_)?(hidden_)?layers|num_.*_layers|.*depth|num_stages_layers)$"
)
NOT_LAYERS = re.compile(
    r"feat_extract|output|feature|conv|out_|mlp|fpn|adapter_layers|_mlp_|kernel|num_hidden_layers_to|max_depth|min_depth|skip|dense_"
)
BATCH, TOKENS = 2, 16


def small_config(config_class: Any) -> Iterator[Any]:
    """The default configuration with two layers a stack where that builds; then the default as it is."""
    own = CONFIG.get(config_class.model_type, {})
    default = _built(config_class, own)
    if default is not None:
        small = _built(
            config_class, _merged(_shrunk(default), own)
        )  # some sizes depend on each other: the default then
        yield from (config for config in (small, default) if config is not None)


def _merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(values[key], more[key]) for key in values.keys() & more if isinstance(more[key], dict)}
    return {**values, **more, **both}


def _built(config_class: Any, arguments: dict[str, Any]) -> Any:
    try:
        return config_class(**arguments)
    except Exception:
        return None


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
        if LAYERS.match(name) and not NOT_LAYERS.search(name) and type(value) is int and value > 2:
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


def _values(config: Any) -> dict[str, list[Any]]:
    """Values to try for each argument's name, the likeliest first."""
    channels, height, width = _image(config)
    mels = int(_find(config, "num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels", "audio_channel") or 80)
    width_in = int(_find(config, "feature_projection_input_dim", "input_dim") or 160)
    frames = int(_find(config, "num_frames") or 8)
    hidden = int(_find(config, "hidden_size", "d_model", "latent_dim") or 64)
    patch = _find(config, "patch_size") or 14
    patch = int(patch[-1] if isinstance(patch, (list, tuple)) else patch)
    time = int(_find(config, "temporal_patch_size") or 1)
    images = torch.randn(BATCH, channels, height, width)
    videos = torch.randn(BATCH, frames, channels, height, width)
    patches = torch.randn(64, channels * time * patch * patch)
    ones = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    ids = _ids(config, TOKENS)
    grid = torch.tensor([[1, 8, 8]])
    past = int(_find(config, "context_length") or 512)
    series = torch.randn(BATCH, past, int(_find(config, "num_input_channels", "input_size") or 1))
    return {
        "pixel_values": [
            images,
            videos,
            torch.randn(BATCH, channels, 224, 224),
            torch.randn(BATCH, 2, channels, height, width),
            patches,
            torch.randn(BATCH, 64, channels * patch * patch),
            torch.randn(1, channels, 1536, 1536),
        ],
        "pixel_values_videos": [videos],
        "hidden_states": [
            patches,
            torch.randn(64, channels * patch * patch),
            torch.randn(BATCH, 1, 24000),
            torch.randn(BATCH, 64, hidden),
            torch.randn(BATCH, hidden, 64),
        ],
        "grid_thw": [grid],
        "image_grid_thw": [grid],
        "merge_sizes": [torch.tensor([1])],
        "spatial_shapes": [torch.tensor([[8, 8]] * BATCH)],
        "pixel_attention_mask": [torch.ones(BATCH, 64, dtype=torch.int64)],
        "pixel_position_ids": [
            torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1)
            .view(1, 64, 2)
            .expand(BATCH, -1, -1)
        ],
        "input_values": [
            torch.randn(BATCH, 16000),
            torch.randn(BATCH, 1, 24000),
            torch.randn(BATCH, 1024, 128),
            torch.randn(BATCH, 1, 19200),
            torch.randn(BATCH, 19200),
        ],
        "input_features": [
            torch.randn(BATCH, mels, 3000),
            torch.randn(BATCH, 104, mels),
            torch.randn(BATCH, 104, width_in),
            torch.randn(BATCH, 1, 1001, 64),
            torch.randn(BATCH, mels, 1000),
            torch.randn(BATCH, 104, 128),
        ],
        "input_features_mask": [torch.ones(BATCH, 3000, dtype=torch.int64), torch.ones(BATCH, 104, dtype=torch.int64)],
        "audio_mel": [torch.randn(BATCH, 104, 128)],
        "audio_mel_mask": [torch.zeros(BATCH, 104, dtype=torch.bool)],
        "input_ids": [ids],
        "qformer_input_ids": [ids],
        "attention_mask": [ones],
        "bbox": [torch.zeros(BATCH, TOKENS, 4, dtype=torch.int64)],
        "mm_token_type_ids": [torch.zeros_like(ids)],
        "image_embeds_position_mask": [torch.arange(TOKENS).lt(64).expand(BATCH, -1)],
        "visual_feats": [torch.randn(BATCH, 8, int(_find(config, "visual_feat_dim") or 2048))],
        "visual_pos": [torch.rand(BATCH, 8, 4)],
        "query_embeds": [torch.randn(BATCH, 32, hidden)],
        "encoder_hidden_states": [torch.randn(BATCH, 64, int(_find(config, "encoder_hidden_size") or hidden))],
        "inputs_embeds": [torch.randn(BATCH, TOKENS, hidden)],
        "noise_embeds": [torch.randn(BATCH, TOKENS, hidden)],
        "context_hidden_states": [torch.randn(BATCH, TOKENS, hidden)],
        "action_embeds": [torch.randn(BATCH, 8, hidden)],
        "latents": [torch.randn(BATCH, hidden, 64), torch.randn(BATCH, 64, hidden)],
        "inputs": [torch.randn(BATCH, TOKENS, int(_find(config, "d_model") or hidden))],
        "input": [images],
        "past_values": [series, series[..., 0]],
        "past_values_padding": [torch.zeros(BATCH, past, dtype=torch.int64)],
        "freq": [torch.zeros(BATCH, 1, dtype=torch.int64)],
        "prompt_pixel_values": [images],
        "prompt_masks": [images],
        "states": [torch.randn(BATCH, TOKENS, int(_find(config, "state_dim") or 17))],
        "actions": [torch.randn(BATCH, TOKENS, int(_find(config, "act_dim") or 4))],
        "rewards": [torch.randn(BATCH, TOKENS, 1)],
        "returns_to_go": [torch.randn(BATCH, TOKENS, 1)],
        "timesteps": [torch.zeros(BATCH, TOKENS, dtype=torch.int64)],
        "decoder_input_ids": [_ids(config, 8)],
    }


ALWAYS = ("decoder_input_ids", "visual_feats", "visual_pos", "image_embeds_position_mask", "states", "actions", "rewards", "returns_to_go", "timesteps")  # fmt: skip
MAIN = ("pixel_values", "pixel_values_videos", "input_values", "input_features", "past_values", "inputs", "input", "hidden_states", "latents", "audio_mel", "states")  # fmt: skip


def _bare_inputs(model: Any, config: Any) -> Iterator[dict[str, Any]]:
    """Candidate inputs, the likeliest first: the architecture's own, the arguments without default, and the usual ones that the model takes."""
    if config.model_type in INPUTS:
        yield INPUTS[config.model_type](config)
    parameters = inspect.signature(model.forward).parameters
    values = _values(config)
    required = [
        name
        for name, p in parameters.items()
        if p.default is inspect.Parameter.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    always = {n: values[n][0] for n in (*ALWAYS, *required) if n in parameters and n in values}
    text = {n: values[n][0] for n in ("input_ids", "attention_mask", "bbox") if n in parameters}
    main = getattr(model, "main_input_name", None)
    if "input_ids" in text:
        for name in ("pixel_values", "input_features"):
            if name in parameters and "grid" not in " ".join(parameters):
                yield {**always, **text, name: values[name][0]}
        yield {**always, **text}
        yield {**always, **text, **{n: values[n][0] for n in ("mm_token_type_ids",) if n in parameters}}
        yield {**always, **text, "use_cache": False}
    ordered = [main] if isinstance(main, str) else list(main or ())
    for name in dict.fromkeys(n for n in (*ordered, *MAIN) if n in parameters and n in values):
        for value in values[name]:
            yield {**always, name: value}
            for mask in ("input_features_mask", "grid_thw", "image_grid_thw", "pixel_attention_mask"):
                for other in values[mask][1:] if mask in parameters else ():
                    yield {**always, name: value, mask: other}
    if always and not text:
        yield always
    for name in ("pixel_values", "input_features") if text else ():
        for value in values[name][1:] if name in parameters else ():
            yield {**always, **text, name: value}


def _labels(model: Any, inputs: dict[str, Any]) -> torch.Tensor | None:
    """Labels for a class with a task's head, where a rule by its name gives them."""
    name = type(model).__name__
    ids = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    if name.endswith(
        ("ForCausalLM", "ForMaskedLM", "LMHeadModel", "ForTokenClassification", "ForConditionalGeneration")
    ):
        return None if ids is None else ids % 2 if name.endswith("ForTokenClassification") else ids
    if name.endswith(
        ("ForSequenceClassification", "ForImageClassification", "ForVideoClassification", "ForMultipleChoice")
    ):
        return torch.zeros(next(v.shape[0] for v in inputs.values() if isinstance(v, torch.Tensor)), dtype=torch.int64)
    if name.endswith("ForCTC"):
        return torch.ones(BATCH, 4, dtype=torch.int64)
    return None


def inputs_for(model: Any, config: Any) -> Iterator[dict[str, Any]]:
    """Candidate inputs, the likeliest first; each with labels before it comes without, where the model takes some."""
    takes = "labels" in inspect.signature(model.forward).parameters
    for inputs in _bare_inputs(model, config):
        labels = _labels(model, inputs) if takes else None
        if labels is not None:
            yield {**inputs, "labels": labels}
        yield inputs
