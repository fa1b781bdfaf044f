"""What answers change: yes, no, later, again; from the gateway that was asked, or from one that carries."""

import hashlib
from dataclasses import replace

from farthing.clock import SECOND_US, Instant
from farthing.device.messages import AnswerStatus, Disclaimer, Grant
from farthing.ids import AuthorizationId, GatewayId
from farthing.refusal import Refusal
from farthing_firmware_sim.device.using import Using
from farthing_firmware_sim.device.values import (
    MAX_AGAIN,
    AnswerDistrusted,
    Answered,
    Disclaimed,
    EndAnswered,
    EndHandedOver,
    Granted,
    GrantLapsed,
    Outgoing,
    Profile,
    RefusedIntent,
    Stage,
    StatementRefused,
    Use,
)

#: Rule 2 of the refusals is about the device itself: no other statement of it fares better.
_RULE_DEVICE = 2

#: What a gateway that is shown the yes to a one-shot use can have against it; any other no is to the intent alone.
_NO_TO_WHAT_IS_SHOWN = frozenset(
    {
        Refusal.MALFORMED,
        Refusal.RECIPIENT_DIFFERS,
        Refusal.DEVICE_UNKNOWN,
        Refusal.DEVICE_EPOCH_DIFFERS,
        Refusal.REGISTER_EPOCH_DIFFERS,
        Refusal.COUNTER_REUSED,
        Refusal.COUNTER_TOO_OLD,
        Refusal.INTENT_ENDED,
        Refusal.TARIFF_MISSING,
    }
)


#: What a device hears that is not to be used for now.
_MAY_BE_ACTIVE_AGAIN = frozenset({Refusal.DEVICE_SUSPENDED, Refusal.DEVICE_BLOCKED})


class Hearing(Using):
    """What is heard."""

    def answered(self, given: Answered) -> None:
        answer = given.answer
        if answer.gateway != given.gateway:
            self.events.append(
                AnswerDistrusted(gateway=given.gateway, counter=0, why=f"speaks for {answer.gateway:.64}")
            )
            return
        self._saw(answer)
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

    def _handed_over(self, outgoing: Outgoing, given: Answered) -> None:
        """What another gateway says to a last word that its own has not answered. It decides nothing, so only "recorded" counts."""
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
        self._recorded(outgoing)
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
                register=self._register(),
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
        if answer.status in (AnswerStatus.AGAIN, AnswerStatus.REFUSED) and self._say_what_was_given(
            given.gateway, counter
        ):
            return
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
        if (
            outgoing.carried_by is not None
            and refusal is Refusal.AUTHORIZATION_UNKNOWN
            and all(each.counter != outgoing.counter for each in self.state.kept)
        ):
            # The cloud has it by another, and its own gateway has lost it: nobody need hear it any more.
            self._answer_is_final(outgoing)
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
        if outgoing.kind == "intent" and (not outgoing.attempts or refusal not in _NO_TO_WHAT_IS_SHOWN):
            # That is an answer to the intent alone, which it no longer knows.
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
        if standing is not None and not self._is_for_people(outgoing, refusal):
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

    def _is_for_people(self, outgoing: Outgoing, refusal: Refusal) -> bool:
        """Whether a no to a standing reading is about a register that is not there any more: no later reading says what it said."""
        return outgoing.register_epoch != self.nameplate.register_epoch and refusal not in _MAY_BE_ACTIVE_AGAIN

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
            # A session that is closed before it has begun is none either: people have ended it.
            if self._has_lapsed(given.grant) or (answer.closed and self.nameplate.profile is Profile.SESSION):
                self._ask_anew(use)
                return
            self._told_yes(use, given.grant, answer.grant, closed=answer.closed)
            return
        self._answer_is_final(outgoing)
        if outgoing.kind in ("disclaimer", "intent"):
            return
        if self.state.standing is not None:
            self._recorded(outgoing)
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

    def _recorded(self, outgoing: Outgoing) -> None:
        """A gateway has written down a standing reading, its own or the one that carries it: what it shows will be billed."""
        standing = self.state.standing
        if (
            standing is None
            or outgoing.counter <= standing.recorded_counter
            or outgoing.register_epoch != self.nameplate.register_epoch
        ):
            return
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

    def _has_lapsed(self, grant: Grant) -> bool:
        """Whether the yes came too late for its use to begin. A one-shot use is its yes."""
        return (
            self.nameplate.profile is Profile.SESSION
            and grant.lapses_at is not None
            and self.now.business_us >= grant.lapses_at
        )

    def _ask_anew(self, use: Use) -> None:
        """End what nothing was used of, and ask once more for the payer who still waits: what was true when the yes was given may not be any more."""
        self.events.append(
            GrantLapsed(gateway=use.gateway, authorization=self._authorization(use), intent_counter=use.intent_counter)
        )
        self._end(use)
        if use.again < MAX_AGAIN and not self.state.finishing:
            self._ask(
                use.plan,
                gateway=use.gateway,
                left=use.gateways_left,
                arrived_real_us=use.arrived_real_us,
                again=use.again + 1,
            )

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
            turns, value = divmod(self.state.register_value + use.plan.target, plate.modulus)
            self.state = replace(
                self.state,
                register_value=value,
                register_turns=self.state.register_turns + turns,
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
