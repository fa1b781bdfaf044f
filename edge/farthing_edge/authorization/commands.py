"""Everything that can change a gateway's state, and what the core says to it.

Rule 1: ingress and uplink turn what they hear into one of these commands, after checking who said it; the core never sees
a signature, a token or a socket. Rule 2: a reply is a draft: the engine adds the witness and the signature, after the commit.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from farthing.clock import Instant
from farthing.device.messages import AnswerStatus, Grant, Intent, Reading, Statement, Witness
from farthing.ids import AccountId, AuthorizationId, DeviceId, TokenRef
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_edge.metering.sealing import Drafted


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a device shows beside a statement whose authorization this gateway does not know. Ingress has checked the signatures.

    ``grant`` is the newest that a gateway signed for it, None for a standing authorization. ``first`` is what it began with: the
    intent, or a standing one's first reading; ``first_cose`` and ``first_payload`` are its bytes, ``grant_cose`` the grant's.

    A grant of another gateway comes with an end that is carried for it: its signature is the cloud's to check.
    """

    grant: Grant | None
    grant_cose: bytes
    first: Intent | Reading
    first_cose: bytes
    first_payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatement:
    """A statement whose signature, channel and commitment ingress has checked.

    ``cose`` is the COSE_Sign1 as received, ``payload`` its payload (what "same content" compares). ``token_ref`` is the HMAC of
    the token presented under the site key of ``key_epoch``, None where no token came with it. ``may_wait`` is False once the
    answer has waited for a quota: then it is decided with what is there.
    """

    statement: Statement
    cose: bytes
    payload: bytes
    token_ref: TokenRef | None = None
    key_epoch: int | None = None
    traceparent: str | None = None
    witness: Witness | None = None
    shown: Shown | None = None
    may_wait: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TicksArrived:
    """Ticks of one authorization, each (index, preimage), in the order in which they came; the channel proved the device."""

    device: DeviceId
    authorization: AuthorizationId
    shown: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectiveArrived:
    """A directive whose signature the uplink has checked; ``raw`` are the signed bytes, ``body`` what they decode to."""

    body: directive_pb2.Directive
    raw: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadArrived:
    """The signed end of the directive chain: at the business instant ``at`` it was ``version``."""

    version: int
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptArrived:
    """A receipt whose signature the uplink has checked; ``raw`` are the signed bytes."""

    receipt: batch_pb2.Receipt
    raw: bytes
    signature: bytes = b""
    key_id: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """What the cloud said to Hello."""

    hello: gateway_sync_pb2.HelloResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkChanged:
    """Whether the cloud can be asked right now."""

    online: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaAnswered:
    """What the cloud said to the quota request number ``counter``; the quota itself comes by directive."""

    counter: int
    answer: "gateway_sync_pb2.QuotaAnswer.ValueType"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealDue:
    """Seal what there is to say: a threshold was reached, or the oldest record is old enough. ``drafted``: what is ready of it."""

    drafted: Drafted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealAgain:
    """The bytes of the batch that ``GatewayState.to_seal_again`` names first: sealed in an older chain, and not receipted there."""

    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWitnessed:
    """The highest batch that this gateway's token remembers to have been sealed; asked once after a start."""

    incarnation: int
    sequence: int
    batch_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed: stop quotas that are over, ask for what is low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process has started: a random start id, and the business clock it runs by.

    ``entries_lost`` says what shows that the journal once had more than it has; empty when nothing does.
    """

    start_id: bytes
    boot_id: str
    clock_epoch_us: int
    clock_real_epoch_us: int
    clock_rate: int
    #: Random: chooses whom the cloud is asked about; empty: everybody, where an operator wants such checks.
    check_salt: bytes = b""
    entries_lost: str = ""
    #: The clock as it was read, real µs: wall clock since 1970 and monotonic time of this boot; and whether the kernel says that it is synchronised.
    real_us: int = 0
    monotonic_us: int = 0
    synchronised: bool = False
    #: When the journal's last entry was written; 0 for none.
    journal_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRead:
    """The clock was read while the process runs, as in ``Started``; ``stepped_us`` (real) is by how much somebody had put it on or back."""

    boot_id: str
    real_us: int
    monotonic_us: int
    stepped_us: int
    synchronised: bool


Command: TypeAlias = (
    DeviceStatement
    | TicksArrived
    | DirectiveArrived
    | HeadArrived
    | ReceiptArrived
    | Connected
    | UplinkChanged
    | QuotaAnswered
    | SealDue
    | SealAgain
    | TokenWitnessed
    | Tick
    | Started
    | ClockRead
)


class Reply(NamedTuple):
    """What the core says to a statement. A tuple: made for every statement, and a frozen dataclass takes four times as long to make.

    ``grant_of`` names the authorization whose latest grant goes with it, as it is once the decision's events have been applied;
    ``refusal`` comes with refused, later and again; ``ticked`` with what is said to a tick, which names no statement of its own.
    ``asks`` are authorizations of the device that have been silent for too long.
    """

    device: DeviceId
    answers: tuple[int, int] | None
    status: AnswerStatus
    refusal: Refusal | None = None
    grant_of: AuthorizationId | None = None
    closed: bool = False
    ticked: int | None = None
    asks: tuple[AuthorizationId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitForQuota:
    """The statement lacks money that the cloud may have: decide it again when that account's quotas change.

    ``once``: it waits for the cloud's word rather than for money, and is then decided with what is there.
    """

    account: AccountId
    once: bool = False
