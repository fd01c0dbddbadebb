"""The help texts."""

_SUMMARY = """\
Usage:  docker linkwire COMMAND

WireGuard between the services that a compose file links

Commands:
  check       Say everything that is wrong with compose files, or in the Swarm
  render      Print what deploy adds to the compose files
  deploy      Deploy a stack, or update it, with its links
  ps          List links with their tasks, and whether they are connected
  install     Install Linkwire on a Swarm, or update it, with its keys
  renew       Renew Linkwire's certificates or its signing key, or say how long they are good
  uninstall   Remove Linkwire from a Swarm
  gate        Put the start gate into nodes' Docker, take it out, or say where it is
  node        List nodes and whose keys are proven, and approve those that cannot be
  rotate      Give link keys new secrets, now
  version     Print the version

Docker's own flags (-H, --context, --tls..., --config) stand before or after the command.
LINKWIRE_DOCKER in the environment names the docker program to use.
Run 'docker linkwire COMMAND --help' for more about a command.
"""

_FILES = """\
Options:
  -c, --compose-file FILE    Path to a compose file, or "-" for standard input; may be given several times
      --env-file FILE        Read variables from it, as docker compose does; may be given several times
"""

_CHECK = f"""\
Check compose files, and say everything that is wrong with them

Exits with 0 if nothing is wrong, else with 2. Names in external_links are looked up if a Docker endpoint
answers; one that is absent is a warning. Docker CLI 25 and later are asked for what `docker stack deploy` refuses.

Without a file it is the Swarm that is checked: labels that cannot be read, links to services that do not exist,
tasks that are not wired, stacks whose links `docker stack deploy` dropped. Exits with 1 if anything is wrong there.

{_FILES}      --stack STACK          Check the names that the services get in this stack as well; without a file,
                             tell only of this stack
      --format FORMAT        text (the default) or json
"""

_RENDER = f"""\
Print what deploy adds to the compose files: one more, with labels

It has to stand before yours: docker stack deploy -c THIS -c FILE STACK. Behind them Docker would drop some of the
ports, configs and secrets of services that stand in both.

{_FILES}"""

_DEPLOY = f"""\
Deploy a stack, or update it, with its links

Hands one more file that it writes, and then yours, to `docker stack deploy`; if none of them has x-wireguard just
yours. Without -c it takes those of COMPOSE_FILE. Exits with 0 if all went well, with 1 if Docker failed or the Swarm
has no Linkwire, with 2 if the files or the command line are wrong, and then nothing was deployed.

{_FILES}  -d, --detach               Do not wait for the services to converge (passed to docker stack deploy)
      --prune                Remove services that the files no longer have (passed on)
  -q, --quiet                Suppress progress output (passed on)
      --resolve-image WHEN   Resolve image digests: always, changed or never (passed on)
      --with-registry-auth   Send registry authentication to the nodes (passed on)
      --without-linkwire     Deploy also where the Swarm has no Linkwire that would wire the links
"""

_PS = """\
List links with their tasks, and whether they are connected

Asks the Linkwire agent on the Docker endpoint. Exits with 1 if there is none.

Options:
      --format FORMAT        table (the default) or json
"""

_INSTALL = """\
Install Linkwire on a Swarm, or update it, with its keys

Makes the secrets that Linkwire needs, as Docker secrets, and deploys the stack `linkwire`: etcd, controllers, and
an agent on every node. Run again, it makes what is missing and updates the stack; a flag that is not given keeps
the value that it had. The image is tried on every node before anything is changed, and a link of its own at the
end.

Options:
      --image IMAGE          Of controller, agent and etcd (default linkwire:latest)
      --etcd-address IP      Where nodes reach etcd (default: what its node advertises). It runs on the node with
                             the label linkwire.etcd=true, which this manager gets if no node has it
      --etcd-port PORT       Its TCP port (default 2379)
      --etcd URL[,URL]       etcds of your own, instead: https://HOST:PORT
      --etcd-ca FILE         Whose certificates they show
      --etcd-cert FILE       What controllers show to them, and with --etcd-key FILE its private key
      --etcd-agent-cert FILE What agents show, and with --etcd-agent-key FILE its key (default: the controllers')
      --etcd-insecure        They are http://, and everybody on the way may read and write along
      --subnet SUBNET        The mesh's addresses, fixed at first use (default 100.96.0.0/16)
      --controllers NUMBER   How many, on managers (default 2)
      --ports FIRST-LAST     UDP ports of each node for its tasks (default 51820-53819)
      --metrics HOST:PORT    Where each agent answers Prometheus, or off (default 127.0.0.1:9586)
      --address-rest SECONDS For which a freed address rests (default 600)
      --log-level LEVEL      debug, info, warning or error (default info)
      --gate                 Put the start gate into every node's Docker as well: see docker linkwire gate
  -d, --detach               Do not wait until everything runs, and try no link
"""

_GATE = """\
Put the start gate into nodes' Docker, take it out, or say where it is

With the gate as a node's default runtime, a linked task starts when it is wired, or not at all. `install` places its
script on each node, merges it into dockerd's own configuration file, keeps the file as it was beside it, reloads
dockerd (nothing is restarted), reads back, and sets the node label linkwire.gate=true. `remove` undoes all of it.
Without NODE it is done on all nodes. Exits with 1 if a node could not; the others have it then, and it may be run
again.

Options of install:
      --wait SECONDS         How long a start waits to be wired (default 30)
      --ready-wait SECONDS   How long a start with `gate: ready` waits for its providers (default 120)
"""

_RENEW = """\
Renew Linkwire's certificates or its signing key, or say how long they are good

Without a flag: new certificates for etcd, controllers and agents, of a new authority, in steps in which nobody
is refused. Broken off, it goes on when it is run again. Links carry traffic meanwhile; where wireguard-go does
their work they pause for seconds while a node's agent is replaced.

Options:
      --check                Say what there is; exits with 1 if something ends within 30 days
      --drop-old             At the end restart controllers and agents once more, to accept no certificate of the
                             old authority; otherwise that ends with the old certificates' time
      --signing-key          A new signing key instead
"""

_UNINSTALL = """\
Remove Linkwire from a Swarm

Removes the stack `linkwire`, its secrets and configs; and on every node that is up its volumes, and the links of
tasks that run. Names the nodes that it did not reach.

Options:
      --keep-secrets         Remove the stack alone: `install` takes up all the rest again
      --image IMAGE          Of the containers that clean up the nodes, where the stack is gone already
  -y, --yes                  Do not ask
"""

_NODE = """\
List nodes and whose keys are proven, and approve those that cannot be

A node proves its keys by its Swarm certificate. Where it cannot, as a manager of a locked Swarm (autolock), an
operator approves them: `approve` sets the node label linkwire.key to their fingerprint. Without --fingerprint it
shows what etcd holds, and asks; compare it with what the agent on that node logs. Both need a manager.

Options of approve:
      --fingerprint TEXT     What is approved, as the agent on that node logs it; nothing is asked then
"""

_ROTATE = """\
Give link keys new secrets, now

For a key that somebody may know: a node was removed, or broken into. What runs is not interrupted, and nothing is
restarted; from the next handshake of each pair of tasks on, some two minutes later, the old secret is of no use.
KEY is its full name as `docker linkwire ps` shows it; the own key of a link is CONSUMER:PROVIDER.

Options:
  -a, --all                  All keys of all links
"""

_TEXTS = {
    "check": ("docker linkwire check [-c FILE] [OPTIONS]", _CHECK),
    "render": ("docker linkwire render -c FILE STACK", _RENDER),
    "deploy": ("docker linkwire deploy -c FILE [OPTIONS] STACK", _DEPLOY),
    "ps": ("docker linkwire ps [OPTIONS] [STACK]", _PS),
    "install": ("docker linkwire install [OPTIONS]", _INSTALL),
    "renew": ("docker linkwire renew [OPTIONS]", _RENEW),
    "uninstall": ("docker linkwire uninstall [OPTIONS]", _UNINSTALL),
    "gate": ("docker linkwire gate install | remove | status [OPTIONS] [NODE...]", _GATE),
    "node": ("docker linkwire node ls | approve [--fingerprint TEXT] NODE", _NODE),
    "rotate": ("docker linkwire rotate KEY...", _ROTATE),
    "version": ("docker linkwire version", "Print the version\n"),
}


def line(command: str) -> str:
    """Return how a command goes, in one line."""
    return _TEXTS[command][0]


def text(command: str = "") -> str:
    """Return the help on a command, or on all of them."""
    if command not in _TEXTS:
        return _SUMMARY
    how, what = _TEXTS[command]
    return f"Usage:  {how}\n\n{what}"
