"""Whole checks: registers, journals, batches and books agree once everything is at rest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from farthing.ids import authorization_id
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.received import receive
from simulation.cast import EUR, OP
from simulation.device import Delivered, DeviceNode
from simulation.history import PromiseBroken
from simulation.ledger import drive

#: A yes is all there is of a passage. One that was journaled, sent up and never heard is billed, though nobody passed; a device asks for one
#: passage at a time, so there is at most one for each element at each fault of its gateway's disk, or at its loss (P1: spending by a rolled-back journal).
ONE_SHOT_UNHEARD = "one-shot uses billed by a lost journal, or one that is gone, and never heard"
#: Two elements with one key have signed two things under one counter: a journal that has lost both hears one of them. That proves the copy
#: (P9), and the other statement is with its device, refused: people see it.
COPY_UNHEARD = "uses of a copied element under a counter that the other has used"

#: A new register epoch closes what is open where it was proven last (ADR 11). What the device says of the old register after that, or to a
#: journal that has lost its use, is parked for people: at most one use for each register that was replaced, of one device. The ledger has it.
REPLACED = "uses of a replaced register that are parked for people"

#: What the ledger has receipted since its backup, and a gateway's journal loses before it has sent it again, is nowhere: its device was told
#: that it may forget it (ADR 22). Each batch that both have lost is known, and what it billed.
LOST_WITH_BOTH = "uses that only a database and a journal had, and both are lost"

if TYPE_CHECKING:
    from simulation.world import World


def check_end(world: World) -> None:
    """P3, P4, P5 at rest; then everything is said again."""
    check_registers(world)
    check_conservation(world)
    replay_batches(world)
    reseal_batches(world)
    check_conservation(world)


def check_registers(world: World) -> None:
    """P4: what a device says it delivered is what its register moved, without gap and without overlap."""
    for device in world.devices.values():
        if device.role.profile == "standing":
            continue
        for counted in device.registers:
            at = counted.began_at
            mine = [each for each in device.delivered.values() if each.epoch == counted.epoch]
            for delivered in sorted(mine, key=lambda each: (each.start, each.end)):
                if delivered.start != at:
                    raise PromiseBroken(
                        f"P4: the register of {device.name} moved from {at} to {delivered.start} unsaid"
                    )
                at = delivered.end
            ended_at = device.register_value if counted.ended_at is None else counted.ended_at
            if at != ended_at:
                raise PromiseBroken(f"P4: {device.name} shows {ended_at}, and says it delivered up to {at}")


def check_conservation(world: World) -> None:
    """P4, P5: what devices delivered, priced by the contract, is what is claimed, and what the books hold."""
    claims = {claim.authorization_id: claim for claim in drive(world.ledger.store.claims(OP))}
    claimed_micros = 0
    said = [(device, *each) for device in world.devices.values() for each in device.all_delivered().items()]
    # What was left is nobody's word: a copy of the element may have said under that counter what it has used.
    for device, authorization, delivered in sorted(said, key=lambda each: each[2].left):
        claim = claims.pop(authorization, None)
        claimed_micros += 0 if claim is None else claim.net_micros + claim.tax_micros
        _check_delivered(world, device, authorization, delivered, claim)
    unheard: Counter[tuple[str, str]] = Counter()
    for claim in claims.values():
        if claim.net_micros or claim.tax_micros:
            device_id, gateway = claim.register.device_id, world.gateways[claim.gateway_id]
            unheard[device_id, gateway.id] += 1
            elements = 1 + world.is_copied(device_id)
            is_passage = world.profiles[device_id] == "one-shot"
            faults = gateway.disk_faults + gateway.is_gone
            if not is_passage or unheard[device_id, gateway.id] > faults * elements:
                raise PromiseBroken(f"P4: nobody delivered {claim}")
            world.watch.counted[ONE_SHOT_UNHEARD] += 1
            claimed_micros += claim.net_micros + claim.tax_micros
    _check_books(world, claimed_micros)


def _check_delivered(world: World, device: DeviceNode, authorization: bytes, delivered: Delivered, claim: Any) -> None:
    if claim is None and _was_said_by_its_copy(world, device, authorization):
        world.watch.counted[COPY_UNHEARD] += 1
        return
    if authorization in world.watch.told_by_two and (claim is None or claim.register_from != delivered.start):
        world.watch.counted[COPY_UNHEARD] += 1
        return
    if delivered.left:
        # Its gateway has said yes or has not: one passage at the most, and only that gateway knows.
        world.watch.counted["passages left, and billed"] += claim is not None and claim.register_to > delivered.start
        return
    if delivered.end > delivered.start and (
        is_with_people(world, device, delivered, claim)
        or _was_ended_by_people_where_it_stood(world, device, authorization, delivered, claim)
    ):
        world.watch.counted[REPLACED] += 1
        return
    if delivered.end > delivered.start and _was_lost_with_both(world, authorization, delivered, claim):
        world.watch.counted[LOST_WITH_BOTH] += 1
        return
    if delivered.end > delivered.start:
        due = world.watch.prices.due(authorization, delivered.end, closing=delivered.closing)
        # Its sums were held against what is due when they were posted.
        if claim is None or not (claim.net_micros or claim.tax_micros) or not due:
            raise PromiseBroken(f"P4: {device.name} delivered {delivered} for {sorted(due)}, claimed is {claim}")
    if claim is None:
        return
    if delivered.end > delivered.start and claim.register_to != delivered.end:
        raise PromiseBroken(f"P4: {device.name} delivered {delivered}, claimed is {claim}")
    if delivered.closing and not claim.final:
        raise PromiseBroken(f"P4: {device.name} ended {delivered}, the claim is not final: {claim}")


def is_with_people(world: World, device: DeviceNode, delivered: Delivered, claim: Any) -> bool:
    """Whether the last word on a register that was replaced came too late to be billed by itself, and waits where people see it."""
    short = claim is None or claim.register_to < delivered.end or (delivered.closing and not claim.final)
    was_replaced = delivered.epoch < device.nameplate.register_epoch
    return short and was_replaced and (device.device_id, delivered.epoch, delivered.end) in world.watch.parked


def _was_ended_by_people_where_it_stood(
    world: World, device: DeviceNode, authorization: bytes, delivered: Delivered, claim: Any
) -> bool:
    """Whether a lost journal had billed readings as far as the end says, and the present one has ended the use by the new register epoch: the
    end itself came after that decision and is parked, so what only a closing price has is for people (ADR 11, ADR 40)."""
    return (
        claim is not None
        and claim.final
        and claim.register_to == delivered.end
        and delivered.epoch < device.nameplate.register_epoch
        and (device.device_id, delivered.epoch, delivered.end) in world.watch.parked
        and world.gateways[world.watch.recipient_of(authorization)].disk_faults > 0
        and not world.watch.prices.due(authorization, delivered.end, closing=True)
    )


def _was_lost_with_both(world: World, authorization: bytes, delivered: Delivered, claim: Any) -> bool:
    """Whether batches that billed all of it were receipted, and neither the ledger that was restored nor a journal has them."""
    if claim is not None and claim.register_to == delivered.end and (claim.final or not delivered.closing):
        return False
    return any(
        (word.authorization, word.register_to) == (authorization, delivered.end)
        and (word.final or not delivered.closing)
        for word in world.ledger.lost_words()
    )


def _was_said_by_its_copy(world: World, device: DeviceNode, authorization: bytes) -> bool:
    state = device.state
    assert state is not None
    return world.is_copied(device.device_id) and any(
        kept.refused is Refusal.COUNTER_REUSED
        and kept.kind == "intent"
        and authorization == authorization_id(device.device_id, 1, kept.counter, kept.gateway)
        and world.gateways[kept.gateway].disk_faults
        for kept in state.kept
    )


def _check_books(world: World, claimed_micros: int) -> None:
    verdict = drive(world.ledger.store.verify())
    if verdict.fault:
        raise PromiseBroken(f"P5: {verdict.fault}")
    balances = world.ledger.balances()

    def total(kind: str, of: Callable[[Any], int]) -> int:
        return sum(of(balance) for path, balance in balances.items() if path.partition("/")[0] == kind)

    # What a restored ledger found an account short of stands as its debt, and is paid as such.
    paid = total("payer", lambda b: b.debits_posted) - world.ledger.store.short_micros.total()
    debt = total("debt", lambda b: b.debits_posted - b.credits_posted)
    risk = total("risk", lambda b: b.debits_posted - b.credits_posted)
    suspense = total("suspense", lambda b: b.debits_posted - b.credits_posted)
    missing = world.watch.missing_micros
    if claimed_micros != paid + debt + risk + suspense + missing:
        raise PromiseBroken(
            f"P5: claimed {claimed_micros}, payers {paid} + debt {debt} + risk {risk} + suspense {suspense} + missing {missing}"
        )
    held = total("payer", lambda b: b.debits_pending)
    if held:
        raise PromiseBroken(f"P5: {held} still held after every quota was closed")
    for gateway in world.gateways.values():
        if gateway.disk_faults or gateway.is_gone:
            continue  # what a journal that was replaced has sealed is not all of its batches, and their money is not all its own
        total_spent = sum(gateway.spent.values())
        sealed = sum(
            total.net_micros + total.tax_micros
            for sealing in gateway.sealed.values()
            if not sealing.is_again
            for total in batch_pb2.Batch.FromString(sealing.batch).totals
        )
        if total_spent != sealed:
            raise PromiseBroken(f"P4: the journal of {gateway.id} bills {total_spent}, its batches {sealed}")


def replay_batches(world: World) -> None:
    """P3: the whole backlog again, twice, forwards and backwards: the same ledger, the same receipts."""
    ledger = world.ledger
    transfers, before = len(drive(ledger.store.transfers(OP))), ledger.balances()
    backlog = sorted(ledger.batches)
    for name in [*backlog, *reversed(backlog)]:
        outcome = drive(
            ledger.ledger.post_batch(
                receive(ledger.batches[name], signature=b"", key_id=b"", currency=EUR), currency=EUR, now=world.now
            )
        )
        if outcome.step is not ChainStep.REPLAY or outcome.receipt is None:
            raise PromiseBroken(f"P3: batch {name} again is a {outcome.step}")
        if outcome.receipt.encode() != ledger.receipts[name]:
            raise PromiseBroken(f"P3: batch {name} again has another receipt")
    if len(drive(ledger.store.transfers(OP))) != transfers or ledger.balances() != before:
        raise PromiseBroken("P3: a replay moved money")


def reseal_batches(world: World) -> None:
    """P3: the same claims in one more chain (a journal adopted elsewhere): nothing is due."""
    ledger = world.ledger
    transfers = len(drive(ledger.store.transfers(OP)))
    for gateway in world.gateways.values():
        previous = bytes(32)
        posted = [raw for name, raw in sorted(ledger.batches.items()) if name[0] == gateway.id]
        for number, raw in enumerate(posted, start=1):
            batch = batch_pb2.Batch.FromString(raw)
            batch.previous_hash = previous
            batch.sequence = number
            batch.start_id = bytes(16)
            del batch.stopped[:], batch.closed_quota_ids[:]
            again = batch.SerializeToString(deterministic=True)
            previous = hashlib.sha256(again).digest()
            received = replace(receive(again, signature=b"", key_id=b"", currency=EUR), incarnation=0)
            outcome = drive(ledger.ledger.post_batch(received, currency=EUR, now=world.now))
            if outcome.step is not ChainStep.NEXT:
                raise PromiseBroken(f"P3: a re-sealed batch is a {outcome.step}")
    if len(drive(ledger.store.transfers(OP))) != transfers:
        raise PromiseBroken("P3: claims in another chain moved money")
