"""Read documents and ledger, account by account, and hold them against each other (``verifying`` decides)."""

from farthing.v1 import documents_pb2, movements_pb2
from farthing_cloud.database import Pool
from farthing_cloud.documents import verifying
from farthing_cloud.documents.reading import Peers
from farthing_cloud.documents.rounding import unit_micros
from farthing_cloud.documents.store import DocumentStore, Run, Stored


async def check(pool: Pool, peers: Peers, operator_id: str) -> documents_pb2.VerifyDocumentsResponse:
    """What ``verify`` finds; nothing is issued in between that it could take for a fault."""
    async with pool.connection() as connection:
        store = DocumentStore(connection)
        # Before the documents are read: what is issued meanwhile is more, never less.
        runs: dict[str, list[Run]] = {}
        for run in await store.runs(operator_id):
            runs.setdefault(run.account_id, []).append(run)
    accounts = await peers.accounts(operator_id)
    answer = documents_pb2.VerifyDocumentsResponse(accounts=len(accounts))
    faults = [f"account {gone} has documents, and the ledger does not know it" for gone in runs.keys() - set(accounts)]
    exact = rounded = 0
    for account_id in accounts:
        told = await peers.movements(movements_pb2.ListMovementsRequest(operator_id=operator_id, account_id=account_id))
        of_account = runs.get(account_id, [])
        to_position = of_account[-1].to_position if of_account else 0
        async with pool.connection() as connection:
            store = DocumentStore(connection)
            documents = await store.everything(operator_id, account_id)
            billed = [
                part for part in await store.billed_parts(operator_id, account_id) if part.key.position <= to_position
            ]
            credited = [
                part
                for part in await store.credited_parts(operator_id, account_id)
                if part.correction_position <= to_position
            ]
        sums = verifying.account_sums(account_id, to_position, (told.billed, told.given_back), (billed, credited))
        faults += [
            fault
            for fault in (
                verifying.runs_fault(of_account),
                *map(verifying.document_fault, documents),
                verifying.lines_fault(documents, billed),
                sums.fault,
            )
            if fault
        ]
        unit = unit_micros(told.currency)
        for each in documents:
            sign = 1 if each.draft.kind == "invoice" else -1
            exact += sign * each.draft.exact_micros
            rounded += sign * each.draft.rounded_minor * unit
        answer.documents += len(documents)
        answer.billed_micros += sums.billed_micros
        answer.given_back_micros += sums.given_back_micros
        answer.not_invoiced_micros += sums.not_invoiced_micros
    answer.documented_micros = exact
    answer.rounding_micros = rounded - exact
    async with pool.connection() as connection, connection.transaction():
        store = DocumentStore(connection)
        # Nobody takes a number while series and documents are held against each other.
        await store.lock(operator_id)
        everything = await store.everything(operator_id, "", content=False)
        fault = verifying.series_fault(await store.series(operator_id), everything)
    last: dict[str, Stored] = {}
    async with pool.connection() as connection:
        store = DocumentStore(connection)
        for each in everything:
            stored = await store.document(operator_id, each.number)
            assert stored is not None  # nobody deletes documents: their number was just listed
            fault = fault or verifying.chain_fault(stored, last.get(each.draft.prefix))
            last[each.draft.prefix] = each
    faults += [fault] if fault else []
    if not faults and exact != answer.billed_micros - answer.given_back_micros:
        faults = [
            f"documents sum to {exact} micros, and billed less given back is {answer.billed_micros - answer.given_back_micros}"
        ]
    answer.ok = not faults
    answer.fault = faults[0] if faults else ""
    return answer
