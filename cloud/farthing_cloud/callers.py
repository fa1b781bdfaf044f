"""Who may call what.

Rule 1: a caller is what its certificate says: one SAN URI ``spiffe://farthing/<kind>/<id>``, in a certificate that the
issuer of that kind signed itself. A sub-CA in the field (a gateway's ``site-ca``) can therefore not make a person.
Rule 2: each method lists its callers; what no row allows is refused, and a method without a row stops the start.
Rule 3: whether a gateway may still call is asked at each call, and its live streams end when it may no longer.
"""

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_URI = re.compile(r"spiffe://farthing/(gateway|person|service)/([A-Za-z0-9-]{1,64})\Z")


class CallerError(Exception):
    """The peer's certificate names nobody who may call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: ``kind`` is "gateway", "person" or "service"; ``id`` is unique within it."""

    kind: str
    id: str

    @property
    def uri(self) -> str:
        """The SAN URI that names it."""
        return f"spiffe://farthing/{self.kind}/{self.id}"


def parse_uris(uris: Sequence[str]) -> Caller:
    """The one caller that a certificate's SAN URIs name; raise ``CallerError`` for none, several or other forms."""
    if len(uris) != 1:
        raise CallerError(f"a client certificate names exactly one URI, this one has {len(uris)}")
    match = _URI.match(uris[0])
    if match is None:
        raise CallerError("the client certificate's URI is not spiffe://farthing/<gateway|person|service>/<id>")
    return Caller(kind=match[1], id=match[2])


#: Set by the interceptor for the time of one call, after it allowed it.
_CURRENT: ContextVar[Caller | None] = ContextVar("farthing_caller", default=None)


def set_caller(who: Caller | None) -> None:
    """Say who calls, for the rest of this task: the interceptor does so, and tests that call a servicer themselves."""
    _CURRENT.set(who)


def caller(context: Any) -> Caller:
    """Who makes the call that ``context`` (a ``grpc.aio.ServicerContext``) belongs to; raise ``CallerError`` for nobody."""
    current = _CURRENT.get()
    if current is not None:
        return current
    peer: Mapping[str, Sequence[bytes]] = context.auth_context()
    return parse_uris([uri.decode("utf-8", "replace") for uri in peer.get("peer_uri", ())])


# --- the table --------------------------------------------------------------------------------------------------------

_GATEWAYS = "spiffe://farthing/gateway/*"
_PERSONS = "spiffe://farthing/person/*"
_SERVICES = "spiffe://farthing/service/*"
_REGISTRY = "spiffe://farthing/service/registry"
_VAULT = "spiffe://farthing/service/vault"
_FRAUD = "spiffe://farthing/service/fraud"
_PUBLICLOG = "spiffe://farthing/service/publiclog"
_SETTLEMENT = "spiffe://farthing/service/settlement"
_DOCUMENTS = "spiffe://farthing/service/documents"

_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"
_DOOR = "/farthing.v1.GatewaySync/"
_R = "/farthing.v1.Registry/"
_L = "/farthing.v1.Ledger/"
_V = "/farthing.v1.Vault/"
_F = "/farthing.v1.Fraud/"
_S = "/farthing.v1.Settlement/"
_M = "/farthing.v1.Movements/"
_P = "/farthing.v1.PublicLog/"
_D = "/farthing.v1.Documents/"

#: Method → SAN URIs that may call it; "*" at the end stands for any id.
DEFAULT_CALLERS: Mapping[str, tuple[str, ...]] = {
    # The door.
    _DOOR + "Hello": (_GATEWAYS,),
    _DOOR + "PushBatches": (_GATEWAYS,),
    _DOOR + "FollowDirectives": (_GATEWAYS,),
    _DOOR + "RequestQuota": (_GATEWAYS,),
    _DOOR + "UploadEvidence": (_GATEWAYS,),
    _DOOR + "ShowDirectives": (_GATEWAYS,),
    # Health on both listeners, reflection inside only.
    _HEALTH + "Check": (_GATEWAYS, _PERSONS, _SERVICES),
    _HEALTH + "List": (_PERSONS, _SERVICES),
    _HEALTH + "Watch": (_GATEWAYS, _PERSONS, _SERVICES),
    _REFLECTION + "ServerReflectionInfo": (_PERSONS,),
    # Registry.
    _R + "PutOperator": (_PERSONS,),
    _R + "PutSite": (_PERSONS,),
    _R + "PutGateway": (_PERSONS,),
    _R + "PutTariff": (_PERSONS,),
    _R + "PutDevice": (_PERSONS,),
    _R + "PutEntitlement": (_PERSONS,),
    # Fraud may block a device; the servicer refuses it every other status.
    _R + "SetDeviceStatus": (_PERSONS, _FRAUD),
    _R + "CloseUse": (_PERSONS,),
    _R + "DecideParked": (_PERSONS,),
    _R + "SetGatewayStatus": (_PERSONS,),
    _R + "RevokeBatchKey": (_PERSONS,),
    _R + "ListOperators": (_PERSONS, _SERVICES),
    _R + "ListSites": (_PERSONS, _SERVICES),
    _R + "ListGateways": (_PERSONS, _SERVICES),
    _R + "ListTariffs": (_PERSONS, _SERVICES),
    _R + "ListDevices": (_PERSONS, _SERVICES),
    _R + "ListEntitlements": (_PERSONS, _SERVICES),
    _R + "ListDeviceChanges": (_PUBLICLOG,),
    # Ledger.
    _L + "CreateGateway": (_REGISTRY,),
    _L + "CreateAccount": (_PERSONS,),
    _L + "FundAccount": (_PERSONS,),
    _L + "ShowAccount": (_PERSONS, _FRAUD, _SETTLEMENT),
    _L + "ListAccounts": (_PERSONS, _FRAUD, _SETTLEMENT, _DOCUMENTS),
    _L + "ListBalances": (_PERSONS, _SETTLEMENT),
    _L + "ListTransfers": (_PERSONS, _SETTLEMENT),
    _L + "Verify": (_PERSONS,),
    _L + "FollowVerify": (_PERSONS,),
    _L + "ListQuotas": (_PERSONS, _FRAUD),
    # Recalling only reduces what is allowed.
    _L + "RecallQuotas": (_PERSONS, _FRAUD),
    _L + "ListBatches": (_PERSONS, _FRAUD, _SETTLEMENT),
    _L + "ListParkedStatements": (_PERSONS,),
    _L + "ListClaims": (_PERSONS, _FRAUD),
    _L + "ListOverlapCases": (_PERSONS, _FRAUD, _SETTLEMENT),
    _L + "DecideOverlapCase": (_PERSONS,),
    _L + "IssueDirective": (_REGISTRY, _VAULT, _FRAUD),
    _L + "FollowEvents": (_FRAUD, _SETTLEMENT, _DOCUMENTS, _PUBLICLOG),
    _L + "AcknowledgeEvents": (_FRAUD, _SETTLEMENT, _DOCUMENTS, _PUBLICLOG),
    _L + "ReadReceipts": (_PERSONS, _PUBLICLOG),
    _L + "AuditBatch": (_PUBLICLOG,),
    _L + "CloseWindow": (_SETTLEMENT,),
    _L + "Reconcile": (_PERSONS, _SETTLEMENT),
    _L + "ListGatewayCases": (_PERSONS, _FRAUD),
    # Two of them: the servicer asks for two persons.
    _L + "ProposeDecision": (_PERSONS,),
    _L + "ApproveDecision": (_PERSONS,),
    _L + "ListDecisions": (_PERSONS,),
    _L + "Correct": (_PERSONS,),
    _L + "ListCorrections": (_PERSONS, _SETTLEMENT),
    _L + "ListPaybacks": (_PERSONS, _SETTLEMENT),
    # Two of them approve what one planned: the servicer asks for two persons.
    _L + "PlanCorrections": (_PERSONS,),
    _L + "ListCorrectionPlans": (_PERSONS, _SETTLEMENT),
    _L + "ShowCorrectionPlan": (_PERSONS, _SETTLEMENT),
    _L + "ApproveCorrectionPlan": (_PERSONS,),
    _L + "ExecuteCorrectionPlan": (_PERSONS,),
    # Two of them review what a revoked gateway sealed: the servicer asks for two persons.
    _L + "ImportBatches": (_PERSONS,),
    _L + "ListImportReviews": (_PERSONS,),
    _L + "ProposeImportReview": (_PERSONS,),
    _L + "ApproveImportReview": (_PERSONS,),
    _L + "ExportEvidence": (_PERSONS,),
    _L + "ShowExposure": (_PERSONS, _FRAUD, _SETTLEMENT),
    _M + "ListMovements": (_PERSONS, _DOCUMENTS),
    _M + "ShowUse": (_PERSONS, _DOCUMENTS),
    _L + "ShowEpoch": (_PERSONS, _DOCUMENTS),
    # Vault.
    _V + "PutToken": (_PERSONS,),
    _V + "DenyToken": (_PERSONS, _FRAUD),
    _V + "ListTokens": (_PERSONS,),
    _V + "ProvisionGateway": (_REGISTRY,),
    # Fraud.
    _F + "ListCases": (_PERSONS,),
    _F + "ShowCase": (_PERSONS,),
    # Settlement.
    _S + "PutAgency": (_PERSONS,),
    _S + "PutSplitRule": (_PERSONS,),
    _S + "ListAgencies": (_PERSONS,),
    _S + "ListSplitRules": (_PERSONS,),
    _S + "Close": (_PERSONS,),
    _S + "Plan": (_PERSONS,),
    _S + "ShowPlan": (_PERSONS,),
    # Public log.
    _P + "ShowLogs": (_PERSONS,),
    _P + "ProveEntries": (_PERSONS,),
    _P + "ProveGrowth": (_PERSONS,),
    _P + "ListAudits": (_PERSONS,),
    _P + "ReconcileLog": (_PERSONS,),
    # Documents.
    _D + "PutSeller": (_PERSONS,),
    _D + "ListSellers": (_PERSONS,),
    _D + "PutBuyer": (_PERSONS,),
    _D + "ListBuyers": (_PERSONS,),
    _D + "MakeReceipt": (_PERSONS,),
    _D + "MakeStatement": (_PERSONS,),
    _D + "IssueInvoice": (_PERSONS,),
    _D + "ReplaceInvoice": (_PERSONS,),
    _D + "ListDocuments": (_PERSONS,),
    _D + "ShowDocument": (_PERSONS,),
    _D + "VerifyDocuments": (_PERSONS,),
}

_PATTERN = re.compile(r"spiffe://farthing/(gateway|person|service)/(\*|[A-Za-z0-9-]{1,64})\Z")


class CallerTableError(Exception):
    """A method without callers, or a row that cannot be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerTable:
    """Method → who may call it; deny by default."""

    rows: Mapping[str, frozenset[tuple[str, str]]]

    def allows(self, method: str, who: Caller) -> bool:
        """Whether ``who`` may call ``method`` ("/package.Service/Method")."""
        row = self.rows.get(method, frozenset())
        return (who.kind, who.id) in row or (who.kind, "*") in row

    def check_listed(self, methods: Sequence[str]) -> None:
        """Raise ``CallerTableError`` if a method is served that no row names: it would be open to nobody, or by mistake to all."""
        missing = sorted(set(methods) - set(self.rows))
        if missing:
            raise CallerTableError(f"no callers are listed for {', '.join(missing)}: add rows to [callers]")


def make_table(overrides: Mapping[str, Sequence[str]]) -> CallerTable:
    """The default rows with ``overrides`` in their place; raise ``CallerTableError`` for a row that cannot be meant."""
    rows = {**DEFAULT_CALLERS, **overrides}
    parsed: dict[str, frozenset[tuple[str, str]]] = {}
    for method, patterns in rows.items():
        if method not in DEFAULT_CALLERS:
            raise CallerTableError(
                f'[callers] "{method}" is no method of ours; write "/farthing.v1.Ledger/ShowAccount"'
            )
        matches = [_PATTERN.match(pattern) for pattern in patterns]
        if not all(matches):
            raise CallerTableError(
                f"[callers] {method}: write spiffe://farthing/<gateway|person|service>/<id or *>, not {list(patterns)}"
            )
        parsed[method] = frozenset((match[1], match[2]) for match in matches if match is not None)
    return CallerTable(rows=parsed)
