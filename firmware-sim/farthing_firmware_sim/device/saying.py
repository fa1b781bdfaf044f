"""What is on the air: a statement is said until it is answered, to its own gateway, and a last word to others when that is out of reach."""

from dataclasses import replace

from farthing.device.messages import Statement, encode
from farthing.ids import AuthorizationId, GatewayId
from farthing_firmware_sim.device.draft import is_of_one_use
from farthing_firmware_sim.device.keeping import Keeping
from farthing_firmware_sim.device.values import MAX_KEPT_READINGS, Kept, Outgoing, Profile, Send, Showing


class Saying(Keeping):
    """What is said."""

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
            register_epoch=statement.register.register_epoch,
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
            register_epoch=outgoing.register_epoch,
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
            readings = [each for each in waiting if each.kind == "reading" and is_of_one_use(each, outgoing)]
            replaced = [each for each in readings if not each.asked_for]
            waiting = tuple(each for each in waiting if each not in replaced)
            # Whoever was to be shown how it began has not taken that yet; and who was silent before is no nearer.
            outgoing = replace(
                outgoing,
                shown=any(each.shown for each in readings),
                carry_at_us=min((outgoing.carry_at_us, *(each.carry_at_us for each in readings))),
            )
        self.state = replace(
            self.state,
            outgoing=(*waiting, outgoing),
            # A disclaimer proves nothing that could be lost: who forgets it asks again.
            kept=self.state.kept if outgoing.kind == "disclaimer" else _keep((*self.state.kept, kept), kept),
        )
        self.durable = True

    def transmit(self) -> None:
        """Send what is due, again or for the first time; and ask now and then for the receipts of what is answered."""
        self._say_of_who_is_away()
        for each in self.state.outgoing:
            if each.try_at_us <= self.now.real_us and not self._waits_for_its_end(each):
                self._replace_outgoing(self._backed_off(each))
                self._send_outgoing(each)
                self._hand_over(each)
        if self.now.real_us - self.state.receipt_asked_us >= self.nameplate.retry.receipt_us:
            self._ask_for_receipts()

    def _waits_for_its_end(self, outgoing: Outgoing) -> bool:
        """Whether an intent follows an end to the same gateway that is not answered yet: messages overtake each other, and before the end is heard the
        register is in use."""
        return (outgoing.kind, outgoing.shown) == ("intent", False) and any(
            each.kind == "end" and not each.answered and each.gateway == outgoing.gateway
            for each in self.state.outgoing
        )

    def _ask_for_receipts(self) -> None:
        state, retry = self.state, self.nameplate.retry
        # Where something is said anyway, or in use, the answers bring the receipts.
        unanswered = {each.gateway for each in state.outgoing}
        answering = set(unanswered)
        if state.use is not None:
            answering.add(state.use.gateway)
        if state.standing is not None and not state.finishing:
            return
        newest = {
            each.gateway: each
            for each in sorted(state.kept, key=lambda each: each.counter)
            if self._is_awaited(each)
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
                replace(each, away_at_us=away_at_us)
                if each.away_at_us is None and (each.gateway in newest or each.gateway in unanswered)
                else each
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
        """A last word whose gateway is out of reach goes to another one too, with what proves it, until the cloud has it."""
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


def _keep(kept: tuple[Kept, ...], newest: Kept) -> tuple[Kept, ...]:
    """``kept`` with the first and the newest readings of one use only: the first may be a baseline, the newest prove the rest."""
    readings = [each.counter for each in kept if each.kind == "reading" and is_of_one_use(each, newest)]
    superseded = set(readings[1:-MAX_KEPT_READINGS])
    return tuple(each for each in kept if each.counter not in superseded)
