"""How much less an update counts by the versions made since it was issued.

Source: Xie, Koyejo, Gupta 2019 (FedAsync, arXiv 1903.03934). The exponent stands with a minus: with a
plus, as in public copies of FedCompass, older updates would count more.
"""

from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel


class Polynomial(StrictModel):
    """(1 + age) ** -exponent."""

    kind: Literal["polynomial"] = "polynomial"
    """Chooses this kind."""
    exponent: float = Field(default=0.5, ge=0.01, le=10)
    """Larger forgets faster; 0.5 is FedBuff's."""

    def weight(self, age: int) -> float:
        """Return the factor for an update `age` versions old."""
        return float((1 + age) ** -self.exponent)

    @property
    def is_strictly_decreasing(self) -> bool:
        """Whether each further version lowers the factor."""
        return True


class Hinge(StrictModel):
    """1 up to the grace, then 1 / (1 + slope * (age - grace))."""

    kind: Literal["hinge"] = "hinge"
    """Chooses this kind."""
    slope: float = Field(default=1.0, ge=0.01)
    """Larger forgets faster."""
    grace: int = Field(default=0, ge=0)
    """Versions that cost nothing."""

    def weight(self, age: int) -> float:
        """Return the factor for an update `age` versions old."""
        return 1 / (1 + self.slope * max(age - self.grace, 0))

    @property
    def is_strictly_decreasing(self) -> bool:
        """Whether each further version lowers the factor: not within the grace."""
        return self.grace == 0


class Constant(StrictModel):
    """1 at every age."""

    kind: Literal["constant"] = "constant"
    """Chooses this kind."""

    def weight(self, age: int) -> float:
        """Return 1."""
        return 1.0

    @property
    def is_strictly_decreasing(self) -> bool:
        """Whether each further version lowers the factor: never."""
        return False


Staleness = Annotated[Polynomial | Hinge | Constant, Field(discriminator="kind")]
