"""Trials of a study as the search loop writes them: one entry when a genome is asked, one or two when it is told.

Optuna's ask writes an entry per parameter, and its tell copies the trial; both cost more than all else that the driver
does for an evaluation. What is written is the same. The one module of the loop that uses Optuna's storage directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from sparsefront.search.front import GENOME_ATTR
from sparsefront.spaces import Genome, InputError, SearchSpace


class Proposal(NamedTuple):
    """A genome that a sampler wants evaluated, and the attributes that its trial is to carry."""

    genome: Genome
    attrs: Mapping[str, Any]


class Running(NamedTuple):
    """A trial that is under way: its number, its id in the storage, its genome and predicted latency."""

    number: int
    trial_id: int
    genome: Genome
    latency_us: float


def start_trial(study: optuna.Study, space: SearchSpace, proposal: Proposal, latency_us: float) -> Running:
    """A running trial with the parameters of a genome, as if a sampler had been asked for it."""
    params, distributions = space.to_params(proposal.genome), space.distributions()
    template = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params={name: params[name] for name in distributions},
        distributions=dict(distributions),
        user_attrs={**proposal.attrs, GENOME_ATTR: proposal.genome.key()},
    )
    storage = study._storage
    trial_id = storage.create_new_trial(study._study_id, template_trial=template)
    return Running(storage.get_trial_number_from_id(trial_id), trial_id, proposal.genome, latency_us)


def set_attrs(study: optuna.Study, running: Running, attrs: Mapping[str, Any]) -> None:
    """Attributes of a running trial."""
    for name, value in attrs.items():
        study._storage.set_trial_user_attr(running.trial_id, name, value)


def end_trial(
    study: optuna.Study, running: Running, state: TrialState, values: Sequence[float] | None = None
) -> FrozenTrial:
    """Tell how a running trial has ended; the study's sampler hears of it."""
    storage = study._storage
    trial = storage.get_trial(running.trial_id)
    try:
        study.sampler.after_trial(study, trial, state, values)
    finally:  # what was evaluated counts, whatever the sampler makes of it
        storage.set_trial_state_values(running.trial_id, state=state, values=values)
    return trial


def is_running(study: optuna.Study, running: Running) -> bool:
    """Whether the trial has not ended yet."""
    return study._storage.get_trial(running.trial_id).state == TrialState.RUNNING


def refuse_another_space(study: optuna.Study, space: SearchSpace) -> None:
    """:class:`InputError` that says what differs when the study holds a trial of another space."""
    own = space.distributions()
    for trial in study.get_trials(deepcopy=False):
        where = (
            f"study {study.study_name!r} was made with another space than {space.name!r}: its trial {trial.number} has"
        )
        for name, there in trial.distributions.items():
            if name not in own:
                raise InputError(f"{where} a parameter {name!r}, which this one does not have")
            if there != own[name]:
                raise InputError(f"{where} {name} = {there}, expected {own[name]}")
        if (key := trial.user_attrs.get(GENOME_ATTR)) and len(trial.params) == len(own):
            here = space.from_params(trial.params).key()
            if here != key:
                raise InputError(f"{where} genome {key}, which its parameters make {here} here")


def is_waiting(study: optuna.Study) -> bool:
    """Whether somebody has queued a trial, which comes before any proposal."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
