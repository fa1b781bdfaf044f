"""What a device keeps until the cloud has it, and says again to whoever lost it, or to another when its gateway is out of reach.

Rule: what was signed is dropped by a receipt alone, and a receipt speaks of what its own journal has answered.
"""

from dataclasses import replace

from farthing.device.messages import Answer, AnswerStatus, End, Intent, decode_statement
from farthing.ids import GatewayId
from farthing.refusal import Refusal
from farthing_firmware_sim.device.draft import Draft, is_of_one_use
from farthing_firmware_sim.device.values import MAX_SAID_AGAIN, Kept, Outgoing, Profile, Receipted, Seen

#: What a gateway parks an end with that comes after people's decision: nobody else bills it by itself either.
_AFTER_A_DECISION = frozenset({Refusal.INTENT_ENDED, Refusal.REGISTER_EPOCH_DIFFERS})
#: What it parks an end with: with its next batch the cloud has it.
_PARKED = _AFTER_A_DECISION | {
    Refusal.REGISTER_WENT_BACK,
    Refusal.REGISTER_TOO_FAST,
    Refusal.CLOCK_AHEAD,
    Refusal.TARIFF_MISSING,
}


class Keeping(Draft):
    """What is kept."""

    def _saw(self, answer: Answer) -> None:
        gateway, witness, receipted_counter = answer.gateway, answer.witness, answer.receipted_counter
        before, put_back = self._seen(gateway), False
        if before is not None:
            last = before.witness
            if last.incarnation < witness.incarnation:
                # Another journal, perhaps: what the one before has receipted says nothing of what this one has.
                self._say_to_another_journal(gateway)
            elif last.position > witness.position or last.incarnation > witness.incarnation:
                # An answer that was long on its way, or of a journal that vouches for nothing (position 0). Not the higher receipt of the two:
                # what a gateway takes to carry is older than what it had receipted, and puts its counter back until the cloud has that too.
                receipted_counter, put_back = before.receipted_counter, before.put_back
                said = 0 if answer.answers is None else answer.answers[1]
                takes = answer.status not in (AnswerStatus.LATER, AnswerStatus.AGAIN)
                if (
                    takes
                    and (not witness.position or witness.start_id != last.start_id)
                    and any(each.counter == said for each in self.state.outgoing)
                ):
                    # Perhaps of a journal that went back: the receipt of before does not speak of what this one has only now taken.
                    receipted_counter = min(receipted_counter, said - 1)
                    put_back = put_back or receipted_counter < before.receipted_counter
                witness = last
            elif before.put_back and last.position == witness.position:
                # An answer from before, which came twice.
                receipted_counter, put_back = min(receipted_counter, before.receipted_counter), True
        seen = Seen(
            gateway=gateway,
            witness=witness,
            receipted_counter=receipted_counter,
            put_back=put_back,
            away_at_us=None,
        )
        others = tuple(each for each in self.state.seen if each.gateway != gateway)
        self.state = replace(self.state, seen=(*others, seen))

    def _say_to_another_journal(self, gateway: GatewayId) -> None:
        """The last words that are kept for ``gateway`` are said again, with what proves them, until its new journal has answered:
        only then does a receipt of it speak of them. What it had taken to carry for another is handed over anew.

        A standing reading that is still unanswered shows from now on how it began: the witness beside it will be the new journal's, to which it
        would look like the first of all.
        """
        # Also what the one before had parked for people: the cloud has not receipted that, or it would not be kept.
        state = self.state = replace(
            self.state,
            kept=tuple(
                replace(each, refused=None)
                if each.gateway == gateway and each.refused is not Refusal.COUNTER_REUSED
                else each
                for each in self.state.kept
            ),
        )
        waiting = {each.counter for each in state.outgoing}
        # What is not kept any more, the cloud has.
        kept = {each.counter for each in state.kept}
        again = tuple(
            self._on_the_air_again(each)
            for each in state.kept
            if each.gateway == gateway
            and each.refused is None
            and each.counter not in waiting
            and (self._is_last_word(each) or each.kind == "end")
        )
        self.state = replace(
            state,
            outgoing=(
                *(
                    replace(
                        each,
                        carried_by=None if each.carried_by == gateway and each.counter in kept else each.carried_by,
                        shown=each.shown or (each.gateway == gateway and self._rests_on_an_earlier_reading(each)),
                    )
                    for each in state.outgoing
                ),
                *again,
            ),
            kept=tuple(replace(each, carried_by=None) if each.carried_by == gateway else each for each in state.kept),
        )
        self.durable = True

    def _is_awaited(self, kept: Kept) -> bool:
        """Whether its receipt is still to come: of what was taken, and of a last word that its gateway has parked. Where the journal that parked
        it is lost before, only this device still has it, and hears of that only if it asks."""
        return kept.refused is None or (kept.kind == "end" and kept.refused in _PARKED)

    def _may_be_carried(self, kept: Kept) -> bool:
        """Whether another gateway may have it too. Not what its own does not believe: nobody would weigh it there."""
        return kept.refused is None or (kept.kind == "end" and kept.refused in _AFTER_A_DECISION)

    def _rests_on_an_earlier_reading(self, outgoing: Outgoing) -> bool:
        """Whether it is a reading of a standing use that began with another one."""
        return (outgoing.kind, outgoing.intent_counter) == ("reading", None) and self._showing(outgoing) is not None

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
            register_epoch=kept.register_epoch,
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

    def _is_last_word(self, kept: Kept) -> bool:
        """Whether it is all that has to be said of its use: an end, a one-shot use's yes, a standing one's newest reading."""
        if kept.kind == "reading":
            newest = max((each.counter for each in self._standing_kept(kept)), default=0)
            return kept.intent_counter is None and kept.counter == newest
        return kept.kind == "end" or self._is_given_use(kept)

    def _standing_kept(self, reading: Kept) -> tuple[Kept, ...]:
        """The kept readings of the standing authorization that ``reading`` is of, which nobody has refused."""
        return tuple(
            each
            for each in self.state.kept
            if each.kind == "reading" and is_of_one_use(each, reading) and each.refused is None
        )

    def _others_for(self, kept: Kept) -> tuple[GatewayId, ...]:
        """Who could carry a last word up: who was to be asked for its use, and whoever has ever answered."""
        if not self._is_last_word(kept):
            return ()
        known = dict.fromkeys((*kept.elsewhere, *(each.gateway for each in self.state.seen)))
        return tuple(each for each in known if each != kept.gateway)

    def _say_of_who_is_away(self) -> None:
        """The answered last words of a gateway that is out of reach go on the air again, the oldest first: what it wrote down may be gone with it."""
        state = self.state
        waiting = {each.counter: each for each in state.outgoing}
        again: list[Outgoing] = []
        for gateway in dict.fromkeys(each.gateway for each in state.kept if self._may_be_carried(each)):
            seen = self._seen(gateway)
            # Whatever it says clears this; what is still unanswered does not count, or one end would keep another on the air.
            if seen is None or seen.away_at_us is None or seen.away_at_us > self.now.real_us:
                continue
            room = MAX_SAID_AGAIN - sum(each.gateway == gateway and each.answered for each in state.outgoing)
            for kept in state.kept:
                if kept.gateway != gateway or not self._may_be_carried(kept) or kept.counter in waiting:
                    continue
                if not self._is_last_word(kept):
                    continue
                said = replace(self._on_the_air_again(kept), carry_at_us=self.now.real_us)
                if room > 0 and said.elsewhere and self._showing(said) is not None:
                    again.append(said)
                    room -= 1
        if again:
            self.state = replace(state, outgoing=(*state.outgoing, *again))
            self.durable = True

    def _say_what_was_given(self, gateway: GatewayId, counter: int) -> bool:
        """A gateway says no to what it said yes to: it has lost that one-shot use, and is shown its yes. Whether there is one."""
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
            standing = self._standing_kept(kept)
            # A reading that was carried up says all that those before it said.
            carried = max(
                (
                    each.counter
                    for each in standing
                    if each.carried_by == seen.gateway and each.counter <= seen.receipted_counter
                ),
                default=0,
            )
            unanswered = {each.counter for each in state.outgoing if each.counter > carried}
            # While another reading that rests on it is not receipted, or still to come.
            if kept.counter == min((each.counter for each in standing), default=0) and (
                not (state.finishing or kept.register_epoch != self.nameplate.register_epoch)
                or any(each.counter > max(seen.receipted_counter, carried) for each in standing)
                or any(each.counter in unanswered for each in standing)
            ):
                return False
            if kept.refused is None and kept.counter <= carried:
                return True
        # An end that is parked is kept like any other until the cloud has it, and so is what it would be shown with.
        word = kept if end is None or end.refused is Refusal.COUNTER_REUSED else end
        # Refused because another has said something else under this counter: then that is what is receipted.
        if word.counter > seen.receipted_counter or word.refused is Refusal.COUNTER_REUSED:
            return False
        if word.carried_by == seen.gateway:
            return True
        return word.gateway == seen.gateway and all(each.counter != word.counter for each in state.outgoing)
