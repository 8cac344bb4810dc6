"""`budjoule profile --fused`: the compiled step costs less, and the estimate says that it is one."""

import json
from pathlib import Path

import pytest

from budjoule.cli.main import main


def test_fused_costs_less_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    net = "import torch\ndef build(): return torch.nn.Sequential(torch.nn.Linear(12, 800), torch.nn.Sigmoid(), torch.nn.Tanh())\n"
    (tmp_path / "net.py").write_text(net)
    monkeypatch.chdir(tmp_path)
    documents = []
    for flags in ([], ["--fused"]):
        arguments = ["profile", "net.py:build", "--input", "64x12", "--device", "a100-pcie-40gb", "--json", *flags]
        monkeypatch.setattr("sys.argv", ["budjoule", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        documents.append(json.loads(capfd.readouterr().out))
    plain, fused = documents
    assert fused["flop"] == plain["flop"]
    assert fused["energy_j"] < plain["energy_j"]
    assert any("torch.compile" in note for note in fused["notes"])
