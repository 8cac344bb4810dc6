"""Which meter is chosen, and what is said of those that could have been."""

from typing import Any

import pytest

from budjoule.energy.errors import MeterError
from budjoule.energy.meters import METERS
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.rapl import open_rapl, permission_fix
from budjoule.energy.windows.choose import choose


def refuse(path: str, flags: int) -> int:
    raise PermissionError(13, "Permission denied", path)


@pytest.mark.parametrize("name", ["nvml", "battery"])
def test_a_denied_counter_beside_another_meter_names_its_fix(
    tree: Any, hand_meter: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    monkeypatch.setitem(METERS, "rapl", lambda: open_rapl(opener=refuse))
    monkeypatch.setitem(METERS, name, lambda: hand_meter([Domain(name="board")], [0.0]))
    notes = choose().notes
    assert any(permission_fix(tree.root)[0] in note for note in notes)
    assert any("not in the total" in note for note in notes) == (name == "nvml")  # a battery feeds the processor too


def test_a_counter_that_is_not_there_needs_no_permission(
    tree: Any, hand_meter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METERS, "nvml", lambda: hand_meter([Domain(name="board")], [0.0]))
    (note,) = choose().notes
    assert "not in the total ('budjoule doctor')" in note


def test_a_denied_counter_that_is_required_names_its_fix(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    monkeypatch.setitem(METERS, "rapl", lambda: open_rapl(opener=refuse))
    with pytest.raises(MeterError, match="permission denied; run 'sudo chmod"):
        choose(require_measured=True)
