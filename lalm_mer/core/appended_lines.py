"""A file of lines that grows while a long piece of work runs, so that a killed process loses at most its last line."""

from __future__ import annotations

from pathlib import Path

from lalm_mer.core.output import writing

__all__ = ["AppendedLines"]


class AppendedLines:
    """The complete lines of a file, and lines to append; reading alone changes nothing.

    A process that is killed in the middle of a line leaves a line without its end, which the first ``append`` removes.

    Args:
        path: the file, which may not exist yet
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        self._kept: int | None = content.rfind(b"\n") + 1  # bytes; None once the rest was removed
        self.lines = content[: self._kept].split(b"\n")[:-1]

    def start_over(self) -> None:
        """Let the first ``append`` remove all lines."""
        self.lines, self._kept = [], 0

    def append(self, line: bytes) -> None:
        """Append a line, without its end; a process that is killed after this keeps it.

        Raises:
            OutputError: if the disk cannot be written
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if self._kept is not None:
                    file.truncate(self._kept)
                    self._kept = None
                file.write(line + b"\n")
