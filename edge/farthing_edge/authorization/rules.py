"""The rules of an intent, in their order: the first that fails names the refusal.

Rule 1: the order is that of the numbers' hundreds (``farthing.refusal``), save that the two which ask about the gateway
(incarnation, whether it may authorize at all) stand before the token: a device that speaks to another incarnation learns nothing
about tokens. Rule 2: a rule looks: what it finds on its way it leaves on the ``Ask``, the state it never changes. Rule 3: money
comes last and is not a rule of this table, as its answer is not yes or no but how much (``intents``).
Rule 4: a rule whose policy no directive has set stands in no table that is asked: it costs nothing.
"""

from itertools import compress, product

from farthing.device.messages import MAX_COUNT, Intent
from farthing.ids import authorization_id
from farthing.refusal import Refusal
from farthing.tariff import TariffError
from farthing.v1 import directive_pb2
from farthing_edge.authorization.asking import Ask, Rule
from farthing_edge.authorization.entitlements import entitlement_covers_it
from farthing_edge.authorization.hearing_time import is_believed
from farthing_edge.authorization.limits import within_limits
from farthing_edge.authorization.place import place_fits
from farthing_edge.authorization.risk import risk_is_low
from farthing_edge.authorization.state import GatewayState, Register, TariffEntry

_ONE_SHOT, _STANDING = directive_pb2.DEVICE_PROFILE_ONE_SHOT, directive_pb2.DEVICE_PROFILE_STANDING
#: What a device that is not active hears.
STATUS_REFUSALS: dict[int, Refusal] = {
    directive_pb2.DEVICE_STATUS_UNSPECIFIED: Refusal.DEVICE_UNKNOWN,
    directive_pb2.DEVICE_STATUS_SUSPENDED: Refusal.DEVICE_SUSPENDED,
    directive_pb2.DEVICE_STATUS_BLOCKED: Refusal.DEVICE_BLOCKED,
    directive_pb2.DEVICE_STATUS_DECOMMISSIONED: Refusal.DEVICE_DECOMMISSIONED,
}


# 1: well-formed, and said to us ----------------------------------------------------------------------------------------


def well_formed(state: GatewayState, ask: Ask) -> Refusal | None:
    """An intent is for this gateway, and of the shape that the device's profile and register have."""
    intent, device, register = ask.intent, ask.device, ask.register
    if intent.recipient != state.gateway_id:
        return Refusal.RECIPIENT_DIFFERS
    if device is None:
        return None
    if register is None:
        return Refusal.REGISTER_UNKNOWN
    one_shot, profile, modulus = intent.one_shot, device.profile, register.modulus
    if intent.wanted == 0 or intent.register.value >= modulus:
        return Refusal.MALFORMED
    if intent.register.unrolled(modulus) + (one_shot or 0) > MAX_COUNT:
        return Refusal.MALFORMED
    if (profile == _ONE_SHOT) != (one_shot is not None) or profile == _STANDING:
        return Refusal.MALFORMED
    return None


# 2: the device --------------------------------------------------------------------------------------------------------


def device_may_ask(state: GatewayState, ask: Ask) -> Refusal | None:
    """The device is known, active and of this epoch."""
    device = ask.device
    if device is None:
        # The chain of directives is still to be heard: the device may be in it.
        return Refusal.DEVICE_UNKNOWN if state.is_complete else Refusal.NOT_AUTHORIZING
    if device.status != directive_pb2.DEVICE_STATUS_ACTIVE:
        return STATUS_REFUSALS.get(device.status, Refusal.DEVICE_UNKNOWN)
    if device.epoch != ask.intent.device_epoch:
        return Refusal.DEVICE_EPOCH_DIFFERS
    return None


def register_is_free(state: GatewayState, ask: Ask) -> Refusal | None:  # noqa: ARG001  # every rule has one shape
    """The register is of this epoch, has no open authorization, and has not gone back."""
    intent, register = ask.intent, ask.register
    assert register is not None  # well_formed
    if register.epoch != intent.register.register_epoch:
        return Refusal.REGISTER_EPOCH_DIFFERS
    if not ask.is_new:
        return None
    if register.open is not None:
        return Refusal.REGISTER_BUSY
    start = register.unrolled_start(intent.register, intent.at)
    if start is None:
        return Refusal.REGISTER_WENT_BACK
    ask.start = start
    return None


def clock_is_possible(state: GatewayState, ask: Ask) -> Refusal | None:
    """The intent is not dated where no time can be: its price, its day and its lapse would be."""
    return None if is_believed(state, ask.intent.at, ask.now) else Refusal.CLOCK_AHEAD


# 3: the counter -------------------------------------------------------------------------------------------------------


def counter_is_new(state: GatewayState, ask: Ask) -> Refusal | None:
    """The counter was not used for other content, is not too old, and the intent was not ended before it came.

    The same content again is no refusal: it is answered before the rules that follow (see ``intents``).
    """
    intent, device = ask.intent, ask.device
    assert device is not None  # device_may_ask
    if not ask.is_new:
        return Refusal.COUNTER_REUSED
    if intent.counter <= device.window_floor():
        return Refusal.COUNTER_TOO_OLD
    if device.cancelled:
        name = authorization_id(intent.device, intent.device_epoch, intent.counter, state.gateway_id)
        if name in device.cancelled:
            return Refusal.INTENT_ENDED
    return None


# 14, 13: the gateway --------------------------------------------------------------------------------------------------


def gateway_may_authorize(state: GatewayState, ask: Ask) -> Refusal | None:
    """The intent speaks to this incarnation, and this journal is the one the cloud knows."""
    if ask.intent.incarnation != state.incarnation:
        return Refusal.INCARNATION_DIFFERS
    if state.not_authorizing_reason:
        return Refusal.NOT_AUTHORIZING
    return None


# 4, 5: the token ------------------------------------------------------------------------------------------------------


def token_is_not_denied(state: GatewayState, ask: Ask) -> Refusal | None:
    """The deny list comes first: it also names tokens that nobody knows."""
    return Refusal.TOKEN_DENIED if ask.command.token_ref in state.denied else None


def token_is_known(state: GatewayState, ask: Ask) -> Refusal | None:  # noqa: ARG001  # every rule has one shape
    """A token that no directive named gets nothing: the floor is for known tokens only."""
    return Refusal.TOKEN_UNKNOWN if ask.token is None else None


# 6: the account -------------------------------------------------------------------------------------------------------


def account_is_active(state: GatewayState, ask: Ask) -> Refusal | None:  # noqa: ARG001  # every rule has one shape
    """The payer is known and may spend."""
    if ask.account is None:
        return Refusal.ACCOUNT_UNKNOWN
    if ask.account.status != directive_pb2.ACCOUNT_STATUS_ACTIVE:
        return Refusal.ACCOUNT_SUSPENDED
    return None


# 7: the tariff --------------------------------------------------------------------------------------------------------


def tariff_prices_it(state: GatewayState, ask: Ask) -> Refusal | None:  # every rule has one shape
    """The device's tariff is here and in force, fits the register, is the one the payer was shown, and is in the account's currency."""
    tariff, account, register, device = ask.tariff, ask.account, ask.register, ask.device
    assert account is not None  # account_is_active
    assert register is not None  # well_formed
    assert device is not None  # device_may_ask
    if tariff is None:
        return Refusal.TARIFF_MISSING
    ask.look_ahead(register, device)
    # What was priced before is a use that it fits.
    ask.closing = tariff.known_closing(register.unit, ask.most)
    intent = ask.intent
    if ask.closing is None and not _fits(tariff, register, intent):
        return Refusal.TARIFF_MISSING
    if intent.tariff is not None and intent.tariff != tariff.name:
        return Refusal.TARIFF_DIFFERS
    if tariff.currency != account.currency:
        return Refusal.CURRENCY_DIFFERS
    if ask.closing is not None:
        return None
    try:
        ask.closing = tariff.closing(
            register.unit,
            ask.start,
            ask.most,
            intent.at,
            ask.until,
            state.time_zone,
            one_shot=intent.one_shot is not None,
        )
    except TariffError:
        # A price beyond one amount: this tariff does not price such a use.
        return Refusal.TARIFF_MISSING
    return None


def _fits(tariff: TariffEntry, register: Register, intent: Intent) -> bool:
    """Whether the tariff prices such a use at all: what it has no price for would cost nothing."""
    if intent.one_shot is not None:
        return tariff.tariff.fits_at_once(register.unit)
    return tariff.tariff.fits(register.unit)


#: Before the counter. A repeat of what was answered meets no rule at all: nothing is decided anew.
RULES_OF_THE_DEVICE: tuple[Rule, ...] = (well_formed, device_may_ask, register_is_free, clock_is_possible)
#: From the counter on.
RULES_OF_THE_INTENT: tuple[Rule, ...] = (
    counter_is_new,
    gateway_may_authorize,
    token_is_not_denied,
    token_is_known,
    account_is_active,
    tariff_prices_it,
)
#: 8: asked where a directive has named an entitlement, or a device that serves nobody without one.
_RULES_OF_ENTITLEMENT: tuple[Rule, ...] = (entitlement_covers_it,)
#: 9, 10, 11: asked where a directive has set their policy.
_RULES_OF_POLICY: tuple[Rule, ...] = (within_limits, place_fits, risk_is_low)
#: By ``GatewayState.entitles``, then by ``Policies.active``: the whole table from the counter on.
RULES_BY_POLICY: dict[bool, dict[tuple[bool, ...], tuple[Rule, ...]]] = {
    entitles: {
        active: RULES_OF_THE_INTENT
        + (_RULES_OF_ENTITLEMENT if entitles else ())
        + tuple(compress(_RULES_OF_POLICY, active))
        for active in product((False, True), repeat=len(_RULES_OF_POLICY))
    }
    for entitles in (False, True)
}
