"""Ending: from what a search has evaluated to candidates, finalists, winners and their scores on test rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality
from sparsefront.models.ranker import load_ranker
from sparsefront.models.scorecard import scorecard
from sparsefront.models.scoring import score_rows
from sparsefront.search.candidates import choose
from sparsefront.search.contest import Contest, Outcome, hold
from sparsefront.search.export import serve_rows
from sparsefront.search.finalists import Finalist, best_within
from sparsefront.search.front import Evaluated
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter
from sparsefront.search.run_result import FINALISTS, RESULT
from sparsefront.search.settings import SearchSettings
from sparsefront.search.steps import run_step
from sparsefront.spaces import InputError

CANDIDATES = "candidates"


@dataclass(frozen=True)
class Ending:
    """The last steps of a run, in its folder.

    Attributes:
        folder: of the run.
        settings: of its search.
        address: of the Ray cluster that fine-tunes, if not this machine.
        reporter: told of progress.
    """

    folder: Path
    settings: SearchSettings
    address: str | None
    reporter: Reporter

    def finalists(self, prepared: Prepared, evaluated: Sequence[Evaluated], budget_us: float, title: str) -> Outcome:
        """Of one budget alone."""
        (outcome,) = self.hold([self._contest(prepared, evaluated, budget_us, title)])
        return outcome

    def hold(self, contests: Sequence[Contest]) -> list[Outcome]:
        """What becomes of the candidates; every genome is fine-tuned once, whatever contests it is in."""
        return hold(
            self.folder,
            contests,
            replace(self.settings.finetune, seed=self.settings.seed),
            workers=self.settings.workers,
            address=self.address,
            reporter=self.reporter,
        )

    def finalise(
        self, prepared: Prepared, budgets_us: Sequence[float], found: list[Evaluated], uniform: list[Evaluated]
    ) -> tuple[dict[str, Any], set[Path]]:
        """What the result says of every budget and of the dense model, and the folders of the steps that this took.

        Test rows are scored here alone, once everything is chosen.
        """
        searched, compared, refused = dict[float, Contest](), dict[float, Contest](), dict[float, str]()
        for budget_us in budgets_us:
            where = f" for {budget_us:.0f} us" if len(budgets_us) > 1 else ""
            at = prepared.at(budget_us)
            searched[budget_us] = self._contest(at, found, budget_us, f"finalist{where}")
            if not uniform:
                continue
            try:
                compared[budget_us] = self._contest(at, uniform, budget_us, f"best uniform{where}")
            except InputError as error:  # a comparison that fails must not cost the winner
                refused[budget_us] = f"{error} once {self.folder / RESULT} is removed"
                self.reporter.say(f"no uniform genome to compare with: {refused[budget_us]}")
        outcomes = self.hold([*searched.values(), *compared.values()])
        ours = dict(zip(searched, outcomes, strict=False))
        rivals = dict(zip(compared, outcomes[len(searched) :], strict=True))
        winners = {budget_us: self._winner(budget_us, one, rivals.get(budget_us)) for budget_us, one in ours.items()}
        budgets = [
            self._told(prepared, budget_us, winners[budget_us], outcome, rivals.get(budget_us))
            for budget_us, outcome in ours.items()
        ]
        for told in budgets:
            if (why := refused.get(told["budget_us"])) is not None:
                told["uniform_refused"] = why
        dense = self._tested(prepared, dense_finalist(prepared), prepared.teacher)
        return {"budgets": budgets, "dense": dense}, {folder for outcome in outcomes for folder in outcome.steps}

    def _contest(self, prepared: Prepared, evaluated: Sequence[Evaluated], budget_us: float, title: str) -> Contest:
        """Of the candidates among these evaluations."""
        return Contest(title, prepared, budget_us, tuple(self._chosen(prepared, evaluated, budget_us)))

    def _chosen(self, prepared: Prepared, evaluated: Sequence[Evaluated], budget_us: float) -> list[Evaluated]:
        """The candidates among these evaluations; kept, so that an interrupted run goes on with the same ones."""
        inputs = {
            "evaluated": [[one.number, one.genome.key(), one.quality] for one in evaluated],
            "budget_us": budget_us,
            "finalists": self.settings.finalists,
        }

        def build(_: Path) -> dict[str, Any]:
            chosen = choose(
                evaluated,
                prepared,
                self.settings,
                budget_us=budget_us,
                reporter=self.reporter,
                address=self.address,
            )
            return {"chosen": [[one.number, one.quality] for one in chosen]}

        digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]
        kept = run_step(self.folder / CANDIDATES / digest, inputs, build)["chosen"]
        by_number = {one.number: one for one in evaluated}
        return [replace(by_number[number], quality=quality) for number, quality in kept]

    def _winner(self, budget_us: float, outcome: Outcome, rival: Outcome | None) -> Finalist:
        """The best on validation rows, a uniform one included; refused when it was measured over the budget."""
        rivals = [] if rival is None else rival.finalists[:1]
        best = best_within([outcome.finalists[0], *rivals], budget_us)
        if best.measured_us > budget_us:
            raise InputError(
                f"no finalist was measured within {budget_us:.0f} us (the best took {best.measured_us:.0f} "
                f"us): is the machine busy? remove {self.folder / CANDIDATES} and {self.folder / FINALISTS} and run "
                "the same command"
            )
        return best

    def _told(
        self, prepared: Prepared, budget_us: float, winner: Finalist, outcome: Outcome, rival: Outcome | None
    ) -> dict[str, Any]:
        """What the result says of a budget."""
        tested = self._tested(prepared, winner)
        told = {
            "budget_us": budget_us,
            "winner": tested,
            "finalists": [asdict(one) for one in outcome.finalists],
            "stopped": [asdict(one) for one in outcome.stopped],
        }
        if rival is not None:
            best = rival.finalists[0]
            told["uniform"] = tested if best == winner else self._tested(prepared, best)
            told["uniform_stopped"] = [asdict(one) for one in rival.stopped]
            if best == winner:
                self.reporter.say(f"the winner for {budget_us:.0f} us is a uniform genome, {winner.genome}")
        return told

    def _tested(self, prepared: Prepared, one: Finalist, model: CrossEncoder | None = None) -> dict[str, Any]:
        """A row of the result with its scores on the test rows: the only place that scores them."""
        metric, rows = prepared.task.spec.metric, prepared.rows["test"]
        folder, serving = self.folder / FINALISTS / one.genome, prepared.settings.serving()
        if model is None and serving.precision != "fp32":
            logits = serve_rows(serving.load_export(folder), rows)
        else:
            logits = score_rows(model or load_ranker(folder), rows, precision="fp32")
        return {
            **asdict(one),
            "test_quality": quality(metric, rows.positive, rows.target, logits),
            "test_scores": scorecard(rows, logits),
        }


def dense_finalist(prepared: Prepared) -> Finalist:
    """The dense model, as the result tells of models."""
    return Finalist(
        genome=prepared.teacher.genome.key(),
        supernet_quality=prepared.teacher_quality,
        valid_quality=prepared.teacher_quality,
        fp32_valid_quality=prepared.teacher_quality,
        predicted_us=float(prepared.measured.predict_roughly([prepared.teacher.genome])[0]),
        measured_us=prepared.measured.dense_us,
        measured_p95_us=prepared.measured.dense_p95_us,
        parameters=sum(parameter.numel() for parameter in prepared.teacher.parameters()),
    )
