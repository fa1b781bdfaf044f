"""What the ledger told a gateway of devices and tariffs, as evidence is checked against it.

The directives themselves are the record: a device's earlier keys and register epochs stay known, because batches sealed
under them may still be proven.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from farthing.device.cose import VerifyingKey
from farthing.device.reject import MessageError
from farthing.evidence.detail import RegisterFacts
from farthing.ids import AccountId, GatewayId
from farthing.tariff import Tariff, TariffError, parse
from farthing.v1 import directive_pb2
from farthing_cloud.ledger.store.interface import LedgerStore

#: Gateways whose facts are remembered; the others' are read again from their chains. A thousand devices take about 1 MB.
MAX_GATEWAYS: Final = 256
_PAGE: Final = 500


@dataclass(slots=True)
class GatewayFacts:
    """Devices and tariffs of one gateway, up to a version of its chain."""

    version: int = 0
    #: Of the directive at that version: a ledger that was restored may have another one there.
    body_hash: bytes = b""
    keys: dict[tuple[str, bytes], VerifyingKey] = field(default_factory=dict)
    registers: dict[tuple[str, str, int], RegisterFacts] = field(default_factory=dict)
    tariffs: dict[tuple[str, int], Tariff] = field(default_factory=dict)
    #: Device → under which tariffs it was ever told yes once and for all, and who pays now.
    standing_tariffs: dict[str, frozenset[str]] = field(default_factory=dict)
    standing_accounts: dict[str, AccountId] = field(default_factory=dict)
    #: The site's, by which its tariffs read the wall clock.
    time_zone: str = ""

    def device_key(self, device_id: str, key_id: bytes) -> VerifyingKey | None:
        """The device's key of that id."""
        return self.keys.get((device_id, key_id))

    def tariff(self, tariff_id: str, version: int) -> Tariff | None:
        """A version of a tariff."""
        return self.tariffs.get((tariff_id, version))

    def register(self, device_id: str, register_id: str, register_epoch: int) -> RegisterFacts | None:
        """Unit and modulus of a register."""
        return self.registers.get((device_id, register_id, register_epoch))

    def standing(self, device_id: str) -> frozenset[str]:
        """The ids of the tariffs under which the device was ever told yes once and for all."""
        return self.standing_tariffs.get(device_id, frozenset())

    def standing_account(self, device_id: str) -> AccountId | None:
        """Who pays for what it reads, as the gateway was told last."""
        return self.standing_accounts.get(device_id)

    def learn(self, directive: directive_pb2.Directive) -> None:
        """Take in the next directive. What cannot be parsed stays unknown, and fails the evidence that names it."""
        if directive.HasField("device"):
            device = directive.device
            try:
                key = VerifyingKey.from_spki(device.statement_key)
            except MessageError:
                key = None
            if key is not None:
                self.keys[device.device_id, key.key_id] = key
            for register in device.registers:
                name = (device.device_id, register.register_id, register.register_epoch)
                self.registers[name] = RegisterFacts(unit=register.unit, modulus=register.modulus)
            if device.profile == directive_pb2.DEVICE_PROFILE_STANDING and device.standing_account_id:
                self.standing_tariffs[device.device_id] = self.standing(device.device_id) | {device.tariff_id}
                self.standing_accounts[device.device_id] = AccountId(device.standing_account_id)
        elif directive.HasField("welcome"):
            self.time_zone = directive.welcome.time_zone
        elif directive.HasField("tariff"):
            with suppress(TariffError):
                self.tariffs[directive.tariff.tariff_id, directive.tariff.version] = parse(directive.tariff.ocpi_json)
        self.version = directive.version


class Facts:
    """Facts of the gateways that came lately."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._known: OrderedDict[GatewayId, GatewayFacts] = OrderedDict()

    async def of(self, gateway_id: GatewayId) -> GatewayFacts:
        """Everything the gateway was told so far."""
        facts = self._known.setdefault(gateway_id, GatewayFacts())
        self._known.move_to_end(gateway_id)
        if len(self._known) > MAX_GATEWAYS:
            self._known.popitem(last=False)
        # From the last one that is known: the chain must still go through it.
        first = True
        while rows := await self._store.directives(gateway_id, max(0, facts.version - first), _PAGE):
            if first and facts.version and rows[0].body_hash != facts.body_hash and rows[0].version == facts.version:
                facts = self._known[gateway_id] = GatewayFacts()
                continue
            first = False
            for row in rows:
                if row.version == facts.version + 1:  # another call may have read on meanwhile
                    facts.learn(directive_pb2.Directive.FromString(row.body))
                    facts.body_hash = row.body_hash
        return facts
