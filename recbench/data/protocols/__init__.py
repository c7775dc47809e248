"""Protocols: how a dataset's tables become train, valid and test.

One class a kind, validated from the benchmark's YAML; ``build`` makes the arrays. Vocabularies of features are built
on training rows only; users and items are those of the whole (filtered) log, whose ids are public.
"""

from typing import Annotated

from pydantic import Field

from recbench.data.protocols.base import Protocol, Published
from recbench.data.protocols.interactions import Implicit
from recbench.data.protocols.labelled import Labelled
from recbench.data.protocols.ratings import RandomTest, SemiSynthetic
from recbench.data.protocols.triples import Facts

AnyProtocol = Annotated[Implicit | Labelled | RandomTest | SemiSynthetic | Facts, Field(discriminator="kind")]

__all__ = ["AnyProtocol", "Facts", "Implicit", "Labelled", "Protocol", "Published", "RandomTest", "SemiSynthetic"]
