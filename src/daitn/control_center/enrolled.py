"""What a node says of itself against what it was enrolled as: nobody becomes more by describing itself so."""

from __future__ import annotations

from daitn.base.ids import NodeId
from daitn.control_center.config import Member
from daitn.descriptors.terminals import NodeDescriptor


def forgery_of(member: Member | None, sender: NodeId, descriptor: NodeDescriptor) -> str:
    """What its enrolment does not bear out: name, operator, roles, others' data. Empty where all holds. `member`: who
    holds the sender's slot."""
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
