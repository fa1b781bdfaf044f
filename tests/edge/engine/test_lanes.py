"""Who is next: a table, and what one device says stays in order whatever is drawn."""

import typing
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from farthing.clock import Instant
from farthing.device.messages import End, Intent, Reading, RegisterValue, Statement, TariffVersion
from farthing.ids import DeviceId, GatewayId, RegisterId, TariffId
from farthing_edge.authorization import commands
from farthing_edge.authorization.commands import Command, DeviceStatement
from farthing_edge.engine.lanes import _LANE_OF, Lanes

REGISTER = RegisterValue(register_id=RegisterId("r"), register_epoch=1, value=0)
TARIFF = TariffVersion(tariff_id=TariffId("t"), version=1)


@dataclass(frozen=True)
class Item:
    command: Command
    name: str


def said(kind: str, device: str, counter: int = 1) -> Item:
    common = {
        "recipient": GatewayId("G1"),
        "device": DeviceId(device),
        "device_epoch": 1,
        "counter": counter,
        "at": Instant(1),
        "register": REGISTER,
    }
    statement: Intent | Reading | End
    if kind == "intent":
        statement = Intent(**common, commitment=bytes(32), incarnation=1)  # type: ignore[arg-type]  # one dict for three
    elif kind == "reading":
        statement = Reading(**common, commitment=bytes(32), authorization=bytes(16), tariff=TARIFF)  # type: ignore[arg-type]  # one dict for three
    else:
        statement = End(**common, commitment=bytes(32), authorization=bytes(16), tariff=None)  # type: ignore[arg-type]  # one dict for three
    return Item(
        DeviceStatement(statement=statement, cose=b"", payload=b"", token_ref=None, key_epoch=None),
        f"{kind} of {device}",
    )


def test_who_is_served_goes_before_who_asks_to_be() -> None:
    lanes: Lanes[Item] = Lanes()
    for kind, device in (("intent", "a"), ("reading", "b"), ("end", "c"), ("intent", "d"), ("end", "e")):
        lanes.put(said(kind, device))
    lanes.put(Item(commands.Tick(), "time"))
    assert len(lanes) == 6
    assert [item.name for item in lanes.take(4)] == ["time", "end of c", "end of e", "reading of b"]
    assert [item.name for item in lanes.take(9)] == ["intent of a", "intent of d"]
    assert len(lanes) == 0


def test_an_end_overtakes_others_and_not_its_own_device() -> None:
    lanes: Lanes[Item] = Lanes()
    for kind, device in (("intent", "a"), ("reading", "b"), ("end", "b"), ("end", "c")):
        lanes.put(said(kind, device))
    assert [item.name for item in lanes.take(9)] == ["end of c", "reading of b", "end of b", "intent of a"]
    # Nothing of b waits any more: its next end goes first again.
    lanes.put(said("intent", "a"))
    lanes.put(said("end", "b"))
    assert [item.name for item in lanes.take(9)] == ["end of b", "intent of a"]


def test_what_waited_before_comes_first_in_its_lane() -> None:
    lanes: Lanes[Item] = Lanes()
    lanes.put(said("intent", "late"))
    lanes.put_back([said("intent", "first"), said("intent", "second")])
    lanes.put(said("end", "e"))
    assert [item.name for item in lanes.take(9)] == [
        "end of e",
        "intent of first",
        "intent of second",
        "intent of late",
    ]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["intent", "reading", "end"]), st.sampled_from("abc")),
            st.integers(1, 4),
        ),
        max_size=40,
    )
)
def test_what_one_device_says_keeps_its_order_and_nothing_is_lost(steps: list[tuple[str, str] | int]) -> None:
    lanes: Lanes[Item] = Lanes()
    put = 0
    taken: list[Item] = []
    for step in steps:
        if isinstance(step, int):
            taken += lanes.take(step)
        else:
            put += 1
            lanes.put(said(*step, counter=put))
    taken += lanes.take(put)
    counters: dict[str, list[int]] = {}
    for item in taken:
        assert isinstance(item.command, DeviceStatement)
        counters.setdefault(item.command.statement.device, []).append(item.command.statement.counter)
    assert sum(map(len, counters.values())) == put
    assert all(each == sorted(each) for each in counters.values())


def test_every_kind_of_statement_has_its_lane() -> None:
    assert set(typing.get_args(Statement)) == set(_LANE_OF)
