"""Laws of reading the training steps: rows become observations under their limit, epoch totals are left out."""

from pathlib import Path

import pytest

from budjoule.calibration.evidence.zeus import read, workload

LIMIT_W = 250
STEPS_MS = {
    8: 40,
    16: 38,
    32: 41,
    64: 49,
    128: 80,
    256: 150,
}  # the host takes 40 ms, the GPU half of 80 for half of 128
HEADER = "device,workload_id,model,precision,batch,seq_or_image,optimizer,power_limit_w,energy_j,duration_s,energy_per,avg_power_w,notes\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zeus") / "measurements.csv"
    path.write_text(
        HEADER
        + "v100-pcie-32gb,cifar100_shufflenetv2_x1,shufflenetv2_x1,fp32,8.0,32,adadelta,100,2.0,0.04,step,50.0,\n"
        + "".join(
            f"v100-pcie-32gb,cifar100_shufflenetv2_x1,shufflenetv2_x1,fp32,{batch}.0,32,adam,{LIMIT_W},1.5,{ms / 1e3},step,39.1,\n"
            for batch, ms in reversed(STEPS_MS.items())
        )
        + "v100-pcie-32gb,movielens-1m_neumf,neumf,fp32,8.0,,adam,250,900,10,epoch,90,\n"
    )
    return path


def test_rows_become_observations_under_their_limit(table: Path) -> None:
    first, *others = read(table)["v100-pcie-32gb"]
    assert (first.power_limit_w, first.energy_j, first.clock_hz, first.group) == (100.0, 2.0, None, "shufflenetv2")
    assert len(others) == len(STEPS_MS)


def test_a_step_waits_for_the_host_while_more_examples_cost_no_time(table: Path) -> None:
    _, *others = read(table)["v100-pcie-32gb"]
    waits = {o.duration_s: o.group for o in others}
    assert {ms: waits[ms / 1e3] for ms in STEPS_MS.values()} == {
        40: "shufflenetv2, host-bound",
        38: "shufflenetv2, host-bound",
        41: "shufflenetv2, host-bound",
        49: "shufflenetv2, host-bound",  # a fifth more than half the batch takes
        80: "shufflenetv2",
        150: "shufflenetv2",
    }


def test_optimizer_of_the_time_launches_once_a_call_and_tensor(table: Path) -> None:
    step = workload("shufflenetv2", 8, "adadelta")
    launches = sum(op.launches for op in step.ops if op.phase == "optimizer")
    tensors = len([op for op in step.ops if op.phase == "optimizer" and op.weight_bytes])
    assert launches > 11 * tensors
