"""A use from its intent to its end: metering, readings and ticks while it lasts, and what time brings.

Rule: use goes on up to the signed limit and no further, unless nothing in the device can stop it.
"""

import hashlib
from dataclasses import replace

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import Chain, ChainTick, End, Intent, Reading
from farthing.evidence.payword import word
from farthing.ids import GatewayId, token_commitment
from farthing_firmware_sim.device.saying import Saying
from farthing_firmware_sim.device.values import (
    CHAIN_LENGTH,
    FIRST_INCARNATION,
    Chained,
    Finished,
    Plan,
    Profile,
    SendTick,
    Stage,
    Standing,
    Use,
)

_HOUR_US = 3600 * SECOND_US


class Using(Saying):
    """What is used."""

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
        turns, value = divmod(state.register_value + units, plate.modulus)
        self.state = replace(
            state,
            register_value=value,
            register_turns=state.register_turns + turns,
            register_rest=rest,
            metered_at_us=max(state.metered_at_us, now_us),
            use=use if use is None or not units else replace(use, used=use.used + units),
        )

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
        plate = self.nameplate
        if standing.baseline is None and any(
            each.register_epoch == plate.register_epoch for each in self.state.outgoing
        ):
            # Both sides must begin at the same reading: the first is repeated until it is recorded.
            return
        if self.now.business_us < standing.due_us and not self.state.finishing:
            return
        counter = self._read_standing()
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

    def _read_standing(self) -> int:
        """Say where the register of a standing authorization stands; the counter that says it."""
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
                register=self._register(),
                tariff=plate.standing_tariff,
            ),
            intent_counter=None,
            trace_id=trace_id,
            elsewhere=plate.standing_others,
        )
        return counter

    # A use begins, is read and ends -----------------------------------------------------------------------------------

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
                register=self._register(),
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
            # Its yes is its last word: whoever is out of reach by then, another one may carry it up.
            elsewhere=tuple(each for each in plan.gateways if each != gateway)
            if plate.profile is Profile.ONE_SHOT
            else (),
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
                register=self._register(),
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
                register=self._register(),
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
                register=self._register(),
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

    def _leave(self, use: Use) -> None:
        """Leave a one-shot intent that nobody has answered, for somebody else's. Its yes would be its use, and whether there was one only its gateway
        can say: so the register passes over what it asked for. Then the end of it can be told from one before, and no use has it twice.
        """
        state, plate = self.state, self.nameplate
        turns, value = divmod(state.register_value + use.plan.target, plate.modulus)
        use = replace(use, used=use.plan.target, covered=use.plan.target)
        self.state = replace(state, register_value=value, register_turns=state.register_turns + turns, use=use)
        self._end(use)

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


def _leaves_us(use: Use) -> Instant:
    return Instant(use.granted_at_us + use.plan.stay_us)
