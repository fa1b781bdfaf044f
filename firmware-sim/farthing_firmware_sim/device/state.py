"""What a device is by its state: how it begins, what a power cut leaves of it, whom it can serve, when it has said all."""

from dataclasses import replace

from farthing.ids import GatewayId
from farthing_firmware_sim.device.values import (
    MAX_KEPT_USES,
    Moment,
    Nameplate,
    Profile,
    Stage,
    Standing,
    State,
    Use,
)


def new_state(nameplate: Nameplate, *, register_value: int, now: Moment) -> State:
    """A device out of the box, its register at ``register_value``; counters start at 1."""
    if not 0 <= register_value < nameplate.modulus:
        raise ValueError(f"a register of modulus {nameplate.modulus} cannot stand at {register_value}")
    standing = _not_yet_standing(register_value, now) if nameplate.profile is Profile.STANDING else None
    return State(
        next_counter=1,
        register_value=register_value,
        register_turns=0,
        register_rest=0,
        metered_at_us=now.business_us,
        drawn_per_hour=0,
        use=None,
        standing=standing,
        outgoing=(),
        kept=(),
        seen=(),
        receipt_asked_us=now.real_us,
        finishing=False,
    )


def _not_yet_standing(register_value: int, now: Moment) -> Standing:
    return Standing(
        baseline=None,
        baseline_at_us=now.business_us,
        recorded=register_value,
        recorded_at_us=now.business_us,
        recorded_counter=0,
        due_us=now.business_us,
        final_counter=None,
        refused=None,
    )


def may_be_replaced(nameplate: Nameplate, state: State) -> bool:
    """Whether the register may be exchanged now: not while only an answer can say whether it has counted."""
    return nameplate.profile is not Profile.ONE_SHOT or state.use is None


def begun(state: State, *, register_value: int, now: Moment) -> State:
    """``state`` with another register, which shows ``register_value``; what was said of the one before is still to be answered."""
    return replace(
        state,
        register_value=register_value,
        register_turns=0,
        register_rest=0,
        metered_at_us=max(state.metered_at_us, now.business_us),
        standing=None if state.standing is None else _not_yet_standing(register_value, now),
    )


def restored(state: State, *, now: Moment) -> State:
    """``state`` after a power cut: retries begin anew, and nothing was used while the power was off."""
    use = state.use
    return replace(
        state,
        metered_at_us=max(state.metered_at_us, now.business_us),
        outgoing=tuple(
            replace(each, attempts=0, try_at_us=now.real_us, carry_at_us=now.real_us + each.carry_after_us)
            for each in state.outgoing
        ),
        seen=tuple(replace(each, away_at_us=None) for each in state.seen),
        receipt_asked_us=now.real_us,
        use=None if use is None else replace(use, arrived_real_us=now.real_us, asked_real_us=now.real_us),
        finishing=False,
    )


def can_serve(nameplate: Nameplate, state: State, gateway: GatewayId, now: Moment) -> str | None:
    """None if a payer could be served at ``gateway`` now, else why not."""
    if nameplate.profile is Profile.STANDING:
        return "a standing device serves nobody"
    if state.finishing:
        return "finishing"
    if state.use is not None and not _may_be_left(nameplate, state.use, gateway, now):
        return "register in use"
    if any(each.gateway == gateway for each in state.outgoing):
        return "the last end is unanswered"
    if len({each.intent_counter for each in state.kept}) >= MAX_KEPT_USES:
        return "keeps too many statements without a receipt"
    return None


def _may_be_left(nameplate: Nameplate, use: Use, gateway: GatewayId, now: Moment) -> bool:
    """Whether a one-shot intent has waited for so long that another payer is served, at another gateway, instead."""
    return (
        nameplate.profile is Profile.ONE_SHOT
        and use.stage is Stage.ASKING
        and use.gateway != gateway
        and now.real_us - use.asked_real_us >= nameplate.retry.leave_us
    )


def is_out_of_reach(state: State, gateway: GatewayId, now: Moment) -> bool:
    """Whether ``gateway`` has left something unanswered for so long that others are asked instead."""
    return any(each.gateway == gateway and each.carry_at_us <= now.real_us for each in state.outgoing) or any(
        each.gateway == gateway and each.away_at_us is not None and each.away_at_us <= now.real_us
        for each in state.seen
    )


def served_at(state: State, gateways: tuple[GatewayId, ...], now: Moment) -> tuple[GatewayId, ...]:
    """``gateways`` in the order in which a payer is served: those out of reach last, and not asked while another can be."""
    near = tuple(each for each in gateways if not is_out_of_reach(state, each, now))
    return near or gateways


def is_finished(state: State) -> bool:
    """Whether all is said, answered and receipted (or refused for good).

    An end that another gateway has carried up, and whose receipt came, is said: its own gateway may never come back.
    """
    kept = {each.counter for each in state.kept}
    if (
        not state.finishing
        or state.use is not None
        or any(each.carried_by is None or each.counter in kept for each in state.outgoing)
    ):
        return False
    standing = state.standing
    if (
        standing is not None
        and standing.refused is None
        and (standing.final_counter is None or standing.recorded_counter < standing.final_counter)
    ):
        return False
    # What an end that people look at was said about is kept with it.
    with_people = {each.intent_counter for each in state.kept if each.kind == "end" and each.refused is not None}
    return all(each.refused is not None or each.intent_counter in with_people - {None} for each in state.kept)
