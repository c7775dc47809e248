"""Settings of a run that are not the model's: where and how it is computed and recorded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recbench.errors import UsageError


class Settings(BaseModel):
    """Given as ``key=value`` beside the model's own keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; ``auto`` takes a CUDA device if there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the model's operations in training (bfloat16: automatic mixed precision)."""
    compile: bool = False
    """Compile the loss with torch.compile."""
    deterministic: bool = True
    """Use deterministic algorithms wherever torch has them."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 leaves its default."""
    tracking: bool = True
    """Log the run to MLflow."""
    tuned: bool = True
    """Start from the tuned configuration of the model on this benchmark, where there is one."""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Settings:
        """Validate; a fault is one sentence."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{first['loc'][0]}: {first['msg']}, found {first['input']!r}") from None
