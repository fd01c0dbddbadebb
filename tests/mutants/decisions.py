"""Defences of the controller's decisions: members, labels, plans, captured keys, the store's users."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_CONTROLLER, _LABELS_TEST = "tests/unit/controller", "tests/unit/mesh/test_labels.py"
_KEYS, _REVOCATION = "controller/planning/link_keys.py", f"{_CONTROLLER}/test_plan_revocation.py"
_SECRETS, _VAULT = "controller/trust/link_secrets.py", "tests/store/test_link_seed.py"
_JUDGEMENT, _LABELS = "controller/trust/snapshot_judgement.py", "mesh/model/labels/link_labels.py"

DECISIONS = (
    Mutant(
        "a write names the lead that it was decided under",
        "controller/plan_writer.py",
        "self._told((token, *(op for _, part in batch for op in part)), sign=sign)",
        "self._told([op for _, part in batch for op in part], sign=sign)",
        ("tests/store/test_controller_failover.py::test_write_in_flight_of_an_old_leader_fails",),
    ),
    Mutant(
        "a controller without its Swarm does not lead",
        "controller/election.py",
        "if not self._fit:",
        "if self._stopped.is_set():",
        (
            f"{_CONTROLLER}/test_election.py::test_unfit_controller_gives_its_lead_up",
            "tests/store/test_controller_failover.py::test_without_any_manager_nobody_leads",
        ),
    ),
    Mutant(
        "a node proves its keys",
        _JUDGEMENT,
        "problem = self._beliefs.proof_problem(node, self._swarm, self._now)",
        "problem: str | None = None",
        (
            f"{_CONTROLLER}/test_node_judgement.py::test_unproven_node_needs_approval_by_hand",
            f"{_CONTROLLER}/test_node_judgement.py::test_another_nodes_certificate_proves_nothing",
        ),
        quick=True,
    ),
    Mutant(
        "an approval is of one statement's keys",
        _JUDGEMENT,
        "observed.approved == node.statement(self._swarm.cluster).fingerprint",
        "observed.approved",
        (f"{_CONTROLLER}/test_node_judgement.py::test_an_approval_is_of_those_keys_alone",),
    ),
    Mutant(
        "a statement's record is signed by its own key",
        _JUDGEMENT,
        "forged = self._beliefs.signatures.problem(key, versioned, node.report_key)",
        "forged: str | None = None",
        (f"{_CONTROLLER}/test_node_judgement.py::test_record_unsigned_by_its_key_is_forged",),
    ),
    Mutant(
        "an earlier statement is refused",
        _JUDGEMENT,
        "node.counter < accepted.counter + (0 if same else 1):",
        "node.counter < 0:",
        (f"{_CONTROLLER}/test_node_judgement.py::test_restored_earlier_proof_is_refused",),
        quick=True,
    ),
    Mutant(
        "a report counts on the task's own node only",
        _JUDGEMENT,
        "if task is not None and task.node != report.node:",
        "if task is not None and not task.node:",
        (f"{_CONTROLLER}/test_node_judgement.py::test_report_on_task_running_elsewhere_is_ignored",),
    ),
    Mutant(
        "a report is signed by a member",
        _JUDGEMENT,
        "problem = self._beliefs.signatures.problem(key, versioned, member.report_key)\n        if problem",
        "problem: str | None = None\n        if problem",
        (
            f"{_CONTROLLER}/test_node_judgement.py::test_forged_report_changes_nothing_and_is_named_once",
            f"{_CONTROLLER}/test_node_judgement.py::test_a_member_signs_nothing_for_another",
        ),
    ),
    Mutant(
        "a link whose ports cannot be read opens nothing",
        _LABELS,
        "return replace(link, ports=ports) if ports else None",
        "return replace(link, ports=ports) if ports else link",
        (f"{_LABELS_TEST}::test_a_bad_port_never_opens_more",),
        quick=True,
    ),
    Mutant(
        "an expose that cannot be read opens nothing",
        _LABELS,
        "expose = _decode_expose(ours.pop(EXPOSE, None), errors) if EXPOSE not in shut else ()",
        "expose = _decode_expose(ours.pop(EXPOSE, None), errors) if EXPOSE not in shut else None",
        (f"{_LABELS_TEST}::test_an_expose_that_is_there_never_exposes_everything",),
    ),
    Mutant(
        "a service's labels are limited in all",
        _LABELS,
        "if size > MAX_LABELS:",
        "if size > 100 * MAX_LABELS:",
        (
            f"{_LABELS_TEST}::test_sizes_are_bounded",
            f"{_CONTROLLER}/test_packing.py::test_the_longest_labels_fit_a_record",
        ),
    ),
    Mutant(
        "a link's port ranges are limited",
        _LABELS,
        "if len(merged) > MAX_RANGES:",
        "if len(merged) > 1000 * MAX_RANGES:",
        (f"{_LABELS_TEST}::test_sizes_are_bounded",),
    ),
    Mutant(
        "a service's port ranges are limited",
        _LABELS,
        "if ranges <= MAX_ALL_RANGES:",
        "if ranges <= 1000 * MAX_ALL_RANGES:",
        (
            f"{_CONTROLLER}/test_packing.py::test_many_short_port_lists_fit_a_record",
            f"{_LABELS_TEST}::test_sizes_are_bounded",
        ),
    ),
    Mutant(
        "a service's links are limited",
        _LABELS,
        "for entry in entries[:MAX_LINKS]:",
        "for entry in entries:",
        (f"{_LABELS_TEST}::test_sizes_are_bounded",),
    ),
    Mutant(
        "a transaction is limited in bytes",
        "mesh/store/packing.py",
        "or size + more > MAX_BYTES",
        "or size + more > 100 * MAX_BYTES",
        (f"{_CONTROLLER}/test_packing.py::test_a_transaction_is_bounded_in_bytes",),
        quick=True,
    ),
    Mutant(
        "a record too large is one service's problem",
        "mesh/store/packing.py",
        "if its > keyspace.limit(op.key)), None",
        "if its > 100 * keyspace.limit(op.key)), None",
        (
            f"{_CONTROLLER}/test_packing.py::test_a_record_too_large_is_left_out",
            f"{_CONTROLLER}/test_packing.py::test_a_service_too_large_is_one_problem",
        ),
    ),
    Mutant(
        "an epoch only grows",
        _KEYS,
        "epoch = max(begins, highest + 1, stored.epoch + 1 if stored is not None else 0)",
        "epoch = begins",
        (
            f"{_CONTROLLER}/test_plan_link_keys.py::test_an_old_record_brings_no_old_secret_back",
            f"{_CONTROLLER}/test_plan_link_keys.py::test_epoch_grows_even_after_lost_record",
            f"{_CONTROLLER}/test_plan_link_keys.py::test_requested_rotation_happens_once_per_request",
        ),
    ),
    Mutant(
        "no epoch begins while a node that holds the key is silent",
        _KEYS,
        "return not silent",
        "return True",
        (f"{_CONTROLLER}/test_plan_link_keys.py::test_silent_node_holds_rotation_up",),
    ),
    Mutant(
        "nothing is sealed to a node that is no member",
        _KEYS,
        "heard = node in self._index.nodes and node in self._run.members",
        "heard = node in self._index.nodes",
        (f"{_CONTROLLER}/test_plan_link_keys.py::test_unproven_node_holds_rotation_up",),
    ),
    Mutant(
        "an address is released by its holder only",
        "controller/planning/reclaim.py",
        "(record is not None and record.holder != holder)",
        "(record is not None and not holder)",
        (f"{_CONTROLLER}/test_others_addresses.py::test_an_ended_task_frees_only_its_own",),
    ),
    Mutant(
        "a node writes its own keys and no others",
        "controller/etcd/roles.py",
        "Grant(WRITE, (root + keyspace.node(node)).encode()),",
        "_below(WRITE, root + keyspace.NODES),",
        ("tests/store/test_etcd_users.py::test_node_writes_its_own_keys_and_no_others",),
    ),
    Mutant(
        "etcd has a user for each node that Swarm lists, and no other",
        "controller/etcd/roles.py",
        """for stranger in users - {ROOT_USER, *desired}:
        auth.UserDelete(rpc.AuthUserDeleteRequest(name=stranger), timeout=_TIMEOUT)
    for stranger in roles - {ROOT_USER, *desired}:""",
        "for stranger in roles - roles:",
        ("tests/store/test_etcd_users.py::test_removed_node_is_refused_at_next_request",),
    ),
    Mutant(
        "of two that lead one writes",
        "controller/trust/signed_writer.py",
        "[*writes, manifest or Holds(keyspace.MANIFEST, self._manifest.revision)]",
        "[*writes, *([manifest] if manifest else [])]",
        ("tests/store/test_signed.py::test_of_two_that_lead_one_writes",),
    ),
    Mutant(
        "a page of the audit log names the one before it",
        "mesh/model/audit/chain.py",
        "page.previous != before.digest():",
        "not page.previous:",
        (f"{_CONTROLLER}/test_audit.py::test_a_page_of_another_chain_is_named",),
        quick=True,
    ),
    Mutant(
        "pages of the audit log that are missing are named",
        "mesh/model/audit/chain.py",
        "missing = sorted(set(range(oldest, newest + 1)) - {page.number for page in kept})",
        "missing: list[int] = []",
        (f"{_CONTROLLER}/test_audit.py::test_a_page_that_is_missing_is_named",),
    ),
    Mutant(
        "a flood of problems pushes nothing out of the audit log",
        "controller/audit/log.py",
        "if self._problems.count > MAX_PROBLEMS:",
        "if self._problems.count > 1000 * MAX_PROBLEMS:",
        (f"{_CONTROLLER}/test_audit.py::test_a_flood_is_counted_and_not_recorded",),
    ),
    Mutant(
        "many links of a deploy push nothing out of the audit log",
        "controller/audit/differences.py",
        "for provider in differ[:MAX_LINKS]:",
        "for provider in differ:",
        (f"{_CONTROLLER}/test_audit.py::test_many_links_are_counted",),
    ),
    Mutant(
        "the link seed opens no epoch by itself",
        _SECRETS,
        "return fresh_link_key(self._seed, fresh, self._cluster, key, epoch)",
        "return link_key(self._seed, self._cluster, key, epoch)",
        (f"{_VAULT}::test_link_seed_opens_no_epoch",),
    ),
    Mutant(
        "the secrets of controllers open no epoch without the link seed",
        _SECRETS,
        "return fresh_link_key(self._seed, fresh, self._cluster, key, epoch)",
        "return fresh_link_key(LinkSeed(bytes(32)), fresh, self._cluster, key, epoch)",
        (f"{_VAULT}::test_old_seed_opens_nothing_of_later_epochs",),
    ),
    Mutant(
        "the vault is sealed to no revoked node",
        _SECRETS,
        "managers = {node.id for node in swarm.nodes.values() if node.manager and node.revoked is None}",
        "managers = {node.id for node in swarm.nodes.values() if node.manager}",
        (f"{_CONTROLLER}/test_plan_vault.py::test_vault_is_sealed_to_managers_alone",),
    ),
    Mutant(
        "on a revoked node no task holds a place",
        "controller/swarm/model.py",
        "return node is not None and node.revoked is None and (task.wanted or not node.down)",
        "return node is not None and (task.wanted or not node.down)",
        (f"{_REVOCATION}::test_new_task_on_revoked_node_waits",),
    ),
    Mutant(
        "a link key that a revoked node may know is renewed",
        _KEYS,
        "if self._is_known_to_revoked(stored):",
        'if stored.key == "":',
        (f"{_REVOCATION}::test_key_it_held_is_renewed_for_others",),
    ),
    Mutant(
        "a link key that a revoked node had once is renewed",
        _KEYS,
        "return bool(nodes) and (history.forgotten or any(self._has_box(stored.key, node) for node in nodes))",
        "return bool(nodes) and any(self._has_box(stored.key, node) for node in nodes)",
        (f"{_REVOCATION}::test_key_that_it_once_held_is_renewed",),
    ),
    Mutant(
        "a revoked node is no user of etcd",
        "controller/etcd/access_record.py",
        "users = {node.id: node for node in swarm.nodes.values() if node.revoked is None}",
        "users = {node.id: node for node in swarm.nodes.values()}",
        (f"{_CONTROLLER}/test_access_record.py::test_revoked_node_is_no_user_and_named",),
    ),
    Mutant(
        "a revoked node's open watches end",
        "controller/etcd/server.py",
        "if now.revoked - self._trust.revoked:",
        "if now.revoked < self._trust.revoked:",
        ("tests/store/test_revocation.py::test_open_watches_of_revoked_node_end",),
    ),
)
