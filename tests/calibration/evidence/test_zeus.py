"""Laws of reading the training steps: rows become observations under their limit, epoch totals are left out."""

from pathlib import Path

import pytest

from budjoule.calibration.evidence.zeus import read, workload

HEADER = "device,workload_id,model,precision,batch,seq_or_image,optimizer,power_limit_w,energy_j,duration_s,energy_per,avg_power_w,notes\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zeus") / "measurements.csv"
    path.write_text(
        HEADER
        + "v100-pcie-32gb,cifar100_shufflenetv2_x1,shufflenetv2_x1,fp32,8.0,32,adadelta,100,2.0,0.04,step,50.0,\n"
        + "v100-pcie-32gb,cifar100_shufflenetv2_x1,shufflenetv2_x1,fp32,8.0,32,adam,250,1.5,0.038,step,39.1,GPU mostly waiting (host/launch bound)\n"
        + "v100-pcie-32gb,movielens-1m_neumf,neumf,fp32,8.0,,adam,250,900,10,epoch,90,\n"
    )
    return path


def test_rows_become_observations_under_their_limit(table: Path) -> None:
    first, second = read(table)["v100-pcie-32gb"]
    assert (first.power_limit_w, first.energy_j, first.clock_hz) == (100.0, 2.0, None)
    assert (first.group, second.group) == ("shufflenetv2", "shufflenetv2, host-bound")


def test_optimizer_of_the_time_launches_once_a_call_and_tensor(table: Path) -> None:
    step = workload("shufflenetv2", 8, "adadelta")
    launches = sum(op.launches for op in step.ops if op.phase == "optimizer")
    tensors = len([op for op in step.ops if op.phase == "optimizer" and op.weight_bytes])
    assert launches > 11 * tensors
