"""What a request is refused with, and how a failure of the user's own code is told in one sentence."""

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

_HERE = f"{Path(__file__).parent}{os.sep}"
_NOT_THE_USERS = (_HERE, *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platlib", "purelib")), "<")


class InvalidRequest(ValueError):  # noqa: N818  (it says what is the case)
    """A request that cannot be carried out. Nothing was changed; every problem found is in the message.

    Attributes:
        problems: one sentence per problem.
        details: what the sentences had to shorten, in full, as JSON takes it.

    Example:
        >>> print(InvalidRequest(["forget: expected samples, got an empty set."]))
        1 problem found, nothing was changed:
        1. forget: expected samples, got an empty set.
        >>> import pickle
        >>> pickle.loads(pickle.dumps(InvalidRequest(["seed: expected a number."], {"got": "x"}))).problems
        ['seed: expected a number.']
    """

    def __init__(self, problems: Sequence[str], details: Mapping[str, Any] | None = None) -> None:
        self.problems = list(problems)
        self.details = dict(details or getattr(problems, "details", {}))
        self.__cause__ = getattr(problems, "cause", None)
        lines = [f"{number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        super().__init__(
            "\n".join([f"{len(lines)} problem{'s' * (len(lines) > 1)} found, nothing was changed:", *lines])
        )

    def __reduce__(self) -> tuple[type, tuple[list[str], dict[str, Any]]]:
        """Pickled, as between processes, it is made again from its problems, not from its text."""
        return type(self), (self.problems, self.details)


class NotApplicable(ValueError):  # noqa: N818  (it says what is the case)
    """A method cannot work on these sets, and says so before it changes anything: its definition has no answer there.

    Example:
        >>> raise NotApplicable("Expected two classes or more, got one.")
        Traceback (most recent call last):
        nabla_tau.errors.NotApplicable: Expected two classes or more, got one.
    """


class UnlearningWarning(UserWarning):
    """Something the reader of the result must know.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", UnlearningWarning)  # in a script that is to stop at any doubt
        ...     warnings.warn("the target was not reached", UnlearningWarning)
        Traceback (most recent call last):
        nabla_tau.errors.UnlearningWarning: the target was not reached
    """


class Problems(list[str]):
    """One sentence per problem, gathered so that a request is refused with all of them.

    Attributes:
        details: what the sentences had to shorten.
        cause: the first failure that became a problem.

    Example:
        >>> problems = Problems()
        >>> with problems.gathered("retain", "samples that can be read", "mend the row."):
        ...     raise OSError("row 7 is corrupt")
        >>> problems
        ['retain: expected samples that can be read, got OSError: row 7 is corrupt: mend the row.']
        >>> problems.refuse()
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. retain: expected samples that can be read, got OSError: row 7 is corrupt: mend the row.
    """

    def __init__(self, problems: Iterable[str] = ()) -> None:
        super().__init__(problems)
        self.details: dict[str, Any] = {}
        self.cause: Exception | None = None

    @contextmanager
    def gathered(self, name: str, wanted: str, advice: str | Callable[[], str]) -> Iterator[None]:
        """Make a problem of what fails inside, so that the problems after it are found too.

        Args:
            name: the argument it is about.
            wanted: what was expected.
            advice: what to do; a function that says so is called only after a failure.
        """
        try:
            yield
        except InvalidRequest as refused:
            self.extend(refused.problems)
            self.details.update(refused.details)
            self.cause = self.cause or (refused.__cause__ if isinstance(refused.__cause__, Exception) else None)
        except Exception as error:
            self.cause = self.cause or error
            if _is_ours(error):
                text = str(error)
                self.append(f"{name}: {text[0].lower()}{text[1:]}")
            else:
                what_to_do = advice if isinstance(advice, str) else advice()
                got = ("an error at " if place_of(error) else "") + failure(error)
                self.append(f"{name}: expected {wanted}, got {got}: {what_to_do}")

    def refuse(self) -> None:
        """Do nothing if there is no problem.

        Raises:
            InvalidRequest: with every problem.
        """
        if self:
            raise InvalidRequest(self)


def told(error: Exception) -> list[str]:
    """What to show of an error: its problems, its sentence, or where and how it failed.

    Example:
        >>> told(InvalidRequest(["seed: expected a number."])), told(KeyError("age"))
        (['seed: expected a number.'], ["KeyError: 'age'"])
    """
    if isinstance(error, InvalidRequest):
        return error.problems
    return [str(error) if _is_ours(error) else failure(error)]


def failure(error: BaseException) -> str:
    """A failure as one line: `FILE:LINE, in FUNCTION: TYPE: MESSAGE`, the place where it is in code of the user's own.

    Example:
        >>> failure(KeyError("age"))
        "KeyError: 'age'"
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    # A loader's worker sends its whole traceback as the message; the last line says what it was.
    from_worker = bool(lines) and lines[0].startswith("Caught ")
    text = lines[-1] if from_worker else f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    notes = getattr(error, "__notes__", [])
    place = place_of(error)
    return (f"{place}: " if place else "") + text.rstrip(".:") + (f" ({'; '.join(notes)})" if notes else "")


def place_of(error: BaseException) -> str | None:
    """`FILE:LINE, in FUNCTION` of the innermost frame that is code of the user's own; None where there is none.

    Example:
        >>> place_of(KeyError("never raised")) is None
        True
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name}" if frames else None


def whole_number(name: str, value: Any, low: int, high: int) -> list[str]:
    """The problem of a value that is no whole number in [low, high), if it is none.

    Example:
        >>> whole_number("seed", 3, 0, 2**32), whole_number("seed", "3", 0, 2**32)
        ([], ["seed: expected a whole number in [0, 2^32), got '3'."])
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) < high:
        return []
    top = f"2^{high.bit_length() - 1}" if high & (high - 1) == 0 else str(high)
    return [f"{name}: expected a whole number in [{low}, {top}), got {value!r}."]


def some(values: Sequence[Any], limit: int = 10) -> str:
    """The first of them, and how many more there are.

    Example:
        >>> some([3, 1, 4, 1, 5], limit=2)
        '3, 1, … 3 more'
    """
    listed = ", ".join(str(value) for value in values[:limit])
    return listed + (f", … {len(values) - limit} more" if len(values) > limit else "")


def _is_ours(error: Exception) -> bool:
    """Whether an error is a sentence of this package rather than something that broke in it."""
    frames = traceback.extract_tb(error.__traceback__)
    return str(error).startswith("Expected ") and bool(frames) and frames[-1].filename.startswith(_HERE)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
