"""Zero-shot runs of a model on a server, in the folder of a test."""

import json

import pandas as pd
import yaml
from chat_server import NAME

TEST = 20  # utterances that are short enough
PROMPT = "name: lines\nuser: |\n  {{ audio }}\n  {{ labels }}\n"
GENERATED = ("answering.mode=generation",)  # one request for each utterance


def served_config(workplace, folder):
    """Options that name a YAML of a served model."""
    content = yaml.safe_load(workplace.config("zero_shot").read_text())
    (folder / "lines.yaml").write_text(PROMPT)
    content |= {
        "model": {"family": "remote", "url": "http://127.0.0.1:9/v1", "id": NAME},
        "prompt": {"file": str(folder / "lines.yaml")},
        "remote": {"max_retries": 2, "timeout_s": 20, "concurrency": 4},
    }
    (folder / "remote.yaml").write_text(yaml.safe_dump(content))
    return "--config", str(folder / "remote.yaml")


def score_served(workplace, folder, server, *overrides, out="run"):
    """Run the recipe on a server, into a folder below ``folder``; its exit status."""
    options = [f"model.url={server.url}", f"output.dir={folder / out}", *overrides]
    return workplace.script("recipes/zero_shot.py", *served_config(workplace, folder), *options)


def table(folder):
    """Predictions of a run."""
    return pd.read_parquet(folder / "predictions.parquet")


def journal(folder):
    """Lines of its journal."""
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
