"""Any legal message, for property tests."""

from hypothesis import strategies as st

from farthing.clock import Instant
from farthing.device import messages as m
from farthing.ids import AccountId, AuthorizationId, DeviceId, GatewayId, QuotaId, RegisterId, StartId, TariffId
from farthing.money import MAX_AMOUNT_MICROS, Currency
from farthing.refusal import Refusal

# Generating text letter by letter is what a property test spends its time on; the pattern has its own tests.
names = st.sampled_from(["a", "-", "gw-1", "Meter-7", "0", "Z" * 64])
counts = st.integers(0, m.MAX_COUNT)
epochs = st.integers(0, m.MAX_EPOCH)
amounts = st.integers(0, MAX_AMOUNT_MICROS)
commitments = st.binary(min_size=32, max_size=32)
authorizations = st.binary(min_size=16, max_size=16).map(AuthorizationId)
gateways = names.map(GatewayId)
devices = names.map(DeviceId)
instants = counts.map(Instant)

witnesses = st.builds(
    m.Witness, incarnation=counts, start_id=st.binary(min_size=16, max_size=16).map(StartId), position=counts
)
tariffs = st.builds(m.TariffVersion, tariff_id=names.map(TariffId), version=epochs)
registers = st.builds(
    m.RegisterValue,
    register_id=names.map(RegisterId),
    register_epoch=epochs,
    value=counts,
    turns=st.just(0) | st.integers(1, m.MAX_EPOCH),
)
words = st.binary(min_size=32, max_size=32)
_head = {
    "recipient": gateways,
    "device": devices,
    "device_epoch": epochs,
    "counter": counts,
    "at": instants,
    "register": registers,
}
intents = st.builds(
    m.Intent,
    **_head,
    commitment=commitments,
    incarnation=counts,
    wanted=st.none() | counts,
    one_shot=st.none() | st.integers(1, m.MAX_COUNT),
    tariff=st.none() | tariffs,
    position=st.none()
    | st.builds(
        m.Position,
        latitude_microdegrees=st.integers(-m.MAX_LATITUDE, m.MAX_LATITUDE),
        longitude_microdegrees=st.integers(-m.MAX_LONGITUDE, m.MAX_LONGITUDE),
    ),
)
readings = st.builds(
    m.Reading, **_head, commitment=st.none() | commitments, authorization=st.none() | authorizations, tariff=tariffs
)
ends = st.builds(m.End, **_head, commitment=commitments, authorization=authorizations, tariff=st.none() | tariffs)
disclaimers = st.builds(m.Disclaimer, **_head, authorization=authorizations)
chains = st.builds(
    m.Chain,
    **_head,
    commitment=commitments,
    authorization=authorizations,
    tariff=tariffs,
    unit_per_tick=st.integers(1, m.MAX_EPOCH),
    length=st.integers(1, m.MAX_CHAIN_LENGTH),
    anchor=words,
)
statements = st.one_of(intents, readings, ends, disclaimers, chains)
ticks = st.builds(m.ChainTick, authorization=authorizations, index=st.integers(1, m.MAX_CHAIN_LENGTH), preimage=words)
grants = st.builds(
    m.Grant,
    recipient=devices,
    gateway=gateways,
    witness=witnesses,
    at=instants,
    authorization=authorizations,
    intent_epoch=epochs,
    intent_counter=counts,
    tariff=tariffs,
    register_id=names.map(RegisterId),
    register_epoch=epochs,
    start=counts,
    limit=counts,
    held=st.lists(
        st.builds(m.Held, quota_id=(names | st.just("floor")).map(QuotaId), amount_micros=amounts),
        max_size=m.MAX_HELD_PARTS,
    ).map(tuple),
    currency=st.sampled_from([Currency("EUR"), Currency("JPY"), Currency("KWD")]),
    net_micros=amounts,
    tax_micros=amounts,
    report_interval_s=epochs,
    commitment=st.none() | commitments,
    account=st.none() | names.map(AccountId),
    readings_due=st.lists(instants, unique=True, max_size=m.MAX_READINGS_DUE).map(sorted).map(tuple),
    lapses_at=st.none() | instants,
)
_signed_grants = st.binary(min_size=1, max_size=m.MAX_SIGN1_SIZE)
_enveloped = {
    "statement": st.binary(min_size=1, max_size=768),
    "traceparent": st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128),
    "witness": st.none() | witnesses,
}
envelopes = st.one_of(
    st.builds(
        m.Envelope,
        **_enveloped,
        token=st.none() | st.binary(min_size=1, max_size=256),
        salt=st.none() | st.binary(min_size=16, max_size=16),
    ),
    st.builds(
        m.Envelope,
        **_enveloped,
        grant=st.none() | _signed_grants,
        first=st.none() | st.binary(min_size=1, max_size=768),
    ),
)
_answer = {
    "gateway": gateways,
    "witness": witnesses,
    "answers": st.none() | st.tuples(epochs, counts),
    "receipted_counter": counts,
    "closed": st.booleans(),
    "asks": st.lists(authorizations, max_size=m.MAX_ASKED).map(tuple),
    "ticked": st.none() | st.integers(0, m.MAX_CHAIN_LENGTH),
}
_refusals = st.sampled_from(list(Refusal))
answers = st.one_of(
    st.builds(m.Answer, **_answer, status=st.just(m.AnswerStatus.GRANTED), grant=_signed_grants),
    st.builds(m.Answer, **_answer, status=st.just(m.AnswerStatus.RECORDED), grant=st.none() | _signed_grants),
    st.builds(
        m.Answer,
        **_answer,
        status=st.sampled_from([m.AnswerStatus.REFUSED, m.AnswerStatus.AGAIN]),
        refusal=_refusals,
    ),
    st.builds(
        m.Answer, **_answer, status=st.just(m.AnswerStatus.LATER), refusal=_refusals, retry_after_ms=st.none() | epochs
    ),
)
