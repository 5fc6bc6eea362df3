"""The study of a search: which trials there were, what became of them, and which one is next, in one file.

This is the only place that knows Optuna [1]_. Trials are drawn by random numbers of (seed, number of the trial), or by
the tree-structured Parzen estimator (TPE) [2]_ from these and from the trials before; asynchronous successive halving
(ASHA) [3]_ ends those that are not among the best.

References
----------
.. [1] Akiba, Sano, Yanase, Ohta, Koyama (2019), Optuna: a next-generation hyperparameter optimization framework, KDD.
.. [2] Bergstra, Bardenet, Bengio, Kégl (2011), Algorithms for hyper-parameter optimization, NeurIPS.
.. [3] Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar (2020), A system for massively parallel
       hyperparameter tuning, MLSys.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.errors import DataError, ParameterError
from pyddl.train.run import claimed, written
from pyddl.tune.journal import Journal
from pyddl.tune.parameter import Parameter
from pyddl.tune.search import Search
from pyddl.tune.space import Space

__all__ = ["JOURNAL", "Importances", "Search", "Study", "Trial", "drawn", "load"]

JOURNAL = "journal.log"
NAME = "pyddl"  # of the one study in the file
STATES = ("complete", "pruned", "failed")
FEW, MOST, GOOD = 10, 0.75, 0.25  # for importances: trials at least; share of all that is compared; and that is good
ROUGH = 40  # trials, of which ten are good, below which importances are rough


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes
    ----------
    number : int
        From 0.
    given : dict
        The options that were drawn; `Space.settings` adds those that are fixed.
    attempts : int
        How often it was begun, and neither ended nor was stopped on request.
    """

    number: int
    given: dict[str, Any]
    attempts: int = 0


@dataclass(frozen=True)
class Importances:
    """How much of the difference between good trials and others is each parameter's.

    Attributes
    ----------
    shares : dict of float
        By parameter, the largest first; their sum is 1.
    epoch : int
        That after which the trials were compared.
    trials : int
        How many these were.
    """

    shares: dict[str, float]
    epoch: int
    trials: int

    @property
    def rough(self) -> bool:
        """Whether other trials of the same space might well say something else."""
        return self.trials < ROUGH

    def __str__(self) -> str:
        return f"of {self.trials} trials after epoch {self.epoch}{': rough' if self.rough else ''}"


class Study:
    """A search's record, begun or gone on with.

    Parameters
    ----------
    folder : path
        Made if need be; the journal is ``journal.log`` there.
    space : Space
    search : Search
        A search that goes on has at least as many trials as it had.

    Raises
    ------
    ParameterError
        The journal is of another space, goal or direction; another process writes to it; or Optuna is not installed.
    DataError
        The journal is damaged other than at its end.
    """

    def __init__(self, folder: str | Path, space: Space, search: Search):
        self.space, self.search = space, search
        self._optuna = _optuna()
        self._folder = Path(folder)
        self._path = self._folder / JOURNAL
        with written(self._path):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._claim = claimed(self._folder, f"another search is writing to {self._folder}: let it end, stop it "
                                  "(SIGUSR1), or choose another out")
        try:
            self._open()
        except BaseException:
            self._claim.close()
            raise

    def _open(self) -> None:
        self._journal = Journal(self._path)
        self._study = self._load()
        record = {"space": self.space.fingerprint(), "goal": self.search.goal, "direction": self.search.direction}
        recorded = self._study.user_attrs
        if "record" not in recorded:
            if self._trials():
                raise DataError(f"{self._path} has trials, and does not say of what space: choose another out")
            self._study.set_user_attr("record", record)
        else:
            self._compare(recorded["record"], record)
        if self.search.trials > recorded.get("trials", 0):
            self._study.set_user_attr("trials", self.search.trials)
        last = self._trials()[-1:]
        if last and last[0].state.name == "RUNNING" and self._given(last[0]) is None:  # killed while it was drawn
            self._journal.cut_before(last[0].number)
            self._study = self._load()

    def _load(self) -> Any:
        optuna = self._optuna
        from optuna.storages import JournalStorage

        pruner: Any = optuna.pruners.NopPruner()
        if self.search.pruner == "asha":
            pruner = optuna.pruners.SuccessiveHalvingPruner(self.search.first, self.search.factor)
        try:
            storage = JournalStorage(self._journal)  # type: ignore[arg-type]
            return optuna.create_study(storage=storage, study_name=NAME, pruner=pruner,
                                       direction=self.search.direction, load_if_exists=True)
        except (ValueError, KeyError, TypeError, AssertionError, IndexError) as error:
            raise DataError(f"{self._path} is no journal of a search: {_check.first_line(error)}") from None

    def _trials(self) -> list[Any]:
        trials: list[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _compare(self, recorded: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        for name in ("goal", "direction"):
            if recorded[name] != record[name]:
                raise ParameterError(f"{self._path} is of a search with {name} {recorded[name]}; here it is "
                                     f"{record[name]}: choose another out, or that {name}")
        was, now = recorded["space"], record["space"]
        differ = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
        if differ:
            name, more = differ[0], f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
            raise ParameterError(f"{self._path} is of another space: {name} was {was.get(name, 'not in it')}, and is "
                                 f"{now.get(name, 'not in it')} here{more}; choose another out, or that space")

    def close(self) -> None:
        """Let other processes go on with the search."""
        self._claim.close()

    # ---- what is to be done
    @property
    def trials(self) -> int:
        """How many trials the search is to have."""
        return int(self._study.user_attrs["trials"])

    def add(self, trials: int) -> None:
        """Let it have so many more."""
        self._study.set_user_attr("trials", self.trials + _check.integer("trials", trials, at_least=1))

    def ask(self) -> Trial | None:
        """The next trial; None where there is none left."""
        if len(self._trials()) >= self.trials:
            return None
        self._study.sampler = self._sampler(len(self._trials()))
        with self._journal.together():
            asked = self._study.ask()
            return Trial(asked.number, self.space.draw(lambda parameter: _suggest(asked, parameter)))

    def _sampler(self, number: int) -> Any:
        """One that depends on nothing but the seed, the trial's number, and, if it learns, the trials before."""
        seed = _seed(self.search.seed, number)
        if self.search.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed)
        return self._optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def running(self) -> list[int]:
        """Numbers of the trials that were asked for, and not told."""
        return [trial.number for trial in self._trials() if trial.state.name == "RUNNING"]

    def resume(self) -> list[Trial]:
        """These trials, of a search that was stopped: they go on from their checkpoints."""
        return [self._trial(self._trials()[number]) for number in self.running()]

    def begin(self, number: int) -> int:
        """A trial is begun, or gone on with; gives its attempts, this one among them."""
        return self._count(number, 1)

    def rest(self, number: int, seconds: float = 0.0) -> int:
        """A trial was stopped on request after so many seconds, with a checkpoint: this attempt counts as none."""
        with self._journal.together():
            self._handle(number).set_user_attr("spent", self._spent(number) + seconds)
            return self._count(number, -1)

    def _spent(self, number: int) -> float:
        """Seconds of a trial's sessions that were stopped."""
        return float(self._trials()[number].user_attrs.get("spent", 0.0))

    def attempts(self, number: int) -> int:
        """How often a trial was begun, and neither ended nor was stopped on request."""
        return int(self._trials()[number].user_attrs.get("attempts", 0))

    def _count(self, number: int, more: int) -> int:
        attempts = max(0, self.attempts(number) + more)
        self._handle(number).set_user_attr("attempts", attempts)
        return attempts

    # ---- what is seen
    def report(self, number: int, epoch: int, value: float) -> bool:
        """A trial's value after an epoch, of 1 and more. Whether the trial shall end here."""
        trial, handle = self._trials()[number], self._handle(number)
        if epoch in trial.intermediate_values:  # again, from a checkpoint
            return epoch >= trial.user_attrs.get("ends", math.inf)
        if not math.isfinite(value):  # training itself ends it, or not
            return False
        with self._journal.together():
            handle.report(value, epoch)
            ends = handle.should_prune()
            handle.set_user_attr("ends" if ends else "seen", epoch)  # without this line it is no report: see `Journal`
        return bool(ends)

    def tell(self, number: int, state: str, value: float | None = None, why: str | None = None,
             seconds: float | None = None, *, learn: bool = True) -> None:
        """A trial is over.

        Parameters
        ----------
        state : {"complete", "pruned", "failed"}
            A complete one with no finite value has failed.
        value : float, optional
            Of a complete trial.
        why : str, optional
            Of a failed one.
        seconds : float, optional
            That it took since it was begun, or gone on with after a stop.
        learn : bool
            Whether a failed one has failed by its own options, as where training diverges or memory is too small, so
            that TPE keeps away from them; false where a machine was lost.
        """
        _check.one_of("state", state, STATES)
        if state == "complete" and (value is None or not math.isfinite(value)):
            state, why = "failed", f"its value is {value}"
        if seconds is not None:
            seconds += self._spent(number)
        handle, states = self._handle(number), self._optuna.trial.TrialState
        with self._journal.together():
            for name, said in (("state", state), ("why", why), ("seconds", seconds)):
                if said is not None:
                    handle.set_user_attr(name, said)
            if state == "complete":
                self._study.tell(number, value)
            elif state == "failed" and not learn:
                self._study.tell(number, state=states.FAIL)
            else:
                if state == "failed" and not handle.constraints:  # samplers are blind for FAIL, and would draw it again
                    handle.set_constraint("trained", 1.0)
                self._study.tell(number, state=states.PRUNED)

    def _handle(self, number: int) -> Any:
        return self._optuna.trial.Trial(self._study, number)  # the journal has one study: ids are numbers

    def name_column(self, name: str) -> None:
        """The goal's values are of another column, which stands in its place."""
        if self.column != name:
            self._study.set_user_attr("column", name)

    @property
    def column(self) -> str:
        """The column of ``metrics.jsonl`` that values are of."""
        return str(self._study.user_attrs.get("column", self.search.goal))

    def curves(self) -> dict[int, list[tuple[int, float]]]:
        """Epochs and values of each trial that has some, by its number."""
        return {trial.number: sorted(trial.intermediate_values.items()) for trial in self._trials()
                if trial.intermediate_values}

    def rows(self) -> list[dict[str, Any]]:
        """Every trial as plain values: number, state (``running`` too), value, epochs, seconds, given, why, attempts.

        The value of one that is not complete is its last; ``given`` is by parameter, as `Parameter.name` says.
        """
        return [self._row(trial) for trial in self._trials()]

    def _row(self, trial: Any) -> dict[str, Any]:
        said, seen = trial.user_attrs, trial.intermediate_values
        state = said.get("state", "running") if trial.state.is_finished() else "running"
        epochs = max(seen, default=0)
        value = trial.value if state == "complete" else seen.get(epochs)
        given = {name: self._parameter(name).value(code) for name, code in trial.params.items()}
        return {"number": trial.number, "state": state, "value": value, "epochs": epochs,
                "seconds": said.get("seconds"), "given": given, "why": said.get("why"),
                "attempts": int(said.get("attempts", 0))}

    def best(self) -> dict[str, Any] | None:
        """The row of the best complete trial, of equal ones the first; None where none is complete."""
        sign = 1 if self.search.direction == "minimize" else -1
        return min((row for row in self.rows() if row["state"] == "complete"),
                   key=lambda row: (sign * row["value"], row["number"]), default=None)

    def importances(self) -> Importances | None:
        """Of the parameters, by PED-ANOVA [4]_; None where there are too few trials, or all are alike.

        Trials are compared after the latest epoch that three quarters of them came to, and ten at least: where most are
        ended early, those that went on are alike, and too few. A quarter of them counts as good.

        References
        ----------
        .. [4] Watanabe, Bansal, Hutter (2023), PED-ANOVA: efficiently quantifying hyperparameter importance in
               arbitrary subspaces, IJCAI.
        """
        trials = [trial for trial in self._trials() if trial.user_attrs.get("state") in ("complete", "pruned")]
        for epoch in sorted({epoch for trial in trials for epoch in trial.intermediate_values}, reverse=True):
            here = [trial for trial in trials if epoch in trial.intermediate_values]
            if len(here) >= max(FEW, MOST * len(trials)):
                break
        else:
            return None
        optuna = self._optuna
        study = optuna.create_study(direction=self.search.direction)
        study.add_trials([optuna.trial.create_trial(params=trial.params, distributions=trial.distributions,
                                                    value=trial.intermediate_values[epoch]) for trial in here])
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=GOOD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters that few trials have
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
        whole = sum(shares.values())
        if not whole > 0:
            return None
        shares = {name: share / whole for name, share in sorted(shares.items(), key=lambda each: -each[1])}
        return Importances(shares, epoch, len(here))

    # ---- from the journal's values to options
    def _parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.space.parameters if parameter.name == name)

    def _given(self, trial: Any) -> dict[str, Any] | None:
        """The options that were drawn; None where not all of them were."""
        try:
            return self.space.draw(lambda parameter: parameter.value(trial.params[parameter.name]))
        except KeyError:
            return None

    def _trial(self, trial: Any) -> Trial:
        given = self._given(trial)
        assert given is not None
        return Trial(trial.number, given, self.attempts(trial.number))


def drawn(space: Space, search: Search, number: int) -> dict[str, Any]:
    """The options that trial ``number`` of a random search draws: those that its journal would have."""
    optuna = _optuna()
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(_seed(search.seed, number))).ask()
    return space.draw(lambda parameter: _suggest(trial, parameter))


def _seed(seed: int, number: int) -> int:
    """Of what is drawn for one trial."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def load() -> None:
    """Load Optuna, which takes a second, before it is needed; where it is missing, that is said then."""
    with suppress(ParameterError):
        _optuna()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ParameterError("a search needs Optuna, which is not installed here: pip install 'pyddl[tune]'") from None
    if int(optuna.__version__.partition(".")[0]) < 5:  # trials had no constraints of their own
        raise ParameterError(f"a search needs Optuna 5 or later, and {optuna.__version__} is installed here: "
                             "pip install 'pyddl[tune]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _suggest(trial: Any, parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return parameter.value(trial.suggest_categorical(parameter.name, parameter.codes))
    if parameter.kind == "int":
        return trial.suggest_int(parameter.name, parameter.low, parameter.high, log=parameter.log,
                                 step=parameter.step or 1)
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
