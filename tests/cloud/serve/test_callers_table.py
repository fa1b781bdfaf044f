"""Who may call what: every method of the contract has a row, and nothing else is allowed."""

import pytest
from google.protobuf.descriptor import FileDescriptor

from farthing.v1 import (
    documents_pb2,
    fraud_pb2,
    gateway_sync_pb2,
    ledger_pb2,
    movements_pb2,
    publiclog_pb2,
    registry_pb2,
    settlement_pb2,
    vault_pb2,
)
from farthing_cloud.callers import (
    DEFAULT_CALLERS,
    Caller,
    CallerError,
    CallerTableError,
    make_table,
    parse_uris,
)

FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        documents_pb2,
        fraud_pb2,
        gateway_sync_pb2,
        ledger_pb2,
        movements_pb2,
        publiclog_pb2,
        registry_pb2,
        settlement_pb2,
        vault_pb2,
    )
)
METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
]


def who(kind: str, name: str = "x") -> Caller:
    return Caller(kind=kind, id=name)


def test_every_method_lists_its_callers() -> None:
    assert METHODS
    assert set(METHODS) == {name for name in DEFAULT_CALLERS if name.startswith("/farthing.")}
    make_table({}).check_listed(METHODS)


def test_a_method_without_a_row_stops_the_start() -> None:
    with pytest.raises(CallerTableError, match=r"/farthing\.v1\.Ledger/Steal"):
        make_table({}).check_listed(["/farthing.v1.Ledger/Steal"])


@pytest.mark.parametrize("method", METHODS)
def test_gateways_reach_the_door_and_nothing_behind_it(method: str) -> None:
    table = make_table({})
    at_door = method.startswith("/farthing.v1.GatewaySync/")
    assert table.allows(method, who("gateway")) == at_door
    assert not (at_door and (table.allows(method, who("person")) or table.allows(method, who("service"))))


def test_services_may_do_their_part_only() -> None:
    table = make_table({})
    issue = "/farthing.v1.Ledger/IssueDirective"
    assert table.allows(issue, who("service", "registry"))
    assert not table.allows(issue, who("service", "settlement"))
    assert not table.allows(issue, who("person", "registry"))
    assert not table.allows("/farthing.v1.Ledger/FundAccount", who("service", "fraud"))
    assert not table.allows("/farthing.v1.Vault/ListTokens", who("service", "ledger"))
    assert not table.allows("/nobody.Knows/This", who("person"))


def test_rows_can_be_replaced_but_not_misspelt() -> None:
    fund = "/farthing.v1.Ledger/FundAccount"
    table = make_table({fund: ("spiffe://farthing/person/cashier",)})
    assert table.allows(fund, who("person", "cashier"))
    assert not table.allows(fund, who("person", "alice"))
    with pytest.raises(CallerTableError, match="no method of ours"):
        make_table({"/farthing.v1.Ledger/Fund": ("spiffe://farthing/person/*",)})
    with pytest.raises(CallerTableError, match="write spiffe"):
        make_table({fund: ("*",)})


def test_a_certificate_names_one_caller() -> None:
    assert parse_uris(["spiffe://farthing/gateway/gw-1"]) == who("gateway", "gw-1")
    for uris in (
        [],
        ["spiffe://farthing/gateway/gw-1", "spiffe://farthing/person/eve"],
        ["spiffe://farthing/gateway/gw-1/x"],
        ["spiffe://farthing/gateway/*"],
        ["spiffe://elsewhere/gateway/gw-1"],
        ["spiffe://farthing/root/gw-1"],
    ):
        with pytest.raises(CallerError):
            parse_uris(uris)
