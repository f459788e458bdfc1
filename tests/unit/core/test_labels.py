import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED, UNSCORED, LabelSet, Task


def test_a_label_without_forms_is_its_own_form():
    label_set = LabelSet(("hap", "sad"), {"hap": ("happy", "excited")})
    assert label_set.forms_of("hap") == ("happy", "excited")
    assert label_set.forms_of("sad") == ("sad",)
    assert [label_set.index(label) for label in ("hap", "sad")] == [0, 1]
    assert len(label_set) == 2


@pytest.mark.parametrize(
    ("labels", "forms", "told"),
    [
        (("happy",), {}, "two or more distinct labels"),
        (("happy", "happy"), {}, "two or more distinct labels"),
        (("happy", UNPARSED), {}, "reserved"),
        (("happy", UNSCORED), {}, "reserved"),
        (("happy", "sad"), {"angry": ("angry",)}, "angry"),
        (("happy", "sad"), {"happy": ()}, "empty surface form"),
        (("happy", "sad"), {"happy": ("happy", " ")}, "empty surface form"),
        (("happy", "sad"), {"happy": ("glad",), "sad": ("glad",)}, "'glad' belongs to both 'happy' and 'sad'"),
        (("happy", "sad"), {"happy": ("sad",)}, "belongs to both"),
    ],
)
def test_a_label_set_that_cannot_be_told_apart_is_refused(labels, forms, told):
    with pytest.raises(ConfigError, match=told):
        LabelSet(labels, forms)


def test_a_task_maps_and_leaves_out():
    task = Task("iemocap_2", LabelSet(("hap", "sad")), {"hap": "hap", "exc": "hap", "sad": "sad"})
    assert [task.label_of(label) for label in ("exc", "hap", "fru", None)] == ["hap", "hap", None, None]


def test_a_task_cannot_map_outside_its_labels():
    with pytest.raises(ConfigError, match="task t: label 'exc' maps to 'joy'"):
        Task("t", LabelSet(("hap", "sad")), {"exc": "joy"})
