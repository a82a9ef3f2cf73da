"""The types of a recipe's numbers, with their bounds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

MOST = 10**9


def _steps(num: int) -> int:
    if num != -1 and not 1 <= num <= MOST:
        raise ValueError("must be 1 or more, or -1 for as many as the epochs take")
    return num


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Int = Annotated[int, Field(strict=True)]
Float = Annotated[float, BeforeValidator(_no_bool)]  # not strict: YAML reads 2e-5 as text
Count = Annotated[Int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[Int, Field(ge=0, le=MOST)]
Steps = Annotated[Int, AfterValidator(_steps)]
Positive = Annotated[Float, Field(gt=0)]
NotNegative = Annotated[Float, Field(ge=0)]
Share = Annotated[Float, Field(ge=0, le=1)]
SomeShare = Annotated[Float, Field(gt=0, le=1)]
NotAllShare = Annotated[Float, Field(ge=0, lt=1)]
Part = Annotated[Float, Field(gt=0, lt=1)]
Tolerance = Annotated[Float, Field(gt=0, le=0.1)]  # half a step of the grid
