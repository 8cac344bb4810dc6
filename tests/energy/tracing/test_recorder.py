"""Laws of the recorder: what it knows of a storage is never taken for another that comes after it."""

import torch

from budjoule.energy.tracing.aten import storage_of
from budjoule.energy.tracing.recorder import Recorder


def test_name_of_a_freed_relu_output_is_given_to_no_other_tensor() -> None:
    recorder = Recorder("fp32")
    with recorder:
        for _ in range(20):
            made = torch.empty(3, device="meta").relu()
    known = set(recorder.zeros)
    assert storage_of(made) in known
    del made
    later = [torch.empty(3, device="meta") for _ in range(200)]
    assert not known & {storage_of(t) for t in later}
