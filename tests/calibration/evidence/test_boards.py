"""Laws of reading the boards' runs: one runtime, no outliers, int8 moves a quarter of the bytes."""

from pathlib import Path

from budjoule.calibration.evidence.boards import OTHER_SETTINGS, all_cores, read, workload

HEADER = (
    "device,model,precision,batch,seq_or_image,energy_j,duration_s,avg_power_w,idle_power_w,backend,scenario,outlier\n"
)


def test_rows_of_one_runtime_without_outliers_become_observations(tmp_path: Path) -> None:
    path = tmp_path / "measurements.csv"
    path.write_text(
        HEADER
        + "raspberry-pi-4b,mobilenet_v1_0.25_128,fp32,1.0,128,0.02,0.005,4.0,2.9,tflite,singlestream,False\n"
        + "raspberry-pi-4b,mobilenet_v1_0.25_128,int8,1.0,128,0.01,0.003,4.0,2.9,tflite,singlestream,False\n"
        + "raspberry-pi-4b,mobilenet_v1_0.25_128,fp32,1.0,128,0.02,0.005,4.0,2.9,armnn-neon,singlestream,False\n"
        + "raspberry-pi-4b,mobilenet_v1_0.25_128,fp32,1.0,128,0.09,0.005,4.0,2.9,tflite,singlestream,True\n"
        + "another-board,mobilenet_v1_0.25_128,fp32,1.0,128,0.02,0.005,4.0,2.9,tflite,singlestream,False\n"
    )
    (device,) = runs = read(path)
    assert device == "raspberry-pi-4b"
    assert [(o.group, o.energy_j) for o in runs[device]] == [("mobilenet_v1 fp32", 0.02), ("mobilenet_v1 int8", 0.01)]


def test_int8_moves_a_quarter_of_the_bytes_for_the_same_products() -> None:
    whole = workload("mobilenet_v2_0.35_96", "fp32")
    small = whole.quantized()
    assert small.flop == whole.flop
    assert abs(small.moved_bytes * 4 - whole.moved_bytes) < 8 * len(whole.ops) * 10
    assert {op.precision for op in small.ops} == {"int8"}


def test_a_run_far_slower_than_the_same_models_quickest_is_set_apart(tmp_path: Path) -> None:
    path = tmp_path / "measurements.csv"
    row = "raspberry-pi-4b,mobilenet_v1_0.25_128,fp32,1.0,128,0.02,{},4.0,2.9,tflite,singlestream,False\n"
    path.write_text(HEADER + "".join(row.format(time_s) for time_s in (0.010, 0.0125, 0.0135, 0.05)))
    (rows,) = read(path).values()
    assert [o.group.endswith(OTHER_SETTINGS) for o in rows] == [False, False, True, True]
    assert [o.duration_s for o in all_cores(rows)] == [0.010, 0.0125]
