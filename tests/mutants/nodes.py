"""Defences on a node: what a task's namespace lets pass, what its agent believes, what its programs may."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_AGENT, _TOPOLOGY = "tests/unit/agent", "tests/unit/mesh"
_RULES, _PRIVILEGES = "agent/firewall/ruleset.py", "agent/linux/privileges.py"
_JUDGED = (f"{_AGENT}/test_rules_judged.py::test_every_packet_meets_its_policys_verdict",)
_RIGHTS = "tests/netns/test_rights.py"
_NFT = "tests/netns/test_nft.py::test_nft_runs_with_no_more_than_it_needs"

NODES = (
    Mutant(
        "an address that two services claim is neither's",
        _RULES,
        "for address, names in claims.items() if len(names) == 1}",
        "for address, names in claims.items()}",
        (f"{_AGENT}/test_ruleset.py::test_address_claimed_by_two_services_is_neithers",),
        quick=True,
    ),
    Mutant(
        "two tasks with one address are not wired",
        "mesh/topology/link_graph.py",
        "elif holders[e.address] > 1 or keys[e.public_key] > 1:",
        "elif holders[e.address] > 9 or keys[e.public_key] > 9:",
        (f"{_TOPOLOGY}/test_link_graph.py::test_conflicting_claims_wire_neither_and_are_reported",),
    ),
    Mutant(
        "an address outside the mesh is nobody's",
        "mesh/topology/link_graph.py",
        "elif subnet is not None and e.address not in subnet:",
        "elif subnet is not None and not e.address:",
        (f"{_TOPOLOGY}/test_link_graph.py::test_an_address_outside_the_mesh_is_nobodys",),
    ),
    Mutant(
        "one strict side isolates two services",
        "mesh/topology/isolation.py",
        "if always or neighbour.strict",
        "if always and neighbour.strict",
        (f"{_TOPOLOGY}/test_isolation.py::test_one_strict_side_isolates_and_none_does_not",),
        quick=True,
    ),
    Mutant(
        "a link opens its own ports only",
        "mesh/topology/link_graph.py",
        "ports = link.ports or provider.expose",
        "ports = provider.expose",
        (f"{_TOPOLOGY}/test_policy.py::test_ports_come_from_link_then_expose_then_all",),
    ),
    Mutant(
        "what no link allows is refused at its receiver",
        _RULES,
        '"in_link": [*_by_address("in", addresses, families), _ODD["in"], [*_refused("in_")]],',
        '"in_link": [*_by_address("in", addresses, families), _ODD["in"]],',
        (f"{_AGENT}/test_ruleset.py::test_without_links_the_mesh_device_passes_nothing", *_JUDGED),
        quick=True,
    ),
    Mutant(
        "what a link does not allow is refused",
        _RULES,
        'return [*allowed, _ODD[direction], [*_refused(f"{direction}_{service}")]]',
        "return [*allowed, _ODD[direction]]",
        _JUDGED,
    ),
    Mutant(
        "a task carries nothing for others",
        _RULES,
        '"forward": [[_device("iifname", device), _DROP], [_device("oifname", device), _DROP]],',
        '"forward": [],',
        ("tests/netns/test_rules.py::test_a_task_carries_nothing_for_others", *_JUDGED),
    ),
    Mutant(
        "the mesh's addresses come by its device only",
        _RULES,
        'for field in ("saddr", "daddr")\n            ),',
        "for field in ()\n            ),",
        _JUDGED,
    ),
    Mutant(
        "a strict task takes nothing from isolated addresses",
        _RULES,
        '*([match, _counted(_APART), _DROP] for match in _any_of("saddr", policy.isolated)),',
        "",
        _JUDGED,
    ),
    Mutant(
        "a strict task sends nothing to isolated addresses",
        _RULES,
        '*([match, *_refused(_APART)] for match in _any_of("daddr", policy.isolated)),',
        "",
        _JUDGED,
    ),
    Mutant(
        "packets of no connection pass no link",
        _RULES,
        '[compared({"ct": {"key": "state"}}, "invalid", "in"), _DROP],',
        "",
        (f"{_AGENT}/test_rules_judged.py::test_connectionless_packets_pass_no_link_at_all", *_JUDGED),
    ),
    Mutant(
        "a box of another epoch than the signed one is unused",
        "agent/state/link_keys.py",
        "and epochs.get(sealed.key, sealed.epoch) == sealed.epoch:",
        "and epochs is not None:",
        (f"{_AGENT}/test_link_keys.py::test_box_of_superseded_epoch_is_unused",),
        quick=True,
    ),
    Mutant(
        "state on disk is verified",
        "agent/state/verified_state.py",
        "verdict = verify_snapshot(state)\n        if verdict.verified:",
        "verdict = verify_snapshot(state)\n        if verdict is not None:",
        (f"{_AGENT}/test_kept_state.py::test_whole_records_of_no_whole_state",),
    ),
    Mutant(
        "a state that could not be written down is not acted on",
        "agent/state/verified_state.py",
        'return f"generation {number} cannot be written down in {self._path}: {error}"',
        'return "" if error else ""',
        (f"{_AGENT}/test_verified_state.py::test_unwritable_state_is_not_acted_on",),
    ),
    Mutant(
        "state of another installation is set aside",
        "agent/state/installation.py",
        'moved = _set_aside(folder) if owner not in ("", installation) else []',
        "moved: list[str] = []",
        (f"{_AGENT}/test_installation.py::test_state_of_another_installation_is_set_aside",),
    ),
    Mutant(
        "a key file that others may read is unused",
        "agent/state/key_file.py",
        "if mode & _OTHERS:",
        "if mode & _OTHERS & 0:",
        (f"{_AGENT}/test_sealing.py::test_key_readable_by_others_is_unused",),
    ),
    Mutant(
        "a namespace of the same name is another one",
        "agent/linux/netns.py",
        "if (status.st_dev, status.st_ino) != self._identity:",
        "if not status:",
        ("tests/netns/test_netns.py::test_other_namespace_of_same_name_is_rejected",),
    ),
    Mutant(
        "nft has one capability",
        _PRIVILEGES,
        "sets = [1 << keep & 0xFFFFFFFF] * 3 + [1 << keep >> 32] * 3",
        "sets = [1 << keep & 0xFFFFFFFF | 1] * 3 + [1 << keep >> 32] * 3",
        (_NFT, f"{_RIGHTS}::test_only_this_thread_drops_its_capabilities"),
    ),
    Mutant(
        "nft can gain no capability",
        _PRIVILEGES,
        "    _drop_bounds(keep)\n    _prctl(_PR_SET_KEEPCAPS, 1)",
        "    _prctl(_PR_SET_KEEPCAPS, 1)",
        (_NFT, f"{_RIGHTS}::test_only_this_thread_drops_its_capabilities"),
    ),
    Mutant(
        "nft gains no privileges by a program",
        _PRIVILEGES,
        "_prctl(_PR_SET_NO_NEW_PRIVS, 1)",
        "_prctl(_PR_SET_KEEPCAPS, 1)",
        (_NFT,),
    ),
    Mutant(
        "nft can signal nobody",
        _PRIVILEGES,
        "_checked(_libc.unshare(_CLONE_NEWPID))",
        "_checked(_libc.unshare(0))",
        (f"{_RIGHTS}::test_what_it_starts_can_signal_nobody", _NFT),
    ),
    Mutant(
        "nft has none of the agent's groups",
        _PRIVILEGES,
        "_checked(_libc.syscall(set_groups, 0, 0, 0))",
        "assert set_groups",
        (f"{_RIGHTS}::test_it_leaves_its_groups",),
    ),
    Mutant(
        "nft has its limits",
        "agent/firewall/nft.py",
        "resource.prlimit(nft.pid, what, (limit, limit))",
        "resource.prlimit(nft.pid, what)",
        ("tests/netns/test_nft.py::test_nft_gets_its_limits_before_any_input",),
    ),
    Mutant(
        "a node refuses the mesh's addresses from a task without a device",
        "agent/firewall/node_ruleset.py",
        '*([is_in("daddr", network), *refused] for network in networks),',
        "",
        ("tests/netns/test_node_table.py::test_traffic_leaving_without_table_is_refused_with_it",),
    ),
    Mutant(
        "nft's user may not read the agent's memory",
        _PRIVILEGES,
        "    _prctl(_PR_SET_DUMPABLE, 0)\n",
        "",
        ("tests/netns/test_nft_confinement.py::test_thread_without_rights_starts_no_memory_reader",),
    ),
    Mutant(
        "a device is taken back from a wrong namespace",
        "agent/interface/task.py",
        "            *(() if exposed is None else (lambda: backend.take_back(wrong, device, exposed),)),\n",
        "",
        ("tests/netns/test_wrong_namespace.py::test_renamed_device_is_taken_back_and_rekeyed",),
    ),
    Mutant(
        "a namespace that two containers may have is neither's",
        "agent/containers/candidates.py",
        "if claims > 1:",
        "if claims > 9:",
        ("tests/unit/agent/test_candidates.py::test_two_containers_in_one_namespace_are_none",),
    ),
)
