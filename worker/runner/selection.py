"""When to validate, which model is the best, and when to stop."""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from lightning import Callback, Trainer

from jobs.errors import SpecError
from jobs.spec import TrainerOptions
from worker.runner.metrics import scoring_facts, validation_metrics
from worker.runner.resume import Continuation

#: Decides between models of one score.
_LOSS: Final = "val/loss"


class Selection(Callback):
    """Follow the monitored metric; end the fit by steps or patience, with a validation."""

    def __init__(
        self,
        continuation: Continuation,
        options: TrainerOptions,
        monitor: str,
        mode: Literal["min", "max"],
    ) -> None:
        self._at = continuation
        self._options = options
        self._monitor = monitor
        self._sign = 1 if mode == "max" else -1
        #: The best value of the monitored metric; None before the first.
        self.score: float | None = None
        #: The step it was reached at, and all metrics of that validation.
        self.step = 0
        self.metrics: dict[str, float] = {}
        #: How they were computed.
        self.facts: dict[str, str] = {}
        #: Validations since the best one.
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered of earlier validations."""
        names = ("score", "step", "metrics", "facts", "waited")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was remembered."""
        vars(self).update(state_dict)

    @property
    def is_best(self) -> bool:
        """Whether the newest validation is the best so far."""
        return self.score is not None and self.waited == 0 and self.step == self._at.step

    @property
    def finished(self) -> bool:
        """Whether no further batch is to be trained on."""
        return (
            self._at.position.epoch >= self._options.last_epoch
            or (self._options.max_steps or math.inf) <= self._at.step
            or (self._options.patience or math.inf) <= self.waited
        )

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Validate at the end of every n-th epoch and of the last."""
        last = trainer.current_epoch + 1 >= self._options.last_epoch
        trainer.check_val_every_n_epoch = 1 if last else self._options.val_every

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Validate and stop where the last step has been taken."""
        if (self._options.max_steps or math.inf) <= self._at.step:
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Compare the newest validation with the best one."""
        metrics = validation_metrics(trainer)
        if self._monitor not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise SpecError(
                f"models are chosen by {self._monitor}, which the validation did not give "
                f"(it gave: {known})"
            )
        value = metrics[self._monitor]
        if math.isfinite(value) and self._is_better(value, metrics):
            self.score, self.step, self.metrics, self.waited = value, self._at.step, metrics, 0
            self.facts = scoring_facts(trainer.lightning_module)
        else:
            self.waited += 1
        if self.finished:
            trainer.should_stop = True

    def _is_better(self, value: float, metrics: Mapping[str, float]) -> bool:
        """Return whether the score is better, or as good at a lower loss: few rows often tie."""
        if self.score is None or value != self.score:
            return self.score is None or self._sign * value > self._sign * self.score
        return metrics.get(_LOSS, math.inf) < self.metrics.get(_LOSS, math.inf)
