"""A mesh for agents with faults: two nodes, of which the first has the agent, and what its tasks are to have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

from agent.containers.docker_client import LocalTask
from agent.desired_state import DesiredState
from agent.dns.responder_client import Responder
from agent.dns.task_dns import TaskDns
from agent.firewall import nft, node_ruleset
from agent.interface.path_mtu import PathMtu
from agent.interface.task import TaskState
from agent.linux.netns import TaskNetns
from agent.state.key_file import load_or_make_node_key
from agent.state.node_identity import Identity
from agent.state.verified_state import VerifiedState, followed
from controller.swarm.model import SwarmTask
from mesh.identity.key_files import verify_keys_text
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.model.records import TaskReport
from mesh.store.client import Follower, Store
from mesh.topology.desired import device_name as device_name_of
from mesh.topology.strict_isolation import LocalNetworks
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.faulty_node import Container, NodesDocker, differences
from tests.netns.world import Node, World, delete_netns, device_name
from tests.store.etcd_server import EtcdServer
from tests.store.proxy import Proxy
from tests.store.small_mesh import SmallMesh, swarm_service
from tests.support.faults.fork_server import ForkServer, Supervised
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY

HERE, THERE = "n1", "n2"


@dataclass
class FaultyMesh:
    """`web` links to `db`, `front` to `back`; whoever is not changed by a test is a bystander."""

    node: Node
    world: World
    mesh: SmallMesh
    docker: NodesDocker
    agents: ForkServer
    folder: Path
    etcd: str
    """As the agent's node reaches it."""
    store: Store
    follower: Follower
    desired: DesiredState
    ports: str = "51820-51899"
    """That the agent may give its tasks."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start_far(self, service: str, node: str = THERE) -> str:
        """Start a task; elsewhere nobody wires it."""
        task, swarm = device_name().removeprefix("lw").ljust(25, "x"), self.mesh.swarm
        found = SwarmTask(task, f"#{service}", next(self._numbers) + 1, node, "running", "running", ())
        swarm.tasks_now = {**swarm.tasks_now, task: found}
        self.mesh.wake()
        return task

    def start(self, service: str) -> Container:
        """Start a task on the agent's node, with a container."""
        task = self.start_far(service, HERE)
        container = Container(task, service, self.world.netns(), self.folder / "containers")
        container.hosts.parent.mkdir(parents=True)
        container.hosts.write_text("127.0.0.1\tlocalhost\n")
        self.docker.put(container)
        return container

    def admit(self, container: Container) -> None:
        """Start a task whose container is ready, on the agent's node."""
        swarm = self.mesh.swarm
        found = SwarmTask(
            container.task, f"#{container.service}", next(self._numbers) + 1, HERE, "running", "running", ()
        )
        swarm.tasks_now = {**swarm.tasks_now, container.task: found}
        self.mesh.wake()
        self.docker.put(container)

    def end(self, *tasks: Container | str) -> None:
        """End tasks, and with each its container and namespace."""
        for task in tasks:
            self.mesh.swarm.end(task if isinstance(task, str) else task.task)
            if isinstance(task, Container):
                self.docker.drop(task)
        self.mesh.wake()

    def forget(self, *containers: Container) -> None:
        """Let go of the namespaces of containers that have ended."""
        for container in containers:
            container.netns.close()
            delete_netns(container.netns)

    def link(self, *, linked: bool) -> None:
        """Have `web` link to `db`, or to nobody."""
        found = self.mesh.swarm.services_now["#web"]
        labels = ServiceLabels((LinkLabel("db", ("db",)),) if linked else ())
        self.mesh.swarm.services_now = {**self.mesh.swarm.services_now, "#web": replace(found, labels=labels)}
        self.mesh.wake()

    def wanted(self, container: Container) -> InterfaceConfig | None:
        """A task's interface, by the records alone; None where it is to have none."""
        snapshot = self.follower.snapshot
        self.desired.update(snapshot, frozenset())
        graph = self.desired.graph
        endpoint = graph.by_task.get(container.task)
        if endpoint is None:
            return None
        hosts = str(container.hosts)
        local = LocalTask(
            container.id, container.task, endpoint.service, "", "running", None, hosts, None, (), gated=False
        )
        state = TaskState(local, dns=TaskDns(Responder()))
        return self.desired.interface(state, endpoint, LocalNetworks({}, ()))

    def device(self, container: Container) -> str:
        """The name that a task's device has."""
        return device_name_of(container.task)

    def reported(self, container: Container) -> list[str]:
        """What the node says of a task that is wired, and is not as it should be."""
        report = self.follower.snapshot.get(keyspace.report(HERE, container.task), TaskReport)
        if report is None or not report.wired:
            return [f"{container.service} is not reported as wired"]
        return [report.error] if report.error else []

    def refused(self) -> list[str]:
        """What the node's own table lacks."""
        cluster = self.desired.graph.cluster
        if cluster is None:
            return ["no cluster"]
        with TaskNetns(self.node.netns.path) as home:
            table = nft.read(home)
        wanted = node_ruleset.render(cluster.subnet, cluster.subnet6)
        return [] if table is not None and table.rules == wanted else ["the node's table"]

    def left(self, peers: dict[str, int], *containers: Container) -> list[str]:
        """What is not as it is to be; `peers` are how many each service's tasks are to have."""
        found = []
        for container in containers:
            config = self.wanted(container)
            number = len(config.peers) if config is not None else 0
            if number != peers[container.service]:
                found.append(f"{container.service} has {number} peers in the records")
            else:
                found += differences(self.node.backend, container, config)
            if config is not None:
                found += self.reported(container)
        return found + self.refused()

    def agent(self, without: str = "") -> Supervised:
        """An agent that is not started yet, with files of its own but for the node's, and without a defence."""
        folder = Path(mkdtemp(dir=self.folder, prefix="agent-"))
        order = {
            "log": str(folder / "log"),
            "calls": str(folder / "calls"),
            "folder": str(self.folder / "run"),
            "prefix": device_name()[:9],
            "netns": self.node.netns.path,
            "without": without,
            "arguments": [
                *("--etcd", self.etcd, "--docker", self.docker.url, "--ports", self.ports),
                *("--state", str(self.folder / "state"), "--certificates", str(self.folder / "none")),
                *("--verify-keys", str(self.folder / "keys"), "--metrics", "off", "--address", "192.0.2.1"),
            ],
        }
        return Supervised(self.agents, order)


@contextmanager
def faulty_mesh(folder: Path, rest_s: int = 60) -> Iterator[FaultyMesh]:
    """One mesh, ended at the end; freed addresses rest for so many seconds."""
    with ExitStack() as stack:
        world = World()
        stack.callback(world.close)
        for name in ("etcd", "run", "containers"):
            (folder / name).mkdir()
        (folder / "run" / "sandboxes").mkdir()
        (folder / "keys").write_text(verify_keys_text(CLUSTER, [SIGNING_KEY.verify_key]))
        node, _ = world.nodes()
        etcd = stack.enter_context(EtcdServer(folder / "etcd"))
        mesh = SmallMesh(etcd.endpoint, "/linkwire/v1/", folder)
        swarm = mesh.swarm
        swarm.tasks_now = {}
        swarm.services_now |= {one.id: one for one in (swarm_service("front", "back"), swarm_service("back"))}
        key = load_or_make_node_key(folder / "state")
        identity = Identity(folder / "state", folder / "none", CLUSTER, HERE, key.public)
        swarm.approved[HERE] = identity.statement.fingerprint
        store = Store([mesh.endpoint], RecordSigner.reader(KEYRING), root=mesh.root)
        stack.callback(store.close)
        follower = store.follow(followed(HERE), lambda: None, with_raw=True)
        (folder / "trust").mkdir()
        desired = DesiredState(HERE, key, VerifiedState(folder / "trust"), node.backend)
        desired._path_mtu = PathMtu(TaskNetns(node.netns.path))  # as from the node, not from here
        docker = stack.enter_context(NodesDocker(folder, HERE, "192.0.2.1"))
        agents = ForkServer("tests.netns.faulty_agent")
        stack.callback(agents.close)
        proxy = stack.enter_context(node.netns.run(lambda: Proxy(etcd.port)))  # which listens in the node's namespace
        stack.enter_context(mesh.reader(THERE))
        stack.enter_context(mesh.controller(rest_s=rest_s))
        yield FaultyMesh(node, world, mesh, docker, agents, folder, proxy.endpoint, store, follower, desired)
