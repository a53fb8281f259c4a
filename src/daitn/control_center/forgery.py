"""Forgeries: what a node says of itself that its enrolment does not bear out."""

from __future__ import annotations

from daitn.base.ids import NodeId
from daitn.control_center.config import Member
from daitn.descriptors.terminals import NodeDescriptor


def find_forgery(sender: NodeId, descriptor: NodeDescriptor, member: Member | None) -> str:
    """What `descriptor` claims that `sender` is not: name, operator, roles, others' data; empty where all is true."""
    if member is None:
        return "its slot is not in use"
    if descriptor.node != sender or descriptor.name != member.name:
        return f"it calls itself {descriptor.node} {descriptor.name}, enrolled as {member.name}"
    if descriptor.operator != member.operator:
        return f"it names operator {descriptor.operator}, enrolled by {member.operator}"
    if excess := [role.value for role in descriptor.roles if role.value not in member.roles]:
        return f"it claims the roles {', '.join(excess)}, enrolled as {', '.join(member.roles)}"
    foreign = [data.dataset for data in descriptor.data if not data.dataset.startswith(f"{member.name}/")]
    return f"it describes data of others: {', '.join(foreign[:3])}" if foreign else ""
