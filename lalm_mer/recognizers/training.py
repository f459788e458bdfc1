"""The one loop that trains and scores every recognizer: transformers' Trainer.

Dev chooses the checkpoint, by the protocol's primary metric; a checkpoint counts only once it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from lalm_mer.core.errors import ModelError, PredictionError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.evaluation.metrics import METRICS
from lalm_mer.recognizers.base import Batch, Collator, TrainingCollator, true_indices
from lalm_mer.recognizers.sharding import load_whole, whole_parameters

__all__ = ["Examples", "Inputs", "RecognizerTrainer", "last_whole_checkpoint"]

_TRUTH = "truth"
_POSITION = "position"  # of an input among those that are scored
_TRAINED = "trained.safetensors"
_WHOLE = "WHOLE"  # written last: a checkpoint without it was cut short


class Examples(Sized, Protocol):
    """A map-style dataset of examples."""

    def __getitem__(self, index: int) -> Example: ...


class Inputs(Sized, Protocol):
    """A map-style dataset of inputs."""

    def __getitem__(self, index: int) -> Input: ...


class _Numbered:
    """Inputs with their positions, so that scores can be proven to come back in order."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[int, Input]:
        return index, self._inputs[index]


def _collate_numbered(items: Sequence[tuple[int, Input]], collator: Collator) -> Batch:
    return collator([given for _, given in items]) | {_POSITION: torch.tensor([index for index, _ in items])}


def _collate_dev(examples: Sequence[Example], collator: Collator, label_set: LabelSet) -> Batch:
    truth = true_indices(examples, label_set)
    return collator([example.input for example in examples]) | {_TRUTH: truth}


class RecognizerTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed
    """Trainer over any ``Recognizer``: keeps only trained weights, counts losses by item, selects by dev.

    Args:
        model: the recognizer
        args: transformers' own
        train_examples: None where nothing is trained
        dev_examples: None where nothing is trained
        class_weights: what the training loss of each of the K classes is multiplied by, 1 on average over the training
            examples. The sum is still divided by the number of items, so that 8 x 1 equals 1 x 8; where an item is a
            token and answers differ in length, that scales the whole loss a little. None weights all alike. Dev loss
            is bare
        callbacks: transformers' own
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train_examples: Examples | None = None,
        dev_examples: Examples | None = None,
        class_weights: Sequence[float] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        recognizer: Any = model
        self.recognizer: Any = recognizer  # a Recognizer, without an engine's wrapper
        self._training_collator: TrainingCollator = recognizer.training_collator
        self._label_set: LabelSet = recognizer.label_set
        collator = recognizer.scoring_collators[0]
        self._dev_collator = partial(_collate_dev, collator=collator, label_set=self._label_set)
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        super().__init__(
            model=model,
            args=args,
            data_collator=self._training_collator,
            train_dataset=train_examples,
            eval_dataset=dev_examples,
            compute_metrics=self._dev_metrics,
            compute_loss_func=_mean_loss,
            callbacks=list(callbacks),
        )
        self.label_names = [_TRUTH]
        self.model_accepts_loss_kwargs = False  # the loss is made here, from what forward returns

    def train(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 as in transformers
        """Learn, and end with the weights that dev chose.

        Raises:
            ModelError: if the chosen checkpoint is gone
        """
        output = super().train(*args, **kwargs)
        if self.state.best_model_checkpoint is None:  # transformers would go on with the last weights
            raise ModelError(
                f"{self.args.output_dir}: the checkpoint that dev chose (step {self.state.best_global_step}) is gone; "
                "remove the run folder and start again"
            )
        return output

    def score(self, inputs: Inputs, collator: Collator) -> npt.NDArray[np.float64]:
        """Label log-probabilities (N, K) of inputs, in their order, over all processes.

        Args:
            inputs: N inputs
            collator: one of the recognizer's ``scoring_collators``

        Raises:
            PredictionError: if the processes together return other inputs than were given
        """
        self._test_collator = partial(_collate_numbered, collator=collator)
        metrics: Any = self.compute_metrics  # type: ignore[has-type]
        self.compute_metrics = None  # there is no truth to compute them from
        try:
            output = self.predict(_Numbered(inputs))
        finally:
            self.compute_metrics = metrics
        positions = np.asarray(output.label_ids)
        if positions.tolist() != list(range(len(inputs))):
            raise PredictionError(
                f"{len(positions)} of {len(inputs)} utterances came back from scoring, or out of order"
            )
        return np.asarray(output.predictions, dtype=np.float64)

    def save_trained(self, folder: Path) -> None:
        """Write what was trained in its library's own format, from the first process alone."""
        with whole_parameters(self.model):
            if self.is_world_process_zero():
                self.accelerator.unwrap_model(self.model).save_trained(folder)

    def close(self) -> None:
        """Let the processes part in good order; without it one may abort at exit although all its work is done."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Loss of a training batch, each utterance's weighted by its class."""
        if self._class_weights is not None:
            weights = self._class_weights.to(inputs["truth"].device)[inputs["truth"]]
            self.compute_loss_func = partial(_mean_loss, weights=weights)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Score a batch; dev losses are returned with the log-probabilities, so that their mean is exact."""
        inputs = self._prepare_inputs(inputs)
        position = inputs.pop(_POSITION, None)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        log_probs = output["log_probs"].float()
        if position is not None:
            return None, log_probs, position
        extra = torch.stack([output["losses"], output["items"]], dim=1).float()
        return None, torch.cat([log_probs, extra], dim=1), inputs[_TRUTH]

    def _dev_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        log_probs, (losses, items) = prediction.predictions[:, :-2], prediction.predictions[:, -2:].T
        labels = self._label_set.labels
        truth = [labels[index] for index in prediction.label_ids]
        predicted = [labels[index] for index in log_probs.argmax(axis=1)]
        scores = {name: metric.from_labels(truth, predicted, labels) for name, metric in METRICS.items()}
        return {"loss": float(losses.sum() / items.sum()), **scores}

    # Dev and test have collators of their own; the Trainer knows one.

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:  # noqa: ANN401 as in transformers
        """Loader of dev examples."""
        return self._collated_by(self._dev_collator, super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:  # noqa: ANN401 as in transformers
        """Loader of inputs to be scored."""
        return self._collated_by(self._test_collator, super().get_test_dataloader, test_dataset)

    def _collated_by(
        self,
        collator: Callable[..., Batch],
        make: Callable[[Any], DataLoader[Any]],
        dataset: Any,  # noqa: ANN401
    ) -> DataLoader[Any]:
        self.data_collator = collator
        try:
            return make(dataset)
        finally:
            self.data_collator = self._training_collator

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:  # noqa: ANN401
        """Loaders draw from a generator of their own: how often one starts must not move the dropout."""
        loader: DataLoader[Any] = super()._get_dataloader(*args, **kwargs)
        loader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed)  # type: ignore[attr-defined]
        return loader

    # What a run that was killed needs, to go on as if nothing had happened.

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if self._has_ended():  # it was killed after its last step; transformers would take one more
            self.control.should_training_stop = True
        else:
            set_epoch = getattr(self.train_dataset, "set_epoch", None)
            if set_epoch is not None:  # accelerate forgets it with several processes, and in an epoch gone on with
                set_epoch(kwargs["epoch"])
            super()._run_epoch(*args, **kwargs)

    def _has_ended(self) -> bool:
        impatient = any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )
        return impatient or self.state.global_step >= self.state.max_steps

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if self.control.should_save:  # the losses since the last log are in no checkpoint
            self.control.should_log = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    # Checkpoints hold what was trained, not the base model, and count only when whole.

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ANN401 as in transformers
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            (folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / _WHOLE).touch()
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)  # the old go once the new is whole

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what was trained into a checkpoint."""
        with whole_parameters(self.model):
            self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict() if state_dict is None else state_dict
        save_file({name: state[name].detach().contiguous().cpu() for name in self._saved_names()}, folder / _TRAINED)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        engine = self.model_wrapped
        engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            del engine.save_checkpoint

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:  # noqa: ANN401
        if resume_from_checkpoint is None or not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, load_module_strict=False)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / _TRAINED)
        missing = set(self._saved_names()) ^ set(state)
        if missing:
            raise ModelError(f"{resume_from_checkpoint}: weights do not fit this recognizer: {sorted(missing)[:3]}")
        load_whole(self.model, state)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _saved_names(self) -> list[str]:
        """Trained parameters, and the buffers of modules that hold any (running means and the like)."""
        trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        homes = {name.rpartition(".")[0] for name in trained}
        persistent = self.model.state_dict().keys()
        buffers = [name for name, _ in self.model.named_buffers() if name.rpartition(".")[0] in homes]
        return trained + [name for name in buffers if name in persistent]


def last_whole_checkpoint(folder: Path, *, removes: bool = True) -> Path | None:
    """The newest checkpoint that was written to its end.

    transformers' own ``get_last_checkpoint`` takes the newest folder, cut short or not.

    Args:
        folder: where training keeps its checkpoints
        removes: whether this process removes those that were cut short; of several, one should
    """
    whole = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if (path / _WHOLE).is_file():
            whole.append(path)
        elif removes:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _mean_loss(
    outputs: dict[str, Tensor],
    labels: object,
    num_items_in_batch: Tensor | int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum of the (weighted) losses over the items of the whole accumulated batch, so that 8 x 1 equals 1 x 8."""
    items = outputs["items"].sum() if num_items_in_batch is None else num_items_in_batch
    losses = outputs["losses"] if weights is None else outputs["losses"] * weights
    return losses.sum() / items
