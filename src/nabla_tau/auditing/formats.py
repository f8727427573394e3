"""How the audit writes numbers for a reader."""

import math
from typing import Any

NOT_AVAILABLE = "not available"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits.

    Args:
        value: None and NaN are said to be absent.
        digits: significant digits.

    Returns:
        Text.

    Example:
        >>> number(0.123456), number(1.0), number(15000), number(-2.5), number(None)
        ('0.123', '1.00', '15,000', '−2.50', 'not available')
    """
    if value is None or math.isnan(value):
        return NOT_AVAILABLE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,}" if isinstance(value, int) else f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, as an area under a curve is written.

    Args:
        value: None and NaN are said to be absent.
        digits: decimals.

    Returns:
        Text.

    Example:
        >>> fixed(0.5), fixed(-0.0104, 2), fixed(-0.0104, 1), fixed(None)
        ('0.500', '−0.01', '0.0', 'not available')
    """
    if value is None or not math.isfinite(value):
        return number(value)
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent.

    Args:
        value: 1 is 100 %; None and NaN are said to be absent.
        digits: decimals.

    Returns:
        Text.

    Example:
        >>> percent(0.1234), percent(0.001, 2), percent(None)
        ('12.3 %', '0.10 %', 'not available')
    """
    return NOT_AVAILABLE if value is None or math.isnan(value) else f"{fixed(100 * value, digits)} %"


def p_value(value: float | None) -> str:
    """A p-value; below 0.001 only that it is.

    Args:
        value: in [0, 1]; None and NaN are said to be absent.

    Returns:
        Text.

    Example:
        >>> p_value(0.0423), p_value(1e-9), p_value(None)
        ('0.042', '< 0.001', 'not available')
    """
    return "< 0.001" if value is not None and value < 0.001 else fixed(value)


def p_is(value: float | None) -> str:
    """A p-value inside a sentence.

    Args:
        value: in [0, 1]; None and NaN are said to be absent.

    Returns:
        Text.

    Example:
        >>> p_is(0.0423), p_is(1e-9), p_is(None)
        ('p = 0.042', 'p < 0.001', 'p not available')
    """
    text = p_value(value)
    return f"p = {text}" if text[0].isdigit() else f"p {text}"


FORMATS = {"number": number, "fixed": fixed, "percent": percent, "p": p_value}


def estimate(value: dict[str, Any] | None, kind: str = "fixed") -> str:
    """A value with its interval, as plain text.

    Args:
        value: a dict of value, low and high, or None.
        kind: a name in FORMATS.

    Returns:
        Text.

    Example:
        >>> estimate({"value": 0.507, "low": 0.495, "high": 0.519})
        '0.507 [0.495, 0.519]'
        >>> estimate({"value": 0.5, "low": None, "high": None}, "percent"), estimate(None)
        ('50.0 %', 'not available')
    """
    show = FORMATS[kind]
    if not value or value.get("value") is None:
        return NOT_AVAILABLE
    if value.get("low") is None or value.get("high") is None:
        return show(value["value"])
    return f"{show(value['value'])} [{show(value['low'])}, {show(value['high'])}]"


__all__ = ["FORMATS", "NOT_AVAILABLE", "estimate", "fixed", "number", "p_is", "p_value", "percent"]
