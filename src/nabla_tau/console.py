"""How a command speaks: output, warnings and errors, on the terminal or as one JSON object, and its exit codes."""

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from nabla_tau.errors import InvalidRequest, UnlearningWarning, told

REFUSED, WITH_RESERVATIONS, INTERRUPTED = 1, 3, 130
TRACEBACK = "NABLA_TAU_TRACEBACK"

GRACE = 5.0
"""Seconds that another process than the main one waits before it says an error itself."""


@contextmanager
def reported(as_json: bool, interrupted: str = "nothing was written.") -> Iterator[tuple[Console, Console]]:
    """Consoles for output and for messages; errors and warnings become lines a reader can act on, or one object.

    Args:
        as_json: whether all is one JSON object on standard output.
        interrupted: what a reader is told after Ctrl-C.

    Yields:
        The consoles; only the main one of several processes says anything on the second, but for errors of its own.

    Raises:
        typer.Exit: with the exit code of what went wrong.

    Example:
        >>> try:
        ...     with reported(as_json=True):
        ...         raise InvalidRequest(["forget: expected samples, got an empty set."])
        ... except typer.Exit as stop:
        ...     print("exit code", stop.exit_code)
        {
          "error": [
            "forget: expected samples, got an empty set."
          ],
          "warnings": []
        }
        exit code 1
    """
    messages = Messages(as_json)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = messages.warn
        try:
            yield messages.out, messages.err
        except KeyboardInterrupt:
            raise messages.stop("interrupted", [interrupted], INTERRUPTED) from None
        except Exception as error:
            if isinstance(error, typer.Exit) or TRACEBACK in os.environ:
                raise
            text = str(error) if isinstance(error, InvalidRequest) else None
            raise messages.stop("error", told(error), REFUSED, text, getattr(error, "details", {})) from None


class Messages:
    """Where output, warnings and errors go: to the terminal as text, or into one JSON object.

    Example:
        >>> Messages(as_json=False).stop("interrupted", ["nothing was written."], INTERRUPTED).exit_code
        130
    """

    def __init__(self, as_json: bool) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # a path may look like either
        self.out, self.err = Console(**plain), Console(**plain, stderr=True)
        self.as_json, self.warned = as_json, list[str]()

    def warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Show a warning; of those about a result the JSON object has its own list."""
        self.warned.append(str(message))
        if not (self.as_json and isinstance(message, UnlearningWarning)):
            self.say("warning", "bold yellow", str(message))

    def stop(
        self, word: str, problems: list[str], code: int, text: str | None = None, details: dict[str, Any] | None = None
    ) -> typer.Exit:
        """Say why a command ends before its time.

        An error of several processes is said by the main one: a launcher then ends the others. One that this process
        has alone is said by it, once the main one has had the time to.
        """
        if not is_main():
            if code == INTERRUPTED:
                return typer.Exit(code)
            time.sleep(GRACE)
            word = f"{word} (process {os.environ['RANK']})"
        if not self.as_json:
            self._print(word, "bold red", text or "\n".join(problems))
        else:
            print_json({"error": problems, "warnings": self.warned, **(details or {})})
        return typer.Exit(code)

    def say(self, word: str, style: str, text: str) -> None:
        """A line that begins with a word in colour."""
        if is_main():
            self._print(word, style, text)

    def _print(self, word: str, style: str, text: str) -> None:
        self.err.print(f"{word}:", style=style, end=" ")
        self.err.print(text, soft_wrap=True)


def is_main() -> bool:
    """Whether this process is the one that prints.

    Example:
        >>> is_main() is (os.environ.get("RANK", "0") == "0")
        True
    """
    return os.environ.get("RANK", "0") == "0"


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output.

    Example:
        >>> print_json({"forget": 3})
        {
          "forget": 3
        }
    """
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
