"""The composition root: reads one frozen configuration, builds everything, runs one TaskGroup, decides nothing.

Order of start: token, database and schemas, ports, channels, services, listeners, run.json. Stop is the reverse.
"""

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

import psycopg
import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from farthing.clock import BusinessClock
from farthing.configuration import ConfigError
from farthing.daemon import RUN_FILE, write_run_file
from farthing.hsm import Hsm, Party, Token, load_party
from farthing.hsm.tls import read_roots
from farthing_cloud.admission import RegistryAdmission
from farthing_cloud.callers import make_table
from farthing_cloud.channel import BackOfficeChannel, open_channel
from farthing_cloud.config import SERVICE_NAMES, CloudConfig, ListenSection, ServiceName
from farthing_cloud.database import EmbeddedServer, Pool, migrate, open_pool, with_password
from farthing_cloud.http import HttpListener, health_and_metrics
from farthing_cloud.listeners import CallMetrics, Doorkeeper, Issuers, ListenerServer
from farthing_cloud.offering import Service
from farthing_cloud.transport import ISSUING_KEY, Transport

#: Calls under way when we are told to stop. With pools and PostgreSQL after it, all of it fits into five seconds.
STOP_GRACE_S = 1.0
POOL_CLOSE_TIMEOUT_S = 1.0
#: No service calls these: a process need not know where they are.
UNCALLED: frozenset[ServiceName] = frozenset({"publiclog"})
#: How often the database is asked whether it is there, for health and metrics.
PROBE_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 2.0
#: A service whose background work fails for a fault of ours starts again after this, then twice as late each time.
FIRST_RESTART_PAUSE_S = 1.0
MAX_RESTART_PAUSE_S = 30.0

_log = structlog.stdlib.get_logger(__name__)


def build_service(
    name: ServiceName,
    *,
    config: CloudConfig,
    pool: Pool,
    token: Token,
    channel: BackOfficeChannel,
    clock: BusinessClock,
) -> Service:
    """The service ``name``. Only what runs is imported."""
    match name:
        case "ledger":
            from farthing_cloud import ledger

            return ledger.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.ledger)
        case "vault":
            from farthing_cloud import vault

            return vault.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.vault)
        case "registry":
            from farthing_cloud import registry

            return registry.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.registry)
        case "settlement":
            from farthing_cloud import settlement

            return settlement.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.settlement)
        case "fraud":
            from farthing_cloud import fraud

            return fraud.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.fraud)
        case "publiclog":
            from farthing_cloud import publiclog

            return publiclog.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.publiclog)

        case "documents":
            from farthing_cloud import documents

            return documents.build(pool=pool, token=token, channel=channel, clock=clock, settings=config.documents)
    assert_never(name)


def check_names(names: Sequence[str]) -> tuple[ServiceName, ...]:
    """The services to run, in starting order; none named: all. Raise ``ConfigError`` for a name that is none."""
    unknown = sorted(set(names) - set(SERVICE_NAMES))
    if unknown:
        raise ConfigError(f"no service is called {', '.join(unknown)}: there are {', '.join(SERVICE_NAMES)}")
    wanted = set(names) or set(SERVICE_NAMES)
    return tuple(name for name in SERVICE_NAMES if name in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metrics:
    database_up: Gauge
    restarts: Counter

    @classmethod
    def make(cls, registry: CollectorRegistry) -> "_Metrics":
        return cls(
            database_up=Gauge("farthing_cloud_database_up", "1 while PostgreSQL answers, else 0.", registry=registry),
            restarts=Counter(
                "farthing_cloud_service_restarts",
                "Background work started again after a fault of ours.",
                ("service",),
                registry=registry,
            ),
        )


class Cloud:
    """One process of the cloud: some services, or all."""

    def __init__(
        self,
        config: CloudConfig,
        names: Sequence[ServiceName],
        *,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._config = config
        self._names = tuple(names)
        self._registry = registry
        self._metrics = _Metrics.make(registry)
        self._database_up = True
        self._stopping = asyncio.Event()
        self.addresses: dict[str, str] = {}
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Let ``run`` end cleanly."""
        self._stopping.set()

    async def run(self) -> None:
        """Start, serve until ``stop``, end. Raises what a start can find wrong: see ``farthing_cloud.command``."""
        config = self._config
        party = load_party(config.party)
        roots = read_roots(config.ca_file)
        table = make_table(config.callers)
        clock = config.clock.clock()
        config.state_dir.mkdir(parents=True, exist_ok=True)
        run_file = config.state_dir / RUN_FILE
        async with AsyncExitStack() as stack:
            token = await stack.enter_async_context(_token(party))
            url, embedded = await stack.enter_async_context(_database(config))
            pools = await self._open_pools(stack, url)

            keeper_metrics = CallMetrics(self._registry)
            issuers = Issuers(root=roots, issuing=party.certificate(ISSUING_KEY))
            back_office = await self._bind(
                stack,
                "back office",
                config.back_office,
                token,
                roots,
                Doorkeeper(table=table, issuers=issuers, admission=None, metrics=keeper_metrics),
            )
            own_address = _reachable(back_office.address)
            channels = {name: await self._channel(stack, name, own_address, token, roots) for name in self._names}
            services = {
                name: build_service(
                    name, config=config, pool=pools[name], token=token, channel=channels[name], clock=clock
                )
                for name in self._names
            }
            mounted = [entry for service in services.values() for entry in service.servicers]
            at_door = [entry for entry in mounted if entry[2] == "door"]
            admission: RegistryAdmission | None = None
            door: ListenerServer | None = None
            if at_door:
                admission = RegistryAdmission(channels["ledger"].to("registry"))
                door = await self._bind(
                    stack,
                    "gateways' door",
                    config.door,
                    token,
                    roots,
                    Doorkeeper(table=table, issuers=issuers, admission=admission, metrics=keeper_metrics),
                )
            listeners = [each for each in (back_office, door) if each is not None]
            pages = [
                HttpListener(
                    section="http",
                    listen=config.http.listen,
                    routes=health_and_metrics(faults=self._faults, registry=self._registry),
                )
            ]
            if "publiclog" in self._names and config.publiclog.listen is not None:
                from farthing_cloud.publiclog import tiles_http

                assert config.publiclog.directory is not None, "load_config fills it in"
                routes = tiles_http.routes(config.publiclog.directory)
                pages.append(HttpListener(section="publiclog", listen=config.publiclog.listen, routes=routes))
            for http in pages:
                http.start()
            await back_office.start(
                [entry for entry in mounted if entry[2] == "back-office"], table=table, reflect=True
            )
            if door is not None:
                await door.start(at_door, table=table, reflect=False)
            self.addresses = {
                "back_office": back_office.address,
                **({} if door is None else {"door": door.address}),
                **dict(zip(("http", "publiclog"), (http.address for http in pages), strict=False)),
            }
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_running(name, service.run), name=f"service {name}")
                    for name, service in services.items()
                ]
                tasks.append(group.create_task(self._probe(next(iter(pools.values())), listeners), name="probe"))
                if admission is not None:
                    tasks.append(group.create_task(admission.run(), name="admission"))
                if embedded is not None:
                    tasks.append(group.create_task(embedded.watch(), name="embedded PostgreSQL"))
                for http in pages:
                    group.create_task(http.run(), name=f"pages on {http.address}")
                write_run_file(run_file, started_at=datetime.now(UTC), addresses=self.addresses)
                stack.callback(run_file.unlink, missing_ok=True)
                _log.info("ready", services=list(self._names), addresses=self.addresses)
                self.ready.set()
                await self._stopping.wait()
                _log.info("stopping")
                for task in tasks:
                    task.cancel()
                for http in pages:
                    http.stop()
                await asyncio.gather(*(listener.stop(STOP_GRACE_S) for listener in listeners))
        _log.info("stopped")

    async def _open_pools(self, stack: AsyncExitStack, url: str) -> dict[ServiceName, Pool]:
        pools: dict[ServiceName, Pool] = {}
        for name in self._names:
            applied = await migrate(url, f"farthing_cloud.{name}.schema", name)
            if applied:
                _log.info("schema steps applied", schema=name, steps=list(applied))
            pool = await open_pool(url, schema=name)
            stack.push_async_callback(pool.close, POOL_CLOSE_TIMEOUT_S)
            pools[name] = pool
        return pools

    async def _bind(
        self,
        stack: AsyncExitStack,
        name: str,
        section: ListenSection,
        token: Token,
        roots: bytes,
        keeper: Doorkeeper,
    ) -> ListenerServer:
        dns_names, addresses = _names(section)
        transport = Transport(
            token=token,
            roots=roots,
            directory=self._config.transport_dir,
            common_name="farthing-" + name.replace(" ", "-").replace("'", ""),
            dns_names=dns_names,
            addresses=addresses,
            server=True,
        )
        credentials = await asyncio.to_thread(transport.server_credentials)
        stack.callback(transport.remove)
        listener = ListenerServer(name=name, address=section.listen, credentials=credentials, keeper=keeper)
        stack.push_async_callback(listener.stop, STOP_GRACE_S)
        return listener

    async def _channel(
        self, stack: AsyncExitStack, name: ServiceName, own_address: str, token: Token, roots: bytes
    ) -> BackOfficeChannel:
        transport = Transport(
            token=token,
            roots=roots,
            directory=self._config.transport_dir,
            common_name=f"farthing-service-{name}",
            uris=(f"spiffe://farthing/service/{name}",),
            server=False,
        )
        await asyncio.to_thread(transport.current)
        stack.callback(transport.remove)
        channel = open_channel(self._peers(own_address), transport)
        stack.push_async_callback(channel.close)
        return channel

    def _peers(self, own_address: str) -> Mapping[str, str]:
        peers: dict[str, str] = {}
        for name in SERVICE_NAMES:
            if name in self._names:
                peers[name] = own_address
                continue
            address = self._config.back_office.addresses.get(name)
            if address is None and name in UNCALLED:
                continue
            if address is None:
                raise ConfigError(
                    f"the service {name} is not in this process: say where it is, back_office.addresses.{name} = "
                    '"host:port"'
                )
            peers[name] = address
        return peers

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a service's background work; a fault of ours in one does not touch the others (P8)."""
        pause_s = FIRST_RESTART_PAUSE_S
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 whatever it is, it is one service's: logged, counted, tried again
                self._metrics.restarts.labels(name).inc()
                _log.exception("background work failed; it starts again", service=name, pause_s=pause_s)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RESTART_PAUSE_S)

    async def _probe(self, pool: Pool, listeners: Sequence[ListenerServer]) -> None:
        """Know whether the database is there: for health, metrics, and one log line at each change."""
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S), pool.connection(timeout=PROBE_TIMEOUT_S):
                    # The pool asked the server before it gave the connection out.
                    up = True
            except (psycopg.Error, TimeoutError) as err:
                up = False
                if self._database_up:
                    _log.warning("the database does not answer; calls are told to come again", cause=str(err).strip())
            if up and not self._database_up:
                _log.info("the database is back")
            if up != self._database_up:
                self._database_up = up
                for listener in listeners:
                    await listener.say(serving=up)
            self._metrics.database_up.set(1 if up else 0)
            await asyncio.sleep(PROBE_INTERVAL_S)

    def _faults(self) -> list[str]:
        return [] if self._database_up else ["PostgreSQL does not answer"]


@contextlib.asynccontextmanager
async def _token(party: Party) -> AsyncIterator[Token]:
    hsm = Hsm.of(party)
    await asyncio.to_thread(hsm.start)
    try:
        yield await asyncio.to_thread(hsm.attach, party)
    finally:
        await asyncio.to_thread(hsm.close)


@contextlib.asynccontextmanager
async def _database(config: CloudConfig) -> AsyncIterator[tuple[str, EmbeddedServer | None]]:
    section = config.database
    if section.url is not None:
        yield with_password(section.url, section.password_file), None
        return
    assert section.data_dir is not None, "load_config fills it in"
    server = EmbeddedServer(section.data_dir)
    url = await server.start()
    try:
        yield url, server
    finally:
        await server.stop()


def _names(section: ListenSection) -> tuple[list[str], list[str]]:
    """What the listener's certificate names: (DNS names, IP addresses)."""
    host = section.listen.rpartition(":")[0].strip("[]")
    dns_names, addresses = ["localhost"], ["127.0.0.1"]
    for name in (host, *section.names):
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            dns_names.append(name)
        else:
            if not address.is_unspecified:
                addresses.append(str(address))
    return list(dict.fromkeys(dns_names)), list(dict.fromkeys(addresses))


def _reachable(address: str) -> str:
    """Where this process reaches its own listener."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else address  # noqa: S104 compared, not bound


async def mark_restored(config: CloudConfig, *, why: str) -> str:
    """Stop the ledger in the configured database, before the first start on it; what is told."""
    # A process of the other services does without the ledger's store.
    from farthing_cloud.ledger.offline import stop_restored

    async with _database(config) as (url, _):
        epoch = await stop_restored(url, why=f"said before the start: {why}", now=config.clock.clock().now())
    return (
        f"the ledger is {epoch.state.value} in epoch {epoch.number} ({epoch.why}): start the cloud, then two persons begin the next epoch with"
        " 'farthing-admin ledger restored propose' and 'approve'"
    )


async def serve(config: CloudConfig, names: Sequence[ServiceName]) -> None:
    """Run until SIGTERM or SIGINT."""
    cloud = Cloud(config, names)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, cloud.stop)
    await cloud.run()
