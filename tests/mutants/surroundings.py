"""Defences beside the link: against neighbours on a node, tenants of the Swarm, and root on a worker."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_AGENT, _CONTROLLER = "tests/unit/agent", "tests/unit/controller"
_NEIGHBOURS, _LEASES = "tests/netns/test_neighbours.py", "tests/store/test_leases.py"
_GUARD, _RULES, _CANDIDATES = (
    "agent/firewall/source_guard.py",
    "agent/firewall/ruleset.py",
    "agent/containers/netns_choice.py",
)
_AGREEMENT, _AGREEMENT_TEST = "mesh/topology/agreed_links.py", "tests/unit/mesh/test_agreed_links.py"
_CONSENT, _CONSENT_TEST = "mesh/model/labels/consent.py", "tests/unit/mesh/test_consent.py"
_STRANGERS = "tests/store/test_consent.py"
_QUOTA, _QUOTA_TEST = "controller/etcd/node_quota.py", "tests/store/test_node_quota.py"

SURROUNDINGS = (
    # On a node, beside a linked task.
    Mutant(
        "nothing passes between ports of the node's bridges where one is a strict task's",
        _GUARD,
        'self._ensure_at(netns, home, "bridge", frozenset())',
        "pass",
        (f"{_NEIGHBOURS}::test_no_frame_passes_between_ports_of_docker0",),
    ),
    Mutant(
        "a linked task sends on an overlay by its own IPv4 addresses",
        _GUARD,
        '        f"ip saddr != {_any_of(v4 or [_NOBODY])} drop",\n',
        "",
        (f"{_NEIGHBOURS}::test_worn_addresses_do_not_leave_a_linked_task",),
    ),
    Mutant(
        "a linked task sends on an overlay by its own IPv6 addresses",
        _GUARD,
        "        f\"ip6 saddr != {_any_of(['::', 'fe80::/10', *v6])} drop\",\n",
        "",
        (f"{_NEIGHBOURS}::test_worn_addresses_do_not_leave_a_linked_task",),
    ),
    Mutant(
        "a linked task says by ARP that it has its own addresses alone",
        _GUARD,
        '        f"arp saddr ip != {_any_of([_NOBODY, *v4])} drop",\n',
        "",
        (f"{_NEIGHBOURS}::test_no_task_takes_anothers_place_on_an_overlay",),
    ),
    Mutant(
        "a linked task says by neighbour discovery that it has its own addresses alone",
        _GUARD,
        "icmpv6 type nd-neighbor-advert {_TARGET_START} !=",
        "icmpv6 type nd-neighbor-advert {_TARGET_START} ==",
        (f"{_NEIGHBOURS}::test_no_task_takes_anothers_place_on_an_overlay",),
    ),
    Mutant(
        "a linked task poses as no router",
        _GUARD,
        '        "icmpv6 type { nd-router-advert, nd-redirect } drop",\n',
        "",
        (f"{_NEIGHBOURS}::test_no_linked_task_poses_as_a_router",),
    ),
    Mutant(
        "a linked task sends nothing but IP and ARP on an overlay",
        _GUARD,
        '        "ether type != { ip, ip6, arp } drop",\n',
        "",
        (f"{_NEIGHBOURS}::test_only_ip_and_arp_leave_a_linked_task",),
    ),
    Mutant(
        "a strict task takes nothing by link-local addresses",
        _RULES,
        '*_link_local("saddr", policy, [_counted(_APART), _DROP]),',
        "",
        (f"{_AGENT}/test_rules_judged.py::test_every_packet_meets_its_policys_verdict",),
    ),
    Mutant(
        "a strict task sends nothing by link-local addresses",
        _RULES,
        '*_link_local("daddr", policy, [*_refused(_APART)]),',
        "",
        (f"{_AGENT}/test_rules_judged.py::test_every_packet_meets_its_policys_verdict",),
    ),
    Mutant(
        "on the node's bridges a strict task takes from the gateway alone",
        _RULES,
        '*([*_beside_gateway("saddr", exit_), _counted(_APART), _DROP] for exit_ in policy.exits),',
        "",
        (
            "tests/netns/test_rules_beside.py::test_exit_network_reaches_only_its_gateway",
            f"{_AGENT}/test_rules_judged.py::test_every_packet_meets_its_policys_verdict",
        ),
    ),
    Mutant(
        "on the node's bridges a strict task sends to the gateway alone",
        _RULES,
        '*([*_beside_gateway("daddr", exit_), *_refused(_APART)] for exit_ in policy.exits),',
        "",
        (f"{_AGENT}/test_rules_judged.py::test_every_packet_meets_its_policys_verdict",),
    ),
    Mutant(
        "strict: all opens published ports alone",
        _RULES,
        "*(_closed(policy.open_ports) if policy.open_ports is not None else ()),",
        "",
        (f"{_NEIGHBOURS}::test_closed_task_opens_published_ports_only",),
    ),
    Mutant(
        "all port lists of a task are bounded",
        "agent/firewall/port_lists.py",
        "kept = without(kept, _surplus(kept, _links(applied), MOST_RANGES))",
        "_surplus(kept, _links(applied), MOST_RANGES)",
        (f"{_AGENT}/test_port_lists.py::test_longest_lists_are_left_out_first",),
    ),
    Mutant(
        "refused rules cost the newcomer alone",
        "agent/firewall/port_lists.py",
        "if not services:\n            return None",
        "if reason or not services:\n            return None",
        ("tests/netns/test_port_lists.py::test_refused_rules_cost_the_newcomer_alone",),
    ),
    Mutant(
        "nft sees no file of the node",
        "agent/firewall/nft_confinement.py",
        "_checked(_libc.umount2(place.encode(), _DETACH))",
        "pass",
        ("tests/netns/test_nft_confinement.py::test_nft_taken_over_reaches_no_other_namespace",),
    ),
    Mutant(
        "a namespace that was there before a container is not its own",
        _CANDIDATES,
        "if namespace.first <= starting.since:",
        "if namespace.first <= 0:",
        (f"{_AGENT}/test_netns_choice.py::test_namespace_from_before_is_none",),
    ),
    Mutant(
        "a namespace that was not looked at for a while is nobody's",
        _CANDIDATES,
        "if ended - namespace.looked > GAP_S:",
        "if ended - namespace.looked > 1000 * GAP_S:",
        (f"{_AGENT}/test_netns_choice.py::test_a_gap_between_two_looks_rules_out",),
    ),
    Mutant(
        "two namespaces for one container are neither its own",
        _CANDIDATES,
        "if holders > 1:",
        "if holders > 9:",
        (f"{_AGENT}/test_netns_choice.py::test_two_namespaces_for_one_container_are_none",),
    ),
    Mutant(
        "a namespace in which another container began is nobody's",
        _CANDIDATES,
        'self._rule_out(namespace, "another container\'s process has begun in it")',
        "pass",
        (f"{_AGENT}/test_netns_choice.py::test_address_changed_after_its_process_began",),
    ),
    # Services of other tenants.
    Mutant(
        "a provider allows a link of another stack",
        _AGREEMENT,
        "if all(allows(provider, consumer) for provider in providers):",
        "if providers:",
        (
            f"{_AGREEMENT_TEST}::test_provider_allows_a_stack_a_service_anybody",
            f"{_STRANGERS}::test_a_stranger_links_to_a_silent_service",
        ),
        quick=True,
    ),
    Mutant(
        "a consumer accepts a link that another stack declares",
        _AGREEMENT,
        "willing = [c for c in consumers if c.id != provider.id and _accepts(c, provider)]",
        "willing = [c for c in consumers if c.id != provider.id]",
        (f"{_AGREEMENT_TEST}::test_declared_link_needs_both_sides",),
    ),
    Mutant(
        "a declared link takes no name from its consumer",
        _AGREEMENT,
        "if name in taken or name in consumer.hosts or self._others(consumer, provider):",
        "if not name:",
        (f"{_AGREEMENT_TEST}::test_declared_link_takes_no_name_from_consumer",),
    ),
    Mutant(
        "one stack declares no more than its share",
        _AGREEMENT,
        "(foreign and counted[provider.stack] >= MAX_DECLARED)",
        "(foreign and counted[provider.stack] >= 100 * MAX_DECLARED)",
        (f"{_AGREEMENT_TEST}::test_one_stack_declares_no_more_than_its_share",),
    ),
    Mutant(
        "strangers' links make nobody strict",
        _AGREEMENT,
        "return frozenset(id_ for id_ in far - near if self._services[id_].labels == ServiceLabels())",
        "return frozenset()",
        (f"{_AGREEMENT_TEST}::test_strangers_links_make_nobody_strict",),
    ),
    Mutant(
        "a link key counts in its own stack",
        _AGREEMENT,
        'key = own_key(link.key, consumer.stack) if "::" not in link.key else link.key',
        "key = link.key or own_key(link.key, consumer.stack)",
        (
            f"{_AGREEMENT_TEST}::test_link_key_counts_in_its_own_stack",
            f"{_STRANGERS}::test_a_stranger_shares_and_rotates_a_key",
        ),
    ),
    Mutant(
        "keys of two stacks whose names run together are two",
        _CONSENT,
        'return f"{stack}::{key.removeprefix(f\'{stack}_\')}" if "_" in stack else key',
        "return key",
        (f"{_STRANGERS}::test_two_stacks_names_that_run_together_are_apart",),
    ),
    Mutant(
        "a name alone makes no stack",
        _CONSENT,
        'return namespace if namespace and service.startswith(f"{namespace}_") else None',
        'return service.partition("_")[0] or namespace',
        (f"{_CONSENT_TEST}::test_a_stack_needs_dockers_label_and_name",),
    ),
    Mutant(
        "a label alone makes no stack",
        _CONSENT,
        'return namespace if namespace and service.startswith(f"{namespace}_") else None',
        "return namespace if service else None",
        (f"{_CONSENT_TEST}::test_a_stack_needs_dockers_label_and_name",),
    ),
    Mutant(
        "consent that cannot be read opens nothing",
        _CONSENT,
        "closed: dict[str, tuple[str, ...]] = dict.fromkeys(shut, ())",
        "closed: dict[str, tuple[str, ...]] = dict.fromkeys(shut, (ANYBODY,))",
        (f"{_CONSENT_TEST}::test_unreadable_consent_opens_nothing",),
    ),
    Mutant(
        "one stack leaves addresses and ports for others",
        "controller/planning/stack_shares.py",
        "if held >= self._share * size:",
        "if held > size:",
        (
            f"{_CONTROLLER}/test_shares.py::test_one_stack_leaves_addresses_for_others",
            f"{_CONTROLLER}/test_shares.py::test_one_stack_leaves_ports_for_others",
        ),
    ),
    Mutant(
        "a secret is Linkwire's by its id, not by its name",
        "compose_ext/secrets/docker_secrets.py",
        "if one.id in ids or _is_trusted(one, numbers, trusted)]",
        "if one.id or _is_trusted(one, numbers, trusted) or ids]",
        ("tests/unit/compose_ext/test_secret_record.py::test_unfinished_work_of_an_earlier_version_is_left",),
    ),
    Mutant(
        "nothing that is printed controls a terminal",
        "compose_ext/docker_cli.py",
        'return "".join(character if character.isprintable() or character == "\\n" else "?" for character in text)',
        "return text",
        ("tests/unit/compose_ext/test_compose_ps.py::test_what_is_told_can_not_steer_a_terminal",),
    ),
    # Root on a worker.
    Mutant(
        "a leader is replaced when it shows no sign of life, whatever its lease is",
        "controller/election.py",
        "return now - self._sight.since >= SILENCE_S",
        "return now < self._sight.since",
        (
            f"{_CONTROLLER}/test_election.py::test_silent_leader_is_replaced_and_fenced",
            f"{_LEASES}::test_a_dead_leaders_lease_kept_decides_nothing",
        ),
    ),
    Mutant(
        "a leader that shows signs of life is not replaced",
        "controller/election.py",
        "if self._sight is None or self._sight.revisions != revisions:",
        "if self._sight is None:",
        (f"{_CONTROLLER}/test_election.py::test_silent_leader_is_replaced_and_fenced",),
    ),
    Mutant(
        "a sign of life between a standby's look and its write defeats the takeover",
        "controller/election.py",
        "(lead, Put(self._tenure(), revisions[1]))",
        "(lead, Put(self._tenure(), None))",
        (f"{_CONTROLLER}/test_election.py::test_sign_of_life_defeats_a_takeover",),
    ),
    Mutant(
        "old vitals that are written again are no life",
        "controller/trust/presence.py",
        "versioned.generation <= last.generation:",
        "versioned.generation < 0:",
        (
            f"{_CONTROLLER}/test_presence.py::test_only_a_growing_signed_generation_is_life",
            f"{_LEASES}::test_replayed_vitals_are_no_sign_of_life",
        ),
    ),
    Mutant(
        "forged vitals are no life",
        "controller/trust/presence.py",
        "if self._signatures.problem(key, versioned, member.report_key) is not None:",
        "if member is None:",
        (
            f"{_CONTROLLER}/test_presence.py::test_only_a_growing_signed_generation_is_life",
            f"{_LEASES}::test_replayed_vitals_are_no_sign_of_life",
        ),
    ),
    Mutant(
        "a released address is free after its rest, whoever keeps its lease",
        "controller/recovery/resting_addresses.py",
        "now - each[1].since >= self._rest_s,",
        "now < each[1].since,",
        (f"{_LEASES}::test_an_address_rests_no_longer_than_it_should",),
    ),
    Mutant(
        "a node that fills etcd is barred",
        _QUOTA,
        "return holding.size > NODE_PART * self._quota or holding.keys > NODE_KEYS",
        "return holding.size < 0",
        (f"{_QUOTA_TEST}::test_node_that_fills_etcd_loses_its_records",),
    ),
    Mutant(
        "a node that has too many keys is barred",
        _QUOTA,
        "return holding.size > NODE_PART * self._quota or holding.keys > NODE_KEYS",
        "return holding.size > NODE_PART * self._quota",
        (f"{_QUOTA_TEST}::test_many_small_records_count_too",),
    ),
    Mutant(
        "a value that is too large is not read",
        "mesh/store/follower.py",
        "if len(value) > keyspace.limit(key) + OVERHEAD:",
        "if not keyspace.limit(key) + OVERHEAD:",
        ("tests/unit/mesh/test_limits.py::test_larger_than_any_honest_is_not_decoded",),
        quick=True,
    ),
    Mutant(
        "a node-local network is its node's alone",
        "controller/swarm/attachments.py",
        'return Attachment(f"{network}@{task.node}", attachment.address)',
        'return Attachment(f"{network}@", attachment.address)',
        (f"{_CONTROLLER}/test_plan_attachments.py::test_no_report_speaks_of_another_node",),
    ),
    Mutant(
        "an address that a node reports lies in its network's subnet",
        "controller/swarm/attachments.py",
        "return not _is_a_hosts(address) or address in network.gateways or not _within(address, network)",
        "return not _is_a_hosts(address) or address in network.gateways",
        (f"{_CONTROLLER}/test_plan_attachments.py::test_node_gives_one_address_within_the_subnet",),
    ),
    Mutant(
        "a node is reached where Swarm knows it",
        "mesh/topology/underlay.py",
        "if why is None and address in known:",
        "if why is None and (address in known or not known or known):",
        ("tests/unit/mesh/test_underlay.py::test_only_known_and_fit_addresses_count",),
        quick=True,
    ),
    Mutant(
        "no task has a port of its node's own services",
        "mesh/topology/underlay.py",
        "if not 0 < first < FIRST_PORT or not first <= last <= MAX_PORT:",
        "if first or last:",
        ("tests/unit/mesh/test_underlay.py::test_ports_of_a_nodes_own_services_are_refused",),
    ),
)
