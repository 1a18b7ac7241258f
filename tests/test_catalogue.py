"""The contract's data and its loader."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from executor_conformance.harness.catalogue import Catalogue, load_catalogue
from executor_conformance.harness.errors import UsageError

SIZES = {"DECL": 8, "ROUTE": 11, "RUN": 13, "FAIL": 5, "CRASH": 11, "STATE": 5, "TOKEN": 11, "TASK": 3}
POINTS = [
    "submit-refused",
    "accepted-lost",
    "start-impossible",
    "before-claim",
    "claim-unreachable",
    "claim-error",
    "start-error",
    "request-error",
    "row-deleted",
    "claim-response-lost",
    "after-claim",
    "during",
    "token-expired",
    "after-effect",
    "end-response-lost",
    "report-lost",
    "scheduler-restart",
    "redelivery",
    "partition",
    "stopped-before-start",
    "stopped",
    "observation",
    "clean-up",
    "adoption",
    "hang",
]

SMALL = """
version = "2026.11"
[[change]]
date = 2026-11-20
what = "First."
why = "Needed."
[[group]]
id = "RUN"
title = "Run"
[[edition]]
id = "old"
status = "released"
queued_scope = "all"
text = "Old."
detected = "No claim."
[[edition]]
id = "new"
status = "proposed"
queued_scope = "own"
claim_method = "PATCH"
text = "New."
detected = "A claim."
[[point]]
id = "during"
text = "Killed."
[[clause]]
id = "RUN-1"
level = "core"
owner = "executor"
since = "old"
text = "It MUST run."
source = ["AIP-51"]
"""


@pytest.fixture(scope="module")
def contract() -> Catalogue:
    return load_catalogue()


def load(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "contract.toml"
    path.write_text(text, encoding="utf-8")
    return load_catalogue(path)


def test_every_clause_of_the_contract_is_there_in_numeric_order(contract: Catalogue) -> None:
    assert [group.id for group in contract.groups] == list(SIZES)
    for group, size in SIZES.items():
        assert [clause.id for clause in contract.in_group(group)] == [f"{group}-{n}" for n in range(1, size + 1)]
    assert len(contract.clauses) == sum(SIZES.values())


def test_every_clause_is_one_sentence_with_a_source(contract: Catalogue) -> None:
    for clause in contract.clauses:
        assert re.search(r"\b(MUST|SHOULD)\b", clause.text), clause.id
        assert clause.text.endswith("."), clause.id
        assert ". " not in clause.text, clause.id
        for source in clause.source:
            assert re.fullmatch(r"AIP-\d+|apache/airflow#\d+", source), (clause.id, source)


def test_fault_points_editions_and_changes(contract: Catalogue) -> None:
    assert [point.id for point in contract.points] == POINTS
    assert [edition.id for edition in contract.editions] == ["claimless", "claim", "claim-state", "claim-idempotent"]
    assert contract.version == "2026.11"
    assert contract.changes
    assert all(change.why for change in contract.changes)
    assert contract.point("during").text


def test_the_invariants_are_those_of_the_contract(contract: Catalogue) -> None:
    expected = {"FAIL-5", "ROUTE-3", "ROUTE-6", "ROUTE-7", "STATE-3", "STATE-5", "TOKEN-5"}
    expected |= {f"CRASH-{n}" for n in (1, 3, 4, 10)}
    assert {clause.id for clause in contract.invariants} == expected


def test_core_owns_what_only_core_can_fix(contract: Catalogue) -> None:
    expected = {"DECL-2", "RUN-10", "RUN-11"} | {f"STATE-{n}" for n in (1, 2, 4, 5)}
    expected |= {f"TOKEN-{n}" for n in (1, 2, 3, 4, 6, 7, 10, 11)}
    assert {clause.id for clause in contract.clauses if clause.owner == "core"} == expected


def test_the_extended_clauses_are_those_of_the_contract(contract: Catalogue) -> None:
    expected = ["DECL-7", "ROUTE-5", "ROUTE-7", "ROUTE-11", "RUN-8", "RUN-9", "RUN-13", "FAIL-4"]
    expected += ["CRASH-7", "CRASH-8", "CRASH-9", "CRASH-10", "TOKEN-7", "TOKEN-8", "TOKEN-11", "TASK-2"]
    assert [clause.id for clause in contract.clauses if clause.level == "extended"] == expected
    assert {clause.level for clause in contract.clauses} == {"core", "extended"}


def test_the_owner_can_differ_by_edition(contract: Catalogue) -> None:
    clause = contract.clause("RUN-7")
    assert clause.owner_for("claimless") == "core"
    assert clause.owner_for("claim") == "executor"
    assert clause.group == "RUN"


@pytest.mark.parametrize("clause", ["CRASH-2", "TOKEN-3", "TOKEN-4"])
def test_a_clause_without_means_in_an_edition_says_why(contract: Catalogue, clause: str) -> None:
    assert "claim endpoint" in (contract.clause(clause).applies_to("claimless") or "")
    assert contract.clause(clause).applies_to("claim") is None
    assert contract.clause(clause).applies_to("claim-state") is None
    assert contract.clause(clause).applies_to("claim-idempotent") is None
    assert contract.clause("RUN-1").applies_to("claimless") is None


@pytest.mark.parametrize("clause", ["RUN-11", "RUN-12", "STATE-5", "TOKEN-10"])
def test_the_clauses_of_a_proposal_say_why_no_release_has_them(contract: Catalogue, clause: str) -> None:
    left_out = {edition.id: contract.clause(clause).applies_to(edition.id) for edition in contract.editions}
    assert left_out.pop("claim-state") is None
    assert "no route by which a worker reports the end" in str(left_out["claim"])
    assert all(left_out.values())


def test_an_unknown_clause_is_answered_with_the_nearest(contract: Catalogue) -> None:
    with pytest.raises(UsageError, match=r"no clause 'crash-3' in the contract; did you mean CRASH-3\?"):
        contract.clause("crash-3")
    with pytest.raises(UsageError, match=r"the contract has DECL, ROUTE"):
        contract.in_group("ZZZZ")


def test_the_contract_is_read_once_and_clauses_are_hashable() -> None:
    assert load_catalogue() is load_catalogue()
    assert len(set(load_catalogue().clauses)) == sum(SIZES.values())


def test_a_small_contract_loads(tmp_path: Path) -> None:
    contract = load(tmp_path, SMALL)
    assert contract.clause("RUN-1").source == ("AIP-51",)
    assert [(one.status, one.queued_scope, one.has_claim) for one in contract.editions] == [
        ("released", "all", False),
        ("proposed", "own", True),
    ]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('id = "RUN-1"', 'id = "RUN-1"\nextra = 1', "clause RUN-1 has the unknown field 'extra'"),
        ('id = "RUN-1"', 'id = "FLY-1"', "clause FLY-1 has no id of the form GROUP-1"),
        (
            'level = "core"',
            'level = "high"',
            r"clause RUN-1 has the unknown level 'high' \(known: core, extended",
        ),
        ('owner = "executor"', 'owner = "me"', "clause RUN-1 has the unknown owner 'me'"),
        (
            'owner = "executor"',
            'owner = "core"\nowner_in = {old = "me"}',
            "clause RUN-1 has the unknown owner 'me'",
        ),
        ('since = "old"', 'since = "older"', "clause RUN-1 has the unknown edition 'older'"),
        ('since = "old"', 'since = "old"\neditions = ["x"]', "clause RUN-1 has the unknown edition 'x'"),
        ('since = "old"', 'since = "old"\neditions = ["new"]', "since old but its first edition is new"),
        (
            'since = "old"',
            'since = "new"\neditions = ["new"]',
            "a reason for exactly the editions it leaves out",
        ),
        ('since = "old"', 'since = "old"\ninvariant = 1', "'invariant' of clause RUN-1 is not true or false"),
        ('text = "It MUST run."', "", "clause RUN-1 has no 'text'"),
        (
            'text = "It MUST run."',
            'text = "It runs."',
            "the text of clause RUN-1 says neither MUST nor SHOULD",
        ),
        ('source = ["AIP-51"]', 'source = "AIP-51"', "clause RUN-1 has no 'source', a list of strings"),
        ('version = "2026.11"', 'version = "one"', "version 'one' is no calendar version"),
        ("date = 2026-11-20", 'date = "soon"', r"\[\[change\]\] number 1 has no date"),
        ('[[point]]\nid = "during"\ntext = "Killed."', "", r"it has no \[\[point\]\]"),
        ('status = "proposed"', "", "edition new has no 'status'"),
        ('status = "proposed"', 'status = "rumour"', r"edition new has the unknown status 'rumour' \(known: released"),
        ('claim_method = "PATCH"', "claim_method = 1", "edition new has no 'claim_method'"),
        ('claim_method = "PATCH"', "idempotent = 1", "'idempotent' of edition new is not true or false"),
        ('id = "new"', 'id = "old"', "the id of edition old is there twice"),
        ('id = "new"', 'id = "new', "is no valid TOML: .*line"),
    ],
)
def test_a_broken_contract_says_what_is_wrong(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in SMALL
    with pytest.raises(UsageError, match=sentence) as raised:
        load(tmp_path, SMALL.replace(old, new, 1))
    assert "contract.toml" in str(raised.value)


def test_a_clause_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the id of clause RUN-1 is there twice"):
        load(tmp_path, SMALL + SMALL[SMALL.index("[[clause]]") :])


def test_a_missing_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_catalogue(tmp_path / "none.toml")
