"""What a report says about request and sets without holding any of their rows."""

import hashlib
import hmac
from typing import Any

import numpy as np

from nabla_tau.auditing.scoring import Scores
from nabla_tau.sets import chosen_rows


def describe_set(
    data: Any, size: int, content: bytes, scores: Scores | None, salt: bytes | None, *, forgotten: bool = False
) -> dict[str, Any]:
    """One set, as the report shows it.

    Args:
        data: the set as the user gave it.
        size: number of its samples.
        content: hash over its rows; leaves the program under the salt only.
        scores: the set scored, for its targets; None if it was not.
        salt: secret bytes, or None.
        forgotten: whether it is the forget set.

    Returns:
        samples; classes: how many samples each class has, for integer targets; fingerprint: HMAC-SHA256 of the content
        under the salt; ids: the same of each id that `forgotten` rows were chosen by, sorted, so that their order says
        nothing. Of people who are kept there is none.

    Example:
        >>> from nabla_tau.sets import Rows
        >>> data = Rows("abcd", [1, 3], ids=["user-1", "user-3"], id_column="user_id")
        >>> found = describe_set(data, 2, b"hash", None, salt=b"secret", forgotten=True)
        >>> found["samples"], len(found["fingerprint"]), len(found["ids"]), "user-1" in str(found)
        (2, 64, 2, False)
    """
    rows = chosen_rows(data)
    ids = None if not forgotten or rows is None or rows.ids is None else {str(one) for one in rows.ids}
    return {
        "samples": size,
        "classes": None if scores is None else _class_counts(scores),
        "fingerprint": None if salt is None else _under(salt, content),
        "ids": None if salt is None or ids is None else sorted(_under(salt, one.encode()) for one in ids),
    }


def _class_counts(scores: Scores) -> dict[str, int] | None:
    if scores.classes is None or not np.issubdtype(scores.classes.dtype, np.integer):
        return None
    classes, counts = np.unique(scores.classes, return_counts=True)
    return {str(label): int(count) for label, count in zip(classes, counts, strict=True)}


def _under(salt: bytes, content: bytes) -> str:
    return hmac.new(salt, content, hashlib.sha256).hexdigest()
