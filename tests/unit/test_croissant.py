"""Croissant out and in: valid by the standard's own library, the same columns back, conditions kept or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.builders import make_policy
from tests.contract.test_descriptions import BASES, CONTRACT, POLICY, make_source

from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.describe.croissant.conditions import conditions_of, policy_of, usage_info
from daitn.describe.croissant.document import croissant_of
from daitn.describe.croissant.reading import read_croissant
from daitn.describe.report import FitReport
from daitn.describe.statistics import count_records, describe_data, draw_release
from daitn.descriptors.contract import CategoryColumn, Classification, IdentifierColumn, NumberColumn, Regression
from daitn.descriptors.policy import Policy, summarise
from daitn.descriptors.terminals import DataDescriptor
from daitn.node.croissant_files import check_document, import_document
from daitn.node.site_files import load_column_map, load_contract, load_policy


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> DataDescriptor:
    source = make_source(tmp_path_factory.mktemp("croissant"), 60)
    policy = msgspec.structs.replace(POLICY, owners=("ada",), purposes=("health-research",))
    counts = count_records(source.table, CONTRACT, policy)
    release = draw_release("k", counts, CONTRACT, policy, 4.0, lambda c, s, e: list(c), source=source, bases=BASES)
    report = FitReport(
        contract="c", version="v", rows=240, records=240, held_out=0, groups=60, duplicates=0, rows_with_missing=0,
        rows_out_of_vocabulary=0,
    )  # fmt: skip
    return describe_data(DataSetId("n/d"), source.table, CONTRACT, policy, release, report)


def small(*fields: dict[str, Any], **more: Any) -> bytes:
    document = {
        "@type": "sc:Dataset",
        "name": "small",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "recordSet": [{"@type": "cr:RecordSet", "@id": "r", "field": list(fields)}],
    }
    return json.dumps(document | more).encode()


AGE = {"@id": "r/age", "dataType": "sc:Integer", "source": {"extract": {"column": "Alter"}}}
RISK = {"@id": "r/risk", "dataType": ["sc:Float", "cr:Label"]}


def test_document_of_a_descriptor_is_valid_by_the_standards_own_library(descriptor: DataDescriptor) -> None:
    pytest.importorskip("mlcroissant", reason="checked by the extra daitn[croissant]")
    remarks = check_document(croissant_of(descriptor, label="label", license_url="https://example.org/licence"))
    assert [one for one in remarks if "recommended" not in one] == []
    broken = croissant_of(descriptor, label="label")
    broken["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "nowhere"
    with pytest.raises(InputError, match="not valid"):
        check_document(broken)


def test_everything_in_the_document_is_in_the_descriptor(descriptor: DataDescriptor) -> None:
    document = croissant_of(descriptor, label="label")
    (records,) = [one for one in document["recordSet"] if one["@id"] == "records"]
    values = {one["@id"]: one["value"] for one in records["annotation"]}
    assert values["records/count"] == descriptor.records
    of_age = {one["@id"]: one["value"] for one in records["field"][0]["annotation"]}
    assert set(of_age) == {"records/age/mean", "records/age/deviation", "records/age/quantiles"}
    (synthetic,) = [one for one in document["recordSet"] if one["@id"] == "synthetic"]
    assert len(synthetic["data"]) == len(descriptor.descriptions[-1].cells)


def test_columns_label_and_group_come_back(descriptor: DataDescriptor) -> None:
    read = read_croissant(json.dumps(croissant_of(descriptor, label="label")).encode())
    assert read.contract.columns == CONTRACT.columns
    assert read.contract.task == Classification(label="label")
    assert read.contract.group == CONTRACT.group
    assert read.contract.name == CONTRACT.name
    assert read.column_map.columns == {}
    assert read.conditions is not None
    assert summarise(policy_of(read.conditions)) == descriptor.policy


def test_anybodys_document_becomes_a_contract_with_its_own_column_names() -> None:
    read = read_croissant(small(AGE, RISK, {"@id": "r/who", "dataType": "sc:Text"}), group="who")
    assert read.contract.columns == (
        NumberColumn(name="age"),
        NumberColumn(name="risk"),
        IdentifierColumn(name="who"),
    )
    assert read.contract.task == Regression(label="risk")
    assert read.column_map.columns["age"].column == "Alter"
    assert read.conditions is None


def test_whole_iris_and_references_of_the_standard_are_read() -> None:
    field = {"@id": "r/kind", "dataType": "https://schema.org/Text", "cr:references": {"@id": "kinds/name"}}
    kinds = {
        "@id": "kinds",
        "http://mlcommons.org/croissant/dataType": "sc:Enumeration",
        "data": [{"kinds/name": "a"}, {"kinds/name": "b"}],
    }
    data = json.loads(small(AGE, field))
    data["recordSet"].append(kinds)
    read = read_croissant(json.dumps(data).encode(), label="kind")
    assert CategoryColumn(name="kind", values=("a", "b")) in read.contract.columns


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[1]", "no JSON object"),
        (b"\xff", "no JSON object"),
        (small(AGE), "no field is marked as the label"),
        (small(AGE, RISK, conformsTo="http://other.org/1.0"), "not to Croissant 1.0 or 1.1"),
        (small(AGE, RISK, {"@id": "r/pic", "dataType": "sc:ImageObject"}), "does not say its size"),
        (small(AGE, RISK, {"@id": "r/v", "dataType": "sc:Float", "isArray": True, "arrayShape": "-1,3"}), "fixed size"),
        (small(AGE, RISK, {"@id": "r/film", "dataType": "sc:VideoObject"}), "for which there is no kind of column"),
        (small(AGE, RISK, recordSet=[]), "0 record sets of records"),
    ],
)
def test_document_that_cannot_be_used_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_croissant(data)


def test_all_faults_of_a_document_are_listed_at_once() -> None:
    with pytest.raises(InputError) as refused:
        read_croissant(small({"@id": "r/a", "dataType": "x"}, {"@id": "r/b", "dataType": "y"}, conformsTo="z"))
    assert str(refused.value).count(";") >= 3


def test_policy_comes_back_from_its_offer_as_it_was() -> None:
    policy = make_policy(purposes=("health-research", "care"), owners=("ada", "bo"), signers=("a" * 64,))
    assert summarise(policy_of(conditions_of(usage_info(policy)))) == summarise(policy)


def test_duo_permissions_become_purposes() -> None:
    term = {"@type": "DefinedTerm", "termCode": "DUO_0000042", "url": "duo:0000042"}
    assert policy_of(conditions_of([term])).purposes == ("general-research",)
    assert policy_of(conditions_of("http://purl.obolibrary.org/obo/DUO_0000004")).purposes == ("*",)
    assert policy_of(conditions_of(term)).owners == ()


def test_offer_of_the_standard_for_one_disease_and_non_commercial_use() -> None:
    offer = {
        "@type": ["CreativeWork", "odrl:Offer"],
        "odrl:permission": {
            "odrl:action": {"@id": "duo:0000007"},
            "odrl:constraint": [
                {"odrl:operator": {"@id": "odrl:eq"}, "odrl:rightOperand": {"@id": "duo:0000018"}},
                {
                    "odrl:leftOperand": {"@id": "duo:0000010"},
                    "odrl:operator": {"@id": "odrl:eq"},
                    "odrl:rightOperand": {"@id": "mondo:0005070"},
                },
            ],
        },
    }
    with pytest.raises(InputError, match=r"DUO_0000018 \(not for profit.*say which model owners"):
        policy_of(conditions_of(offer))
    policy = policy_of(conditions_of(offer), owners=["university"])
    assert policy == Policy(owners=("university",), purposes=("disease-research-mondo-0005070",))


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        ("DUO_0000021", "ethics approval required.*no policy can hold to this"),
        ("DUO_9999999", "no term of DUO that is known here"),
        ("please be kind", "neither a DUO term nor an ODRL offer"),
        ({"@type": "odrl:Offer", "odrl:obligation": {"odrl:action": "odrl:compensate"}}, "duty"),
        ({"@type": "odrl:Offer", "odrl:permission": {"odrl:action": "odrl:sell"}}, "permission of 'odrl:sell'"),
        ({"@type": "odrl:Offer", "odrl:permission": {"odrl:action": "odrl:use"}}, "without a purpose"),
        (
            {
                "@type": "odrl:Offer",
                "odrl:permission": {
                    "odrl:action": "duo:0000042",
                    "odrl:constraint": {
                        "odrl:leftOperand": "odrl:dateTime",
                        "odrl:operator": "odrl:lt",
                        "odrl:rightOperand": "2030-01-01",
                    },
                },
            },
            "operator 'lt'",
        ),
        ([], "allows no purpose"),
        ("DUO_0000007", "without the disease"),
    ],
)
def test_condition_that_no_policy_can_keep_is_an_error_that_names_it(usage: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        policy_of(conditions_of(usage))


def test_obligation_may_be_stated_to_be_taken_care_of_elsewhere() -> None:
    usage = ["DUO_0000042", "DUO_0000021"]
    assert policy_of(conditions_of(usage), accepted=["DUO:0000021"]).purposes == ("general-research",)


def test_prohibited_purpose_is_not_allowed_and_not_forbidden_beside_all() -> None:
    assert policy_of(conditions_of(["DUO_0000042", "DUO_0000044"])).purposes == ("general-research",)
    with pytest.raises(InputError, match="cannot forbid one"):
        policy_of(conditions_of(["DUO_0000004", "DUO_0000044"]))


def test_files_made_of_a_document_are_those_that_data_add_takes(tmp_path: Path) -> None:
    path = tmp_path / "croissant.json"
    path.write_bytes(small(AGE, RISK, usageInfo="DUO_0000006"))
    import_document(path, tmp_path / "out", owners=["ada"])
    assert load_contract(tmp_path / "out" / "contract.json").task == Regression(label="risk")
    assert load_column_map(tmp_path / "out" / "map.toml").columns["age"].column == "Alter"
    assert load_policy(tmp_path / "out" / "policy.toml") == Policy(owners=("ada",), purposes=("health-research",))


def test_nothing_is_written_where_a_condition_cannot_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "croissant.json"
    path.write_bytes(small(AGE, RISK, usageInfo="DUO_0000025"))
    with pytest.raises(InputError, match="time limit on use"):
        import_document(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
