"""What a device does next: one pure function over everything it knows.

Rule 1: a counter is taken by writing the state that has passed it; the caller stores the state before it signs, so no
counter is ever used for other content or another recipient.
Rule 2: a statement is sent again with the same bytes to the same gateway until it is answered; newer readings replace
older ones on the air (they are cumulative), never what is kept.
Rule 3: end first. Whoever leaves an intent without an answer, or asks elsewhere, signs an end before; the next use starts
where it ends. A one-shot intent is never left: its yes *is* the use, so only its answer says whether there was one.
Rule 4: use goes on up to the signed limit and no further, unless nothing in the device can stop it.
Rule 5: what was signed is kept until the cloud has receipted it.
"""

import hashlib
from dataclasses import dataclass, replace

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import (
    AnswerStatus,
    Chain,
    ChainTick,
    Disclaimer,
    End,
    Grant,
    Intent,
    Reading,
    RegisterValue,
    Statement,
    Witness,
    decode_statement,
    encode,
)
from farthing.evidence.payword import word
from farthing.ids import AuthorizationId, GatewayId, authorization_id, token_commitment
from farthing.refusal import Refusal
from farthing_firmware_sim.device.values import (
    CHAIN_LENGTH,
    FIRST_INCARNATION,
    MAX_AGAIN,
    MAX_KEPT_READINGS,
    MAX_KEPT_USES,
    MAX_SAID_AGAIN,
    AnswerDistrusted,
    Answered,
    ArrivalTurnedAway,
    Arrive,
    Chained,
    Disclaimed,
    Draw,
    EndAnswered,
    EndHandedOver,
    Event,
    Finish,
    Finished,
    Granted,
    Input,
    Kept,
    Moment,
    Nameplate,
    Outgoing,
    Plan,
    Profile,
    Receipted,
    Reconnected,
    RefusedIntent,
    Seen,
    Send,
    SendTick,
    Showing,
    Stage,
    Standing,
    State,
    StatementRefused,
    Step,
    Tick,
    Use,
)

_HOUR_US = 3600 * SECOND_US
#: Rule 2 of the refusals is about the device itself: no other statement of it fares better.
_RULE_DEVICE = 2


def new_state(nameplate: Nameplate, *, register_value: int, now: Moment) -> State:
    """A device out of the box, its register at ``register_value``; counters start at 1."""
    if not 0 <= register_value < nameplate.modulus:
        raise ValueError(f"a register of modulus {nameplate.modulus} cannot stand at {register_value}")
    standing = None
    if nameplate.profile is Profile.STANDING:
        standing = Standing(
            baseline=None,
            baseline_at_us=now.business_us,
            recorded=register_value,
            recorded_at_us=now.business_us,
            recorded_counter=0,
            due_us=now.business_us,
            final_counter=None,
            refused=None,
        )
    return State(
        next_counter=1,
        register_value=register_value,
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


def can_serve(nameplate: Nameplate, state: State, gateway: GatewayId) -> str | None:
    """None if a payer could be served at ``gateway`` now, else why not."""
    if nameplate.profile is Profile.STANDING:
        return "a standing device serves nobody"
    if state.finishing:
        return "finishing"
    if state.use is not None:
        return "register in use"
    if any(each.gateway == gateway for each in state.outgoing):
        return "the last end is unanswered"
    if len({each.intent_counter for each in state.kept}) >= MAX_KEPT_USES:
        return "keeps too many statements without a receipt"
    return None


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
    return all(each.refused is not None for each in state.kept)


def step(nameplate: Nameplate, state: State, given: Input, *, now: Moment) -> Step:
    """The next state, what to send, what happened. Illegal inputs change nothing."""
    draft = _Draft(nameplate, state, now)
    draft.advance()
    match given:
        case Tick():
            pass
        case Arrive(plan=plan):
            draft.arrive(plan)
        case Draw(rate_per_hour=rate):
            draft.draw(rate)
        case Answered():
            draft.answered(given)
        case Reconnected(gateway=gateway):
            draft.reconnected(gateway)
        case Finish():
            draft.finish()
    draft.carry_on()
    draft.transmit()
    return draft.outcome()


def traceparent(trace_id: bytes, counter: int) -> str:
    """W3C Trace Context of the statement with this counter: one trace per use, one span per statement."""
    span = hashlib.sha256(trace_id + counter.to_bytes(8, "big")).digest()[:8]
    return f"00-{trace_id.hex()}-{span.hex()}-01"


@dataclass
class _Draft:
    """The state under change within one step."""

    nameplate: Nameplate
    state: State
    now: Moment

    def __post_init__(self) -> None:
        self.sends: list[Send] = []
        self.ticks: list[SendTick] = []
        self.events: list[Event] = []
        self.durable = False

    def outcome(self) -> Step:
        return Step(
            state=self.state,
            sends=tuple(self.sends),
            ticks=tuple(self.ticks),
            events=tuple(self.events),
            durable=self.durable or bool(self.events),
        )

    # Metering ---------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Count what was delivered since the last step, and read the register at each instant in between that the grant asks for."""
        use = self.state.use
        if use is not None and use.stage is Stage.USING and self.nameplate.profile is Profile.SESSION:
            for due in use.readings_due:
                if due > self.now.business_us or due >= _leaves_us(use):
                    break
                self._count(max(due, self.state.metered_at_us))
                use = self._open()
                if due >= self.state.metered_at_us:
                    self._read(use, at=due, at_limit=use.told_at_limit, asked_for=True)
                self._dropped_due(due)
        self._count(self.now.business_us)

    def _dropped_due(self, due: Instant) -> None:
        use = self._open()
        left = tuple(each for each in use.readings_due if each > due)
        self.state = replace(self.state, use=replace(use, readings_due=left))
        self.durable = True

    def _count(self, now_us: Instant) -> None:
        state, plate = self.state, self.nameplate
        until = now_us
        use = state.use
        if state.standing is not None:
            rate, room = state.drawn_per_hour, None
        elif use is not None and use.stage is Stage.USING and plate.profile is Profile.SESSION:
            until = min(until, _leaves_us(use))
            rate = use.plan.rate_per_hour
            room = use.plan.target - use.used
            if plate.stoppable:
                room = min(room, use.covered - use.used)
            room = max(room, 0)
        else:
            rate, room = 0, 0
        elapsed_us = max(0, until - state.metered_at_us)
        units, rest = divmod(state.register_rest + min(rate, plate.rated_per_hour) * elapsed_us, _HOUR_US)
        if room is not None and units >= room:
            # What is switched off does not remember part of a unit.
            units, rest = room, 0
        self.state = replace(
            state,
            register_value=(state.register_value + units) % plate.modulus,
            register_rest=rest,
            metered_at_us=max(state.metered_at_us, now_us),
            use=use if use is None or not units else replace(use, used=use.used + units),
        )

    # Inputs -----------------------------------------------------------------------------------------------------------

    def arrive(self, plan: Plan) -> None:
        first, *left = served_at(self.state, plan.gateways, self.now)
        why = can_serve(self.nameplate, self.state, first)
        if why is not None:
            self.events.append(ArrivalTurnedAway(source=plan.source, why=why))
            return
        self._ask(plan, gateway=first, left=tuple(left), arrived_real_us=self.now.real_us, again=0)

    def draw(self, rate_per_hour: int) -> None:
        if self.state.standing is not None and not self.state.finishing:
            self.state = replace(self.state, drawn_per_hour=rate_per_hour)

    def reconnected(self, gateway: GatewayId) -> None:
        self.state = replace(
            self.state,
            outgoing=tuple(
                replace(each, try_at_us=self.now.real_us) if each.gateway == gateway else each
                for each in self.state.outgoing
            ),
        )

    def finish(self) -> None:
        self.state = replace(self.state, finishing=True, drawn_per_hour=0)
        self.durable = True

    def answered(self, given: Answered) -> None:
        answer = given.answer
        if answer.gateway != given.gateway:
            self.events.append(
                AnswerDistrusted(gateway=given.gateway, counter=0, why=f"speaks for {answer.gateway:.64}")
            )
            return
        self._saw(given.gateway, answer.witness, answer.receipted_counter)
        seen = self._seen(given.gateway)
        assert seen is not None  # just now
        # What an older journal has written down, the present one may not have.
        stale = answer.status is AnswerStatus.RECORDED and answer.witness.incarnation < seen.witness.incarnation
        if answer.answers is not None and answer.answers[0] == self.nameplate.device_epoch and not stale:
            self._answered_counter(given, answer.answers[1])
        self._drop_receipted(given.gateway)
        for asked in answer.asks:
            self._asked_after(given.gateway, asked)

    def _answered_counter(self, given: Answered, counter: int) -> None:
        answer = given.answer
        outgoing = next(
            (each for each in self.state.outgoing if each.counter == counter and each.gateway == given.gateway), None
        )
        if outgoing is None:
            handed = next(
                (each for each in self.state.outgoing if each.counter == counter and given.gateway in each.elsewhere),
                None,
            )
            if handed is not None:
                self._handed_over(handed, given)
            else:
                self._answered_again(given, counter)
            return
        match answer.status:
            case AnswerStatus.LATER:
                wait_us = self.nameplate.retry.first_us
                if answer.retry_after_ms is not None:
                    wait_us = min(answer.retry_after_ms * 1_000, self.nameplate.retry.most_us)
                self._replace_outgoing(replace(outgoing, try_at_us=self.now.real_us + wait_us))
            case AnswerStatus.AGAIN:
                assert answer.refusal is not None
                self._again(outgoing, answer.refusal)
            case AnswerStatus.REFUSED:
                assert answer.refusal is not None
                self._refused(outgoing, answer.refusal)
            case AnswerStatus.GRANTED | AnswerStatus.RECORDED:
                self._accepted(outgoing, given)

    # Answers ----------------------------------------------------------------------------------------------------------

    def _saw(self, gateway: GatewayId, witness: Witness, receipted_counter: int) -> None:
        before = self._seen(gateway)
        if before is not None:
            if before.witness.incarnation < witness.incarnation:
                # Another journal, perhaps: what the one before has receipted says nothing of what this one has.
                self._say_to_another_journal(gateway)
            elif before.witness.position > witness.position or before.witness.incarnation > witness.incarnation:
                # An answer that was long on its way. Not the higher receipt of the two: what a gateway takes to carry is older than what
                # it had receipted, and puts its counter back until the cloud has that too.
                witness, receipted_counter = before.witness, before.receipted_counter
        seen = Seen(gateway=gateway, witness=witness, receipted_counter=receipted_counter, away_at_us=None)
        others = tuple(each for each in self.state.seen if each.gateway != gateway)
        self.state = replace(self.state, seen=(*others, seen))

    def _say_to_another_journal(self, gateway: GatewayId) -> None:
        """The last words that are kept for ``gateway`` are said again, with what proves them, until its new journal has answered:
        only then does a receipt of it speak of them. What it had taken to carry for another is handed over anew."""
        state = self.state
        waiting = {each.counter for each in state.outgoing}
        # What is not kept any more, the cloud has.
        kept = {each.counter for each in state.kept}
        standing = [each.counter for each in state.kept if each.kind == "reading" and each.intent_counter is None]
        again = tuple(
            self._on_the_air_again(each)
            for each in state.kept
            if each.gateway == gateway
            and each.refused is None
            and each.counter not in waiting
            and (each.kind == "end" or each.counter == max(standing, default=0) or self._is_given_use(each))
        )
        self.state = replace(
            state,
            outgoing=(
                *(
                    replace(each, carried_by=None) if each.carried_by == gateway and each.counter in kept else each
                    for each in state.outgoing
                ),
                *again,
            ),
            kept=tuple(replace(each, carried_by=None) if each.carried_by == gateway else each for each in state.kept),
        )
        self.durable = True

    def _is_given_use(self, kept: Kept) -> bool:
        """Whether it is a one-shot intent that was told yes: the yes is all there is of its use, and both together prove it."""
        return (
            self.nameplate.profile is Profile.ONE_SHOT
            and kept.kind == "intent"
            and kept.grant is not None
            and (self.state.use is None or self.state.use.intent_counter != kept.counter)
            and all(each.kind != "end" or each.intent_counter != kept.counter for each in self.state.kept)
        )

    def _on_the_air_again(self, kept: Kept) -> Outgoing:
        """What was answered, with what it shows. A yes that is shown needs no token any more."""
        statement = decode_statement(kept.payload)
        return Outgoing(
            kind=kept.kind,
            gateway=kept.gateway,
            counter=kept.counter,
            payload=kept.payload,
            at_us=statement.at,
            value=statement.register.value,
            intent_counter=kept.intent_counter,
            token=None,
            salt=None,
            trace_id=kept.trace_id,
            cancels=kept.kind == "end" and isinstance(statement, End) and statement.tariff is None,
            authorization=None if isinstance(statement, Intent) else statement.authorization,
            asked_for=False,
            answered=True,
            shown=True,
            elsewhere=self._others_for(kept),
            carry_after_us=self.nameplate.retry.carry_us,
            carry_at_us=self.now.real_us + self.nameplate.retry.carry_us,
            carried_by=kept.carried_by,
            attempts=0,
            try_at_us=self.now.real_us,
        )

    def _others_for(self, kept: Kept) -> tuple[GatewayId, ...]:
        """Who could carry a last word up: who was to be asked for its use, and whoever has ever answered."""
        if kept.kind != "end":
            return ()
        known = dict.fromkeys((*kept.elsewhere, *(each.gateway for each in self.state.seen)))
        return tuple(each for each in known if each != kept.gateway)

    def _say_of_who_is_away(self) -> None:
        """The answered ends of a gateway that is out of reach go on the air again, the oldest first: what it wrote down may be gone with it."""
        state = self.state
        waiting = {each.counter: each for each in state.outgoing}
        again: list[Outgoing] = []
        for gateway in dict.fromkeys(each.gateway for each in state.kept if each.kind == "end"):
            if not is_out_of_reach(state, gateway, self.now):
                continue
            room = MAX_SAID_AGAIN - sum(each.gateway == gateway and each.answered for each in state.outgoing)
            for kept in state.kept:
                if (kept.kind, kept.gateway, kept.refused) != ("end", gateway, None) or kept.counter in waiting:
                    continue
                said = replace(self._on_the_air_again(kept), carry_at_us=self.now.real_us)
                if room > 0 and said.elsewhere and self._showing(said) is not None:
                    again.append(said)
                    room -= 1
        if again:
            self.state = replace(state, outgoing=(*state.outgoing, *again))
            self.durable = True

    def _drop_receipted(self, gateway: GatewayId) -> None:
        """What the cloud has receipted need not be kept. A receipt speaks of what went to its own gateway only."""
        seen = self._seen(gateway)
        if seen is None:
            return
        dropped = tuple(each.counter for each in self.state.kept if self._is_receipted(each, seen))
        if dropped:
            self.state = replace(
                self.state,
                kept=tuple(each for each in self.state.kept if each.counter not in dropped),
                outgoing=tuple(
                    each for each in self.state.outgoing if not each.answered or each.counter not in dropped
                ),
            )
            self.events.append(Receipted(gateway=gateway, counters=dropped))

    def _is_receipted(self, kept: Kept, seen: Seen) -> bool:
        """Whether the cloud has what ``kept`` proves, by what the gateway of ``seen`` says.

        What an authorization began with is kept until its end is receipted: a gateway that lost its journal is shown it. A standing
        one's first reading is kept for as long as it goes on.
        """
        state = self.state
        end = None
        if kept.intent_counter is not None:
            if state.use is not None and state.use.intent_counter == kept.intent_counter:
                return False
            end = next(
                (each for each in state.kept if each.kind == "end" and each.intent_counter == kept.intent_counter), None
            )
        elif kept.kind == "reading":
            standing = [each.counter for each in state.kept if each.kind == "reading" and each.intent_counter is None]
            waiting = {each.counter for each in state.outgoing}
            # While another reading that rests on it is not receipted, or still to come.
            if kept.counter == min(standing) and (
                not state.finishing or any(each > seen.receipted_counter or each in waiting for each in standing)
            ):
                return False
        word = kept if end is None or end.refused is not None else end
        # Refused because another has said something else under this counter: then that is what is receipted.
        if word.counter > seen.receipted_counter or word.refused is Refusal.COUNTER_REUSED:
            return False
        if word.carried_by == seen.gateway:
            return True
        return word.gateway == seen.gateway and all(each.counter != word.counter for each in state.outgoing)

    def _handed_over(self, outgoing: Outgoing, given: Answered) -> None:
        """What another gateway says to an end that its own has not answered. It decides nothing, so only "recorded" counts."""
        if given.answer.status is AnswerStatus.REFUSED:
            left = tuple(each for each in outgoing.elsewhere if each != given.gateway)
            self._replace_outgoing(replace(outgoing, elsewhere=left))
            self.durable = True
        if given.answer.status is not AnswerStatus.RECORDED or outgoing.carried_by is not None:
            return
        self._replace_outgoing(replace(outgoing, carried_by=given.gateway))
        self.state = replace(
            self.state,
            kept=tuple(
                replace(each, carried_by=given.gateway) if each.counter == outgoing.counter else each
                for each in self.state.kept
            ),
        )
        self.durable = True
        assert outgoing.intent_counter is not None
        self.events.append(
            EndHandedOver(gateway=outgoing.gateway, carried_by=given.gateway, intent_counter=outgoing.intent_counter)
        )

    def _asked_after(self, gateway: GatewayId, name: AuthorizationId) -> None:
        """A gateway has not heard of this authorization for long: the last word on it again, or that there is none."""
        state, use = self.state, self.state.use
        if any(each.authorization == name for each in state.outgoing):
            # It is being said: at once, now that somebody listens.
            self.state = replace(
                state,
                outgoing=tuple(
                    replace(each, try_at_us=self.now.real_us) if each.authorization == name else each
                    for each in state.outgoing
                ),
            )
            return
        if use is not None and use.gateway == gateway and self._authorization(use) == name:
            if use.stage is Stage.USING and self.nameplate.profile is Profile.SESSION:
                self._read(use, at=self.now.business_us, at_limit=use.used >= use.covered)
            return
        known = [
            each
            for each in state.kept
            if each.intent_counter is not None
            and each.gateway == gateway
            and self._authorization_of(each.intent_counter, gateway) == name
        ]
        if known:
            last = known[-1]
            self._send_kept(last)
            return
        self._say(
            Disclaimer(
                recipient=gateway,
                device=self.nameplate.device,
                device_epoch=self.nameplate.device_epoch,
                counter=self._take_counter(),
                at=self.now.business_us,
                register=self._register(state.register_value),
                authorization=name,
            ),
            intent_counter=None,
            trace_id=hashlib.sha256(name).digest()[:16],
            authorization=name,
        )
        self.events.append(Disclaimed(gateway=gateway, authorization=name))

    def _answered_again(self, given: Answered, counter: int) -> None:
        """An answer to what has been answered, or replaced by a newer reading."""
        answer = given.answer
        if answer.status is AnswerStatus.REFUSED:
            self.state = replace(
                self.state,
                kept=tuple(
                    replace(each, refused=answer.refusal)
                    if each.counter == counter and each.gateway == given.gateway
                    else each
                    for each in self.state.kept
                ),
            )
            self.durable = True
        if answer.status is AnswerStatus.AGAIN and self._say_what_was_given(given.gateway, counter):
            return
        use = self.state.use
        if (
            given.grant is not None
            and use is not None
            and use.stage is Stage.USING
            and self._distrust(use, given.grant) is None
        ):
            # A late answer to an older reading, or one to a tick: its limit counts if no newer one is known.
            self._take_limit(use, given.grant, answer.grant)
        elif answer.closed and use is not None and use.chain is not None and use.chain.counter == counter:
            # The gateway holds nothing for it any more.
            self._end(use)

    def _say_what_was_given(self, gateway: GatewayId, counter: int) -> bool:
        """A gateway does not know the one-shot use with this counter any more: its yes is shown to it. Whether there is one."""
        for each in self.state.kept:
            if (
                each.counter == counter
                and each.gateway == gateway
                and each.refused is None
                and self._is_given_use(each)
            ):
                self.state = replace(self.state, outgoing=(*self.state.outgoing, self._on_the_air_again(each)))
                self.durable = True
                return True
        return False

    def _again(self, outgoing: Outgoing, refusal: Refusal) -> None:
        use = self.state.use
        if outgoing.kind == "intent" and not outgoing.shown:
            assert use is not None
            if refusal is Refusal.INCARNATION_DIFFERS and use.again < MAX_AGAIN:
                # It was not taken: nothing to end. A new wish, with what the device has just learned.
                self._forget(outgoing)
                self._ask(
                    use.plan,
                    gateway=use.gateway,
                    left=use.gateways_left,
                    arrived_real_us=use.arrived_real_us,
                    again=use.again + 1,
                )
                return
            self._refused(outgoing, refusal)
            return
        if not outgoing.shown and refusal is Refusal.AUTHORIZATION_UNKNOWN and self._showing(outgoing) is not None:
            # It has lost its journal, perhaps: what it granted is shown to it.
            self._replace_outgoing(replace(outgoing, shown=True, try_at_us=self.now.real_us))
            self.durable = True
            return
        if outgoing.kind in ("reading", "chain") and use is not None and outgoing.intent_counter == use.intent_counter:
            # The gateway does not know this authorization any more, so nothing covers further use.
            self._answer_is_final(outgoing)
            self.events.append(StatementRefused(gateway=outgoing.gateway, counter=outgoing.counter, refusal=refusal))
            self._end(use)
            return
        self._replace_outgoing(self._backed_off(outgoing))

    def _refused(self, outgoing: Outgoing, refusal: Refusal) -> None:
        use = self.state.use
        if outgoing.kind == "intent" and not outgoing.shown:
            self._forget(outgoing)
            if use is not None and use.intent_counter == outgoing.counter:
                self.state = replace(self.state, use=None)
                self.events.append(
                    RefusedIntent(
                        device=self.nameplate.device,
                        device_epoch=self.nameplate.device_epoch,
                        intent_counter=outgoing.counter,
                        gateway=outgoing.gateway,
                        authorization=self._authorization(use),
                        register_id=self.nameplate.register_id,
                        register_epoch=self.nameplate.register_epoch,
                        unit=self.nameplate.unit,
                        start=use.start,
                        refusal=refusal,
                        intent_at_us=use.intent_at_us,
                        refused_at_us=self.now.business_us,
                        source=use.plan.source,
                    )
                )
            return
        if outgoing.kind == "end":
            self._answer_is_final(outgoing, refused=refusal)
            assert outgoing.intent_counter is not None
            self.events.append(
                EndAnswered(gateway=outgoing.gateway, intent_counter=outgoing.intent_counter, refusal=refusal)
            )
            return
        self.events.append(StatementRefused(gateway=outgoing.gateway, counter=outgoing.counter, refusal=refusal))
        if outgoing.kind in ("disclaimer", "intent"):
            self._answer_is_final(outgoing, refused=refusal)
            return
        standing = self.state.standing
        if standing is not None:
            if self.state.finishing and refusal.rule == _RULE_DEVICE:
                self._answer_is_final(outgoing, refused=refusal)
                self.state = replace(self.state, standing=replace(standing, refused=refusal))
            else:
                # Perhaps the gateway has not heard of the device yet. The same reading again, so that both sides agree
                # where billing begins.
                self._replace_outgoing(self._backed_off(outgoing))
            return
        self._answer_is_final(outgoing, refused=refusal)
        if use is not None and use.intent_counter == outgoing.intent_counter and refusal.rule == _RULE_DEVICE:
            self._end(use)

    def _accepted(self, outgoing: Outgoing, given: Answered) -> None:
        answer, use = given.answer, self.state.use
        if outgoing.kind == "end":
            if not answer.closed:
                # Written down but not closed: ask until it is.
                self._replace_outgoing(self._backed_off(outgoing))
                return
            self._answer_is_final(outgoing)
            assert outgoing.intent_counter is not None
            self.events.append(
                EndAnswered(gateway=outgoing.gateway, intent_counter=outgoing.intent_counter, refusal=None)
            )
            return
        if outgoing.kind == "intent" and not outgoing.shown:
            assert use is not None
            assert use.intent_counter == outgoing.counter
            why = "no grant" if given.grant is None else self._distrust(use, given.grant)
            if why is not None:
                self.events.append(AnswerDistrusted(gateway=outgoing.gateway, counter=outgoing.counter, why=why))
                return
            assert given.grant is not None
            self._answer_is_final(outgoing)
            self._told_yes(use, given.grant, answer.grant, closed=answer.closed)
            return
        self._answer_is_final(outgoing)
        if outgoing.kind in ("disclaimer", "intent"):
            return
        standing = self.state.standing
        if standing is not None:
            if outgoing.counter > standing.recorded_counter:
                first = standing.baseline is None
                self.state = replace(
                    self.state,
                    standing=replace(
                        standing,
                        baseline=outgoing.value if first else standing.baseline,
                        baseline_at_us=outgoing.at_us if first else standing.baseline_at_us,
                        recorded=outgoing.value,
                        recorded_at_us=outgoing.at_us,
                        recorded_counter=outgoing.counter,
                    ),
                )
            return
        if use is None or use.intent_counter != outgoing.intent_counter:
            return
        if given.grant is not None:
            why = self._distrust(use, given.grant)
            if why is None:
                self._take_limit(use, given.grant, answer.grant)
                self._chain_heard(outgoing.counter)
            else:
                self.events.append(AnswerDistrusted(gateway=outgoing.gateway, counter=outgoing.counter, why=why))
        elif answer.closed:
            # The gateway holds nothing for it any more: what is used from here on nobody has covered.
            self._end(use)

    def _distrust(self, use: Use, grant: Grant) -> str | None:
        """Why ``grant`` is not an answer to this use; None if it is."""
        plate = self.nameplate
        covered = (grant.limit - grant.start) % plate.modulus
        for holds, why in (
            (grant.recipient == plate.device, "is for another device"),
            (grant.gateway == use.gateway, "is another gateway's"),
            (grant.authorization == self._authorization(use), "names another authorization"),
            ((grant.intent_epoch, grant.intent_counter) == (plate.device_epoch, use.intent_counter), "another intent"),
            (
                (grant.register_id, grant.register_epoch, grant.start)
                == (plate.register_id, plate.register_epoch, use.start),
                "starts elsewhere than the intent",
            ),
            (grant.commitment == use.commitment, "commits to another token"),
            (grant.tariff in plate.tariffs, "names a tariff this device cannot show"),
            (use.tariff is None or grant.tariff == use.tariff, "changes the tariff of an open use"),
            (covered <= plate.modulus // 2, "has a limit below its start"),
            (plate.profile is not Profile.ONE_SHOT or covered >= use.plan.target, "covers less than one use"),
        ):
            if not holds:
                return why
        return None

    def _told_yes(self, use: Use, grant: Grant, cose: bytes | None, *, closed: bool) -> None:
        plate = self.nameplate
        floor = any(part.quota_id == "floor" for part in grant.held)
        use = replace(
            use,
            stage=Stage.USING,
            granted_at_us=self.now.business_us,
            tariff=grant.tariff,
            # The token has done its work: from here on only the commitment is named.
            plan=replace(use.plan, token=b""),
        )
        self.events.append(
            Granted(
                gateway=use.gateway,
                authorization=self._authorization(use),
                intent_counter=use.intent_counter,
                floor=floor,
            )
        )
        self.state = replace(self.state, use=use, metered_at_us=self.now.business_us, register_rest=0)
        self._take_limit(use, grant, cose)
        use = self._open()
        due_us = Instant(self.now.business_us + use.report_interval_us)
        self.state = replace(self.state, use=replace(use, report_due_us=due_us))
        if plate.unit_per_tick and plate.profile is Profile.SESSION:
            self._commit_chain(self._open())
        if plate.profile is Profile.ONE_SHOT:
            self.state = replace(
                self.state,
                register_value=(self.state.register_value + use.plan.target) % plate.modulus,
                use=replace(self._open(), used=use.plan.target),
            )
            if closed:
                self._finished(self._open(), last_counter=use.intent_counter, cancelled=False)
                self.state = replace(self.state, use=None)
            else:
                self._end(self._open())

    def _take_limit(self, use: Use, grant: Grant, cose: bytes | None) -> None:
        position = (grant.witness.incarnation, grant.witness.position)
        if position < use.grant_position:
            return
        covered = (grant.limit - grant.start) % self.nameplate.modulus
        interval_us = self.nameplate.report_interval_us
        if grant.report_interval_s:
            interval_us = min(interval_us, grant.report_interval_s * SECOND_US)
        self.state = replace(
            self.state,
            use=replace(
                use,
                covered=covered,
                grant_position=position,
                floor=use.floor or any(part.quota_id == "floor" for part in grant.held),
                report_interval_us=interval_us,
                readings_due=tuple(due for due in grant.readings_due if due > self.state.metered_at_us),
                told_at_limit=use.told_at_limit and covered <= use.covered,
            ),
            # The newest yes stays beside the intent: who lost its journal, or carries the end, is shown both.
            kept=tuple(
                replace(each, grant=cose or each.grant) if each.counter == use.intent_counter else each
                for each in self.state.kept
            ),
        )
        self.durable = True

    # What time brings -------------------------------------------------------------------------------------------------

    def carry_on(self) -> None:
        """Everything that is due by now, whatever the input was."""
        use = self.state.use
        if use is not None:
            if use.stage is Stage.ASKING:
                self._wait_for_yes(use)
            else:
                self._go_on_using(use)
        if self.state.standing is not None:
            self._go_on_standing(self.state.standing)

    def _wait_for_yes(self, use: Use) -> None:
        if self.nameplate.profile is Profile.ONE_SHOT:
            return
        plan = use.plan
        waited_us = self.now.real_us - use.arrived_real_us
        gone = plan.patience_real_us is not None and waited_us >= plan.patience_real_us
        # After a power cut the token is gone (it is never written down), and with it the way to ask again.
        if self.state.finishing or gone or not plan.token:
            self._end(use)
        elif (
            use.gateways_left
            and plan.elsewhere_real_us is not None
            and self.now.real_us - use.asked_real_us >= plan.elsewhere_real_us
        ):
            self._end(use)
            self._ask(
                plan,
                gateway=use.gateways_left[0],
                left=use.gateways_left[1:],
                arrived_real_us=use.arrived_real_us,
                again=0,
            )

    def _go_on_using(self, use: Use) -> None:
        if self.state.finishing or self.now.business_us >= _leaves_us(use):
            self._end(use)
            return
        if use.chain is not None:
            self._tick(use, use.chain)
            return
        at_limit = use.used >= use.covered and use.used < use.plan.target and not use.told_at_limit
        if at_limit or self.now.business_us >= use.report_due_us:
            self._read(use, at=self.now.business_us, at_limit=use.used >= use.covered)

    def _go_on_standing(self, standing: Standing) -> None:
        if standing.final_counter is not None:
            return
        if standing.baseline is None and self.state.outgoing:
            # Both sides must begin at the same reading: the first is repeated until it is recorded.
            return
        if self.now.business_us < standing.due_us and not self.state.finishing:
            return
        plate = self.nameplate
        assert plate.standing_gateway is not None
        assert plate.standing_tariff is not None
        counter = self._take_counter()
        trace_id = hashlib.sha256(f"{plate.device}/{plate.device_epoch}/{counter}".encode()).digest()[:16]
        self._say(
            Reading(
                recipient=plate.standing_gateway,
                device=plate.device,
                device_epoch=plate.device_epoch,
                counter=counter,
                at=self.now.business_us,
                register=self._register(self.state.register_value),
                tariff=plate.standing_tariff,
            ),
            intent_counter=None,
            trace_id=trace_id,
        )
        late_us = self.now.business_us - standing.due_us
        self.state = replace(
            self.state,
            standing=replace(
                standing,
                # The grid of due times stays, whatever was missed.
                due_us=Instant(standing.due_us + (late_us // plate.report_interval_us + 1) * plate.report_interval_us),
                final_counter=counter if self.state.finishing else None,
            ),
        )

    # Saying something -------------------------------------------------------------------------------------------------

    def _ask(
        self, plan: Plan, *, gateway: GatewayId, left: tuple[GatewayId, ...], arrived_real_us: int, again: int
    ) -> None:
        plate = self.nameplate
        seen = self._seen(gateway)
        commitment = token_commitment(plan.token, plan.salt)
        counter = self._take_counter()
        start = self.state.register_value
        self.state = replace(
            self.state,
            use=Use(
                plan=plan,
                commitment=commitment,
                stage=Stage.ASKING,
                gateway=gateway,
                gateways_left=left,
                intent_counter=counter,
                arrived_real_us=arrived_real_us,
                asked_real_us=self.now.real_us,
                intent_at_us=self.now.business_us,
                granted_at_us=self.now.business_us,
                start=start,
                used=0,
                again=again,
                tariff=None,
                covered=0,
                grant_position=(0, 0),
                floor=False,
                report_interval_us=plate.report_interval_us,
                report_due_us=self.now.business_us,
                readings_due=(),
                told_at_limit=False,
            ),
        )
        self._say(
            Intent(
                recipient=gateway,
                device=plate.device,
                device_epoch=plate.device_epoch,
                counter=counter,
                at=self.now.business_us,
                register=self._register(start),
                commitment=commitment,
                incarnation=FIRST_INCARNATION if seen is None else seen.witness.incarnation,
                wanted=plan.wanted,
                one_shot=plan.target if plate.profile is Profile.ONE_SHOT else None,
                # A device that shows one tariff says so: a one-shot use has no later statement that could.
                tariff=next(iter(plate.tariffs)) if len(plate.tariffs) == 1 else None,
            ),
            intent_counter=counter,
            trace_id=plan.trace_id,
            token=plan.token,
            salt=plan.salt,
            authorization=self._authorization_of(counter, gateway),
        )

    def _read(self, use: Use, *, at: Instant, at_limit: bool, asked_for: bool = False) -> None:
        plate = self.nameplate
        assert use.tariff is not None
        self._say(
            Reading(
                recipient=use.gateway,
                device=plate.device,
                device_epoch=plate.device_epoch,
                counter=self._take_counter(),
                at=at,
                register=self._register(self.state.register_value),
                tariff=use.tariff,
                commitment=use.commitment,
                authorization=self._authorization(use),
            ),
            intent_counter=use.intent_counter,
            trace_id=use.plan.trace_id,
            authorization=self._authorization(use),
            asked_for=asked_for,
        )
        self.state = replace(
            self.state,
            use=replace(
                use,
                report_due_us=Instant(at + use.report_interval_us),
                told_at_limit=at_limit,
            ),
        )

    def _commit_chain(self, use: Use) -> None:
        """Sign a new chain from where the register stands: the first of a use, or after one that is used up."""
        plate = self.nameplate
        assert use.tariff is not None
        counter = self._take_counter()
        # A chain of its own each time, from the one secret of the use.
        secret = hashlib.sha256(use.plan.chain_secret + counter.to_bytes(8, "big")).digest()
        self._say(
            Chain(
                recipient=use.gateway,
                device=plate.device,
                device_epoch=plate.device_epoch,
                counter=counter,
                at=self.now.business_us,
                register=self._register(self.state.register_value),
                commitment=use.commitment,
                authorization=self._authorization(use),
                tariff=use.tariff,
                unit_per_tick=plate.unit_per_tick,
                length=CHAIN_LENGTH,
                anchor=word(secret, CHAIN_LENGTH, 0),
            ),
            intent_counter=use.intent_counter,
            trace_id=use.plan.trace_id,
        )
        chain = Chained(
            counter=counter,
            secret=secret,
            since=use.used,
            committed=False,
            shown=0,
            again_us=self.now.real_us,
        )
        self.state = replace(self.state, use=replace(use, chain=chain))

    def _chain_heard(self, counter: int) -> None:
        use = self.state.use
        if use is not None and use.chain is not None and use.chain.counter == counter:
            self.state = replace(self.state, use=replace(use, chain=replace(use.chain, committed=True)))
            self.durable = True

    def _tick(self, use: Use, chain: Chained) -> None:
        """Show the newest tick, which proves all before it; at the limit show it again until there is a new one."""
        if not chain.committed:
            return
        index = min((use.used - chain.since) // self.nameplate.unit_per_tick, CHAIN_LENGTH)
        waits = use.used >= use.covered and use.used < use.plan.target and self.now.real_us >= chain.again_us
        if index > chain.shown or (index and waits):
            again_us = self.now.real_us + self.nameplate.retry.first_us
            self.state = replace(self.state, use=replace(use, chain=replace(chain, shown=index, again_us=again_us)))
            self.durable = True
            preimage = word(chain.secret, CHAIN_LENGTH, index)
            tick = ChainTick(authorization=self._authorization(use), index=index, preimage=preimage)
            self.ticks.append(SendTick(gateway=use.gateway, tick=tick))
        elif index == CHAIN_LENGTH:
            self._commit_chain(use)

    def _end(self, use: Use) -> None:
        """Sign the last word on ``use`` and free the register: without width if no yes was ever heard."""
        plate = self.nameplate
        cancelled = use.stage is Stage.ASKING
        # Nothing of this use is repeated any more: the end says it all. An unanswered intent stops too; the end refuses it.
        self.state = replace(
            self.state,
            use=None,
            outgoing=tuple(each for each in self.state.outgoing if each.intent_counter != use.intent_counter),
        )
        counter = self._take_counter()
        self._say(
            End(
                recipient=use.gateway,
                device=plate.device,
                device_epoch=plate.device_epoch,
                counter=counter,
                at=self.now.business_us,
                register=self._register(self.state.register_value),
                commitment=use.commitment,
                authorization=self._authorization(use),
                tariff=use.tariff,
            ),
            intent_counter=use.intent_counter,
            trace_id=use.plan.trace_id,
            cancels=cancelled,
            authorization=self._authorization(use),
            # An end that answers no grant is for its own gateway only: there is nothing to bill.
            elsewhere=() if cancelled else tuple(each for each in use.plan.gateways if each != use.gateway),
        )
        self._finished(use, last_counter=counter, cancelled=cancelled)

    def _finished(self, use: Use, *, last_counter: int, cancelled: bool) -> None:
        plate = self.nameplate
        self.events.append(
            Finished(
                device=plate.device,
                device_epoch=plate.device_epoch,
                intent_counter=use.intent_counter,
                last_counter=last_counter,
                gateway=use.gateway,
                authorization=self._authorization(use),
                commitment=use.commitment,
                register_id=plate.register_id,
                register_epoch=plate.register_epoch,
                unit=plate.unit,
                start=use.start,
                end=(use.start + use.used) % plate.modulus,
                tariff=use.tariff,
                intent_at_us=use.intent_at_us,
                granted_at_us=None if cancelled else use.granted_at_us,
                # A one-shot use has one moment, and its statement names it.
                ended_at_us=use.intent_at_us if last_counter == use.intent_counter else self.now.business_us,
                floor=use.floor,
                cancelled=cancelled,
                overrun=max(0, use.used - use.covered),
                source=use.plan.source,
            )
        )

    def _say(
        self,
        statement: Statement,
        *,
        intent_counter: int | None,
        trace_id: bytes,
        token: bytes | None = None,
        salt: bytes | None = None,
        cancels: bool = False,
        authorization: AuthorizationId | None = None,
        elsewhere: tuple[GatewayId, ...] = (),
        asked_for: bool = False,
    ) -> None:
        outgoing = Outgoing(
            kind=statement.kind,
            gateway=statement.recipient,
            counter=statement.counter,
            payload=encode(statement),
            at_us=statement.at,
            value=statement.register.value,
            intent_counter=intent_counter,
            token=token,
            salt=salt,
            trace_id=trace_id,
            cancels=cancels,
            authorization=authorization,
            shown=False,
            elsewhere=elsewhere,
            carry_after_us=self.nameplate.retry.carry_us,
            carry_at_us=self.now.real_us + self.nameplate.retry.carry_us,
            carried_by=None,
            answered=False,
            asked_for=asked_for,
            attempts=0,
            try_at_us=self.now.real_us,
        )
        kept = Kept(
            kind=outgoing.kind,
            gateway=outgoing.gateway,
            counter=outgoing.counter,
            payload=outgoing.payload,
            intent_counter=intent_counter,
            trace_id=trace_id,
            token=token if self.nameplate.profile is Profile.ONE_SHOT else None,
            salt=salt if self.nameplate.profile is Profile.ONE_SHOT else None,
            refused=None,
            grant=None,
            elsewhere=elsewhere,
            carried_by=None,
        )
        waiting = self.state.outgoing
        if outgoing.kind == "reading":
            readings = [each for each in waiting if each.kind == "reading" and each.intent_counter == intent_counter]
            replaced = [each for each in readings if not each.asked_for]
            waiting = tuple(each for each in waiting if each not in replaced)
            # Whoever was to be shown how it began has not taken that yet.
            outgoing = replace(outgoing, shown=any(each.shown for each in readings))
        self.state = replace(
            self.state,
            outgoing=(*waiting, outgoing),
            # A disclaimer proves nothing that could be lost: who forgets it asks again.
            kept=self.state.kept if outgoing.kind == "disclaimer" else _keep((*self.state.kept, kept), intent_counter),
        )
        self.durable = True

    def transmit(self) -> None:
        """Send what is due, again or for the first time; and ask now and then for the receipts of what is answered."""
        self._say_of_who_is_away()
        for each in self.state.outgoing:
            if each.try_at_us <= self.now.real_us:
                self._replace_outgoing(self._backed_off(each))
                self._send_outgoing(each)
                self._hand_over(each)
        if self.now.real_us - self.state.receipt_asked_us >= self.nameplate.retry.receipt_us:
            self._ask_for_receipts()

    def _ask_for_receipts(self) -> None:
        state, retry = self.state, self.nameplate.retry
        # Where something is said anyway, or in use, the answers bring the receipts.
        answering = {each.gateway for each in state.outgoing}
        if state.use is not None:
            answering.add(state.use.gateway)
        if state.standing is not None and not state.finishing:
            return
        newest = {
            each.gateway: each
            for each in sorted(state.kept, key=lambda each: each.counter)
            if each.refused is None
            and each.gateway not in answering
            # An intent cannot be shown again without its token; a one-shot device has its own, others show the end.
            and (each.kind != "intent" or each.token is not None)
        }
        # One question may be lost: who says nothing to the next one either is out of reach.
        away_at_us = self.now.real_us + retry.receipt_us + retry.carry_us
        self.state = replace(
            state,
            receipt_asked_us=self.now.real_us,
            seen=tuple(
                replace(each, away_at_us=away_at_us) if each.gateway in newest and each.away_at_us is None else each
                for each in state.seen
            ),
        )
        for kept in newest.values():
            self._send_kept(kept)

    def _send_outgoing(self, outgoing: Outgoing, *, to: GatewayId | None = None) -> None:
        self._send(
            outgoing, to or outgoing.gateway, self._showing(outgoing) if outgoing.shown or to is not None else None
        )

    def _hand_over(self, end: Outgoing) -> None:
        """An end whose gateway is out of reach goes to another one too, with what proves it, until the cloud has it."""
        if (
            not end.elsewhere
            or self.now.real_us < end.carry_at_us
            or all(each.counter != end.counter for each in self.state.kept)
            or self._showing(end) is None
        ):
            return
        # In turn, until one has taken it; then that one, which says when the cloud has it.
        self._send_outgoing(end, to=end.carried_by or end.elsewhere[end.attempts % len(end.elsewhere)])

    def _send_kept(self, kept: Kept) -> None:
        self._send(kept, kept.gateway, None)

    def _send(self, what: Outgoing | Kept, to: GatewayId, showing: Showing | None) -> None:
        seen = self._seen(to)
        self.sends.append(
            Send(
                kind=what.kind,
                gateway=to,
                recipient=what.gateway,
                counter=what.counter,
                payload=what.payload,
                token=what.token,
                salt=what.salt,
                trace_id=what.trace_id,
                witness=None if seen is None else seen.witness,
                showing=showing,
            )
        )

    def _showing(self, outgoing: Outgoing) -> Showing | None:
        """What ``outgoing``'s authorization began with, and its newest grant; None where there is nothing to be shown."""
        if outgoing.intent_counter is None:
            if outgoing.kind != "reading":
                return None
            first = min(
                (each for each in self.state.kept if each.kind == "reading" and each.intent_counter is None),
                key=lambda each: each.counter,
                default=None,
            )
            if first is None or first.counter == outgoing.counter:
                return None
        else:
            first = next((each for each in self.state.kept if each.counter == outgoing.intent_counter), None)
            if first is None or first.grant is None:
                return None
        return Showing(
            grant=first.grant, kind=first.kind, gateway=first.gateway, counter=first.counter, payload=first.payload
        )

    # Small parts ------------------------------------------------------------------------------------------------------

    def _open(self) -> Use:
        assert self.state.use is not None
        return self.state.use

    def _take_counter(self) -> int:
        counter = self.state.next_counter
        self.state = replace(self.state, next_counter=counter + 1)
        self.durable = True
        return counter

    def _register(self, value: int) -> RegisterValue:
        plate = self.nameplate
        return RegisterValue(register_id=plate.register_id, register_epoch=plate.register_epoch, value=value)

    def _authorization(self, use: Use) -> AuthorizationId:
        plate = self.nameplate
        return authorization_id(plate.device, plate.device_epoch, use.intent_counter, use.gateway)

    def _authorization_of(self, intent_counter: int, gateway: GatewayId) -> AuthorizationId:
        plate = self.nameplate
        return authorization_id(plate.device, plate.device_epoch, intent_counter, gateway)

    def _seen(self, gateway: GatewayId) -> Seen | None:
        return next((each for each in self.state.seen if each.gateway == gateway), None)

    def _replace_outgoing(self, changed: Outgoing) -> None:
        self.state = replace(
            self.state,
            outgoing=tuple(changed if each.counter == changed.counter else each for each in self.state.outgoing),
        )

    def _backed_off(self, outgoing: Outgoing) -> Outgoing:
        retry = self.nameplate.retry
        wait_us = min(retry.first_us << min(outgoing.attempts, 20), retry.most_us)
        # Spread by a quarter either way, from the statement itself: devices that failed together do not return together.
        lot = hashlib.sha256(outgoing.payload + outgoing.attempts.to_bytes(4, "big")).digest()[0]
        wait_us += wait_us * (lot - 128) // 512
        return replace(outgoing, attempts=outgoing.attempts + 1, try_at_us=self.now.real_us + wait_us)

    def _answer_is_final(self, outgoing: Outgoing, *, refused: Refusal | None = None) -> None:
        self.state = replace(
            self.state,
            outgoing=tuple(each for each in self.state.outgoing if each.counter != outgoing.counter),
            kept=self.state.kept
            if refused is None
            else tuple(
                replace(each, refused=refused) if each.counter == outgoing.counter else each for each in self.state.kept
            ),
        )
        self.durable = True

    def _forget(self, outgoing: Outgoing) -> None:
        """An intent that was not taken: nothing was used under it, nobody will be billed for it."""
        self.state = replace(
            self.state,
            outgoing=tuple(each for each in self.state.outgoing if each.counter != outgoing.counter),
            kept=tuple(each for each in self.state.kept if each.counter != outgoing.counter),
        )
        self.durable = True


def _leaves_us(use: Use) -> Instant:
    return Instant(use.granted_at_us + use.plan.stay_us)


def _keep(kept: tuple[Kept, ...], intent_counter: int | None) -> tuple[Kept, ...]:
    """``kept`` with the first and the newest readings of one use only: the first may be a baseline, the newest prove the rest."""
    readings = [each.counter for each in kept if each.kind == "reading" and each.intent_counter == intent_counter]
    superseded = set(readings[1:-MAX_KEPT_READINGS])
    return tuple(each for each in kept if each.counter not in superseded)
