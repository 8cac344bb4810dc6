"""A synthetic run folder, in the shape that training writes, and a synthetic estimate."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from budjoule.energy.estimate import Estimate
from budjoule.energy.workload import OpCost, Workload

CAUSES = ("compute", "uplink", "downlink", "idle")


def write_run(
    folder: Path,
    *,
    clients: int = 20,
    evaluations: int = 30,
    seed: int = 0,
    finished: bool = True,
    names: dict[int, Any] | None = None,
    device: str = "raspberry-pi-5",
    scheduler: str = "price-threshold",
    peak_frac: float = 0.94,
) -> Path:
    """Write a run whose numbers agree with each other, as a real one's do."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    names = names or {}
    rows = []
    sends = []
    for k in range(clients):
        count = draw.randint(0 if k % 7 == 3 else 2, 14)
        times = sorted(draw.uniform(60, 3600) for _ in range(count))
        sends += [(time_s, names.get(k, k), draw.randint(900, 4000), draw.uniform(1.0, 6.0)) for time_s in times]
        uplink_j = sum(s[3] for s in sends if s[1] == names.get(k, k))
        spent = {
            "compute": draw.uniform(80, 220),
            "uplink": uplink_j,
            "downlink": uplink_j / 3,
            "idle": draw.uniform(5, 25),
        }
        total_j = sum(spent.values())
        rows.append(
            {
                "client": names.get(k, k),
                "device": device,
                "link": "wifi-pi",
                "examples": draw.randint(20, 150),
                "budget_j": 400.0,
                "spent_j": total_j,
                "spent_by_cause_j": spent,
                "overspent_j": max(0.0, total_j - 400.0),
                "uplink_bytes": sum(s[2] for s in sends if s[1] == names.get(k, k)),
                "downlink_bytes": 9000 * count,
                "sends": count,
                "taken": count - (k == 0),
                "blocks": count * 3,
                "straggler": k % 3 == 0,
            }
        )
    totals = {cause: sum(row["spent_by_cause_j"][cause] for row in rows) for cause in CAUSES}
    spent_j, up, down = (
        sum(totals.values()),
        sum(r["uplink_bytes"] for r in rows),
        sum(r["downlink_bytes"] for r in rows),
    )
    events: list[dict[str, Any]] = []
    for time_s, client, size, energy_j in sends:
        version = int(time_s / 120)
        stale = min(version, int(draw.expovariate(0.5)))
        events.append(
            {"event": "send", "time_s": time_s, "client": client, "base_version": version - stale, "staleness": stale}
            | {"size_bytes": size, "energy_j": energy_j, "level": 0}
        )
    for i in range(evaluations):
        part = i / max(1, evaluations - 1)
        accuracy = (
            0.1
            + (peak_frac - 0.1) * (1 - math.exp(-4 * part)) / (1 - math.exp(-4))
            + (draw.uniform(-0.015, 0) if i + 1 < evaluations else 0)
        )
        events.append(
            {
                "event": "evaluate",
                "time_s": 3600.0 * part,
                "version": i,
                "accuracy_frac": accuracy,
                "loss": 2.3 * (1 - part),
            }
            | {"spent_j": spent_j * part, "uplink_bytes": int(up * part), "downlink_bytes": int(down * part)}
        )
        if i:
            events.append(
                {"event": "aggregate", "time_s": 3600.0 * part, "version": i, "updates": 10, "mean_staleness": 1.4}
            )
    events.append({"event": "reject", "time_s": 1800.0, "client": names.get(0, 0), "reason": "wrong checksum"})
    events.sort(key=lambda event: event["time_s"])
    config = {
        "seed": seed,
        "task": {"data": "digits", "model": "mlp", "partition": "dirichlet:0.3"},
        "fleet": {"clients": clients, "device": device, "link": "wifi-pi", "straggler_frac": 0.3},
        "budget": {"energy": "400 J", "horizon": "1 h"},
        "update": {"compress": ["topk:0.01", "quantize:8"], "error_feedback": True},
        "schedule": {"policy": scheduler, "slot": "60 s"},
        "server": {"method": "budjoule", "buffer_size": 10},
        "stop": {"target_accuracy_frac": 0.9, "duration": "1 h"},
    }
    machine = {"platform": "Linux-x86_64", "python": "3.11.9", "torch": "2.13.0", "cpu_count": 2}
    header = {
        "schema": "budjoule.run/1",
        "budjoule_version": "0.1.0",
        "config": config,
        "seed": seed,
        "machine": machine,
    }
    header["created_at"] = "2026-01-02T03:04:05+00:00"
    (folder / "run.json").write_text(json.dumps(header))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    reached = next((e for e in events if e["event"] == "evaluate" and e["accuracy_frac"] >= 0.9), None)
    summary = {
        "schema": "budjoule.summary/1",
        "accuracy_frac": [e for e in events if e["event"] == "evaluate"][-1]["accuracy_frac"] if evaluations else None,
        "target_accuracy_frac": 0.9,
        "time_to_target_s": reached and reached["time_s"],
        "energy_to_target_j": reached and reached["spent_j"],
        "uplink_bytes_to_target": reached and reached["uplink_bytes"],
        "budget_j": 400.0 * clients,
        "spent_j": spent_j,
        "spent_by_cause_j": totals,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "peak_memory_bytes": 812_000,
        "simulated_duration_s": 3600.0,
        "wall_duration_s": 21.3,
        "rounds": max(0, evaluations - 1),
        "clients": clients,
        "overspent_clients": sum(row["overspent_j"] > 0 for row in rows),
        "worst_decile_accuracy_frac": 0.81,
        "participating_clients": sum(row["taken"] > 0 for row in rows),
        "method": "budjoule",
        "seed": seed,
        "model_sha256": "ab" * 32,
        "by_client": rows,
    }
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder of a given name under `tmp_path`."""

    def make(name: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return make


def estimate_of(
    blocks: int = 3, device: str = "a-device", scale: float = 1.0, model: str = "Net", hostile: str = ""
) -> Estimate:
    """An estimate of a small stack of blocks, whose rows add up to its total."""
    ops = [OpCost(name="aten.embedding", module="embed", kind="gather", precision="fp32", activation_bytes=1000)]
    for phase in ("forward", "backward"):
        for i in range(blocks):
            lead = f"layers.{i}"
            ops += [
                OpCost(
                    name="aten.addmm",
                    module=f"{lead}.dense{hostile}",
                    phase=phase,
                    kind="matmul",
                    precision="fp32",
                    flop=10**9,
                ),
                OpCost(
                    name="aten.relu", module=lead, phase=phase, kind="elementwise", precision="fp32", elements=10**6
                ),
            ]
    ops.append(OpCost(name="aten.strange", kind="elementwise", precision="fp32", elements=10, ruled=False))
    work = Workload(model=model, mode="training", precision="fp32", optimizer="sgd", ops=tuple(ops))
    energy_j = np.array([scale * (0.5 + op.flop * 1e-9 + op.elements * 1e-7) for op in ops])
    duration_s = energy_j / 50
    whole_j, whole_s = float(energy_j.sum()), float(duration_s.sum())
    return Estimate(
        work=work,
        device=device,
        status="fitted",
        energy_j=whole_j,
        energy_low_j=0.9 * whole_j,
        energy_high_j=1.2 * whole_j,
        idle_energy_j=0.2 * whole_j,
        duration_s=whole_s,
        duration_low_s=0.9 * whole_s,
        duration_high_s=1.1 * whole_s,
        clock_hz=1.41e9,
        power_limited=False,
        unruled_energy_frac=0.05,
        notes=("loss is the mean of the output",),
        row_energy_j=energy_j,
        row_duration_s=duration_s,
    )


@pytest.fixture
def make_estimate() -> Callable[..., Estimate]:
    """Makes an estimate of a small stack of blocks."""
    return estimate_of
