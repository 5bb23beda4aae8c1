"""What may be added to the loop. A callback sees the trainer and has a state in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from noisyexp.activations import set_noise_level
from noisyexp.activations.schedules import Schedule
from noisyexp.tasks import Curriculum, StepOutput
from noisyexp.training.config import LearningRateConfig

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer


class Callback:
    """Hooks of the trainer, in the order of a run; override those that are needed."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step of this process, after a checkpoint has been restored."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Before the first step of an epoch; not when an epoch is resumed."""

    def on_step_start(self, trainer: Trainer) -> None:
        """Before the batch of update `trainer.step` (from 0)."""

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """After the update; `trainer.step` counts it."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After the last step of an epoch; `trainer.row` collects what is known of it."""

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """After `trainer.row` has become the last entry of `trainer.curve`."""

    def on_save(self, trainer: Trainer) -> None:
        """Write the state now: the process is about to end."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch."""

    def close(self, trainer: Trainer) -> None:
        """When the process leaves the loop for any reason, errors included."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, lists and dicts that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class NoiseAnnealing(Callback):
    """Sets c of every noisy unit from the number of finished updates (Section 6.6)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_fit_start(self, trainer: Trainer) -> None:
        """Set c of the last finished update: a resumed run may go on with an evaluation."""
        self._set(trainer, max(trainer.step - 1, 0))

    def on_step_start(self, trainer: Trainer) -> None:
        """Set c for this update."""
        self._set(trainer, trainer.step)

    def _set(self, trainer: Trainer, step: int) -> None:
        c = self.schedule(step)
        if trainer.noise_level != c:
            set_noise_level(trainer.model, c)
            trainer.noise_level = c

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Put c into the curve."""
        trainer.row["c"] = trainer.noise_level


class Evaluate(Callback):
    """Training and validation metrics at the end of an epoch, and which epoch was best."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.best: dict[str, float] = {}

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Validate; the model is back in training mode afterwards."""
        trainer.row.update(trainer.task.training_metrics(trainer.sums))
        last = trainer.epoch == trainer.config.epochs or trainer.stop
        trainer.is_best = False
        if trainer.epoch % self.every and not last:
            return
        trainer.row.update(trainer.evaluate(trainer.task.validate))
        name = trainer.task.selection
        if trainer.task.metrics[name].better(trainer.row[name], self.best.get(name)):
            self.best = {"step": trainer.step, "epoch": trainer.epoch, name: trainer.row[name]}
            trainer.is_best = True

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best epoch so far."""
        self.best = dict(state["best"])


class LearningRate(Callback):
    """Changes the learning rate at the end of an epoch, after validation.

    Rules: `constant`; `decay_after`: divide by `factor` at the end of every epoch later than
    `after` (so epochs 1 .. after + 1 run at the initial rate, as in Zaremba's code); `plateau`:
    divide after `patience` validations without a better selection metric.
    """

    def __init__(self, config: LearningRateConfig) -> None:
        self.config = config
        self.waited = 0

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Record the rate of the epoch that ended, then change it."""
        trainer.row["lr"] = trainer.learning_rate
        rule = self.config.rule
        if rule == "decay_after" and trainer.epoch > self.config.after:
            trainer.learning_rate /= self.config.factor
        elif rule == "plateau" and trainer.task.selection in trainer.row:
            self.waited = 0 if trainer.is_best else self.waited + 1
            if self.waited >= self.config.patience:
                trainer.learning_rate /= self.config.factor
                self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Validations without an improvement; the rate itself is the optimiser's."""
        return {"waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the count."""
        self.waited = int(state["waited"])


class FollowCurriculum(Callback):
    """Asks the task's curriculum after each epoch and does what it decides."""

    def __init__(self, curriculum: Curriculum) -> None:
        self.curriculum = curriculum

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Record the level of the epoch that ended, then let the curriculum move on."""
        trainer.row.update(self.curriculum.level())
        decision = self.curriculum.decide(trainer.row, trainer.learning_rate)
        trainer.learning_rate *= decision.lr_factor
        trainer.stop = trainer.stop or decision.stop

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's."""
        return self.curriculum.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the curriculum."""
        self.curriculum.load_state_dict(state)


class EarlyStopping(Callback):
    """Ends training when the selection metric no longer gets better.

    Rules: `in_a_row`: after `patience` validations in a row without a new best; `history`: the rule
    of the authors' attention models. A validation counts if it is no better than the best of all
    validations but the last `patience`; only a new best sets the count to 0, and training ends when
    it exceeds `patience`. That is between patience + 1 and 2 patience validations after the best.

    Args:
        patience: validations.
        rule: "in_a_row" or "history".
    """

    def __init__(self, patience: int, rule: str = "in_a_row") -> None:
        self.patience, self.rule = patience, rule
        self.waited = 0
        self.history: list[float] = []

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Count, and stop when patience is used up."""
        name = trainer.task.selection
        if name not in trainer.row:
            return
        if trainer.is_best:
            self.waited = 0
        if self.rule == "history":
            metric = trainer.task.metrics[name]
            self.history.append(trainer.row[name])
            for old in self.history[: -self.patience]:
                if not metric.better(trainer.row[name], old):
                    self.waited += 1
                    break
            trainer.stop = trainer.stop or self.waited > self.patience
            return
        self.waited += not trainer.is_best
        trainer.stop = trainer.stop or self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Validations that count, and the metric of all of them where the rule needs it."""
        kept = {"history": list(self.history)} if self.rule == "history" else {}
        return {"waited": self.waited, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the count."""
        self.waited, self.history = int(state["waited"]), list(state.get("history", []))
