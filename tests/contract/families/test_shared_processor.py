"""The processor that is shared with an adapter is that of the family, without unknown keys."""

from lalm_mer.sharing.processor_files import write_processor


def test_a_shared_processor_is_that_of_the_family(family, family_name, tiny_folder, tmp_path):
    base = str(tiny_folder(family_name))
    write_processor(type(family), base, None, tmp_path)
    own, shared = (family.load_processor(folder, None) for folder in (base, str(tmp_path)))
    words = "Which emotion? Ça va <|im_end|> <s>"
    assert shared.tokenizer(words)["input_ids"] == own.tokenizer(words)["input_ids"]
    assert shared.tokenizer.special_tokens_map == own.tokenizer.special_tokens_map
    turn = [{"role": "user", "content": [{"type": "text", "text": words}]}]
    # Mistral's makes token ids all the same, which as strings compare like text
    rendered = [str(processor.apply_chat_template(turn, tokenize=False)) for processor in (own, shared)]
    assert rendered[0] == rendered[1]
    for name in ("feature_extractor", "audio_processor"):
        if hasattr(own, name):
            assert getattr(shared, name).to_dict() == getattr(own, name).to_dict()
    assert type(shared) is type(own)
