"""Parties and documents as they travel."""

from dataclasses import asdict

from farthing.v1 import documents_pb2
from farthing_cloud.documents.parties import Address, Buyer, Seller
from farthing_cloud.documents.store import Stored


def differences(before: Seller | Buyer | None, after: Seller | Buyer) -> list[str]:
    """Field by field, for people."""
    old = {} if before is None else _flat(before)
    return [
        f"{name}: {old.get(name) or 'none'} -> {value or 'none'}"
        for name, value in _flat(after).items()
        if old.get(name, "") != value
    ]


def _flat(party: Seller | Buyer) -> dict[str, str]:
    fields = asdict(party)
    return {**{name: text for name, text in fields.items() if name != "address"}, **fields["address"]}


def _address(message: documents_pb2.PostalAddress) -> Address:
    return Address(street=message.street, city=message.city, postcode=message.postcode, country=message.country)


def _address_message(address: Address) -> documents_pb2.PostalAddress:
    return documents_pb2.PostalAddress(
        street=address.street, city=address.city, postcode=address.postcode, country=address.country
    )


def seller_of(message: documents_pb2.Seller) -> Seller:
    """A seller as asked for; raise ``PartyError``."""
    return Seller(
        operator_id=message.operator_id,
        name=message.name,
        address=_address(message.address),
        vat_id=message.vat_id,
        invoice_prefix=message.invoice_prefix,
        credit_note_prefix=message.credit_note_prefix,
    )


def seller_message(seller: Seller) -> documents_pb2.Seller:
    """A seller for the wire."""
    return documents_pb2.Seller(
        operator_id=seller.operator_id,
        name=seller.name,
        address=_address_message(seller.address),
        vat_id=seller.vat_id,
        invoice_prefix=seller.invoice_prefix,
        credit_note_prefix=seller.credit_note_prefix,
    )


def buyer_of(message: documents_pb2.Buyer) -> Buyer:
    """A buyer as asked for; raise ``PartyError``."""
    return Buyer(
        operator_id=message.operator_id,
        account_id=message.account_id,
        name=message.name,
        address=_address(message.address),
        vat_id=message.vat_id,
    )


def buyer_message(buyer: Buyer) -> documents_pb2.Buyer:
    """A buyer for the wire."""
    return documents_pb2.Buyer(
        operator_id=buyer.operator_id,
        account_id=buyer.account_id,
        name=buyer.name,
        address=_address_message(buyer.address),
        vat_id=buyer.vat_id,
    )


def document_message(stored: Stored) -> documents_pb2.PayersDocument:
    """A document for the wire."""
    return documents_pb2.PayersDocument(
        operator_id=stored.draft.operator_id,
        number=stored.number,
        kind=stored.draft.kind,
        account_id=stored.draft.account_id,
        currency=stored.draft.currency,
        issued_at_us=stored.draft.issued_at,
        person=stored.draft.person,
        names_number=stored.draft.names_number,
        exact_micros=stored.draft.exact_micros,
        content=stored.content,
        content_hash=stored.content_hash,
    )
