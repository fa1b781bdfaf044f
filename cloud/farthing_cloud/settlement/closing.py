"""Close a window: which rules divide it, and whether the ledger divided it by them."""

from collections.abc import Iterable, Mapping, Sequence

from farthing.ids import SiteId
from farthing.money import format_micros
from farthing.v1 import ledger_pb2
from farthing_cloud.settlement.rules import FROM_THE_BEGINNING, Part, SplitRule, shares


def clearing_micros(balances: Iterable[ledger_pb2.Balance], window: str) -> Mapping[SiteId, int]:
    """What stands in each site's clearing of ``window`` (posted, credits minus debits), by site."""
    standing: dict[SiteId, int] = {}
    for balance in balances:
        kind, site, of_window = (*balance.path.split("/", 2), "", "")[:3]
        if kind == "clearing" and of_window == window:
            standing[SiteId(site)] = int(balance.credits_posted) - int(balance.debits_posted)
    return standing


def request(
    *, operator_id: str, currency: str, window: str, rules: Sequence[SplitRule]
) -> ledger_pb2.CloseWindowRequest:
    """What the ledger is asked: the same rules always give the same bytes."""
    return ledger_pb2.CloseWindowRequest(
        operator_id=operator_id,
        currency=currency,
        window=window,
        splits=[
            ledger_pb2.SiteSplit(
                site_id=rule.site_id,
                rule_version=rule.version,
                parts=[ledger_pb2.SplitPart(path=part.path, share_ppm=part.share_ppm) for part in rule.parts],
                remainder_path=rule.remainder_path,
            )
            for rule in rules
        ],
    )


def _rule(operator_id: str, split: ledger_pb2.SiteSplit) -> SplitRule:
    return SplitRule(
        operator_id=operator_id,
        site_id=SiteId(split.site_id),
        version=split.rule_version,
        parts=tuple(Part(path=part.path, share_ppm=part.share_ppm) for part in split.parts),
        remainder_path=split.remainder_path,
        effective_from_us=FROM_THE_BEGINNING,
    )


def disagreement(asked: ledger_pb2.CloseWindowRequest, answered: ledger_pb2.CloseWindowResponse) -> str:
    """Where the ledger's division is not what the rules it was asked to use say, in words; empty when it is."""
    by_site = {SiteId(split.site_id): _rule(asked.operator_id, split) for split in asked.splits}
    for site in answered.sites:
        if not site.split_micros and not any(result.amount_micros for result in site.results):
            continue
        rule = by_site.get(SiteId(site.site_id))
        if rule is None:
            return f"site {site.site_id} was split without a rule"
        ours = {share.path: share.amount_micros for share in shares(site.split_micros, rule) if share.amount_micros}
        theirs = {result.path: result.amount_micros for result in site.results if result.amount_micros}
        if ours != theirs:
            return (
                f"site {site.site_id}: by rule version {rule.version}, {format_micros(site.split_micros)} is "
                f"{_said(ours)}, and the ledger made it {_said(theirs)}"
            )
    return ""


def _said(amounts: Mapping[str, int]) -> str:
    return " + ".join(f"{path} {format_micros(micros)}" for path, micros in sorted(amounts.items())) or "nothing"
