"""Keys of a group for boards in the field: who gets them, who has confirmed them, and that nobody else can read them."""

import json
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.certificates import signing_request
from device_agent.broker.identity import Identity
from ota.formats import key_delivery, topics
from ota.formats.encryption import public_cose_key
from ota.formats.enrolment import Request
from ota.formats.reasons import Refused
from ota.formats.report import Report
from ota.operator.audit import Audit
from ota.operator.ca import CertificateAuthority
from ota.operator.enrolment import answer, new_token
from ota.operator.group_keys import GroupKeys
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import GROUP
from tests.support.reports import signed

OWN, OTHER = ec.derive_private_key(5, ec.SECP256R1()), ec.derive_private_key(6, ec.SECP256R1())


def keys(site):
    return sorted(each.key_id for each in GroupKeys(Workspace.open(site.folder)).of(GROUP).values())


def document(site, name="roof-1"):
    data = site.retained(topics.group_keys(name))
    return key_delivery.verified(data, site.workspace.root(), name, GROUP).delivery if data else None


def board(site, name="roof-1", own=OWN, **changes):
    site.board(name, encryption=public_cose_key(own.public_key()), **changes)


def deliver(site, capsys, *more, named=("roof-1", "roof-2")):
    """To these boards, which have no certificates here."""
    capsys.readouterr()
    boards = [word for name in named for word in ("--board", name)]
    code = ota(site.folder, "group-keys", "deliver", GROUP, "--json", *boards, *more)
    found = json.loads(capsys.readouterr().out)
    return code, found["sent"], {each["board"]: each["state"] for each in found["boards"]}


@pytest.fixture
def lab(quick):
    assert ota(quick.folder, "group-keys", "new", GROUP) == 0
    return quick


def test_each_board_gets_what_it_alone_can_open(lab, capsys):
    board(lab)
    board(lab, "roof-2", OTHER)
    board(lab, "far-1", group="others")
    assert deliver(lab, capsys) == (0, 2, {"roof-1": "sent", "roof-2": "sent"})
    assert sorted(document(lab).open(OWN)) == keys(lab)
    assert sorted(document(lab, "roof-2").open(OTHER)) == keys(lab)
    with pytest.raises(Refused, match="no key of this board"):
        document(lab).open(OTHER)
    assert document(lab, "far-1") is None


def test_a_stranger_who_reports_as_a_board_of_the_group_gets_no_key(lab, capsys):
    """On a broker that lets anybody write, anybody can be a board that nobody knew."""
    board(lab)
    board(lab, "stranger", OTHER)
    code, sent, found = deliver(lab, capsys, "--wait", "1", named=("roof-1",))
    assert (code, sent, document(lab, "stranger")) == (1, 1, None)
    assert found["stranger"].startswith("no certificate")
    board(lab, group_keys=tuple(keys(lab)))
    assert deliver(lab, capsys, "--wait", "5", named=("roof-1",))[0] == 0  # and keeps nobody waiting


def test_a_board_with_a_certificate_of_the_workspace_gets_them_unnamed(lab, capsys, tmp_path):
    certified(lab, tmp_path)()
    assert deliver(lab, capsys, named=()) == (0, 1, {"roof-1": "sent"})
    assert sorted(document(lab).open(OWN)) == keys(lab)


def certified(lab, folder, name="roof-1", enrolled_for=GROUP):
    """A board that enrolled with a token of the workspace, as what it reports to be in a group."""
    workspace, now_s = lab.workspace, int(time.time())
    token = new_token(workspace, name, now_s, 60, group=enrolled_for)
    request = Request.make(token, name, signing_request(folder / f"{name}.key", name))
    _, made, outcome = answer(workspace, CertificateAuthority(workspace), request.to_bytes(), now_s)
    assert outcome.reason == ""
    (folder / f"{name}.pem").write_bytes(made.certificate)
    identity = Identity.load(folder / f"{name}.key", folder / f"{name}.pem")

    def reports(group=GROUP):
        report = Report(name, group, "generic", "0", int(time.time()), 5, encryption=public_cose_key(OWN.public_key()))
        lab.put(topics.report(name), signed(report, identity))
        lab.put(topics.online(name), topics.ONLINE)

    return reports


def test_a_board_of_another_group_that_reports_this_one_gets_no_key(lab, capsys, tmp_path):
    """A stolen board of a harmless group, with a good certificate, asks for the secrets of all groups in turn."""
    reports = certified(lab, tmp_path, enrolled_for="harmless")
    reports("harmless")
    assert deliver(lab, capsys, named=()) == (0, 0, {})  # the boards are read, whatever group is meant
    reports(GROUP)
    state = "belongs to group harmless: gets none unless it is named with --board"
    for _ in range(2):
        assert deliver(lab, capsys, named=()) == (0, 0, {"roof-1": state})
    assert document(lab) is None


def test_a_board_that_the_operator_moved_gets_the_keys_of_its_new_group_from_then_on(lab, capsys, tmp_path):
    reports = certified(lab, tmp_path, enrolled_for="before")
    reports("before")
    deliver(lab, capsys, named=())
    reports(GROUP)
    assert deliver(lab, capsys, named=("roof-1",)) == (0, 1, {"roof-1": "sent"})
    assert ota(lab.folder, "group-keys", "new", GROUP) == 0
    assert deliver(lab, capsys, named=()) == (0, 1, {"roof-1": "sent"})
    assert sorted(document(lab).open(OWN)) == keys(lab)


@pytest.mark.parametrize(("enrolled_for", "state"), [("harmless", "belongs to group harmless"), ("", "was set up for no group")])
def test_the_first_group_that_a_new_board_reports_is_not_believed(lab, capsys, tmp_path, enrolled_for, state):
    """A board with a good certificate, taken over before it reported at all, asks for the secrets of a group at once."""
    certified(lab, tmp_path, enrolled_for=enrolled_for)()
    assert deliver(lab, capsys, named=()) == (0, 0, {"roof-1": f"{state}: gets none unless it is named with --board"})
    assert document(lab) is None


def test_a_board_that_was_set_up_for_a_group_gets_no_keys_of_another_that_it_reports_first(lab, capsys, tmp_path):
    reports = certified(lab, tmp_path)
    roster = Roster(lab.workspace)
    roster.expect("roof-1", "harmless")
    roster.save()
    reports(GROUP)
    assert deliver(lab, capsys, named=())[1] == 0
    assert document(lab) is None


def test_what_a_stranger_reported_under_a_name_says_nothing_of_the_board_that_has_a_certificate(lab, capsys, tmp_path):
    board(lab, group="elsewhere")
    deliver(lab, capsys, named=())
    certified(lab, tmp_path)()
    assert deliver(lab, capsys, named=()) == (0, 1, {"roof-1": "sent"})


@pytest.mark.parametrize("wrong", [b"\xa0", b"\x00", public_cose_key(OTHER.public_key())[:-1] + b"\x00"])
def test_a_board_whose_key_is_none_keeps_no_other_board_from_its_keys(lab, capsys, wrong):
    board(lab)
    lab.board("roof-2", encryption=wrong)
    assert deliver(lab, capsys) == (0, 1, {"roof-1": "sent", "roof-2": "what it reports as its own key is none"})
    assert sorted(document(lab).open(OWN)) == keys(lab)
    assert ota(lab.folder, "group-keys", "list", "--json") == 0
    listed = {each["board"]: each["key"] for each in json.loads(capsys.readouterr().out)["boards"]}
    assert (len(listed["roof-1"]), listed["roof-2"]) == (16, "none that can be used")


def test_a_named_board_that_is_not_in_the_group_is_said(lab, capsys):
    board(lab)
    assert ota(lab.folder, "group-keys", "deliver", GROUP, "--board", "roof-9") == 0
    assert f"roof-9 has not reported that it is in group {GROUP}" in capsys.readouterr().err


def test_no_key_is_removed_that_was_not_named(lab, capsys):
    """As by a variable of a script that is empty."""
    for words in ("", keys(lab)[0].hex()[:3]):
        assert ota(lab.folder, "group-keys", "remove", GROUP, words) == 1
    assert len(keys(lab)) == 1


def test_a_board_counts_once_its_own_report_names_the_keys(lab, capsys):
    board(lab)
    deliver(lab, capsys)
    assert deliver(lab, capsys, "--wait", "1") == (1, 0, {"roof-1": "sent"})
    board(lab, group_keys=tuple(keys(lab)))
    assert deliver(lab, capsys, "--wait", "5") == (0, 0, {"roof-1": "confirmed"})


def test_what_is_there_is_not_sent_again(lab, capsys):
    board(lab)
    deliver(lab, capsys)
    first = lab.retained(topics.group_keys("roof-1"))
    assert deliver(lab, capsys)[1] == 0
    assert lab.retained(topics.group_keys("roof-1")) == first


def test_another_key_of_the_group_or_of_the_board_is_sent_with_a_higher_epoch(lab, capsys):
    board(lab)
    deliver(lab, capsys)
    first = document(lab)
    assert ota(lab.folder, "group-keys", "new", GROUP) == 0
    assert deliver(lab, capsys)[1] == 1
    second = document(lab)
    assert (len(first.key_ids), len(second.key_ids)) == (1, 2)
    assert second.epoch > first.epoch
    board(lab, own=OTHER)  # its storage was lost
    assert deliver(lab, capsys)[1] == 1
    assert document(lab).epoch > second.epoch
    assert sorted(document(lab).open(OTHER)) == keys(lab)


def test_a_key_that_was_removed_is_not_delivered_any_more(lab, capsys):
    board(lab)
    old = keys(lab)[0]
    assert ota(lab.folder, "group-keys", "new", GROUP) == 0
    deliver(lab, capsys)
    assert ota(lab.folder, "group-keys", "remove", GROUP, old.hex()) == 0
    assert deliver(lab, capsys)[1] == 1
    assert old not in document(lab).key_ids


def test_an_epoch_is_above_that_of_another_operator(lab, capsys, tmp_path):
    board(lab)
    deliver(lab, capsys)
    with lab.workspace.record() as state:  # a workspace that was put back from a copy
        del state["epochs"]["keys@roof-1"]
    with lab.workspace.record() as state:
        state["epochs"]["keys@roof-1"] = 0
    first = document(lab)
    assert ota(lab.folder, "group-keys", "new", GROUP) == 0
    deliver(lab, capsys)
    assert document(lab).epoch > first.epoch


def test_a_document_that_is_not_ours_is_replaced(lab, capsys):
    board(lab)
    lab.put(topics.group_keys("roof-1"), b"forged")
    assert deliver(lab, capsys) == (0, 1, {"roof-1": "sent"})
    assert sorted(document(lab).open(OWN)) == keys(lab)


def test_a_dry_run_sends_nothing(lab, capsys):
    board(lab)
    assert deliver(lab, capsys, "--dry-run") == (0, 0, {"roof-1": "to be sent"})
    assert document(lab) is None


def test_a_board_without_a_key_of_its_own_is_named(lab, capsys):
    lab.board("roof-1")
    assert deliver(lab, capsys) == (0, 0, {"roof-1": "its agent has no key of its own to encrypt for"})


def test_a_group_without_a_key_is_refused(quick, capsys):
    assert ota(quick.folder, "group-keys", "deliver", GROUP) == 1
    assert f"ota group-keys new {GROUP}" in capsys.readouterr().err


def test_each_delivery_has_a_line_in_the_log(lab, capsys):
    board(lab)
    deliver(lab, capsys)
    assert b"keys of group lab for device roof-1" in Audit(lab.workspace).path.read_bytes()
    assert ota(lab.folder, "audit", "verify") == 0


def test_nothing_is_left_on_the_broker_of_a_board_that_is_retired(lab, capsys):
    board(lab)
    deliver(lab, capsys)
    assert ota(lab.folder, "retire", "roof-1", "--yes") == 0
    assert document(lab) is None
