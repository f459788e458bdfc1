"""Every method that overrides one of transformers, peft, accelerate or torch accepts what its callers pass."""

import inspect
import pkgutil
from importlib import import_module

import pytest
from transformers import PreTrainedModel

import lalm_mer
from lalm_mer.models.families import is_supported
from lalm_mer.recognizers.clap import ClapRecognizer
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

FREE = {"forward"}  # torch's has no fixed parameters
CALLED_BY_THE_TRAINER = [  # on any model, although only PreTrainedModel declares them
    name
    for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable")
    if hasattr(PreTrainedModel, name)
]


def classes():
    for module in pkgutil.walk_packages(lalm_mer.__path__, "lalm_mer."):
        if is_supported(module.name.rpartition(".")[2]):
            found = vars(import_module(module.name)).values()
            yield from (each for each in found if inspect.isclass(each) and each.__module__ == module.name)


def overrides():
    """(method, the method of a library that it overrides), by name."""
    found = {}
    for each in classes():
        foreign = [base for base in each.__mro__[1:] if base.__module__.startswith(("transformers", "peft", "torch"))]
        for name in vars(each).keys() - FREE:
            base = next((base for base in foreign if name in vars(base)), None)
            methods = [getattr(kind, name) for kind in (each, base)] if base is not None else []
            if methods and not name.startswith("__") and all(map(callable, methods)):
                found[f"{each.__qualname__}.{name}"] = tuple(methods)
    for recognizer in (LanguageRecognizer, ClapRecognizer):
        for name in CALLED_BY_THE_TRAINER:
            found[f"{recognizer.__name__}.{name}"] = (getattr(recognizer, name), getattr(PreTrainedModel, name))
    return found


OVERRIDES = overrides()


def bound(method, parameters):
    """Whether a call with all of these parameters, by position as far as possible, and by name, succeeds."""
    named = [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    by_position = [each.name for each in named if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    by_name = {each.name: None for each in named if each.kind is inspect.Parameter.KEYWORD_ONLY}
    signature = inspect.signature(method)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):  # the caller passes more by name
        own = signature.parameters.values()
        by_name |= {each.name: None for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY}
    try:
        signature.bind(*by_position, **by_name)
        signature.bind("self", **by_name | {each.name: None for each in named[1:]})
    except TypeError:
        return False
    return True


def test_the_overrides_are_found():
    assert {"RecognizerTrainer.compute_loss", "_History.on_log", "TorchMelExtractor.to_dict"} <= OVERRIDES.keys()
    assert len(OVERRIDES) > 20


@pytest.mark.parametrize("name", sorted(OVERRIDES))
def test_an_override_accepts_what_its_callers_pass(name):
    own, original = OVERRIDES[name]
    assert bound(own, list(inspect.signature(original).parameters.values())), (
        f"{inspect.signature(own)} against {inspect.signature(original)}"
    )


def test_a_narrower_signature_is_found():
    def narrower(self, first=None):
        return self, first

    def original(self, first=None, second=1):
        return self, first, second

    assert not bound(narrower, list(inspect.signature(original).parameters.values()))
    assert bound(original, list(inspect.signature(original).parameters.values()))
