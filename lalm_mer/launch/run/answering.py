"""Generated answers: every process generates its share, all are gathered and parsed strictly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from lalm_mer.core.errors import ConfigError, PredictionError
from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.names import LIKELIHOOD
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.progress import progress
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.prompts import read_synonyms
from lalm_mer.launch.config.sections import AnsweringSettings, ScoringSettings
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.launch.run.engine import Engine, check_accelerator
from lalm_mer.launch.run.speed import print_speed
from lalm_mer.models.registry import model_class
from lalm_mer.prompting.parsing import AnswerParser
from lalm_mer.recognizers.language.collator import PromptCollator
from lalm_mer.recognizers.language.generation import decode_answer, generate
from lalm_mer.recognizers.language.prefix import PrefixStore
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.order import batches_left, of_size
from lalm_mer.recognizers.score_journal import ScoreJournal
from lalm_mer.recognizers.training import Inputs

__all__ = ["Answering", "generates_answers", "open_answering"]


def generates_answers(settings: ZeroShotSettings, engine: Engine) -> bool:
    """Whether a run generates its answers.

    Raises:
        ConfigError: if the model or the engine cannot generate
    """
    if settings.answering.mode == LIKELIHOOD:
        return False
    if not model_class(settings.model.family).has_language_model:
        raise ConfigError(
            f"key 'answering.mode': generation; {settings.model.family} has no language model; set likelihood"
        )
    prompt = settings.prompt
    if prompt.also or prompt.label_orders > 1 or prompt.label_score != "sum":
        raise ConfigError(
            "section 'prompt': also, label_orders and label_score are ways of scoring labels; with "
            "answering.mode=generation leave them out"
        )
    if engine.distributed_type in ("DEEPSPEED", "FSDP"):
        raise ConfigError(
            f"key 'answering.mode': generation; {engine.source} shards the model by {engine.distributed_type}, and "
            "processes that stop at different tokens would wait for each other; launch with multi_gpu.yaml or less"
        )
    return True


@dataclass(frozen=True)
class Answering:
    """Greedy generation and parsing of the answers of one run.

    Args:
        recognizer: model and prompts
        data: train, dev and test of the fold
        settings: section ``answering``
        parse: answer -> label or ``UNPARSED``
    """

    recognizer: LanguageRecognizer
    data: RunData
    settings: AnsweringSettings
    parse: AnswerParser

    def notes(self) -> list[Note]:
        """Notes on the results."""
        return [Note(NoteCode.GENERATED_ANSWERS, facts={"max_new_tokens": self.settings.max_new_tokens})]

    def answer(
        self, inputs: Inputs, scoring: ScoringSettings, engine: Engine, journal: ScoreJournal | None = None
    ) -> tuple[list[str | None], list[str]]:
        """Generate an answer to every test input in all processes.

        Args:
            inputs: the test inputs that the model can use
            scoring: batch size, workers and device
            engine: the expected engine
            journal: keeps the answers on disk; those that it has are not generated again

        Returns:
            N answers, None for unscored utterances, and the N labels parsed from them

        Raises:
            ConfigError: if accelerate set up another engine than the expected one
            PredictionError: if the processes together return answers to other utterances
        """
        accelerator = Accelerator(cpu=scoring.use_cpu, mixed_precision=engine.mixed_precision)
        check_accelerator(engine, accelerator)
        journal = ScoreJournal(count=len(inputs)) if journal is None else journal
        journal.share()
        count = accelerator.num_processes
        batches = batches_left(of_size(scoring.per_device_eval_batch_size, range(len(inputs))), journal.results)
        own = batches[accelerator.process_index :: count]
        self.recognizer.to(accelerator.device).eval()
        print_speed(self.recognizer, engine.mixed_precision)
        with accelerator.autocast():
            answers = self._generate(inputs, own, scoring.dataloader_num_workers, accelerator.device)
            for _ in range(0, len(batches), count):  # a process may have no batch in the last round
                arrived = gather_object(next(answers, []))
                journal.add(*map(list, zip(*arrived, strict=True)))
        if sorted(journal.results) != list(range(len(inputs))):
            raise PredictionError(f"generation returned {len(journal.results)} answers to {len(inputs)} utterances")
        accelerator.wait_for_everyone()
        accelerator.end_training()
        all_answers: list[str | None] = [None] * len(self.data.test)
        for index, position in enumerate(self.data.scored):
            all_answers[position] = journal.results[index]
        return all_answers, [UNPARSED if answer is None else self.parse(answer) for answer in all_answers]

    def _generate(
        self, inputs: Inputs, batches: Sequence[list[int]], workers: int, device: torch.device
    ) -> Iterator[list[tuple[int, str]]]:
        """Positions and answers of each batch."""
        family, setup = self.recognizer.family, self.recognizer.setup
        longest = self.settings.max_new_tokens
        collator = PromptCollator(family, setup.prompts[0], setup.label_set, shots=setup.shots, following=longest)
        prefixes = PrefixStore(family, [collator.prefix])
        dataset: Any = inputs  # map-style, but not torch's class
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collator)
        for positions, batch in zip(batches, progress(loader, desc="generate", unit="batches"), strict=True):
            on_device = {name: tensor.to(device) for name, tensor in batch.items()}
            generated = generate(family, **on_device, max_new_tokens=longest, prefixes=prefixes)
            yield [(position, decode_answer(family, ids)) for position, ids in zip(positions, generated, strict=True)]


def open_answering(recognizer: LanguageRecognizer, data: RunData, settings: AnsweringSettings) -> Answering:
    """Read the synonyms and create the parser.

    Raises:
        ConfigError: if the synonyms cannot be read, or name two labels by the same words
    """
    try:
        parser = AnswerParser(recognizer.label_set, read_synonyms(settings))
    except ConfigError as error:
        raise ConfigError(f"key 'answering.synonyms': {settings.synonyms}: {error}") from None
    return Answering(recognizer, data, settings, parser)
