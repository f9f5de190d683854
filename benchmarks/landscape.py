"""A recorded landscape: real evaluations of one supernet, and a surrogate between them that answers in milliseconds.

``landscapes/NAME/`` holds evaluations.parquet (genome, quality, standard error, seed and number of the rows, where the
genome came from), the latency table, the order and importance of units, and landscape.json. No row of any data set.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsefront.latency.blocks import Floats
from sparsefront.latency.table import LatencyTable
from sparsefront.models.importance import UnitOrder
from sparsefront.search.critic import genome_features
from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace, Widths

LANDSCAPES = Path(__file__).parent / "landscapes"
EVALUATIONS, TABLE, ORDER, ABOUT = "evaluations.parquet", "latency", "order.safetensors", "landscape.json"
FOLDS = 5


def surrogates() -> dict[str, Any]:
    """What may stand between the evaluations; none is of the kind that the sampler's own critic is."""
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64), alpha=1e-3, learning_rate_init=3e-3, max_iter=400, early_stopping=True
    )
    scaled = make_pipeline(StandardScaler(), TransformedTargetRegressor(network, transformer=StandardScaler()))
    return {
        "networks": BaggingRegressor(scaled, n_estimators=8, random_state=0),
        "boosted trees": HistGradientBoostingRegressor(max_iter=400, learning_rate=0.06, random_state=0),
        "extra trees": ExtraTreesRegressor(300, min_samples_leaf=2, random_state=0),
    }


@dataclass(frozen=True)
class Landscape:
    """Quality from a surrogate, latency from the real table.

    Attributes:
        name: folder name.
        about: what landscape.json says: task, metric, choices of the space, noise, machine.
        evaluations: the table of evaluations.
        table: latency of any genome of the backbone.
        importance: of its units.
    """

    name: str
    about: dict[str, Any]
    evaluations: pd.DataFrame
    table: LatencyTable
    importance: ImportanceCurves

    @classmethod
    def load(cls, name: str) -> Landscape:
        """From ``landscapes/NAME``."""
        return cls.of(LANDSCAPES / name, json.loads((LANDSCAPES / name / ABOUT).read_text(encoding="utf-8")))

    @classmethod
    def of(cls, folder: Path, about: dict[str, Any]) -> Landscape:
        """From a folder, about which is known what landscape.json will say."""
        order = UnitOrder.load(str(folder / ORDER))
        return cls(
            folder.name,
            about,
            pd.read_parquet(folder / EVALUATIONS),
            LatencyTable.load(folder / TABLE),
            ImportanceCurves.of(order),
        )

    def space(self, preset: str) -> SearchSpace:
        """A preset with the recorded choices."""
        backbone = self.table.backbone
        return SearchSpace.preset(
            preset,
            widths=Widths(backbone.layers, backbone.heads, backbone.ffn_units),
            ffn_granule=self.about["ffn_granule"],
            keep_percents=self.about["keep_percents"],
        )

    @functools.cached_property
    def first(self) -> pd.DataFrame:
        """The evaluations on the rows that nearly all were made on, each genome once."""
        rows = self.evaluations[self.evaluations["seed"] == self.about["seed"]]
        first: pd.DataFrame = rows.drop_duplicates("genome").reset_index(drop=True)
        return first

    def features(self, genomes: Sequence[Genome]) -> Floats:
        """(genomes, features): widths and surviving tokens per layer, their square roots, what is there at all."""
        plain = genome_features(genomes, space=self.space("joint"), importance=self.importance)
        return np.hstack([plain, np.sqrt(plain), (plain > 0).astype(np.float64)])

    def held_out(self) -> dict[str, dict[str, float]]:
        """R2 and rank correlation of every surrogate on genomes that it was not fitted on: five folds."""
        x, y = self.features([Genome.parse(key) for key in self.first["genome"]]), self.first["quality"].to_numpy()
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        found = {}
        for name, model in surrogates().items():
            guess = cross_val_predict(model, x, y, cv=folds)
            found[name] = {"r2": float(r2_score(y, guess)), "spearman": float(spearmanr(y, guess).statistic)}
        return found

    @functools.cached_property
    def noise(self) -> float:
        """Standard deviation of one evaluation: of the genomes evaluated on two draws of rows.

        What all genomes have in common between the draws is no noise to a search.
        """
        per_seed = self.evaluations.drop_duplicates(["genome", "seed"]).pivot(
            index="genome", columns="seed", values="quality"
        )
        pairs = per_seed.dropna().to_numpy()
        return float(np.std(pairs[:, 0] - pairs[:, 1], ddof=1) / np.sqrt(2))

    @functools.cached_property
    def _fitted(self) -> Any:
        model = surrogates()[self.about["surrogate"]]
        genomes = [Genome.parse(key) for key in self.first["genome"]]
        return model.fit(self.features(genomes), self.first["quality"].to_numpy())

    def quality(self, genomes: Sequence[Genome]) -> Floats:
        """(genomes,) without noise."""
        return np.asarray(self._fitted.predict(self.features(genomes)), np.float64)

    def evaluated(self, genome: Genome, *, seed: int) -> float:
        """One evaluation, with noise; the same genome and seed always give the same."""
        return float(self.quality([genome])[0] + self.noise * self._drawn("", genome, seed))

    def rescored(self, genomes: Sequence[Genome], *, seed: int) -> Floats:
        """(genomes,) on all validation rows, as candidates are: the noise falls with the square root of the rows."""
        smaller = np.sqrt(min(1.0, self.first["rows"].iloc[0] / self.about["valid_rows"]))
        noise = np.array([self._drawn("all ", genome, seed) for genome in genomes])
        rescored: Floats = self.quality(genomes) + smaller * self.noise * noise
        return rescored

    def _drawn(self, what: str, genome: Genome, seed: int) -> float:
        digest = hashlib.sha256(f"{what}{seed} {genome.key()}".encode()).digest()
        return float(np.random.default_rng(int.from_bytes(digest[:8], "big")).normal())
