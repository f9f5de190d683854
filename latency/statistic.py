"""Statistic: what a budget in microseconds means, which calls count and what of their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, feeds_of_length
from sparsefront.latency.table import LatencyTable
from sparsefront.latency.timing import LatencyStats, Percentile
from sparsefront.spaces import Genome, InputError

AtLength = Literal["max", "p50", "p95", "mean"]
PERCENTILES: tuple[int, ...] = get_args(Percentile)
AT_LENGTHS: tuple[str, ...] = get_args(AtLength)
GROUPS_OF_A_MEAN = 6
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """A percentile of the time of calls, averaged over row lengths.

    Attributes:
        lengths: tokens per row, unpadded; every call has rows of one length.
        weights: share of the traffic that each length stands for.
        percentile: of the calls of each length.
        batch: rows per call.
    """

    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    percentile: Percentile = 50
    batch: int = 1

    def __post_init__(self) -> None:
        if not self.lengths or len(self.lengths) != len(self.weights):
            raise ValueError(f"lengths and weights must be as many, got {self.lengths} and {self.weights}")
        if min(self.lengths) < 1 or min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"lengths must be positive and weights add up to 1, got {self.lengths}, {self.weights}")
        if self.percentile not in PERCENTILES or self.batch < 1:
            raise ValueError(
                f"percentile must be one of {PERCENTILES} and batch at least 1, got {self.percentile} and {self.batch}"
            )

    @classmethod
    def of_length(cls, length_tokens: int, *, percentile: Percentile = 50, batch: int = 1) -> Statistic:
        """All rows have one length."""
        return cls((length_tokens,), (1.0,), percentile, batch)

    @classmethod
    def of_traffic(
        cls, lengths: npt.ArrayLike, *, at: AtLength, longest: int, percentile: Percentile = 50, batch: int = 1
    ) -> Statistic:
        """From the token lengths of a task's rows.

        ``max`` is the longest row that is served, ``p50`` and ``p95`` are percentiles of the lengths, and ``mean`` is
        the expected time of a row: rows in order of their length, in groups of equal size, each at its mean length.

        Args:
            lengths: (rows,) tokens per row.
            at: which.
            longest: tokens to which rows are cut.
            percentile: of the calls.
            batch: rows per call.
        """
        own = np.sort(np.minimum(np.asarray(lengths, np.int64), longest))
        if at not in AT_LENGTHS:
            raise InputError(f"at-length must be one of {', '.join(AT_LENGTHS)}, got {at!r}")
        if at == "max" or not len(own):
            return cls.of_length(longest, percentile=percentile, batch=batch)
        if at != "mean":
            one = int(np.percentile(own, float(at[1:]), method="higher"))
            return cls.of_length(one, percentile=percentile, batch=batch)
        weights: dict[int, float] = {}
        for group in np.array_split(own, min(GROUPS_OF_A_MEAN, len(own))):
            length = max(1, round(float(group.mean())))
            weights[length] = weights.get(length, 0.0) + len(group) / len(own)
        return cls(tuple(weights), tuple(weights.values()), percentile, batch)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON; a record of an export or a step."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Statistic:
        """What :meth:`to_json` gave; ``ValueError`` for anything else."""
        try:
            return cls(tuple(record["lengths"]), tuple(record["weights"]), record["percentile"], record["batch"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a statistic: {record!r}") from error

    @property
    def in_words(self) -> str:
        """For people: ``median at 48 tokens``."""
        name = "median" if self.percentile == 50 else f"p{self.percentile}"
        tokens = f"{self.lengths[0]} tokens" if len(self.lengths) == 1 else "the traffic's lengths, expected value"
        return f"{name} at {tokens}{'' if self.batch == 1 else f', {self.batch} rows per call'}"

    def feeds(self) -> list[Feeds]:
        """One call per length."""
        return [feeds_of_length(length, batch=self.batch) for length in self.lengths]

    def value_us(self, stats: LatencyStats) -> float:
        """What of a distribution the budget is compared with."""
        return stats.at(self.percentile)

    def summary(self, calls: Sequence[npt.ArrayLike]) -> LatencyStats:
        """The distribution from microseconds of single calls, one array per length: percentiles averaged by weight."""
        each = [LatencyStats.of(one) for one in calls]
        if len(each) == 1:
            return each[0]
        columns = np.array([[one.median_us, one.p95_us, one.p99_us] for one in each])
        median, p95, p99 = (float(value) for value in np.array(self.weights) @ columns)
        return LatencyStats(median, p95, p99, sum(one.runs for one in each))

    def predict_many(self, table: LatencyTable, genomes: Sequence[Genome]) -> Floats:
        """Microseconds (genomes,) by a table, averaged by weight.

        A table predicts a quiet machine; only one that was refitted to models measured in this statistic predicts it.
        """
        each = [table.predict_many(genomes, length_tokens=length) for length in self.lengths]
        return np.asarray(np.array(self.weights) @ np.array(each), np.float64)
