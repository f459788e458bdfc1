"""A language recognizer that answers questions about audio, to align a composed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peft import PeftModel

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.examples.questions import ANSWERS, Question
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.base import Batch, true_indices
from lalm_mer.recognizers.language.answers import answer_tree
from lalm_mer.recognizers.language.collator import AnswerCollator
from lalm_mer.recognizers.language.packing import rows_of
from lalm_mer.recognizers.language.prefix import Rendered
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

__all__ = ["QuestionCollator", "QuestionRecognizer", "TrainingQuestionCollator"]


class QuestionCollator(AnswerCollator):
    """Makes a batch to score: B questions, each with its own two answers; picklable.

    Args:
        family: tokenizer and audio front end
        prompts: kind of a question -> its prompt
        packing: as of ``AnswerCollator``
    """

    def __init__(self, family: Family, prompts: Mapping[str, Prompt], *, packing: bool = False) -> None:
        super().__init__(family, next(iter(prompts.values())), LabelSet(ANSWERS), packing=packing)
        self._prompts = dict(prompts)

    def render(self, given: Input) -> Rendered:
        """Token ids of a question, up to the start of the answer, and the audio of its placeholder.

        Raises:
            ConfigError: if the utterance has no audio
        """
        question = _question(given)
        forms = {label: (answer,) for label, answer in zip(ANSWERS, question.answers, strict=True)}
        conversation = self._prompts[question.kind].conversation(given, LabelSet(ANSWERS, forms))
        audio = [each for each in conversation.audio if each is not None]
        if not audio:
            raise ConfigError(f"utterance {given.utterance_id}: a question is about audio, but none was loaded")
        return self.family.prompt_ids(conversation, list(map(self.family.placeholder_count, audio))), audio

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B questions; the batch is that of ``AnswerCollator`` with A = 2."""
        return self._batch(inputs, [[0, 1]] * len(inputs))

    def _batch(self, inputs: Sequence[Input], shown: Sequence[Sequence[int]], *, complete: bool = False) -> Batch:
        """A batch of B questions, each with some of its answers, given by index."""
        prompts = [self.render(given) for given in inputs]
        trees = [
            answer_tree([self.family.answer_ids(_question(given).answers[number]) for number in numbers],
                        complete=complete)
            for given, numbers in zip(inputs, shown, strict=True)
        ]  # fmt: skip
        lengths = [len(ids) + len(tree.tokens) for (ids, _), tree in zip(prompts, trees, strict=True)]
        rows = rows_of(lengths, self.family.hidden_size) if self.packing else [[row] for row in range(len(lengths))]
        return self._packed(prompts, rows, trees, shown) | self.audio(prompts, rows)


class TrainingQuestionCollator(QuestionCollator):
    """Makes a batch to train on: each question with its right answer."""

    def __call__(self, examples: Sequence[Example]) -> Batch:  # type: ignore[override]
        """Collate B examples; the batch is that of ``TrainingAnswerCollator``."""
        truth = true_indices(examples, self.label_set)
        batch = self._batch([example.input for example in examples], truth[:, None].tolist(), complete=True)
        return batch | {"truth": truth, "labels": batch["targets"]}


class QuestionRecognizer(LanguageRecognizer):
    """Scores the two answers of questions about audio by the mean log-probability of their tokens.

    Args:
        family: the model
        prompts: kind of a question -> its prompt, all with audio
        model: the model as peft wraps it; None for the base model alone
        packing: as of ``LanguageRecognizer``
    """

    def __init__(
        self, family: Family, prompts: Mapping[str, Prompt], model: PeftModel | None = None, *, packing: bool = False
    ) -> None:
        setup = PromptSetup(tuple(prompts.values()), LabelSet(ANSWERS), (ANSWERS,), label_score="mean")
        super().__init__(family, setup, model, packing=packing)
        self.joint_collator = QuestionCollator(family, prompts, packing=packing)
        self.scoring_collators = (self.joint_collator,)
        self.training_collator = TrainingQuestionCollator(family, prompts, packing=packing)


def _question(given: Input) -> Question:
    assert isinstance(given, Question)
    return given
