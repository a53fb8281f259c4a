"""Two domains in real processes: the centre of one asks the map of the other, which answers only whom it names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import daitn
from daitn.base.errors import DaitnError, InputError
from daitn.descriptors.terminals import Role
from daitn.node.domain_folder import DomainConfig
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

QUESTION = "terminal where computes show operator"


def test_centre_asks_a_neighbours_map_once_it_is_named_among_the_askers(tmp_path: Path) -> None:
    with LocalDomain(tmp_path / "here", "here") as here, LocalDomain(tmp_path / "there", "there") as there:
        here.start()
        there.start()
        there.join_all([NodeSpec(name="forge", operator="lab", roles=(Role.COMPUTE,))], {})
        network = daitn.connect(here.operator_token())

        with pytest.raises(InputError, match="no neighbour 'there'"):
            network.map.ask(QUESTION, of="there")
        token = there.join_token("here", [])
        joined = here.run("neighbour", "there", str(here.home), "--token", token)
        assert (joined["domain"], joined["neighbour"]) == ("there", "there")
        assert not (here.home / "center" / "neighbours" / "there" / "node.key").stat().st_mode & 0o077
        with pytest.raises(DaitnError, match="does not answer your questions"):
            network.map.ask(QUESTION, of="there")

        file = there.home / "domain.json"
        config = msgspec.json.decode(file.read_bytes(), type=DomainConfig)
        file.write_bytes(msgspec.json.encode(msgspec.structs.replace(config, askers=(joined["node"],))))
        there.kill("center")
        there.restart("center")

        answer = network.map.ask(QUESTION, of="there")
        operator = [column.name for column in answer.columns].index("operator")
        assert [row.values[operator] for row in answer.rows] == ["lab"]
        assert network.map.ask(QUESTION).rows == ()
        shown = here.run("map", "ask", QUESTION, "--of", "there", token=here.operator_token())
        assert [row["id"] for row in shown["rows"]] == [row.id for row in answer.rows]
        with pytest.raises(InputError, match="no fact 'computed'"):
            network.map.ask("terminal where computed", of="there")
