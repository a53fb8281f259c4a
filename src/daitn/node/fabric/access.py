"""Who may use which key: the router's access control, generated from the domain's slots.

The router refuses everything that no rule allows. Each slot is a subject named by its certificate, so rules compare
what a link *proved*, never what a message claims. A slot may send only under keys that end in its own name, serve and
answer only its own inboxes, publish telemetry, reports and a presence token only under its own name. Overseers (the
control centre) may watch the telemetry, reports and presence of all. Rules are read once when the router opens and
wildcards in certificate names are refused, hence one subject per numbered slot, made before anyone holds it.

Subscribing and putting between nodes are allowed to nobody: messages are queries, so that each is answered. Telemetry
and reports are the only things that are put. Measured on 1.10.2, opening: 256 slots 0.3 s, 5,000 slots 4.5 s and 240 MB
(most of it parsing); the cost of a message does not depend on the number of slots.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from daitn.base.errors import InputError
from daitn.base.ids import CENTER, DomainId, NodeId
from daitn.base.names import check_name
from daitn.node.fabric import keys

SLOTS_DEFAULT: Final = 256
SLOTS_MAX: Final = 5000
"""Slots one router opens with; more members need a second router or a second domain."""

ROUTER_NAME: Final = "router"
"""Common name of routers' certificates; routers that are linked trust each other with every key of the domain."""

Flow = Literal["ingress", "egress"]


class AccessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the access control of a domain is made from."""

    domain: DomainId
    slots: int = SLOTS_DEFAULT
    """Numbered slots n0001 … that may ever be handed out while this router runs."""
    overseers: tuple[NodeId, ...] = (CENTER,)
    """Slots that watch telemetry and presence of everyone."""

    def check(self) -> None:
        """InputError if a value is out of range."""
        check_name("domain", self.domain)
        if not 0 <= self.slots <= SLOTS_MAX:
            raise InputError(f"{self.slots} slots are out of range", todo=f"use 0 to {SLOTS_MAX}")


class Rule(msgspec.Struct, frozen=True):
    """One permission: these messages in this direction on these keys."""

    id: str
    permission: Literal["allow"]
    flows: tuple[Flow, ...]
    messages: tuple[str, ...]
    key_exprs: tuple[str, ...]


class Subject(msgspec.Struct, frozen=True):
    """Whoever holds a certificate with one of these common names."""

    id: str
    cert_common_names: tuple[str, ...]


class Policy(msgspec.Struct, frozen=True):
    """Which rules hold for which subjects."""

    id: str
    rules: tuple[str, ...]
    subjects: tuple[str, ...]


class AccessControl(msgspec.Struct, frozen=True):
    """The `access_control` section of a router's configuration, field names as the router reads them."""

    enabled: bool
    default_permission: Literal["deny"]
    rules: tuple[Rule, ...]
    subjects: tuple[Subject, ...]
    policies: tuple[Policy, ...]


def slot_name(number: int) -> NodeId:
    """`n0001` for 1."""
    return NodeId(f"n{number:04d}")


def make_access_control(plan: AccessPlan) -> AccessControl:
    """Rules for the centre, all numbered slots and linked routers: O(slots), default deny."""
    plan.check()
    nodes = list(dict.fromkeys((CENTER, *plan.overseers, *(slot_name(n) for n in range(1, plan.slots + 1)))))
    shared, overseeing = _shared_rules(plan), _overseer_rules(plan.domain)
    rules, subjects, policies = [*shared, *overseeing], [], []
    for node in nodes:
        own = _slot_rules(plan.domain, node)
        granted = (*own, *shared, *(overseeing if node in plan.overseers else ()))
        rules += own
        subjects.append(Subject(node, (node,)))
        policies.append(Policy(f"policy-{node}", tuple(rule.id for rule in granted), (node,)))
    between = _router_rule(plan.domain)
    rules.append(between)
    subjects.append(Subject(ROUTER_NAME, (ROUTER_NAME,)))
    policies.append(Policy(f"policy-{ROUTER_NAME}", (between.id,), (ROUTER_NAME,)))
    return AccessControl(True, "deny", tuple(rules), tuple(subjects), tuple(policies))


def _slot_rules(domain: DomainId, node: NodeId) -> tuple[Rule, ...]:
    inboxes = tuple(keys.inbox(domain, lane, node) for lane in keys.LANES)
    outgoing = tuple(keys.message(domain, lane, "*", node) for lane in keys.LANES)
    return (
        _allow(f"{node}-asks", "ingress", ("query",), outgoing),
        _allow(f"{node}-hears-answers", "egress", ("reply",), outgoing),
        _allow(f"{node}-serves", "ingress", ("declare_queryable", "reply"), inboxes),
        _allow(f"{node}-is-asked", "egress", ("query",), inboxes),
        _allow(f"{node}-reports", "ingress", ("put",), (keys.telemetry(domain, node, "*"), keys.report(domain, node))),
        _allow(f"{node}-lives", "ingress", ("liveliness_token",), (keys.presence(domain, node),)),
    )


def _shared_rules(plan: AccessPlan) -> tuple[Rule, ...]:
    overseers = tuple(keys.presence(plan.domain, node) for node in plan.overseers)
    if not overseers:
        return ()
    return _watching("everyone", overseers)


def _overseer_rules(domain: DomainId) -> tuple[Rule, ...]:
    telemetry = (keys.telemetry(domain, "*", "*"), keys.report(domain, "*"))
    return (
        *_watching("overseer", (keys.presence(domain, "*"),)),
        _allow("overseer-subscribes", "ingress", ("declare_subscriber",), telemetry),
        _allow("overseer-reads", "egress", ("put",), telemetry),
    )


def _watching(who: str, tokens: tuple[str, ...]) -> tuple[Rule, ...]:
    watching = ("declare_liveliness_subscriber", "liveliness_query")
    return (
        _allow(f"{who}-watches", "ingress", watching, tokens),
        _allow(f"{who}-sees", "egress", ("liveliness_token",), tokens),
    )


def _router_rule(domain: DomainId) -> Rule:
    messages = (
        "put", "query", "reply", "declare_queryable", "declare_subscriber",
        "liveliness_token", "declare_liveliness_subscriber", "liveliness_query",
    )  # fmt: skip
    return Rule("routers-relay", "allow", ("ingress", "egress"), messages, (f"daitn/{domain}/**",))


def _allow(name: str, flow: Flow, messages: tuple[str, ...], key_exprs: tuple[str, ...]) -> Rule:
    return Rule(name, "allow", (flow,), messages, key_exprs)
