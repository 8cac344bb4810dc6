"""Reads what a user types: MODEL (`hf:GPT2Model?n_layer=2`, `file.py:build`) and the shapes of its inputs (`8x128:int64<50257`)."""

import ast
import math
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from budjoule.energy.errors import BudjouleError, UsageError
from budjoule.energy.tracing.named import load_callable
from budjoule.energy.tracing.recorder import REAL_NUMEL

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "float": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp64": torch.float64,
    "int64": torch.int64,
    "long": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_INPUT = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+))?(?:<(?P<bound>\d+))?"
)
MOST_ELEMENTS = 10**15  # strides and byte counts of larger tensors overflow 64 bits
EXAMPLE = "8x3x224x224, or input_ids=8x128:int64<50257,attention_mask=8x128:int64<2"


def build_model(spec: str, *, real: bool = False) -> nn.Module:
    """The module that a MODEL names, without weights where that is possible.

    Args:
        spec: `package.module:callable` or `path/to/file.py:callable` that returns a module, or
            `hf:ClassName[?config_key=value&...]`, built by transformers from its configuration, without weights or network.
        real: Build it with its (random) weights, to run it.

    Raises:
        UsageError: There is no such model, or building it fails; the message says what helps.
    """
    if spec.startswith("hf:"):
        return _from_transformers(spec, "cpu" if real else "meta")
    build = load_callable(spec, "model")
    try:
        with torch.device("cpu" if real else "meta"):
            model = build()
    except (Exception, SystemExit):  # code that needs values while it builds: let it have them
        try:
            model = build()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"model {spec!r}: building it failed with {type(error).__name__}: {_line(error)}; it must take no arguments"
            ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"model {spec!r} returned a {type(model).__name__}; return a torch.nn.Module")
    return model


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _from_transformers(spec: str, device: str) -> nn.Module:
    name, _, query = spec.removeprefix("hf:").partition("?")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import transformers
    except ImportError:
        raise UsageError(
            f"{spec!r} needs transformers; install it with: pip install 'budjoule[transformers]'"
        ) from None
    transformers.logging.set_verbosity_error()
    found = getattr(transformers, name, None)
    config_class = getattr(found, "config_class", None)
    if found is None or config_class is None:
        models = [known for known in dir(transformers) if known.endswith(("Model", "LM")) or "For" in known]
        near = get_close_matches(name, models, n=3, cutoff=0.5)
        raise UsageError(
            f"transformers has no model class {name!r}; {'did you mean ' + ' or '.join(near) + '?' if near else 'name a class such as GPT2LMHeadModel'}"
        )
    try:
        config = config_class(**_config_values(name, config_class(), query))
        with torch.device(device):
            return found(config)  # type: ignore[no-any-return]
    except BudjouleError:
        raise
    except Exception as error:
        raise UsageError(
            f"model {spec!r}: transformers cannot build it: {_line(error)}; check the configuration's values"
        ) from error


def _config_values(name: str, config: Any, query: str) -> dict[str, Any]:
    known = {
        **config.to_dict(),
        **dict.fromkeys(getattr(config, "attribute_map", {})),
        "attn_implementation": None,
    }
    values = {}
    for pair in filter(None, query.split("&")):
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"cannot read {pair!r} of {name}; write config_key=value&other_key=value")
        if key not in known:
            near = get_close_matches(key, known, n=3, cutoff=0.5)
            raise UsageError(
                f"{name}'s configuration has no {key!r}; {'did you mean ' + ' or '.join(near) + '?' if near else 'see its documentation for the keys'}"
            )
        values[key] = _value(text)
    return values


def _value(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "null": "None", "none": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def parse_inputs(
    spec: str, *, batch: int | None = None, seed: int = 0
) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]:
    """The inputs that a SPEC describes: floating ones without data, integers random below their bound.

    Args:
        spec: Shapes `8x3x224x224`, with a dtype and a bound for integers (`8x128:int64<50257`), separated by commas and
            named where the model takes them by name.
        batch: Another batch size: it replaces the first size of every input whose first size is that of the first input.
        seed: Of the random integers.

    Raises:
        UsageError: The text is no such description.

    >>> parse_inputs("2x3").shape
    torch.Size([2, 3])
    >>> [tuple(t.shape) for t in parse_inputs("2x3,2,5x5", batch=8)]
    [(8, 3), (8,), (5, 5)]
    >>> sorted(parse_inputs("ids=2x3:int64<10,mask=2x3:bool"))
    ['ids', 'mask']
    """
    random = torch.Generator().manual_seed(seed)
    names, made = [], []
    first: int | None = None
    for part in map(str.strip, spec.split(",")):
        match = _INPUT.fullmatch(part)
        if match is None:
            raise UsageError(f"cannot read the input {part!r}; write shapes like {EXAMPLE}")
        shape = _shape(part, match["shape"])
        first = shape[0] if first is None and shape else first
        if batch is not None and shape and shape[0] == first:
            shape[0] = batch
        names.append(match["name"])
        made.append(_tensor(part, shape, match, random))
    if batch is not None and first is None:
        raise UsageError(
            f"the inputs {spec!r} have no batch size to vary: all are scalars; write shapes like {EXAMPLE}"
        )
    if all(names):
        if len(set(names)) < len(names):
            raise UsageError(f"an input is named twice in {spec!r}; name each once")
        return dict(zip(names, made, strict=True))
    if any(names):
        raise UsageError(f"some inputs of {spec!r} have names and some have not; name all or none")
    return made[0] if len(made) == 1 else tuple(made)


def _shape(part: str, text: str) -> list[int]:
    shape = [] if text == "scalar" else [int(size) for size in text.split("x")]
    if 0 in shape:
        raise UsageError(f"the input {part!r} is empty: a size is 0; sizes are at least 1")
    if math.prod(shape) > MOST_ELEMENTS:
        raise UsageError(f"the input {part!r} has more than {MOST_ELEMENTS:.0e} elements; check its sizes")
    return shape


def _tensor(
    part: str, shape: list[int], match: Mapping[str, Any] | re.Match[str], random: torch.Generator
) -> torch.Tensor:
    name = match["dtype"] or ("int64" if match["bound"] else "fp32")
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r} in the input {part!r}; one of {', '.join(DTYPES)}")
    dtype = DTYPES[name]
    if dtype.is_floating_point:
        if match["bound"]:
            raise UsageError(f"a bound is for integers, and the input {part!r} is {name}; leave it out")
        return torch.empty(shape, dtype=dtype, device="meta")
    bound = int(match["bound"] or 2)
    largest = 2 if dtype == torch.bool else torch.iinfo(dtype).max + 1
    if not 1 <= bound <= largest:
        raise UsageError(
            f"the bound of the input {part!r} must be from 1 to {largest}, so that {name} holds every value"
        )
    if math.prod(shape) > REAL_NUMEL:  # tracing looks at no values beyond this size
        return torch.empty(shape, dtype=dtype, device="meta")
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    return torch.randint(0, min(bound, torch.iinfo(torch.int64).max), shape, generator=random).to(dtype)
