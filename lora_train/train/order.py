"""Which batches each step has: a function of the step's number, so that any step can be asked for."""

from __future__ import annotations

import math

from lora_train.data.items import Item
from lora_train.data.training_set import Dataset


class Order:
    """The batches of every step of a run. As with accelerate, the last step of an epoch may have fewer batches."""

    def __init__(self, dataset: Dataset, batch_size: int, accumulation: int, seed: int) -> None:
        self._dataset, self._batch_size, self._accumulation, self._seed = dataset, batch_size, accumulation, seed
        self.batches_per_epoch = dataset.batches_per_epoch(batch_size)
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / accumulation)
        self._epochs: dict[int, list[list[int]]] = {}

    def epoch_of(self, step: int) -> int:
        """The epoch of a step; both count from 0."""
        return step // self.steps_per_epoch

    def batches(self, step: int) -> list[list[Item]]:
        """The batches of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self._accumulation
        batches = self._epoch(epoch)[start : start + self._accumulation]
        return [[self._dataset.items[i] for i in batch] for batch in batches]

    def _epoch(self, epoch: int) -> list[list[int]]:
        """The order of an epoch; those of the last two are kept, since texts are encoded ahead of their step."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = self._dataset.epoch(self._batch_size, f"{self._seed}/order/{epoch}")
        return self._epochs[epoch]
