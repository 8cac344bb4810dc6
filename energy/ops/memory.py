"""Ops that move data and compute little: copies, casts, fills, gathers and scatters, embeddings, random numbers."""

from collections.abc import Sequence
from typing import Any

from budjoule.energy.ops.rule import Counted, argument, first, numel, rule, size_bytes


@rule(
    "clone", "copy", "_to_copy", "contiguous", "cat", "stack", "constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "replication_pad1d_backward", "replication_pad3d_backward", "reflection_pad3d", "reflection_pad3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward", "replication_pad2d_backward", "roll", "flip", "repeat", "repeat_interleave", "im2col", "col2im", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "rot90", "unfold_copy", "block_diag", "resize", "tile", "_pack_padded_sequence", "_pack_padded_sequence_backward", "_conj_physical", "alias_copy",
    "view_copy", "expand_copy", "_to_dense", "_efficientzerotensor", "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "combinations", "cartesian_prod", "kron", "tril_indices", "triu_indices",
)  # fmt: skip
def copy(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="copy", elements=numel(out), read_bytes=size_bytes(out))


@rule(
    "fill",
    "zero",
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "arange",
    "linspace",
    "logspace",
    "eye",
    "scalar_tensor",
    "range",
    "hann_window",
    "hamming_window",
)
def fill(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="copy", elements=numel(out), read_bytes=0)


@rule(
    "slice_backward",
    "select_backward",
    "diagonal_backward",
    "unfold_backward",
    "as_strided_backward",
    "index_select_backward",
    "embedding_sparse_backward",
    "value_selecting_reduction_backward",
)
def slice_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    # zeros are written, then the slice is copied in
    return Counted(
        kind="copy",
        elements=numel(out),
        read_bytes=size_bytes(args[0]),
        written_bytes=size_bytes(out) + size_bytes(args[0]),
        launches=2,
    )


@rule(
    "embedding",
    "index_select",
    "index",
    "_unsafe_index",
    "gather",
    "take",
    "take_along_dim",
    "_embedding_bag",
    "_embedding_bag_forward_only",
    "_unsafe_masked_index",
)
def gather(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    picked = first(out)
    indices = sum(size_bytes(a) for a in args[1:])
    return Counted(kind="gather", elements=picked.numel(), read_bytes=size_bytes(picked) + indices)


@rule("embedding_dense_backward", "_embedding_bag_dense_backward", "_embedding_bag_backward")
def embedding_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    # sort the indices, sum the rows of each, write the whole table
    grad = args[0]
    return Counted(
        kind="gather",
        elements=2 * grad.numel() + numel(out),
        read_bytes=size_bytes(grad) + 4 * size_bytes(args[1]),
        launches=5,
    )


@rule(
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "_index_put_impl",
    "_unsafe_index_put",
    "index_reduce",
    "put",
    "masked_scatter",
    "masked_scatter_backward",
    "_unsafe_masked_index_put_accumulate",
)
def scatter(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    moved = max([size_bytes(a) for a in args[1:]], default=size_bytes(out))
    return Counted(
        kind="gather",
        elements=max(1, moved // first(out).element_size()),
        read_bytes=2 * moved,
        written_bytes=moved,
        launches=2,
    )


@rule("native_dropout", "_fused_dropout")
def dropout(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(
        kind="elementwise",
        elements=2 * args[0].numel(),
        loop=_coins(args[0].numel(), args[1]),
        serial=True,
        cpu_launches=3,
    )


@rule("bernoulli")
def bernoulli(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    chance = argument(args, kwargs, 1, "p")
    return Counted(
        kind="elementwise",
        elements=2 * numel(out),
        heavy=numel(out),
        read_bytes=0,
        loop=_coins(numel(out), chance if isinstance(chance, float) else 0.5),
        serial=True,
    )


def _coins(count: int, chance: float) -> int:
    """Loop elements of so many coins: the less one can tell how a coin falls, the more often the processor guesses wrong."""
    return round(count * (0.9 + 3.5 * min(chance, 1 - chance)))


@rule(
    "normal",
    "uniform",
    "rand",
    "randn",
    "rand_like",
    "randn_like",
    "randint",
    "randint_like",
    "random",
    "exponential",
    "poisson",
    "log_normal",
    "cauchy",
    "geometric",
    "normal_functional",
    "_standard_gamma",
    "binomial",
    "_sample_dirichlet",
)
def random(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(
        kind="elementwise", elements=2 * numel(out), heavy=numel(out), read_bytes=0, loop=numel(out) // 3, serial=True
    )
