"""A registry of services, in the layout of Curator's service discovery: programs in Java find the same instances.

An instance is the ephemeral znode ``<path>/<service>/<id>``; its data are JSON.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from fastzk.client.operations import Operations
from fastzk.client.recipes.support import FOREVER, Recipe, SyncFace, new_identifier
from fastzk.client.signals import Signal
from fastzk.errors import NodeExistsError, NoNodeError, ZooKeeperError


class ServiceInstance(NamedTuple):
    """One place where a service is to be had."""

    service: str
    id: str
    address: str
    port: int | None = None
    #: Whatever JSON can say.
    payload: Any = None

    def encode(self, now_ms: int) -> bytes:
        """The znode's data."""
        return json.dumps(
            {
                "name": self.service,
                "id": self.id,
                "address": self.address,
                "port": self.port,
                "sslPort": None,
                "payload": self.payload,
                "registrationTimeUTC": now_ms,
                "serviceType": "DYNAMIC",
                "uriSpec": None,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From the znode's data.

        :raises ValueError: when they are something else.
        """
        try:
            fields = json.loads(data)
            return cls(fields["name"], fields["id"], fields["address"], fields.get("port"), fields.get("payload"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an instance of a service: {data[:80]!r}") from error


class RegistrationCore(Recipe):
    """See :class:`Registration`."""

    def __init__(self, client: Operations, path: str, instance: ServiceInstance) -> None:
        super().__init__(client, path)
        self.instance = instance
        #: The creation zxid of the instance's znode.
        self.fencing_token: int | None = None
        self._wanted = False

    async def _register(self) -> None:
        client = self.client
        self._wanted = True
        client.at_session_end(self._session_over)
        retries = FOREVER.begin(True)
        data = self.instance.encode(time.time_ns() // 1_000_000)
        while self._wanted:
            try:
                # It may exist: of this session, from before the connection broke; or of one that is over.
                with contextlib.suppress(NodeExistsError):
                    await client.create_async(self.path, data, None, True, makepath=True)
                stat = await client.exists_async(self.path)
                identity = client.client_id
                if stat is not None and identity is not None:
                    if stat.ephemeralOwner == identity[0]:
                        self.fencing_token = stat.czxid
                        return
                    await client.delete_async(self.path, stat.version)
            except NoNodeError:
                continue
            except ZooKeeperError as error:
                if not retries.again(error):
                    raise
                await client.pause(retries.delay(error))

    def _session_over(self) -> None:
        self.fencing_token = None
        if self._wanted:
            self.client.tell(self._register_again)

    def _register_again(self) -> None:
        if self._wanted and self.client._session.live:
            self._detach(self._register())

    async def _unregister(self) -> bool:
        self._wanted = False
        self.fencing_token = None
        self.client.forget_session_end(self._session_over)
        try:
            await self.client.retried(self.client.delete_async, self.path)
        except NoNodeError:
            return False
        return True


class Registration(RegistrationCore, SyncFace):
    """An instance that is in the registry until ``unregister``, over lost sessions too."""

    def unregister(self) -> bool:
        """Take it out; False when it was not there."""
        return self._wait(self._unregister())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unregister()


class AsyncRegistration(RegistrationCore):
    """:class:`Registration` for asyncio."""

    async def unregister(self) -> bool:
        """Take it out; False when it was not there."""
        return await self._unregister()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.unregister()


class RegistryCore(Recipe):
    """See :class:`ServiceRegistry`."""

    def _instance(
        self, service: str, address: str, port: int | None, payload: Any, identifier: str | None
    ) -> tuple[str, ServiceInstance]:
        identifier = identifier or new_identifier()
        if not service or "/" in service or "/" in identifier:
            raise ValueError("the name of a service and an id are names of znodes")
        instance = ServiceInstance(service, identifier, address, port, payload)
        return f"{self._below(service)}/{identifier}", instance

    async def _instances(self, service: str, signal: Signal | None = None) -> list[ServiceInstance]:
        client = self.client
        path = self._below(service)
        while True:
            try:
                names = await client.retried(client.get_children_async, path, signal)
                break
            except NoNodeError:
                if await client.retried(client.exists_async, path, signal) is None:
                    return []
        found: list[ServiceInstance] = []
        for name in sorted(names):
            try:
                data, _ = await client.retried(client.get_async, f"{path}/{name}")
                found.append(ServiceInstance.decode(data))
            except (NoNodeError, ValueError):
                continue
        return found

    async def _services(self) -> list[str]:
        try:
            return sorted(await self.client.retried(self.client.get_children_async, self.path))
        except NoNodeError:
            return []


class _Changes:
    """The instances of a service, again after each change."""

    def __init__(self, registry: RegistryCore, service: str) -> None:
        self._registry = registry
        self._service = service
        self._signal = Signal(registry.client)
        self._seen: list[ServiceInstance] | None = None

    async def _next(self) -> list[ServiceInstance]:
        while True:
            if self._seen is not None:
                await self._signal.wait()
            self._signal.clear()
            found = await self._registry._instances(self._service, self._signal)
            if found != self._seen:
                self._seen = found
                return found


class ServiceRegistry(RegistryCore, SyncFace):
    """Who offers what, where.

    registry = client.ServiceRegistry("/services")
    with registry.register("search", "10.0.0.7", 8080):
        registry.instances("search")
    """

    def register(
        self, service: str, address: str, port: int | None = None, payload: Any = None, identifier: str | None = None
    ) -> Registration:
        """Add an instance. It goes with the session, and comes again with the next.

        :param payload: whatever JSON can say.
        :param identifier: its name in the registry; a new one where it is None.
        """
        registration = Registration(self.client, *self._instance(service, address, port, payload, identifier))
        self._wait(registration._register())
        return registration

    def instances(self, service: str) -> list[ServiceInstance]:
        """The instances there are, in the order of their ids."""
        return self._wait(self._instances(service))

    def services(self) -> list[str]:
        """The names of all services."""
        return self._wait(self._services())

    def changes(self, service: str) -> Iterator[list[ServiceInstance]]:
        """The instances now, and again whenever they have changed. The loop waits in between."""
        changes = _Changes(self, service)
        while True:
            yield self._wait(changes._next())


class AsyncServiceRegistry(RegistryCore):
    """:class:`ServiceRegistry` for asyncio."""

    async def register(
        self, service: str, address: str, port: int | None = None, payload: Any = None, identifier: str | None = None
    ) -> AsyncRegistration:
        """See :meth:`ServiceRegistry.register`."""
        registration = AsyncRegistration(self.client, *self._instance(service, address, port, payload, identifier))
        await registration._register()
        return registration

    async def instances(self, service: str) -> list[ServiceInstance]:
        """The instances there are, in the order of their ids."""
        return await self._instances(service)

    async def services(self) -> list[str]:
        """The names of all services."""
        return await self._services()

    async def changes(self, service: str) -> AsyncIterator[list[ServiceInstance]]:
        """The instances now, and again whenever they have changed."""
        changes = _Changes(self, service)
        while True:
            yield await changes._next()
