"""What a reconfiguration leads to, compared with what a ZooKeeper 3.8 answered to the same requests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastzk.protocol import Error
from fastzk.server.reconfig import Change, ReconfigError, reconfigure
from fastzk.server.zab.quorum import Hierarchical, Membership

ONE = Membership.parse("server.1=localhost:23288:23388:participant\nversion=100000000")
THREE = Membership.parse(
    "server.1=a:1:2:participant;0.0.0.0:3\nserver.2=b:1:2:participant;0.0.0.0:3\n"
    "server.3=c:1:2:participant;0.0.0.0:3\nserver.4=d:1:2:observer;0.0.0.0:3\nversion=100000001"
)
ME = "server.1=localhost:23288:23388:participant;23181"
ZXID = 0x100000021


def ask(
    current: Membership,
    *,
    joining: str | None = None,
    leaving: str | None = None,
    new_members: str | None = None,
    version: int = -1,
    synced: set[int] | None = None,
    permitted: bool = True,
    standalone_enabled: bool = False,
) -> Membership:
    """By default everybody of ``current`` is up to date and the client may do it."""
    up_to_date = set(current.members) if synced is None else synced
    return reconfigure(
        current,
        Change(joining, leaving, new_members, version),
        zxid=ZXID,
        synced=up_to_date.__contains__,
        permitted=lambda: permitted,
        standalone_enabled=standalone_enabled,
    )


def code_of(current: Membership, permitted: bool = True, **request: object) -> Error:
    with pytest.raises(ReconfigError) as caught:
        ask(current, permitted=permitted, **request)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    return caught.value.code


OBSERVER = "server.5=10.9.9.5:1234:2345:observer;3456"
SIX = "server.6=10.9.9.6:"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"joining": "some thing"}, Error.BAD_ARGUMENTS),
        ({"joining": "some=thing"}, Error.MARSHALLING),
        ({"joining": "x=a:1:2;3"}, Error.MARSHALLING),
        ({"joining": OBSERVER, "version": 5}, Error.BAD_VERSION),
        ({"joining": SIX + "1234:2345:observer"}, Error.BAD_ARGUMENTS),
        ({"joining": SIX + "1234:99999:observer;3"}, Error.MARSHALLING),
        ({"joining": SIX + "1234:x:observer;3"}, Error.BAD_ARGUMENTS),
        ({"joining": SIX + "1234:1234:observer;3"}, Error.BAD_ARGUMENTS),
        ({"joining": SIX + "1234:1235:boss;3"}, Error.BAD_ARGUMENTS),
        ({"leaving": "abc"}, Error.MARSHALLING),
        ({"leaving": "1"}, Error.BAD_ARGUMENTS),
        ({"new_members": "foo=bar"}, Error.BAD_ARGUMENTS),
        ({"new_members": "server.1"}, Error.BAD_ARGUMENTS),
        ({"new_members": OBSERVER}, Error.MARSHALLING),
        ({"new_members": ME + "\nversion=zz"}, Error.MARSHALLING),
        ({"new_members": "server.x=a:1:2"}, Error.MARSHALLING),
        ({"new_members": ME + ",group.1=1:9"}, Error.MARSHALLING),
        ({"new_members": ME + ",group.1=2,weight.2=1"}, Error.BAD_ARGUMENTS),
        ({"new_members": ME + ",weight.1=1"}, Error.BAD_ARGUMENTS),
        (
            {"new_members": ME + ",server.7=10.9.9.7:1:2:participant,server.8=10.9.9.8:1:2:participant"},
            Error.NEW_CONFIG_NO_QUORUM,
        ),
        (
            {"joining": "server.7=10.9.9.7:1:2:participant;3,server.8=10.9.9.8:1:2:participant;3"},
            Error.NEW_CONFIG_NO_QUORUM,
        ),
    ],
)
def test_errors_that_come_before_the_access_right(request_: dict[str, object], code: Error) -> None:
    for permitted in (False, True):
        assert code_of(ONE, permitted, **request_) is code


@pytest.mark.parametrize(
    "request_",
    [
        {"joining": OBSERVER},
        {"joining": "server.999=10.9.9.5:1234:2345:observer;3456"},
        {"joining": "server.-6=10.9.9.6:1234:1235:observer;3"},
        {"leaving": "77"},
        {"leaving": ""},
        {},
    ],
)
def test_a_client_without_the_right(request_: dict[str, object]) -> None:
    assert code_of(ONE, permitted=False, **request_) is Error.NO_AUTH


def test_numbers_that_do_not_fit_into_a_session() -> None:
    for number in (-6, 256, 999):
        assert code_of(ONE, joining=f"server.{number}=a:1:2:observer;3") is Error.BAD_ARGUMENTS
    with pytest.raises(ReconfigError):
        reconfigure(
            ONE,
            Change("server.255=a:1:2:observer;3"),
            zxid=1,
            synced=lambda _: True,
            permitted=lambda: True,
            standalone_enabled=False,
            highest_id=254,
        )
    assert 255 in ask(ONE, joining="server.255=a:1:2:observer;3").members


def test_an_observer_joins_and_leaves() -> None:
    joining = "server.100=0.0.0.0:1:2:observer;0.0.0.0:3"
    joined = ask(THREE, joining=joining)
    assert joining in joined.text()
    assert joined.text().endswith(f"\nversion={ZXID:x}")
    assert joined.voters == THREE.voters
    left = ask(joined, leaving="100")
    assert left.members == THREE.members
    assert left.version == ZXID


def test_what_changes_nothing_is_a_new_version() -> None:
    for request in ({}, {"leaving": "77"}, {"joining": " , "}):
        assert ask(THREE, **request) == THREE.with_version(ZXID)  # type: ignore[arg-type]
    assert ask(THREE, version=THREE.version).version == ZXID


def test_several_leave_and_join() -> None:
    changed = ask(
        THREE,
        leaving=" 4, 3 ,",
        joining="server.5=e:1:2;3, server.6 = [::2]:1:2:OBSERVER;3",
        synced={1, 2, 5},
    )
    assert (changed.voters, changed.observers) == ({1, 2, 5}, {6})
    assert changed.members[6].host == "::2"


def test_leaving_comes_before_joining() -> None:
    # d's addresses are free when 9 joins.
    changed = ask(THREE, leaving="4,1", joining="server.9=d:1:2:observer;3,server.1=a:1:2:participant;4")
    assert changed.observers == {9}
    assert changed.members[1].client == "0.0.0.0:4"


def test_roles_and_ports_change() -> None:
    demoted = ask(THREE, joining="server.3=c:1:2:observer;3")
    assert (demoted.voters, demoted.observers) == ({1, 2}, {3, 4})
    promoted = ask(THREE, joining="server.4=d:1:2:participant;3")
    assert promoted.voters == {1, 2, 3, 4}
    moved = ask(THREE, joining="server.2=b:10:20:participant;3")
    assert (moved.members[2].quorum_port, moved.voters) == (10, THREE.voters)


@pytest.mark.parametrize(
    ("joining", "free"),
    [
        ("server.9=a:1:9;3", False),
        ("server.9=A:9:1;3", False),
        ("server.9=x:1:2;a:1", False),
        ("server.9=x:1:2;;a:2", False),
        ("server.9=a:8:9;3", True),
        ("server.9=x:1:2;3,server.8=x:2:5;3", False),
        ("server.1=a:2:1;3", True),
        ("server.9=localhost:1:2;3,server.8=localhost:1:2;3", True),
        ("server.9=0.0.0.0:1:2;3,server.8=0.0.0.0:1:2;3", True),
    ],
)
def test_two_servers_with_one_address(joining: str, free: bool) -> None:
    everybody = {1, 2, 3, 8, 9}
    if free:
        assert ask(THREE, joining=joining, synced=everybody).version == ZXID
    else:
        assert code_of(THREE, joining=joining, synced=everybody) is Error.BAD_ARGUMENTS


def test_how_many_participants_must_be_left() -> None:
    assert ask(THREE, leaving="3", standalone_enabled=True).voters == {1, 2}
    assert code_of(THREE, leaving="2,3", standalone_enabled=True) is Error.BAD_ARGUMENTS
    assert ask(THREE, leaving="2,3,4").voters == {1}
    assert code_of(THREE, leaving="1,2,3,4") is Error.BAD_ARGUMENTS
    whole = "server.1=a:1:2"
    assert ask(THREE, new_members=whole).voters == {1}
    assert code_of(THREE, new_members=whole, standalone_enabled=True) is Error.BAD_ARGUMENTS
    with_observer = whole + ",server.4=d:1:2:observer"
    assert ask(THREE, new_members=with_observer).observers == {4}
    assert code_of(THREE, new_members=with_observer, standalone_enabled=True) is Error.MARSHALLING
    assert code_of(THREE, new_members="") is Error.MARSHALLING
    assert code_of(THREE, new_members="", standalone_enabled=True) is Error.BAD_ARGUMENTS


def test_the_new_participants_need_a_quorum_up_to_date() -> None:
    joining = "server.5=e:1:2;3"
    assert ask(THREE, joining=joining, synced={1, 2, 5}).voters == {1, 2, 3, 5}
    # Four participants need three; an observer that is up to date does not help.
    assert code_of(THREE, joining=joining, synced={1, 2, 4}) is Error.NEW_CONFIG_NO_QUORUM
    assert code_of(THREE, leaving="1,2", synced={1, 2}) is Error.NEW_CONFIG_NO_QUORUM


def test_groups_only_as_a_whole() -> None:
    lines = [f"server.{each}=h{each}:1:2" for each in (1, 2, 3)]
    grouped = ask(THREE, new_members=",".join([*lines, "group.1=1:2", "group.2=3", "weight.3=0"]))
    assert isinstance(grouped.quorum, Hierarchical)
    assert grouped.electable == {1, 2}
    assert "group.1=1:2\ngroup.2=3\nweight.1=1\nweight.2=1\nweight.3=0\nversion=" in grouped.text()
    for request in ({"leaving": "3"}, {"joining": "server.4=d:1:2;3"}, {}):
        assert code_of(grouped, **request) is Error.BAD_ARGUMENTS
    assert ask(grouped, new_members="\n".join(lines)).quorum == THREE.quorum
    no_quorum = {"new_members": ",".join([*lines, "group.1=1:2", "group.2=3"]), "synced": {1, 3}}
    assert code_of(THREE, **no_quorum) is Error.NEW_CONFIG_NO_QUORUM


def test_a_whole_configuration_replaces_joining_and_leaving() -> None:
    text = "server.1=a:1:2\nserver.2=b:1:2\n# a comment\nversion=5"
    changed = ask(THREE, new_members=text, joining="nonsense", leaving="nonsense")
    assert (changed.voters, changed.version) == ({1, 2}, ZXID)
    # No client port is asked for, and no address compared, as in ZooKeeper.
    assert ask(THREE, new_members="server.1=a:1:2,server.2=a:1:2").voters == {1, 2}
    assert code_of(THREE, new_members="server.1=\\u12") is Error.MARSHALLING


def test_the_right_is_asked_for_last() -> None:
    asked = []

    def permitted() -> bool:
        asked.append(True)
        return False

    for change in (Change(leaving="1,2"), Change(version=3), Change(leaving="x")):
        with pytest.raises(ReconfigError):
            reconfigure(THREE, change, zxid=ZXID, synced=lambda each: each < 3, permitted=permitted)
    assert not asked


REQUESTS = st.one_of(
    st.none(),
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            ["1", "2", "4", "x", "server.5=e:1:2;3", "server.1=a:1:2:observer;3", "group.1=1", "weight.1=0", ME]
        )
    ).map(",".join),
)


@settings(deadline=None)
@given(
    st.sampled_from([ONE, THREE]), st.tuples(REQUESTS, REQUESTS, REQUESTS), st.sets(st.integers(0, 6)), st.booleans()
)
def test_any_request_leads_to_a_configuration_or_an_error(
    current: Membership,
    request_: tuple[str | None, str | None, str | None],
    synced: set[int],
    standalone_enabled: bool,
) -> None:
    joining, leaving, new_members = request_
    code = None
    try:
        changed = ask(
            current,
            joining=joining,
            leaving=leaving,
            new_members=new_members,
            synced=synced,
            standalone_enabled=standalone_enabled,
        )
    except ReconfigError as error:
        code = error.code
    if code is not None:
        assert code in {Error.BAD_ARGUMENTS, Error.MARSHALLING, Error.NEW_CONFIG_NO_QUORUM}
        return
    assert changed.quorum.reached(synced)
    assert Membership.parse(changed.text()) == changed
    assert len(changed.voters) >= 1 + standalone_enabled
