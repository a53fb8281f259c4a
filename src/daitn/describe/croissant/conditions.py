"""Conditions of use, DUO codes and ODRL offers, to policies and back.

DUO (the Data Use Ontology of GA4GH) has two kinds of terms. *Permissions* say for what data may be used: they become
`purposes`. *Modifiers* say who may, or what else must be done. Who may is something a policy can hold to once its owner
has said which model owners are meant; an obligation (publish, ask an ethics board, give results back) is something no
software can see. Such a condition is an error that names it, unless whoever makes the policy states that it is taken
care of elsewhere (`accepted`): a policy that silently drops a condition would be a lie.

ODRL: permissions of an offer with the actions `use` or a DUO term, and constraints on purpose, recipient and disease;
prohibitions of what a policy never allows are kept by not allowing it. Everything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.describe.croissant import DAITN
from daitn.descriptors.policy import Policy, PolicySummary

PURPOSES: Final[dict[str, str]] = {
    "DUO_0000004": "*",
    "DUO_0000042": "general-research",
    "DUO_0000006": "health-research",
    "DUO_0000007": "disease-research",
    "DUO_0000011": "ancestry-research",
    "DUO_0000043": "clinical-care",
}
"""Permissions: DUO code → purpose of a request."""

NAMES: Final[dict[str, str]] = {
    "DUO_0000004": "no restriction",
    "DUO_0000042": "general research use",
    "DUO_0000006": "health or medical or biomedical research",
    "DUO_0000007": "disease specific research",
    "DUO_0000010": "disease",
    "DUO_0000011": "population origins or ancestry research only",
    "DUO_0000043": "clinical care use",
    "DUO_0000018": "not for profit, non commercial use only",
    "DUO_0000045": "not for profit organisation use only",
    "DUO_0000046": "non-commercial use only",
    "DUO_0000026": "user specific restriction",
    "DUO_0000028": "institution specific restriction",
    "DUO_0000027": "project specific restriction",
    "DUO_0000015": "no general methods research",
    "DUO_0000016": "genetic studies only",
    "DUO_0000019": "publication required",
    "DUO_0000020": "collaboration required",
    "DUO_0000021": "ethics approval required",
    "DUO_0000022": "geographical restriction",
    "DUO_0000024": "publication moratorium",
    "DUO_0000025": "time limit on use",
    "DUO_0000029": "return to database or resource",
    "DUO_0000044": "population origins or ancestry research prohibited",
}
"""The terms of DUO in words."""

WHO: Final = frozenset({"DUO_0000018", "DUO_0000045", "DUO_0000046", "DUO_0000026", "DUO_0000028", "DUO_0000027"})
"""Modifiers on who may use the data: kept by a list of owners."""

FORBIDS: Final[dict[str, str]] = {"DUO_0000044": "ancestry-research"}
"""Modifiers that forbid a purpose: kept by not allowing it, since a policy allows only what it lists."""

DISEASE: Final = "DUO_0000010"
_CODE: Final = re.compile(r"(?:https?://purl\.obolibrary\.org/obo/|duo:|DUO:)?(?:DUO_)?(\d{7})")
_MONDO: Final = re.compile(r"(?:https?://purl\.obolibrary\.org/obo/|mondo:|MONDO:)?(?:MONDO_)?(\d{7})")
_NAMESPACES: Final = ("http://www.w3.org/ns/odrl/2/", "odrl:", "https://schema.org/", "http://schema.org/", "sc:")
_OWN: Final = ("methods", "rawRecords", "sampleFrac", "computeOperators", "verificationOperators", "signers")
CONDITIONS_MOST: Final = 256


class Conditions(NamedTuple):
    """What a document says of use: `purposes` and `owners` allowed, `codes` of DUO modifiers, and what is not
    understood, in words."""

    purposes: tuple[str, ...]
    owners: tuple[str, ...]
    modifiers: tuple[str, ...]
    own: dict[str, Any]
    """Terms of our own namespace."""
    unknown: tuple[str, ...]


def policy_of(conditions: Conditions, *, owners: Iterable[str] = (), accepted: Iterable[str] = ()) -> Policy:
    """The policy that keeps these conditions. `owners`: model owners meant by conditions on who may use the data;
    `accepted`: DUO codes that are taken care of elsewhere.

    InputError listing every condition that a policy cannot hold to, each with what to do.
    """
    named = tuple(dict.fromkeys((*conditions.owners, *owners)))
    agreed = {one for code in accepted if (one := duo_code(code))}
    faults = list(conditions.unknown)
    purposes = list(conditions.purposes)
    for code in conditions.modifiers:
        if code in FORBIDS:
            if "*" in purposes:
                faults.append(f"{show_code(code)}: a policy that allows every purpose cannot forbid one")
            purposes = [purpose for purpose in purposes if purpose != FORBIDS[code]]
        elif code in agreed:
            continue
        elif code in WHO:
            if not named or "*" in named:
                faults.append(f"{show_code(code)}: say which model owners this allows (--owner)")
        else:
            faults.append(f"{show_code(code)}: no policy can hold to this; agree on it outside and state so (--accept)")
    if not purposes and not faults:
        faults.append("it allows no purpose")
    if faults:
        raise InputError(
            "the conditions of use cannot be kept by a policy: " + "; ".join(faults[:20]),
            todo="write the policy by hand (docs/policy.md), or name owners and what is agreed elsewhere",
        )
    values = {"purposes": tuple(dict.fromkeys(purposes)), "owners": named} | conditions.own
    return msgspec.convert(values, Policy)


def conditions_of(usage: Any) -> Conditions:
    """Read `usageInfo`: terms, offers, or a list of both. What is not understood is said, never dropped."""
    reader = _Reader()
    listed = usage if isinstance(usage, list) else [usage]
    if len(listed) > CONDITIONS_MOST:
        raise InputError(f"usageInfo lists {len(listed)} conditions, the limit is {CONDITIONS_MOST}")
    for one in listed:
        reader.take(one)
    return Conditions(
        tuple(dict.fromkeys(reader.purposes)),
        tuple(dict.fromkeys(reader.owners)),
        tuple(dict.fromkeys(reader.modifiers)),
        reader.own,
        tuple(reader.unknown),
    )


def usage_info(policy: Policy | PolicySummary) -> list[dict[str, Any]]:
    """`usageInfo` of a policy: DUO terms where its purposes are such, and an offer that says all of it."""
    codes = {purpose: code for code, purpose in PURPOSES.items()}
    terms = [
        {"@type": "DefinedTerm", "name": NAMES[codes[one]], "termCode": codes[one], "url": f"duo:{codes[one][4:]}"}
        for one in policy.purposes
        if one in codes and one != "disease-research"
    ]
    offer: dict[str, Any] = {
        "@type": ["CreativeWork", "odrl:Offer"],
        "name": "policy of the data owner",
        "odrl:permission": {
            "@type": "odrl:Permission",
            "odrl:action": {"@id": "odrl:use"},
            "odrl:constraint": [
                _constraint("odrl:purpose", policy.purposes),
                _constraint("odrl:recipient", policy.owners),
                _constraint("daitn:methods", policy.methods),
                _constraint("daitn:rawRecords", (policy.raw_records,)),
                _constraint("daitn:computeOperators", policy.compute_operators),
                _constraint("daitn:sampleFrac", (policy.sample_frac,)),
                _constraint("daitn:verificationOperators", policy.verification_operators),
                _constraint("daitn:signers", policy.signers),
            ],
        },
        "odrl:prohibition": {"@type": "odrl:Prohibition", "odrl:action": {"@id": "odrl:distribute"}},
    }
    return [*terms, offer]


def duo_code(text: str) -> str:
    """`DUO_0000042` of any way to write it; empty where it is none."""
    found = _CODE.fullmatch(text.strip()) if len(text) < limits.NAME_CHARS else None
    return f"DUO_{found[1]}" if found else ""


def show_code(code: str) -> str:
    """A code with its words."""
    return f"{code} ({NAMES[code]})" if code in NAMES else code


def _constraint(left: str, values: Iterable[Any]) -> dict[str, Any]:
    return {
        "@type": "odrl:Constraint",
        "odrl:leftOperand": {"@id": left},
        "odrl:operator": {"@id": "odrl:isAnyOf"},
        "odrl:rightOperand": list(values),
    }


class _Reader:
    """Gathers conditions; see `conditions_of`."""

    def __init__(self) -> None:
        self.purposes: list[str] = []
        self.owners: list[str] = []
        self.modifiers: list[str] = []
        self.own: dict[str, Any] = {}
        self.unknown: list[str] = []

    def take(self, one: Any) -> None:
        """One entry of `usageInfo`."""
        if isinstance(one, str) or (isinstance(one, Mapping) and not _is_offer(one)):
            written = (
                one if isinstance(one, str) else str(one.get("termCode") or one.get("url") or one.get("@id") or "")
            )
            code = duo_code(written)
            if not code:
                self.unknown.append(f"usageInfo {_shown(one)} is neither a DUO term nor an ODRL offer")
                return
            self._term(code)
            return
        if not isinstance(one, Mapping):
            self.unknown.append(f"usageInfo {_shown(one)} is not an object")
            return
        for key in one:
            plain = _plain(key)
            if plain in ("permission", "prohibition", "obligation", "duty"):
                for rule in _listed(one[key]):
                    self._rule(plain, rule)
            elif plain not in ("@type", "@id", "name", "description", "uid", "profile", "target", "assigner"):
                self.unknown.append(f"{key!r} of an offer")

    def _term(self, code: str) -> None:
        if code in PURPOSES and code != "DUO_0000007":
            self.purposes.append(PURPOSES[code])
        elif code == "DUO_0000007":
            self.unknown.append(f"{show_code(code)} without the disease: give it as an offer with a MONDO term")
        elif code in NAMES:
            self.modifiers.append(code)
        else:
            self.unknown.append(f"{code}: no term of DUO that is known here")

    def _rule(self, kind: str, rule: Any) -> None:
        if not isinstance(rule, Mapping):
            self.unknown.append(f"{kind} {_shown(rule)} is not an object")
            return
        actions = [_name_of(action) for action in _listed(rule.get("odrl:action", rule.get("action")))]
        if kind == "prohibition":
            # Raw records are never handed on, and nothing is used without permission.
            kept = {"distribute", "sell", "give", "commercialize", "transfer", "share"}
            self.unknown += [f"prohibition of {one!r}" for one in actions if _plain(one) not in kept]
            if rule.get("odrl:constraint", rule.get("constraint")):
                self.unknown.append("a prohibition with constraints")
            return
        if kind in ("obligation", "duty") or "odrl:duty" in rule or "duty" in rule:
            self.unknown.append("a duty: no software can see that it is done")
            return
        self._permission(actions, _listed(rule.get("odrl:constraint", rule.get("constraint"))))
        known = {"@type", "@id", "name", "action", "constraint", "target", "assigner", "description"}
        self.unknown += [f"{key!r} of a permission" for key in rule if _plain(key) not in known]

    def _permission(self, actions: list[str], constraints: list[Any]) -> None:
        purposes: list[str] = []
        diseases: list[str] = []
        for one in constraints:
            self._constraint(one, purposes, diseases)
        for action in actions:
            code = duo_code(action)
            if code == "DUO_0000007":
                if not diseases:
                    self.unknown.append(f"{show_code(code)} without the disease")
                purposes += [f"disease-research-mondo-{one}" for one in diseases]
            elif code in PURPOSES:
                purposes.append(PURPOSES[code])
            elif code or _plain(action) not in ("use", "read", "execute", "aggregate"):
                self.unknown.append(f"permission of {action!r}")
        if not purposes and any(_plain(action) == "use" for action in actions):
            self.unknown.append("a permission to use without a purpose")
        self.purposes += purposes

    def _constraint(self, one: Any, purposes: list[str], diseases: list[str]) -> None:
        if not isinstance(one, Mapping):
            self.unknown.append(f"constraint {_shown(one)} is not an object")
            return
        left = _name_of(one.get("odrl:leftOperand", one.get("leftOperand", "")))
        operator = _plain(_name_of(one.get("odrl:operator", one.get("operator", ""))))
        right = [_value_of(value) for value in _listed(one.get("odrl:rightOperand", one.get("rightOperand")))]
        if operator not in ("eq", "isAnyOf", "isA"):
            self.unknown.append(f"constraint with operator {operator or 'none'!r}")
        elif not left:
            # As in the standard's example: the modifier itself is the right operand.
            for value in right:
                self._term(duo_code(str(value))) if duo_code(str(value)) else self.unknown.append(
                    f"constraint {_shown(value)}"
                )
        elif duo_code(left) == DISEASE:
            for value in right:
                found = _MONDO.fullmatch(str(value))
                if found:
                    diseases.append(found[1])
                else:
                    self.unknown.append(f"disease {_shown(value)} is no MONDO term")
        elif _plain(left) == "purpose":
            purposes += [PURPOSES.get(duo_code(str(value)), str(value)) for value in right]
        elif _plain(left) in ("recipient", "assignee"):
            self.owners += [str(value) for value in right]
        elif left.removeprefix("daitn:").removeprefix(DAITN) in _OWN and left.startswith(("daitn:", DAITN)):
            self._own(left.removeprefix("daitn:").removeprefix(DAITN), right)
        else:
            self.unknown.append(f"constraint on {left!r}")

    def _own(self, name: str, right: list[Any]) -> None:
        """A term of ours, checked as the policy file is."""
        key = {
            "rawRecords": "raw_records",
            "sampleFrac": "sample_frac",
            "computeOperators": "compute_operators",
            "verificationOperators": "verification_operators",
        }.get(name, name)
        single = key in ("raw_records", "sample_frac")
        value: Any = (right[0] if len(right) == 1 else None) if single else tuple(right)
        try:
            checked = msgspec.convert({key: value}, Policy)
        except (msgspec.ValidationError, TypeError) as error:
            self.unknown.append(f"{name}: {error}")
            return
        self.own[key] = getattr(checked, key)


def _is_offer(one: Mapping[str, Any]) -> bool:
    return any(_plain(str(kind)) in ("Offer", "Policy", "Set", "Agreement") for kind in _listed(one.get("@type")))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value[:CONDITIONS_MOST] if isinstance(value, list) else [value]


def _name_of(value: Any) -> str:
    return str(value.get("@id", "")) if isinstance(value, Mapping) else str(value)


def _value_of(value: Any) -> Any:
    return value.get("@id", value.get("@value", "")) if isinstance(value, Mapping) else value


def _plain(name: str) -> str:
    for prefix in _NAMESPACES:
        name = name.removeprefix(prefix)
    return name


def _shown(value: Any) -> str:
    return repr(value)[:60]
