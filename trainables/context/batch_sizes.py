"""Batch sizes that fit into memory in this process, so that later trials do not run out of it again."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainables.settings.parameters import Parameters

EVALUATION_BATCH = 512


@dataclass
class BatchSizes:
    """Batch sizes of evaluations and of training."""

    evaluation: int = EVALUATION_BATCH
    """Images per forward pass of an evaluation; reduced when memory runs out."""
    _micro: dict[tuple[str, int | None], int] = field(default_factory=dict)
    """Pairs per micro-batch, by the scope of a trial."""

    def micro(self, parameters: Parameters) -> int | None:
        """Return the pairs per micro-batch that fit for a trial of this scope; None if memory never ran out."""
        return self._micro.get((parameters.tune, parameters.blocks))

    def remember_micro(self, parameters: Parameters, pairs: int) -> None:
        self._micro[parameters.tune, parameters.blocks] = pairs
