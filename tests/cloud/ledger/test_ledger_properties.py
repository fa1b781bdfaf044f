"""Whatever two gateways bill, in whatever order: P1, P3 and P5 hold after every step."""

from hypothesis import given, settings
from ledger_model import MemoryRows, Model, act, check, steps_of

from farthing_cloud.ledger.store.memory import MemoryStore


@settings(max_examples=150, deadline=None)
@given(steps=steps_of)
async def test_nothing_is_overspent_lost_or_counted_twice(steps: list[tuple[object, ...]]) -> None:
    store = MemoryStore()
    model = await Model.open(store, MemoryRows(store))
    for number, action in enumerate(steps):
        await act(model, number, action)
        await check(model)
