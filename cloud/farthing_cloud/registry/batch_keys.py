"""The batch keys that a gateway had: replaced ones stay good for what was sealed before, revoked ones are good for nothing."""

from farthing.device.cose import key_id
from farthing.v1 import registry_pb2
from farthing_cloud.registry.checks import Unfit
from farthing_cloud.registry.life import IllegalStep

#: A key a month for twenty years.
MAX_BATCH_KEYS = 256


def keep_batch_keys(old: registry_pb2.Gateway | None, gateway: registry_pb2.Gateway) -> None:
    """Give ``gateway``, as somebody puts it, the keys it had; raise ``Unfit`` or ``IllegalStep`` for a key that it may not have."""
    if gateway.earlier_batch_keys and (old is None or gateway.earlier_batch_keys != old.earlier_batch_keys):
        raise Unfit("earlier_batch_keys: the registry keeps them itself")
    del gateway.earlier_batch_keys[:]
    if old is None:
        return
    gateway.earlier_batch_keys.extend(old.earlier_batch_keys)
    if gateway.batch_key == old.batch_key:
        return
    if any(each.revoked and each.batch_key == gateway.batch_key for each in old.earlier_batch_keys):
        raise IllegalStep("batch_key: it is revoked, for ever")
    if not any(each.batch_key == old.batch_key for each in gateway.earlier_batch_keys):
        gateway.earlier_batch_keys.append(
            registry_pb2.EarlierBatchKey(batch_key=old.batch_key, batch_certificate=old.batch_certificate)
        )
    if len(gateway.earlier_batch_keys) > MAX_BATCH_KEYS:
        raise Unfit(f"batch_key: a gateway has at most {MAX_BATCH_KEYS} in its life")


def revoke_batch_key(gateway: registry_pb2.Gateway, named: bytes) -> None:
    """Revoke the key with this id, the present one or one before; raise ``Unfit`` where it has none such."""
    for each in gateway.earlier_batch_keys:
        if key_id(each.batch_key) == named:
            each.revoked = True
            return
    if key_id(gateway.batch_key) != named:
        raise Unfit(f"key_id: {named.hex() or 'nothing'} names no batch key of {gateway.gateway_id}")
    gateway.earlier_batch_keys.append(
        registry_pb2.EarlierBatchKey(
            batch_key=gateway.batch_key, batch_certificate=gateway.batch_certificate, revoked=True
        )
    )
