"""Layers trained in part: the gradients of the whole layer, on the slices that are trained, and little kept for them."""

import pytest
import torch
from torch import nn

from budjoule.training.memory.functions import MaskedRelu, pack_bits, unpack_bits
from budjoule.training.memory.layers import PartLayer
from budjoule.training.memory.memory_plan import LayerPlan

CONV = nn.Conv2d(6, 10, 3, stride=2, padding=1)
STRIPED = nn.Conv2d(6, 10, (3, 1), dilation=2, bias=False)
DENSE = nn.Linear(6, 10)
INPUTS = {id(CONV): (3, 6, 9, 7), id(STRIPED): (2, 6, 9, 7), id(DENSE): (4, 6)}


@pytest.mark.parametrize("layer", [CONV, STRIPED, DENSE], ids=["conv", "dilated", "dense"])
@pytest.mark.parametrize("channels", [(), (0,), (5, 2), (0, 1, 2, 4, 5)])
def test_gradients_are_those_of_the_whole_layer(layer: nn.Module, channels: tuple[int, ...]) -> None:
    plan = LayerPlan(channels=tuple(sorted(channels)), inputs=6, bias=True)
    part = PartLayer(layer, plan, seed=0, salt=0, block_bytes=1, keep=False)
    x = torch.rand(INPUTS[id(layer)], generator=torch.Generator().manual_seed(3))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = part(ours), layer(theirs)
    torch.testing.assert_close(y, wanted)
    direction = torch.rand(y.shape, generator=torch.Generator().manual_seed(4))
    y.backward(direction)
    layer.zero_grad()
    wanted.backward(direction)
    torch.testing.assert_close(ours.grad, theirs.grad)
    if layer.bias is not None:
        torch.testing.assert_close(part.bias.grad, layer.bias.grad)
    if channels:
        torch.testing.assert_close(part.weight.grad, layer.weight.grad[:, sorted(channels)])


def test_a_dense_layer_takes_any_leading_dimensions() -> None:
    part = PartLayer(DENSE, LayerPlan(channels=(1,), inputs=6, bias=True), seed=0, salt=0, block_bytes=1, keep=False)
    x = torch.rand(2, 3, 5, 6)
    torch.testing.assert_close(part(x), DENSE(x))


def test_only_the_trained_channels_are_kept() -> None:
    x = torch.rand(3, 6, 9, 7, requires_grad=True)

    def kept(channels: tuple[int, ...]) -> int:
        part = PartLayer(
            CONV, LayerPlan(channels=channels, inputs=6, bias=True), seed=0, salt=0, block_bytes=1, keep=False
        )
        own = {t.untyped_storage().data_ptr() for t in (*part.parameters(), *part.buffers())}
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t) or t, lambda t: t):
            part(x)
        return sum(t.numel() * t.element_size() for t in sizes if t.untyped_storage().data_ptr() not in own)

    assert kept(()) == 0
    assert kept((3,)) == x.numel() // 6 * 4
    assert kept((1, 3)) == x.numel() // 3 * 4


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("rows", "kept_bytes"), [(5, 105), (301, 791)])
def test_masked_relu_is_relu_at_one_bit_an_element_or_a_byte_where_few(
    rows: int, kept_bytes: int, in_place: bool
) -> None:
    x = torch.randn(rows, 7, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        y = MaskedRelu.apply(ours * 1.0, in_place)
    wanted = theirs.relu()
    assert torch.equal(y, wanted)
    assert min(sizes) == kept_bytes
    direction = torch.rand(x.shape)
    y.backward(direction)
    wanted.backward(direction)
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_bits_come_back(count: int) -> None:
    mask = torch.rand(3, count, generator=torch.Generator().manual_seed(count)) > 0.5
    packed = pack_bits(mask)
    assert packed.shape == (3, -(-count // 8))
    assert torch.equal(unpack_bits(packed, count), mask)
