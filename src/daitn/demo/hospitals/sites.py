"""The network of the demonstration: who takes part, what each holds, in which format, and what its policy allows.

Sites are invented; their shares of the two data sets are chosen so that no hospital could train alone: Alder screens
(almost only benign), Birch is a tumour centre (almost only malignant), Cedar is small, and the archive Grove, which has
no machine to compute on, holds most of the high digits.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from daitn.demo.places import Place
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import Role

DOMAIN: Final = "hospitals"
PURPOSE: Final = "diagnosis-support"
BREAST_OWNER: Final = "mira"
DIGITS_OWNER: Final = "jonas"
NOTARY_OPERATOR: Final = "notary-office"
COMPUTE_OPERATOR: Final = "harbour-computing"

BREAST: Final = "breast"
FORMS: Final = "forms"

Kind = Literal["breast", "forms"]
Format = Literal["csv", "parquet", "jsonl", "npz", "arrow", "imagefolder", "idx"]


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """One data set of one site. `shares`: which part of all records of each label it has, in the label's order."""

    kind: Kind
    format: Format
    style: str
    """How the site names its columns and labels; see `data`."""
    shares: tuple[float, ...]
    missing_frac: float = 0.0
    """Share of single numbers that were never filled in."""
    policy: Policy


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """One node: name, organisation, roles, place on the drawn map (0–100 each way), data."""

    name: str
    operator: str
    what: str
    roles: tuple[Role, ...]
    region: str
    x: float
    y: float
    holdings: tuple[Holding, ...] = ()


def _policy(*owners: str, streams: bool = False) -> Policy:
    return Policy(
        owners=owners or (BREAST_OWNER, DIGITS_OWNER),
        purposes=(PURPOSE,),
        raw_records="trust-zone" if streams else "stay",
        compute_operators=(COMPUTE_OPERATOR,) if streams else (),
        sample_frac=0.25,
        verification_operators=(NOTARY_OPERATOR,),
        epsilon_per_period=2.0,
        records_per_group=2,
    )


def _breast(
    style: str, form: Format, benign: float, malignant: float, missing_frac: float = 0.0, *owners: str
) -> Holding:
    return Holding(
        kind="breast",
        format=form,
        style=style,
        shares=(benign, malignant),
        missing_frac=missing_frac,
        policy=_policy(*owners),
    )


def _forms(style: str, form: Format, *shares: float, streams: bool = False) -> Holding:
    return Holding(kind="forms", format=form, style=style, shares=shares, policy=_policy(streams=streams))


_HOSPITAL: Final = (Role.DATA, Role.COMPUTE)

SITES: Final[tuple[Site, ...]] = (
    Site(
        name="alder",
        operator="alder-hospital",
        what="screening hospital",
        roles=_HOSPITAL,
        region="north",
        x=22,
        y=18,
        holdings=(
            _breast("registry", "csv", 0.40, 0.05, 0.02),
            _forms("folders", "imagefolder", 0.50, 0.45, 0.40, 0.05, 0.05, 0.05, 0.02, 0.02, 0.02, 0.02),
        ),
    ),
    Site(
        name="birch",
        operator="birch-tumour-centre",
        what="tumour centre",
        roles=_HOSPITAL,
        region="north",
        x=74,
        y=14,
        holdings=(
            _breast("coded", "parquet", 0.06, 0.46),
            _forms("plain", "idx", 0.03, 0.05, 0.05, 0.50, 0.45, 0.40, 0.05, 0.02, 0.02, 0.02),
        ),
    ),
    Site(
        name="cedar",
        operator="cedar-clinic",
        what="small clinic",
        roles=_HOSPITAL,
        region="west",
        x=10,
        y=58,
        holdings=(
            _breast("french", "jsonl", 0.16, 0.04, 0.04),
            _forms("scans", "npz", 0.05, 0.05, 0.05, 0.05, 0.05, 0.30, 0.35, 0.05, 0.03, 0.03),
        ),
    ),
    Site(
        name="elm",
        operator="elm-university",
        what="university hospital",
        roles=_HOSPITAL,
        region="east",
        x=88,
        y=52,
        holdings=(
            _breast("capitals", "npz", 0.12, 0.33, 0.01, BREAST_OWNER),
            _forms("words", "jsonl", 0.30, 0.05, 0.10, 0.10, 0.10, 0.10, 0.45, 0.40, 0.03, 0.03),
        ),
    ),
    Site(
        name="fir",
        operator="fir-hospital",
        what="district hospital",
        roles=_HOSPITAL,
        region="south",
        x=30,
        y=88,
        holdings=(
            _breast("numbered", "arrow", 0.26, 0.12),
            _forms("pictures", "parquet", 0.07, 0.35, 0.35, 0.25, 0.30, 0.05, 0.08, 0.06, 0.10, 0.10),
        ),
    ),
    Site(
        name="grove",
        operator="grove-archive",
        what="archive, cannot compute",
        roles=(Role.DATA,),
        region="south",
        x=70,
        y=88,
        holdings=(_forms("scans", "arrow", 0.05, 0.05, 0.05, 0.05, 0.05, 0.10, 0.05, 0.45, 0.80, 0.80, streams=True),),
    ),
    Site(
        name="harbour",
        operator=COMPUTE_OPERATOR,
        what="compute site",
        roles=(Role.COMPUTE, Role.AGGREGATOR),
        region="south",
        x=52,
        y=66,
    ),
    Site(
        name="notary",
        operator=NOTARY_OPERATOR,
        what="verification unit",
        roles=(Role.VERIFICATION,),
        region="centre",
        x=48,
        y=36,
    ),
)
"""Everything that joins. Columns of `shares` sum to 1 over the sites, so each record of the source has one place."""

PLACES: Final = tuple(Place(site.name, site.what, site.x, site.y) for site in SITES)
"""Them as board and pictures show them."""


def site_named(name: str) -> Site:
    """The site of that name; KeyError if there is none."""
    return {site.name: site for site in SITES}[name]
