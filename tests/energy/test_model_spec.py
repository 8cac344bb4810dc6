"""Laws of reading MODEL and SPEC: what is written is what is built, what cannot be read is named with the remedy."""

from pathlib import Path

import pytest
import torch

import budjoule as bj
from budjoule.energy.model_spec import build_model, parse_inputs


def test_shapes_dtypes_and_bounds_are_as_written() -> None:
    made = parse_inputs("ids=2x7:int64<5,mask=2x7:bool,x=3x4:bf16,length=scalar:int32<9")
    assert isinstance(made, dict)
    assert {name: (tuple(t.shape), t.dtype) for name, t in made.items()} == {
        "ids": ((2, 7), torch.int64),
        "mask": ((2, 7), torch.bool),
        "x": ((3, 4), torch.bfloat16),
        "length": ((), torch.int32),
    }
    assert int(made["ids"].max()) < 5
    assert made["x"].is_meta


def test_unnamed_inputs_are_a_tensor_or_a_tuple() -> None:
    assert isinstance(parse_inputs("8x3x4x4"), torch.Tensor)
    assert isinstance(parse_inputs("8x3,8"), tuple)
    assert torch.equal(parse_inputs("64:int64<1000"), parse_inputs("64:int64<1000"))


@pytest.mark.parametrize("spec", ["", "8xx3", "axb", "8x3:fp99", "8x3:fp32<4", "a=2,3", "a=2,a=3", "2:int64<0"])
def test_unreadable_input_is_a_clear_error(spec: str) -> None:
    with pytest.raises(bj.BudjouleError, match="input"):
        parse_inputs(spec)


def test_transformers_model_is_built_from_its_configuration_without_weights() -> None:
    pytest.importorskip("transformers")
    model = build_model("hf:GPT2Model?n_layer=2&n_embd=64&n_head=2&attn_implementation=eager")
    assert len(model.h) == 2
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("hf:GPT2Modell", "GPT2Model"),
        ("hf:GPT2Model?n_layers=2", "n_layer"),
        ("hf:GPT2Model?n_layer", "key=value"),
        ("hf:GPT2Model?n_head=7", "cannot build"),
    ],
)
def test_wrong_transformers_model_names_what_is_near(spec: str, text: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(bj.BudjouleError, match=text):
        build_model(spec)


def test_users_file_is_built_where_it_can_be_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\ndef plain(): return torch.nn.Linear(3, 2)\ndef looks(): return torch.nn.Linear(int(torch.ones(3).sum().item()), 2)\ndef wrong(): return 3\ndef fails(): raise RuntimeError('no weights\\nhere')\n"
    )
    assert build_model(f"{path}:plain").weight.is_meta
    assert build_model(f"{path}:looks").weight.shape == (2, 3)
    with pytest.raises(bj.BudjouleError, match="returned a int"):
        build_model(f"{path}:wrong")
    with pytest.raises(bj.BudjouleError, match="no weights here"):
        build_model(f"{path}:fails")
