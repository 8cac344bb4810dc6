"""What single architectures of transformers need: configuration values that their default leaves out, and inputs that no name tells."""

from collections.abc import Callable
from typing import Any

import torch

RESNET = {"use_timm_backbone": False, "backbone": None, "backbone_config": {"model_type": "resnet", "out_features": ["stage4"]}}  # fmt: skip
RESNETS = {**RESNET, "backbone_config": {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}}
SERIES = {"prediction_length": 24, "lags_sequence": [1, 2, 3], "num_time_features": 2}
ROTARY: dict[str, Any] = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
    "head_dim": 128,
}

# Configuration values by model type: without them the default configuration describes no model.
CONFIG: dict[str, dict[str, Any]] = {
    "autoformer": SERIES,
    "informer": SERIES,
    "time_series_transformer": SERIES,
    "blip-2": {"image_token_index": 5},
    "instructblip": {"image_token_index": 5},
    "instructblipvideo": {"video_token_index": 5},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "conditional_detr": RESNET,
    "dab-detr": RESNET,
    "deformable_detr": RESNETS,
    "detr": RESNET,
    "table-transformer": RESNET,
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 8},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "glm4v_text": ROTARY,
    "glm4v_moe_text": ROTARY,
    "glm4v": {"text_config": {**ROTARY, "head_dim": 64}},
    "glm46v": {"text_config": {**ROTARY, "head_dim": 64}},
    "glm4v_moe": {"text_config": ROTARY},
    "glm_image": {"text_config": ROTARY},
    "glm_image_text": ROTARY,
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {
        "text_config": {**ROTARY, "rope_parameters": {**ROTARY["rope_parameters"], "mrope_section": [16, 24, 24]}}
    },
    "hunyuan_vl_text": {**ROTARY, "rope_parameters": {**ROTARY["rope_parameters"], "mrope_section": [16, 24, 24]}},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "reformer": {"is_decoder": True},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


def tokens(batch: int, length: int, *more: int) -> torch.Tensor:
    """Token numbers that every vocabulary has."""
    return torch.randint(6, 30, (batch, length, *more))


def grid(batch: int, side: int) -> torch.Tensor:
    """Row and column of each patch of square images."""
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    return place.view(1, side * side, 2).expand(batch, -1, -1)


THW = torch.tensor([[1, 8, 8]])


def series(c: Any) -> dict[str, Any]:
    """Past and future values with their times."""
    past, future = c.context_length + max(c.lags_sequence), c.prediction_length
    return {
        "past_values": torch.randn(2, past),
        "past_time_features": torch.randn(2, past, c.num_time_features),
        "past_observed_mask": torch.ones(2, past),
        "future_values": torch.randn(2, future),
        "future_time_features": torch.randn(2, future, c.num_time_features),
    }


# Inputs by model type.
INPUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "autoformer": series,
    "informer": series,
    "time_series_transformer": series,
    "dia": lambda c: {"input_ids": tokens(2, 16), "decoder_input_ids": tokens(2, 8, 9)},
    "fun_asr_nano_encoder": lambda c: {"input_features": torch.randn(2, 104, 560), "input_features_mask": torch.ones(2, 104, dtype=torch.int64)},
    "gemma4_vision": lambda c: {"pixel_values": torch.randn(2, 144, 768), "pixel_position_ids": grid(2, 12)},
    "granite_speech5_ctc": lambda c: {"input_features": torch.randn(2, 104, 320)},
    "granite_speech5_encoder": lambda c: {"input_features": torch.randn(2, 104, 320)},
    "idefics": lambda c: {
        "input_ids": tokens(2, 16), "attention_mask": torch.ones(2, 16, dtype=torch.int64),
        "pixel_values": torch.randn(2, 1, 3, 224, 224), "image_attention_mask": torch.ones(2, 16, 1, dtype=torch.int64),
    },
    "inkling2_vision": lambda c: {"pixel_values": torch.randn(64, 40, 40, 3), "image_grid_thw": THW},
    "kimi_k25_vision": lambda c: {"pixel_values": torch.randn(64, 3, 14, 14), "grid_thw": THW},
    "kosmos-2": lambda c: {
        "pixel_values": torch.randn(2, 3, 224, 224), "input_ids": tokens(2, 80), "attention_mask": torch.ones(2, 80, dtype=torch.int64),
        "image_embeds_position_mask": torch.arange(80).lt(64).expand(2, -1),
    },
    "kyutai_speech_to_text": lambda c: {"input_ids": tokens(2, 16, 33)},
    "minicpm_ocr_vision": lambda c: {"pixel_values": torch.randn(1, 3, 16, 16 * 64), "target_sizes": torch.tensor([[8, 8]])},
    "minicpmv4_7_vision": lambda c: {"pixel_values": torch.randn(1, 3, 16, 16 * 64), "target_sizes": torch.tensor([[8, 8]])},
    "muse_glimmer_assistant": lambda c: {"noise_embeds": torch.randn(2, 16, c.hidden_size), "context_hidden_states": torch.randn(2, 16, 5 * c.hidden_size)},
    "muse_glimmer_vision": lambda c: {"pixel_values": torch.randn(64, 1176), "grid_thw": THW},
    "muse_spark_vision": lambda c: {"pixel_values": torch.randn(64, 1176), "grid_thw": THW},
    "musicgen_decoder": lambda c: {"input_ids": tokens(2 * c.num_codebooks, 16)},
    "musicgen_melody_decoder": lambda c: {"input_ids": tokens(2 * c.num_codebooks, 16)},
    "neucodec": lambda c: {"input_values": torch.randn(2, 1, 16000), "input_features": torch.randn(2, 50, 160)},
    "oneformer": lambda c: {"pixel_values": torch.randn(2, 3, 224, 224), "task_inputs": tokens(2, 77)},
    "reformer": lambda c: {"input_ids": tokens(1, 4096)},
    "rf_detr": lambda c: {"pixel_values": torch.randn(2, 3, 560, 560)},
    "seggpt": lambda c: {name: torch.randn(2, 3, 448, 448) for name in ("pixel_values", "prompt_pixel_values", "prompt_masks")},
    "siglip2": lambda c: {
        "input_ids": tokens(2, 16), "pixel_values": torch.randn(2, 64, 768), "pixel_attention_mask": torch.ones(2, 64, dtype=torch.int64),
        "spatial_shapes": torch.tensor([[8, 8], [8, 8]]),
    },
    "speecht5": lambda c: {"input_values": torch.randn(2, 40, 768), "decoder_input_values": torch.randn(2, 20, 768)},
    "step3p7": lambda c: {
        "input_ids": torch.cat([torch.full((2, 169), c.image_token_id), tokens(2, 16)], 1),
        "attention_mask": torch.ones(2, 185, dtype=torch.int64),
        "pixel_values": torch.randn(2, 3, 728, 728),
    },
    "voxtral_realtime": lambda c: {"input_ids": tokens(2, 375), "input_features": torch.randn(2, 128, 3000)},
    "xcodec2": lambda c: {"input_values": torch.randn(2, 1, 16000), "input_features": torch.randn(2, 50, 160)},
}  # fmt: skip
