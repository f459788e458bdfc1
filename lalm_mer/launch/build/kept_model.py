"""The base model of a run, kept for the next run of this process that uses the same one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm_mer.models.pretrained import PretrainedModel

__all__ = ["KeptModel"]


class KeptModel:
    """At most one base model, with the weights as they were loaded.

    A run opens its model here and returns it at its end, without its adapter; a run that fails returns nothing. A model
    that its training could have changed is not kept, and the next run loads it again.
    """

    def __init__(self) -> None:
        self._kept: PretrainedModel | None = None
        self._key: object = None
        self._trainable: dict[str, bool] = {}  # parameter -> whether it was when it was loaded

    def open(self, key: object, load: Callable[[], PretrainedModel]) -> PretrainedModel:
        """The kept model if it has this key, or else a loaded one; nothing is kept until it is returned.

        Args:
            key: everything that loading depends on
            load: loads the model
        """
        kept, self._kept = self._kept, None
        if kept is not None and key == self._key:
            again = type(kept)(kept.model, kept.processor)  # without what a run has added to the family
            if hasattr(kept, "full_window"):
                again.full_window = kept.full_window  # type: ignore[attr-defined]
            return again
        del kept  # its memory, before the next one is loaded
        loaded = load()
        self._key = key
        self._trainable = {name: each.requires_grad for name, each in loaded.model.named_parameters()}
        return loaded

    def keep(self, model: PretrainedModel, recognizer: Any) -> None:  # noqa: ANN401 a Recognizer of the model
        """Keep the model that a run has opened.

        A model is not kept if it or a tower was trained in full, if it is adapted and in 4 bits, if it is compiled, or
        if its activations were recomputed.

        Args:
            model: the opened model
            recognizer: what the run made of it, possibly with an adapter
        """
        inner, wrapped = model.model, recognizer.model
        if getattr(model, "compiled", ()) or getattr(inner, "is_gradient_checkpointing", False):
            return
        if model.trained_in_full:
            return
        if wrapped is not inner:
            in_full = any(config.modules_to_save for config in wrapped.peft_config.values())
            if in_full or getattr(inner, "is_quantized", False):
                return
            wrapped.unload()
        parameters = dict(inner.named_parameters())
        if parameters.keys() != self._trainable.keys():
            return
        for name, parameter in parameters.items():
            parameter.requires_grad = self._trainable[name]
            parameter.grad = None
        inner.eval()
        self._kept = model
