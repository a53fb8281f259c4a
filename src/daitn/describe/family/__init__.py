"""The description family: what a data set may say of its records beyond counts, one member a file.

Paper II-A and V-A: terminals describe their data, for some of it by a generative representation. The laws are in
`describe.family.contract`; to add a member, write a file, add an entry here, its struct to
`descriptors.descriptions.Description` and its name to `descriptors.policy.DescriptionKind`.
"""

from __future__ import annotations

from typing import Final

from daitn.describe.family.contract import Member
from daitn.describe.family.moments import MomentsMember
from daitn.describe.family.quantiles import QuantilesMember
from daitn.describe.family.sketches import SketchMember
from daitn.describe.family.synthetic import SyntheticMember

FAMILY: Final[dict[str, Member]] = {
    one.name: one for one in (SketchMember(), MomentsMember(), QuantilesMember(), SyntheticMember())
}
"""Members by name, in the order they are measured and published."""
