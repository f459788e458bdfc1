"""A language recognizer that answers questions about audio, to align a composed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from peft import PeftModel

from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.examples.questions import ANSWERS, Question
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.conversation import Conversation
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.base import Batch, true_indices
from lalm_mer.recognizers.language.answers import AnswerTree, answer_tree
from lalm_mer.recognizers.language.collator import AnswerCollator
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

__all__ = ["QuestionCollator", "QuestionRecognizer", "TrainingQuestionCollator"]


class QuestionCollator(AnswerCollator):
    """Makes a batch to score: B questions, each with its own two answers; picklable.

    Args:
        family: tokenizer and audio front end
        prompts: kind of a question -> its prompt
        packing: as of ``AnswerCollator``
        widths: likewise
    """

    def __init__(
        self, family: Family, prompts: Mapping[str, Prompt], *, packing: bool = False, widths: int = 1
    ) -> None:
        super().__init__(family, next(iter(prompts.values())), LabelSet(ANSWERS), packing=packing, widths=widths)
        self._prompts = dict(prompts)

    def conversation(self, given: Input) -> Conversation:
        """The conversation with one ``Question``, up to the question; its prompt may list both answers."""
        question = cast(Question, given)
        forms = {label: (answer,) for label, answer in zip(ANSWERS, question.answers, strict=True)}
        return self._prompts[question.kind].conversation(given, LabelSet(ANSWERS, forms))

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B questions; the batch is that of ``AnswerCollator`` with A = 2."""
        both = [0, 1]
        return self.of_trees(inputs, [self.tree(given, both) for given in inputs], [both] * len(inputs))

    def tree(self, given: Input, numbers: Sequence[int], *, complete: bool = False) -> AnswerTree:
        """The tree of some answers to a question, given by index."""
        answers = cast(Question, given).answers
        return answer_tree([self.family.answer_ids(answers[number]) for number in numbers], complete=complete)


class TrainingQuestionCollator(QuestionCollator):
    """Makes a batch to train on: each question with its right answer."""

    def __call__(self, examples: Sequence[Example]) -> Batch:  # type: ignore[override]
        """Collate B examples; the batch is that of ``TrainingAnswerCollator``."""
        inputs, truth = [example.input for example in examples], true_indices(examples, self.label_set)
        right = truth[:, None].tolist()
        trees = [self.tree(given, numbers, complete=True) for given, numbers in zip(inputs, right, strict=True)]
        batch = self.of_trees(inputs, trees, right)
        return batch | {"truth": truth, "labels": batch["targets"]}


class QuestionRecognizer(LanguageRecognizer):
    """Scores the two answers of questions about audio by the mean log-probability of their tokens.

    Args:
        family: the model
        prompts: kind of a question -> its prompt, all with audio
        model: the model as peft wraps it; None for the base model alone
        packing: as of ``LanguageRecognizer``
        torch_compile: likewise
    """

    def __init__(
        self,
        family: Family,
        prompts: Mapping[str, Prompt],
        model: PeftModel | None = None,
        *,
        packing: bool = False,
        torch_compile: bool = False,
    ) -> None:
        setup = PromptSetup(tuple(prompts.values()), LabelSet(ANSWERS), (ANSWERS,), label_score="mean")
        super().__init__(family, setup, model, packing=packing, torch_compile=torch_compile)
        widths = self.scoring_collators[0].widths
        self.joint_collator = QuestionCollator(family, prompts, packing=packing, widths=widths)
        self.scoring_collators = (self.joint_collator,)
        self.training_collator = TrainingQuestionCollator(family, prompts, packing=packing, widths=widths)

    def right_answer(self, example: Example) -> str:
        """The right one of the two answers."""
        return cast(Question, example.input).answers[ANSWERS.index(example.label)]
