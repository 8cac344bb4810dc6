"""Laws of reading the large models' stages: layers fall to stages, waiting is taken off, voltage comes from power at locked clocks."""

from pathlib import Path

import pytest

from budjoule.calibration.evidence import perseus

HEADER = "device,n_devices,model,precision,batch,microbatch,num_microbatches,seq_or_image,pp,tp,dp,stage,power_limit_w,clock_mhz,energy_j,energy_per,duration_s,forward_s,backward_s,notes\n"
WAITING_W = {300.0: 130.0, 150.0: 100.0}  # by the limit, which a GPU draws that works
REST_W, MICROBATCHES = 85.0, 10
FORWARD_S, BACKWARD_S = 0.05, 0.15
STEPS_S = (2.1, 2.5)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    busy_s = MICROBATCHES * (FORWARD_S + BACKWARD_S)
    ranks = ""
    for limit_w, waiting_w in WAITING_W.items():
        for i, step_s in enumerate(STEPS_S):
            energy_j = busy_s * limit_w + (step_s - busy_s) * waiting_w
            ranks += f"a40-pcie-48gb,1,bert-huge-uncased,fp32,80,8.0,{MICROBATCHES}.0,512,8,1.0,1.0,rank{i + 1},{limit_w},,{energy_j},step,{step_s},{FORWARD_S},{BACKWARD_S},\n"
    locked = ""
    for clock_mhz in range(600, 1400, 15):
        volt = max(1.0, clock_mhz / 1000)  # flat up to 1 GHz, then with the clock
        power_w = REST_W + 0.08 * clock_mhz * volt**2
        for stage in ("0:forward", "0:backward", "7:forward", "7:backward"):
            locked += f"a40-pcie-48gb,1,bloom,bf16,,,,,8,,,{stage},,{clock_mhz},{power_w},stage,1.0,,,\n"
    path = tmp_path / "measurements.csv"
    path.write_text(HEADER + ranks + locked)
    return path


def test_a_microbatch_costs_what_the_step_does_without_its_waiting(table: Path) -> None:
    ((device, observations),) = perseus.read(table).items()
    assert device == "a40-pcie-48gb"
    assert sorted(o.power_limit_w for o in observations if o.power_limit_w) == [150.0, 150.0, 300.0, 300.0]
    for o in observations:
        assert o.power_limit_w is not None
        assert o.duration_s == pytest.approx(FORWARD_S + BACKWARD_S)
        assert o.energy_j == pytest.approx(o.power_limit_w * (FORWARD_S + BACKWARD_S))
        assert (o.clock_hz, o.group) == (None, "bert-huge-uncased")


def test_voltage_is_flat_then_rises_with_the_clock(table: Path) -> None:
    curve = dict(perseus.voltage(table, 1.74e9))
    assert all(ratio == pytest.approx(1.0, abs=0.01) for share, ratio in curve.items() if share * 1.74e9 < 1e9)
    rising = {share * 1.74: ratio for share, ratio in curve.items() if 1.05 < share * 1.74 < 1.3}  # at GHz
    assert rising
    assert all(ratio == pytest.approx(ghz, rel=0.02) for ghz, ratio in rising.items())


@pytest.mark.parametrize(
    ("module", "index"),
    [
        ("bert.embeddings.word_embeddings", 0),
        ("bert.encoder.layer.3.attention.self", 4),
        ("cls.predictions", 25),
        ("transformer.wte", 0),
        ("transformer.h.23.mlp", 24),
        ("", 25),
    ],
)
def test_module_belongs_to_the_layer_of_its_block(module: str, index: int) -> None:
    assert perseus.layer(module, 24) == index


def test_stages_share_the_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers as hf

    import budjoule as bj

    net = hf.BertForMaskedLM(
        hf.BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
    )
    ids = torch.zeros(1, 8, dtype=torch.int64)
    whole = bj.trace(net, {"input_ids": ids, "labels": ids}, mode="training")
    monkeypatch.setattr(perseus, "step", lambda *_: whole)
    monkeypatch.setitem(perseus.LAYERS, "tiny", 4)
    monkeypatch.setitem(perseus.STARTS, ("tiny", 2), (0, 3, 6))
    parts = [perseus.stage("tiny", 2, rank, 1, 8) for rank in (0, 1)]
    kept = [op for op in whole.ops if op.phase != "optimizer"]
    assert sum(len(part.ops) for part in parts) == len(kept)
    assert sum(part.flop for part in parts) == sum(op.flop * op.calls for op in kept)
