"""The nine institutes of MedQuAD, the unit that measures, and the two departments that ask.

Each institute is a site of its own, with its own text and policy; names and files are those of the data's authors.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from daitn.demo.places import Place
from daitn.descriptors.policy import Policy

DOMAIN: Final = "health-institutes"
PURPOSE: Final = "diagnosis-support"
NOTARY: Final = "notary"
NOTARY_OPERATOR: Final = "notary-office"
CARDIOLOGY: Final = "cardiology"
NEUROLOGY: Final = "neurology"


class Institute(NamedTuple):
    """One site: its name in the domain, its file in the data, what it is, and where it is drawn."""

    name: str
    file: str
    what: str
    x: float
    y: float


INSTITUTES: Final = (
    Institute("nhlbi", "8_NHLBI_QA_XML", "heart, lung, blood", 20, 20),
    Institute("gard", "2_GARD_QA", "rare diseases", 80, 18),
    Institute("ghr", "3_GHR_QA", "genetics", 92, 42),
    Institute("seniorhealth", "7_SeniorHealth_QA", "older people", 6, 42),
    Institute("medlineplus", "4_MPlus_Health_Topics_QA", "general topics", 88, 68),
    Institute("niddk", "5_NIDDK_QA", "diabetes, kidneys", 12, 68),
    Institute("ninds", "6_NINDS_QA", "neurology", 70, 90),
    Institute("cancergov", "1_CancerGov_QA", "oncology", 30, 90),
    Institute("cdc", "9_CDC_QA", "infections", 50, 62),
)

PLACES: Final = (
    *(Place(one.name, one.what, one.x, one.y) for one in INSTITUTES),
    Place(NOTARY, "verification unit", 50, 34),
)


class Department(NamedTuple):
    """Who asks: an owner, its targets, and the field it wants to be expert in."""

    owner: str
    title: str
    expert: str
    targets: tuple[str, ...]


DEPARTMENTS: Final = (
    Department(CARDIOLOGY, "cardiology", "core", ("accuracy@core >= 95%", "accuracy@broad >= 80%")),
    Department(NEUROLOGY, "neurology", "ninds", ("accuracy@ninds >= 92%", "accuracy@broad >= 80%")),
)

POLICY: Final = Policy(
    owners=(CARDIOLOGY, NEUROLOGY),
    purposes=(PURPOSE,),
    sample_frac=0.5,
    verification_operators=(NOTARY_OPERATOR,),
    epsilon_per_period=2.0,
    records_per_group=8,
    cache_activations="job",
)
"""Every institute's: train here, measure at the notary on held-out questions, keep activations for the jobs only."""
