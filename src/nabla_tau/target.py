"""How far the forget set has to go, and whether it got there."""

# A run is asked to take the forget set this far on its way to the target.
REACHED = 9 / 10

# Of what unseen data costs; where next to nothing was memorised chance would be magnified.
LEAST_MEMORISED = 0.1


def memorised(unseen_loss: float, loss: float) -> float:
    """How much less a set costs than unseen data does: what differences of losses are measured by.

    At least a tenth of the unseen loss, so as not to magnify chance where next to nothing was memorised.

    Example:
        >>> memorised(unseen_loss=2.1, loss=0.1), memorised(unseen_loss=2.0, loss=1.9)
        (2.0, 0.2)
    """
    return max(unseen_loss - loss, LEAST_MEMORISED * abs(unseen_loss)) or 1.0


def reached(loss: float, before: float, target_loss: float) -> bool:
    """Whether the forget set is as far on its way to the target as a run is asked to be in the end.

    Example:
        >>> reached(1.9, before=1.0, target_loss=2.0), reached(1.8, before=1.0, target_loss=2.0)
        (True, False)
    """
    return loss >= target_loss - (1 - REACHED) * abs(target_loss - before)
