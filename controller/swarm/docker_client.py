"""Client of Docker's API on a manager; the only module of the controller that imports docker."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker
import docker.errors
import requests
import structlog

from controller.swarm.model import Deploy, SwarmNetwork, SwarmNode, SwarmService, SwarmTask
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.model.encryption.status import DATA_PATH_PORT
from mesh.model.labels import link_labels
from mesh.model.labels.consent import NAMESPACE, stack_of
from mesh.model.labels.ports import PortRange, merge
from mesh.model.records import Attachment
from mesh.process import docker_version
from mesh.topology.agreed_links import known_hosts, network_aliases
from mesh.topology.strict_isolation import in_order
from mesh.topology.underlay import ADDRESS_LABEL, swarms_addresses

log = structlog.get_logger(__name__)

KEY_LABEL = "linkwire.key"
REVOKED_LABEL = "linkwire.revoked"
RECONNECT_S = 0.5


@contextlib.contextmanager
def _wrapped(what: str, *, once_managed: bool = False) -> Iterator[None]:
    """Raise errors of the project; `once_managed` is whether this Docker was a manager, and may be one again."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code == requests.codes.service_unavailable and not once_managed:
            raise Terminal(
                f"{what}: this Docker is not a Swarm manager: {error.explanation}; run the controller on a manager"
            ) from error
        raise Retryable(f"{what}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise Retryable(f"{what}: {error}") from error


def connect(url: str, timeout: float | None) -> docker.APIClient:
    """Connect with the API version that `mesh.process.docker_version` chooses.

    Args:
        url: of a manager's Docker.
        timeout: seconds for one request, None for no limit.

    Raises:
        docker.errors.DockerException: Docker refuses.
        requests.RequestException: Docker does not answer.
    """
    arguments: dict[str, Any] = {"timeout": None if timeout is None else int(timeout)}
    with contextlib.closing(docker.APIClient(url, version=docker_version.TRIED, **arguments)) as first:
        daemon = first.version(api_version=False)
    version = docker_version.choose(daemon["ApiVersion"], daemon.get("MinAPIVersion") or "")
    return docker.APIClient(url, version=version, **arguments)


class SwarmManager:
    """Lists services, tasks and nodes; every list is complete or raises Retryable."""

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        """Prepare; the first request connects.

        Args:
            url: of a manager's Docker, `unix:///var/run/docker.sock`.
            timeout: seconds for one request.
        """
        self._url = url
        self._timeout = timeout
        self._client: docker.APIClient | None = None
        self._managed = False  # a manager that starts, or is locked, says for a while that it is none

    def _api(self) -> docker.APIClient:
        if self._client is None:
            self._client = connect(self._url, self._timeout)
        return self._client

    def cluster(self) -> tuple[str, tuple[bytes, ...], int]:
        """Return Swarm's id, its root certificates in PEM, and the UDP port of its VXLAN.

        Raises Retryable; Terminal if Docker is no manager, and was none since this object was made.

        While the root is rotated this is the old one, and certificates of the new root come with a cross-signed one
        (mesh.identity.attestation).
        """
        with _wrapped("read the Swarm's id", once_managed=self._managed):
            raw = self._api().inspect_swarm()
            self._managed = True
        root = (raw.get("TLSInfo") or {}).get("TrustRoot") or ""
        port = int(raw.get("DataPathPort") or DATA_PATH_PORT)  # 0 stands for it
        return str(raw["ID"]), (str(root).encode(),) if root else (), port

    def services(self) -> dict[str, SwarmService]:
        """List every service, by id. Raises Retryable."""
        with _wrapped("list services", once_managed=self._managed):
            return {raw["ID"]: _service(raw) for raw in self._api().services()}  # type: ignore[no-untyped-call]

    def tasks(self, services: frozenset[str] | None = None) -> dict[str, SwarmTask]:
        """List every task, or every task of some services, by id. Raises Retryable."""
        with _wrapped("list tasks", once_managed=self._managed):
            filters = {"service": sorted(services)} if services is not None else None
            return {raw["ID"]: _task(raw) for raw in self._api().tasks(filters=filters)}  # type: ignore[no-untyped-call]

    def nodes(self) -> dict[str, SwarmNode]:
        """List every node, by id. Raises Retryable."""
        with _wrapped("list nodes", once_managed=self._managed):
            return {raw["ID"]: _node(raw) for raw in self._api().nodes()}

    def follow(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(type, id)` from a thread for every service and node event, for as long as the process lives.

        After each break `changed("resync", "")` is called: an unknown number of events may be missing.
        """
        threading.Thread(target=self._follow, args=(changed,), name="swarm-events", daemon=True).start()

    def _follow(self, changed: Callable[[str, str], None]) -> None:
        while True:
            try:
                with _wrapped("follow events"):
                    # no read timeout: a quiet Swarm is not a broken one, and a resync finds lost events
                    client = connect(self._url, None)
                    self._client = None  # an upgraded daemon may refuse the old API version
                    stream = client.events(decode=True, filters={"type": ["service", "node"]})
                    changed("resync", "")
                    for event in stream:  # docker-py turns a broken stream into its normal end
                        changed(str(event.get("Type")), str(event.get("Actor", {}).get("ID", "")))
            except LinkwireError as error:
                log.warning("swarm events interrupted, reconnecting", error=str(error))
            except Exception:
                # Whatever it is: without events Swarm's changes are seen with the next list only.
                log.exception("following of swarm events crashed")
            time.sleep(RECONNECT_S)


def _service(raw: Mapping[str, Any]) -> SwarmService:
    spec = raw["Spec"]
    read, errors = link_labels.decode(spec.get("Labels") or {})
    mode = spec.get("Mode") or {}
    replicated = mode.get("Replicated")
    return SwarmService(
        id=raw["ID"],
        name=spec["Name"],
        labels=read,
        label_errors=errors,
        dnsrr=(spec.get("EndpointSpec") or {}).get("Mode") == "dnsrr",
        replicas=int(replicated.get("Replicas", 0)) if replicated is not None else None,
        attachments=in_order(_virtual_ips(raw)),
        published=merge(_published(spec)),
        stack=stack_of(spec["Name"], (spec.get("Labels") or {}).get(NAMESPACE)),
        hosts=known_hosts(spec),
        aliases=network_aliases(spec),
        deploy=_deploy(raw),
    )


def _deploy(raw: Mapping[str, Any]) -> Deploy:
    given = raw["Spec"].get("Labels") or {}
    return Deploy(
        version=int((raw.get("Version") or {}).get("Index", 0)),
        updated=str(raw.get("UpdatedAt", "")),
        mark=str(given.get(link_labels.DEPLOY, "")),
    )


def _task(raw: Mapping[str, Any]) -> SwarmTask:
    return SwarmTask(
        id=raw["ID"],
        service=raw.get("ServiceID", ""),
        slot=int(raw.get("Slot", 0)),
        node=raw.get("NodeID", ""),
        desired=raw.get("DesiredState", "new"),
        state=(raw.get("Status") or {}).get("State", "new"),
        attachments=in_order(_attachments(raw)),
        networks=tuple(_networks(raw)),
    )


def _networks(task: Mapping[str, Any]) -> Iterator[SwarmNetwork]:
    for attached in task.get("NetworksAttachments") or []:
        network = attached.get("Network") or {}
        driver = (network.get("DriverState") or {}).get("Name", "")
        configs = (network.get("IPAMOptions") or {}).get("Configs") or []
        ipam = tuple((str(config.get("Subnet", "")), str(config.get("Gateway", ""))) for config in configs)
        yield _network(str(network.get("ID", "")), str(driver), ipam)


@functools.lru_cache(maxsize=4096)
def _network(network: str, driver: str, ipam: tuple[tuple[str, str], ...]) -> SwarmNetwork:
    """Read a network, once: every task's JSON has all of its networks in it."""
    subnets, gateways = [], set()
    for subnet, gateway in ipam:
        with contextlib.suppress(ValueError):
            subnets.append(ipaddress.ip_network(subnet, strict=False))
        with contextlib.suppress(ValueError):
            gateways.add(ipaddress.ip_interface(gateway).ip)
    return SwarmNetwork(network, driver == "bridge", tuple(subnets), frozenset(gateways))


def _attachments(task: Mapping[str, Any]) -> Iterator[Attachment]:
    """Yield a task's addresses; a network without any is a node's own, which gives addresses itself."""
    for attached in task.get("NetworksAttachments") or []:
        network = attached.get("Network") or {}
        for address in attached.get("Addresses") or []:
            yield from _attachment(network.get("ID"), address)


def _virtual_ips(service: Mapping[str, Any]) -> Iterator[Attachment]:
    """Yield a service's virtual IPs: none with `dnsrr`, and none before Swarm has given them."""
    for vip in (service.get("Endpoint") or {}).get("VirtualIPs") or []:
        yield from _attachment(vip.get("NetworkID"), vip.get("Addr"))


def _published(spec: Mapping[str, Any]) -> Iterator[PortRange]:
    """Yield the tasks' own ports that are published; SCTP, which has no rules here, is left out."""
    for port in (spec.get("EndpointSpec") or {}).get("Ports") or []:
        with contextlib.suppress(ValueError, TypeError):
            yield PortRange(port.get("Protocol") or "tcp", int(port["TargetPort"]), int(port["TargetPort"]))


def _attachment(network: str | None, address: str | None) -> Iterator[Attachment]:
    """Yield an address that Swarm writes with its network's prefix length, `10.0.1.5/24`."""
    if network and address:
        with contextlib.suppress(ValueError):  # nothing can be sent to it
            yield Attachment(network, ipaddress.ip_interface(address).ip)


def _node(raw: Mapping[str, Any]) -> SwarmNode:
    node_labels = (raw.get("Spec") or {}).get("Labels") or {}
    text = node_labels.get(ADDRESS_LABEL)
    address, problem = None, None
    if text is not None:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            problem = f"node label {ADDRESS_LABEL}={text!r} is not an IP address: the one that Swarm knows is used"
    return SwarmNode(
        id=raw["ID"],
        hostname=(raw.get("Description") or {}).get("Hostname", raw["ID"]),
        down=(raw.get("Status") or {}).get("State") in ("down", "disconnected"),
        address=address,
        label_error=problem,
        known_at=swarms_addresses(raw),
        approved=node_labels.get(KEY_LABEL),
        revoked=node_labels.get(REVOKED_LABEL),
        manager=(raw.get("Spec") or {}).get("Role") == "manager",
    )
