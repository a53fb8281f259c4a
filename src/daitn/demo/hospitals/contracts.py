"""The two data contracts of the demonstration: breast cancer (30 numbers) and handwritten digits (8 × 8 images).

Both come with scikit-learn, so nothing is downloaded. The ranges are those published with the data (UCI, Breast Cancer
Wisconsin, diagnostic); scaling by published ranges needs no look at any hospital's records. The source gives no units;
here lengths are called µm and areas µm², so that sites can disagree about units as real ones do.
"""

from __future__ import annotations

from typing import Final

from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByValues,
    IdentifierColumn,
    ImageColumn,
    ImageInput,
    NumberColumn,
    NumbersInput,
)

FEATURES: Final[tuple[tuple[str, str, float, float], ...]] = (
    ("mean_radius", "µm", 6.981, 28.11),
    ("mean_texture", "", 9.71, 39.28),
    ("mean_perimeter", "µm", 43.79, 188.5),
    ("mean_area", "µm²", 143.5, 2501.0),
    ("mean_smoothness", "", 0.053, 0.163),
    ("mean_compactness", "", 0.019, 0.345),
    ("mean_concavity", "", 0.0, 0.427),
    ("mean_concave_points", "", 0.0, 0.201),
    ("mean_symmetry", "", 0.106, 0.304),
    ("mean_fractal_dimension", "", 0.05, 0.097),
    ("radius_error", "µm", 0.112, 2.873),
    ("texture_error", "", 0.36, 4.885),
    ("perimeter_error", "µm", 0.757, 21.98),
    ("area_error", "µm²", 6.802, 542.2),
    ("smoothness_error", "", 0.002, 0.031),
    ("compactness_error", "", 0.002, 0.135),
    ("concavity_error", "", 0.0, 0.396),
    ("concave_points_error", "", 0.0, 0.053),
    ("symmetry_error", "", 0.008, 0.079),
    ("fractal_dimension_error", "", 0.001, 0.03),
    ("worst_radius", "µm", 7.93, 36.04),
    ("worst_texture", "", 12.02, 49.54),
    ("worst_perimeter", "µm", 50.41, 251.2),
    ("worst_area", "µm²", 185.2, 4254.0),
    ("worst_smoothness", "", 0.071, 0.223),
    ("worst_compactness", "", 0.027, 1.058),
    ("worst_concavity", "", 0.0, 1.252),
    ("worst_concave_points", "", 0.0, 0.291),
    ("worst_symmetry", "", 0.156, 0.664),
    ("worst_fractal_dimension", "", 0.055, 0.208),
)
"""Contract column, unit, least and greatest published value, in the order of scikit-learn's columns."""

DIAGNOSES: Final = ("benign", "malignant")
DIGITS: Final = tuple("0123456789")
LETTERS: Final = tuple("abcdef")
LOW_DIGITS: Final = FieldByValues(name="low-digits", column="digit", values=DIGITS[:5])
LETTERS_FIELD: Final = FieldByValues(name="letters", column="digit", values=LETTERS)

INK: Final = 15
"""Scikit-learn's digits have 17 levels of ink, 0–16; times 15 they use the 8 bits of an image file."""

HARDEST_FACTOR: Final = 2.0
"""Values above twice the published range cannot be what the column says; they are reported and count as missing."""


def breast_contract() -> DataContract:
    """Thirty numbers per sample, label `diagnosis`, grouped by patient: no patient is on both sides of a split."""
    middles = tuple((low + high) / 2 for _, _, low, high in FEATURES)
    scales = tuple((high - low) / 6 for _, _, low, high in FEATURES)
    return DataContract(
        name="breast-cytology",
        columns=(
            *(
                NumberColumn(name=name, unit=unit, low=0.0, high=high * HARDEST_FACTOR)
                for name, unit, _, high in FEATURES
            ),
            CategoryColumn(name="diagnosis", values=DIAGNOSES),
            IdentifierColumn(name="patient"),
        ),
        inputs=(
            NumbersInput(name="cells", columns=tuple(name for name, *_ in FEATURES), center=middles, scale=scales),
        ),
        task=Classification(label="diagnosis"),
        group="patient",
        test_frac=0.2,
    )


def digits_contract(*, hexadecimal: bool = False) -> DataContract:
    """Images of 8 × 8 with label `digit` and the field `low-digits` (0–4).

    `hexadecimal`: what an owner would ask for who wants the letters a–f read too, which no site has.
    """
    return DataContract(
        name="hexadecimal-forms" if hexadecimal else "handwritten-forms",
        columns=(
            ImageColumn(name="image", channels=1, height=8, width=8),
            CategoryColumn(name="digit", values=DIGITS + LETTERS if hexadecimal else DIGITS),
        ),
        inputs=(ImageInput(name="image", column="image", center=0.3, scale=0.35),),
        task=Classification(label="digit"),
        fields=(LOW_DIGITS, LETTERS_FIELD) if hexadecimal else (LOW_DIGITS,),
        test_frac=0.2,
    )
