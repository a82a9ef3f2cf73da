"""How long a model thinks at each ratio, measured, and carried in its GGUF so that a token budget can pick one.

In the metadata, three plain float arrays of one length, ratios ascending:
`extra_cot.ratios`, `extra_cot.think_tokens_mean` and `extra_cot.think_tokens_p90` (tokens of the think span in
the model's own tokenizer). `export.calibrate` says where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lite.gguf.container import Container

RATIOS_KEY = "extra_cot.ratios"
MEAN_KEY = "extra_cot.think_tokens_mean"
P90_KEY = "extra_cot.think_tokens_p90"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Mean and 90th percentile of think tokens at each ratio, ratios ascending."""

    ratios: tuple[float, ...]
    mean: tuple[float, ...]
    p90: tuple[float, ...]

    def ratio_within(self, budget: int) -> float:
        """The largest ratio at which nine replies of ten think in `budget` tokens; the smallest where none does."""
        fitting = [ratio for ratio, p90 in zip(self.ratios, self.p90, strict=True) if p90 <= budget]
        return max(fitting, default=self.ratios[0])

    def metadata(self) -> dict[str, list[float]]:
        """As GGUF metadata."""
        return {RATIOS_KEY: [*self.ratios], MEAN_KEY: [*self.mean], P90_KEY: [*self.p90]}


def summarise(think_tokens: Mapping[float, Sequence[int]]) -> Calibration:
    """From the think tokens of replies at each ratio. A percentile is one that was seen, not interpolated."""
    ratios = tuple(sorted(think_tokens))
    counts = [np.asarray(think_tokens[ratio], float) for ratio in ratios]
    return Calibration(
        ratios,
        tuple(round(float(values.mean()), 1) for values in counts),
        tuple(float(np.percentile(values, 90, method="higher")) for values in counts),
    )


def of_gguf(container: Container) -> Calibration | None:
    """The calibration in a GGUF; None where there is none that makes sense."""
    arrays = [container.metadata.get(key) for key in (RATIOS_KEY, MEAN_KEY, P90_KEY)]
    if not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in arrays):
        return None
    ratios, mean, p90 = (np.asarray(array, float).round(6) for array in arrays)
    if not 0 < len(ratios) == len(mean) == len(p90):
        return None
    sound = (np.diff(ratios) > 0).all() and 0 < ratios[0] and ratios[-1] <= 1
    if not sound or not (np.isfinite(mean) & np.isfinite(p90) & (mean >= 0) & (p90 >= 0)).all():
        return None
    return Calibration(*(tuple(map(float, values)) for values in (ratios, mean, p90)))
