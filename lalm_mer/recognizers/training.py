"""Training and scoring of every recognizer by transformers' Trainer.

The protocol's primary metric on dev selects the checkpoint; a run resumes only from complete checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from lalm_mer.core.errors import ModelError, PredictionError
from lalm_mer.core.output import writing
from lalm_mer.recognizers.base import (
    Collator,
    LabelledCollator,
    TargetCollator,
    TrainingCollator,
    kind_of,
    scores_of,
    targets_of,
)
from lalm_mer.recognizers.batch_size import largest_divisor, leaving_no_trace
from lalm_mer.recognizers.checkpoints import COMPLETE, TRAINED, check_checkpoint, reading
from lalm_mer.recognizers.dev_metrics import dev_metrics
from lalm_mer.recognizers.loaders import POSITION, Examples, Inputs, LoadingTrainer
from lalm_mer.recognizers.losses import Loss, mean_loss, mean_of_loss, require_finite
from lalm_mer.recognizers.optimizers import set_learning_rates
from lalm_mer.recognizers.order import longest_first
from lalm_mer.recognizers.score_journal import NO_POSITION, ArrivingScores, ScoreJournal
from lalm_mer.recognizers.sharding import full_parameters, load_full
from lalm_mer.recognizers.waiting import Waiting, measured_waiting

__all__ = ["Examples", "Inputs", "RecognizerTrainer"]

_TRUTH, _TARGET = "truth", "target"


class RecognizerTrainer(LoadingTrainer):
    """Trainer of any ``Recognizer``: saves only trained weights, divides losses by items, selects on dev.

    Args:
        model: the recognizer
        args: of transformers
        train_examples: None without training
        dev_examples: select the checkpoint; None without training, or if the last weights are wanted
        loss: of scores and targets; None for plain cross-entropy, or the contrastive loss of CLAP, which the recognizer
            computes in its ``forward``
        class_weights: without ``loss``: factor of the training loss of each of the K classes, 1 on average over the
            training examples; None for equal weights. The sum is still divided by the number of items, so that 8 x 1
            equals 1 x 8; if an item is a token and answers differ in length, this scales the loss slightly. Dev loss is
            not weighted
        tokens_per_batch: about the largest number of tokens of a batch to train on, dev and scored ones included, in
            place of the batch sizes of ``args``; needs batches with ``input_ids``, and examples with ``lengths``
        callbacks: of transformers
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train_examples: Examples | None = None,
        dev_examples: Examples | None = None,
        loss: Loss | None = None,
        class_weights: Sequence[float] | None = None,
        tokens_per_batch: int | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        recognizer: Any = model
        self.recognizer: Any = recognizer  # a Recognizer, without an engine's wrapper
        self._loss, self._kind = loss, kind_of(recognizer)
        self._targets = targets_of(recognizer)
        self._training_collator: TrainingCollator = recognizer.training_collator
        if loss is None:
            self._dev_collator = LabelledCollator(recognizer.scoring_collators[0], recognizer.label_set)
        else:
            self._training_collator = self._dev_collator = TargetCollator(recognizer.joint_collator)
        self.tokens_per_batch = tokens_per_batch
        self.waiting: dict[str, Waiting] = {}  # of training, and of all scoring
        self._waiting = Waiting()  # of the training that runs
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        super().__init__(
            model=model,
            args=args,
            data_collator=self._training_collator,
            train_dataset=train_examples,
            eval_dataset=dev_examples,
            compute_metrics=self._dev_metrics,
            compute_loss_func=mean_loss,
            callbacks=list(callbacks),
        )
        self.label_names = [_TRUTH]
        self.model_accepts_loss_kwargs = False  # mean_loss computes the loss from the output of forward

    def train(self, resume_from_checkpoint: str | Path | None = None, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Train, or resume from a checkpoint, and load the weights that were best on dev, if the arguments say so.

        Raises:
            ModelError: if a file of the checkpoint or the best checkpoint is missing or malformed
        """
        if resume_from_checkpoint is not None:
            check_checkpoint(
                Path(resume_from_checkpoint),
                self.args.process_index,
                self.args.world_size,
                deepspeed=self.is_deepspeed_enabled,
                scales_loss=self.accelerator.scaler is not None,
            )
        with measured_waiting() as self._waiting:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        self.waiting["training"] = self._waiting
        if (
            self.args.load_best_model_at_end and self.state.best_model_checkpoint is None
        ):  # transformers would keep the last weights
            raise ModelError(
                f"{self.args.output_dir}: the best checkpoint on dev (step {self.state.best_global_step}) is missing; "
                "remove the run folder and start again"
            )
        return output

    def score(self, inputs: Inputs, collator: Collator, journal: ScoreJournal | None = None) -> npt.NDArray[np.float64]:
        """Label log-probabilities of inputs, in their order, over all processes; in batches of similar length.

        Batches are those of one process, so that the number of processes changes nothing.

        Args:
            inputs: N inputs
            collator: the recognizer's ``joint_collator``, or one of its ``scoring_collators``
            journal: keeps the scores on disk; those that it has are not computed again

        Returns:
            (N, K), or (N, P, K) of several prompts

        Raises:
            PredictionError: if the processes together return other inputs, or another order
        """
        journal = ScoreJournal(count=len(inputs)) if journal is None else journal
        journal.share()
        if batches := self.batches_to_score(inputs, collator, journal.results):
            self._test_batches, self._test_collator = batches, collator
            self._arriving = ArrivingScores(journal)
            with measured_waiting() as waiting:
                self.predict(inputs)
            self.waiting["scoring"] = self.waiting.get("scoring", Waiting()) + waiting
            expected = [*chain.from_iterable(batches)]
            self.state.log_history.append(
                {"step": self.state.global_step, "scoring": len(expected), **waiting.since_last()}
            )
            self._arriving.move()
            if self._arriving.positions != expected:
                raise PredictionError(
                    f"scoring {len(expected)} utterances returned {len(self._arriving.positions)}, or returned them in "
                    "another order"
                )
        return np.stack([journal.results[position] for position in range(len(inputs))])

    def find_batch_size(self, checkpoint: Path | None = None) -> int:
        """Use the largest batch that fits into memory, and accumulate as many as keep the examples of a step.

        Forward and backward pass of the longest examples are tried, in every process, with memory for AdamW's moments.
        A resumed run uses the size that its checkpoint was trained with.

        Args:
            checkpoint: of the run to resume, if there is one

        Returns:
            examples per device, a divisor of ``per_device_train_batch_size``

        Raises:
            ModelError: if not even one example fits, or the checkpoint cannot be read
        """
        args, saved = self.args, 0
        if checkpoint is not None:
            with reading(checkpoint):
                saved = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).train_batch_size
        size, largest = int(saved or 0), int(args.per_device_train_batch_size)
        if not size or largest % size:
            copies = 2 if args.world_size == 1 else 3  # DDP has buckets of gradients
            with leaving_no_trace(self.model, copies):
                found = largest_divisor(min(largest, len(self.train_dataset)), self._try_batch)
            size = int(self.accelerator.gather(torch.tensor([found], device=args.device)).min())
        args.gradient_accumulation_steps *= largest // size
        args.per_device_train_batch_size = size
        self._train_batch_size = args.train_batch_size
        return size

    def _try_batch(self, size: int) -> None:
        """Forward and backward pass of the longest training examples."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        if self.args.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        examples = [self.train_dataset[index] for index in longest_first(self.train_dataset)[:size]]
        inputs = self._prepare_inputs(self._training_collator(examples))
        with self.compute_loss_context_manager():
            loss = self.compute_loss(self.model, inputs)
        loss.backward()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """That of transformers, with the learning rates that parts of the recognizer have of their own."""
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if made:
            set_learning_rates(optimizer, getattr(self.recognizer, "own_learning_rates", ()))
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 as in transformers
        """Log, with the time spent waiting for data since the last training loss, which must be finite.

        The norm of gradients that overflow, whose step the scaling of the loss in float16 skips, is left out.
        """
        require_finite(logs.get("loss", 0.0), self.state.global_step, self.args.learning_rate)
        if not math.isfinite(logs.get("grad_norm", 0.0)):  # no checkpoint with it would be read again
            logs = {name: value for name, value in logs.items() if name != "grad_norm"}
        super().log({**logs, **self._waiting.since_last()} if "loss" in logs else logs, *args, **kwargs)

    def save_trained(self, folder: Path) -> None:
        """Write what was trained in the format of its library; only the first process writes."""
        every = bool(getattr(self.recognizer, "saves_every_weight", False))
        with full_parameters(self.model, frozen=every), writing(folder):
            if self.is_world_process_zero():
                self.accelerator.unwrap_model(self.model).save_trained(folder)

    def close(self) -> None:
        """End the processes together: one that leaves first would close the connections of the others."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Loss of a training batch, weighted by class."""
        if self._loss is not None:
            self.compute_loss_func = partial(mean_of_loss, self._loss, inputs.pop("target"))
        elif self._class_weights is not None:
            weights = self._class_weights.to(inputs["truth"].device)[inputs["truth"]]
            self.compute_loss_func = partial(mean_loss, weights=weights)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor | None, Tensor | None]:
        """Score a batch; dev losses are returned with the log-probabilities, so that their mean is exact.

        Scores of inputs, which have no truth, are gathered here and not kept by the Trainer.
        """
        inputs = self._prepare_inputs(inputs)
        position = inputs.pop(POSITION)
        inputs.pop("labels", None)
        target = inputs.pop(_TARGET, None)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        scores = scores_of(output).float()
        if _TRUTH not in inputs and target is None:
            self._arriving.add(*self.accelerator.gather(self._filled(position, scores)))
            return None, None, None
        if target is None:
            losses, items, truth = output["losses"], output["items"], inputs[_TRUTH][:, None]
        else:
            assert self._loss is not None
            losses, truth = self._loss.on_dev(output, target), target.double()  # positions are whole numbers
            items = torch.ones_like(losses)
        extra = torch.stack([losses, items], dim=1).float()
        scored, known = self._filled(torch.cat([scores, extra], dim=1), torch.cat([truth, position[:, None]], dim=1))
        return None, scored, known

    def _filled(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Rows of a batch, filled with rows of ``NO_POSITION``, since several processes gather equal shapes alone."""
        missing = self.rows - len(tensors[0]) if self.args.world_size > 1 else 0
        return tuple(pad(each, (0, 0) * (each.ndim - 1) + (0, missing), value=NO_POSITION) for each in tensors)

    def _dev_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        known = prediction.label_ids[:, -1]
        rows = [row for row in np.sort(np.unique(known, return_index=True)[1]) if known[row] != NO_POSITION]
        found = prediction.predictions[rows]  # each utterance once
        scores, (losses, items) = found[:, :-2], found[:, -2:].T
        truth = prediction.label_ids[rows, :-1]
        metrics = dev_metrics(self._kind, self._targets, truth, scores)
        return {"loss": float(losses.sum() / items.sum()), **metrics}

    # A resumed run ends with the same results as an uninterrupted one

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if self._has_ended():  # it was killed after its last step; transformers would run one more
            self.control.should_training_stop = True
        else:
            for each in (self.train_dataset, self._train_sampler):
                set_epoch = getattr(each, "set_epoch", None)
                if set_epoch is not None:  # accelerate omits it with several processes, and in a resumed epoch
                    set_epoch(kwargs["epoch"])
            super()._run_epoch(*args, **kwargs)

    def _has_ended(self) -> bool:
        stopped_early = any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )
        return stopped_early or self.state.global_step >= self.state.max_steps

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if self.control.should_save:  # no checkpoint contains the losses since the last log
            self.control.should_log = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    # Checkpoints contain what was trained, not the base model

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ANN401 as in transformers
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing(Path(self.args.output_dir)):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            (folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / COMPLETE).touch()
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)  # once the new one is complete

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what was trained into a checkpoint."""
        with full_parameters(self.model):
            self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict() if state_dict is None else state_dict
        save_file({name: state[name].detach().contiguous().cpu() for name in self._saved_names()}, folder / TRAINED)

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
        with reading(resume_from_checkpoint):
            deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, load_module_strict=False)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with reading(resume_from_checkpoint):
            state = load_file(Path(resume_from_checkpoint) / TRAINED)
        different = set(self._saved_names()) ^ set(state)
        if different:
            raise ModelError(f"{resume_from_checkpoint}: weights do not fit this recognizer: {sorted(different)[:3]}")
        load_full(self.model, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _saved_names(self) -> list[str]:
        """Trained parameters, and the persistent buffers of their modules, such as running means."""
        trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        modules = {name.rpartition(".")[0] for name in trained}
        persistent = self.model.state_dict().keys()
        buffers = [name for name, _ in self.model.named_buffers() if name.rpartition(".")[0] in modules]
        return trained + [name for name in buffers if name in persistent]
