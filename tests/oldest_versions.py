"""Print the oldest allowed version of each dependency in pyproject.toml, as constraints of pip (`make test-oldest`)."""

import re
import tomllib
from pathlib import Path

_LEAST = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?\s*>=\s*(?P<version>[\w.]+)")


def oldest_versions(pyproject: Path) -> list[str]:
    """Constraints for all dependencies and extras with a lower bound."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    found = (_LEAST.match(requirement) for requirement in requirements)
    return [f"{match['name']}=={match['version']}" for match in found if match]


if __name__ == "__main__":
    print("\n".join(oldest_versions(Path(__file__).resolve().parents[1] / "pyproject.toml")))  # noqa: T201
