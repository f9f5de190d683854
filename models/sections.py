"""What all sections of a task file have in common: nothing unknown, nothing converted, and lists of one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of a task file: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def as_list(value: Any) -> Any:
    """A single text as the list of one that it stands for."""
    return [value] if isinstance(value, str) else value


ColumnName = Annotated[str, Field(min_length=1)]
Columns = Annotated[list[ColumnName], BeforeValidator(as_list)]
Texts = Annotated[list[ColumnName], BeforeValidator(as_list), Field(max_length=2)]
"""One text column, or two that belong together."""
