"""Each client's own data, cut from one shared data set by index, so that a fleet costs no more memory than its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from budjoule.training.task.data import Data
from budjoule.training.task.partition import Indices

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A client's own data.

    Args:
        inputs: Shape (n, ...).
        labels: Shape (n,).
        prior: Logarithms of its label frequencies, for logit adjustment. Shape (classes,).
    """

    inputs: "Tensor"
    labels: "Tensor"
    prior: "Tensor | None"


class Shards:
    """The clients' data.

    Args:
        data: The whole data set.
        parts: Example indices of each client.
        priors: Give each shard its label frequencies.
    """

    def __init__(self, data: Data, parts: Sequence[Indices], *, priors: bool) -> None:
        self._data = data
        self._parts = parts
        self._priors = priors

    def size(self, client: int) -> int:
        """How many examples a client has."""
        return len(self._parts[client])

    def of(self, client: int) -> Shard:
        """A client's data, copied out of the whole."""
        import torch

        index = torch.from_numpy(self._parts[client])
        return Shard(inputs=self._data.inputs[index], labels=self._data.labels[index], prior=self.prior(client))

    def prior(self, client: int) -> "Tensor | None":
        """Logarithms of a client's label frequencies, if the run wants them. Shape (classes,)."""
        import torch

        if not self._priors:
            return None
        # A class that a client never saw gets a small frequency, not minus infinity: its score stays finite.
        seen = torch.from_numpy(self.label_frequencies[client].astype(np.float32))
        return torch.log(seen.clamp_min(0.01 / self._data.classes))

    def indices(self, client: int) -> Indices:
        """Which of `data`'s examples a client has."""
        return self._parts[client]

    @property
    def data(self) -> Data:
        """The whole data set."""
        return self._data

    @cached_property
    def label_frequencies(self) -> np.ndarray:
        """Share of each class among each client's examples. Shape (clients, classes)."""
        labels = self._data.labels.numpy()
        counts = [np.bincount(labels[part], minlength=self._data.classes) for part in self._parts]
        return np.stack([count / count.sum() for count in counts])

    def worst_decile_accuracy(self, right: "Tensor") -> float:
        """Mean accuracy of the tenth of the clients that the model serves worst.

        A client's accuracy is the test accuracy of each class weighted by how often the client meets that class, so that it
        rests on unseen examples alone.

        Args:
            right: Whether each test example is classified rightly. Shape (m,).
        """
        labels, hits = self._data.test_labels.numpy(), right.numpy().astype(np.float64)
        tests = np.bincount(labels, minlength=self._data.classes)
        by_class = np.bincount(labels, weights=hits, minlength=self._data.classes) / np.maximum(tests, 1)
        known = self.label_frequencies * (tests > 0)  # a class without a test example says nothing
        by_client = np.sort(known @ by_class / np.maximum(known.sum(1), 1e-12))
        return float(by_client[: max(1, len(by_client) // 10)].mean())
