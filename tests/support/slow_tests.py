"""Tests of the quick suites that take ten seconds and more: `make test-fast` leaves them out, `make test` does not.

By what each took in a whole run on two processors, all its parameters together. A pytest plugin.
"""

from __future__ import annotations

import pytest

OPTION = "--without-slow"
SLOW = {
    "netns/test_adapter_faults.py": (
        "test_every_call_fails_once_hangs_or_is_last",
        "test_missing_second_try_is_noticed",
    ),
    "netns/test_confirmed.py": ("test_renewed_link_seed_loses_no_packet",),
    "netns/test_dns.py": (
        "test_a_responder_that_hangs_is_replaced",
        "test_agent_without_cap_kill_replaces_hanging_one",
    ),
    "netns/test_gate.py": (
        "test_gated_start_is_refused_when_nobody_wired_it",
        "test_what_is_not_gated_starts_at_once",
    ),
    "netns/test_linkkeys.py": (
        "test_a_stolen_private_key_alone_completes_no_handshake",
        "test_key_change_loses_no_packet_even_mid_handshake",
        "test_with_other_link_keys_there_is_no_handshake",
    ),
    "netns/test_nft.py": ("test_every_policy_reads_back_whatever_was_there_before",),
    "netns/test_node_encryption.py": (
        "test_silent_peer_is_sent_plain_in_prefer",
        "test_what_others_take_away_comes_back",
    ),
    "netns/test_node_key_rotation.py": (
        "test_agents_started_anew_in_each_phase_lose_nothing",
        "test_keys_rotate_again_and_again_losing_nothing",
        "test_modes_change_amid_a_rotation",
    ),
    "netns/test_node_table.py": (
        "test_it_refuses_before_any_other_firewall_decides",
        "test_removed_table_is_put_back",
        "test_routes_of_any_table_count_but_not_defaults",
        "test_traffic_leaving_without_table_is_refused_with_it",
    ),
    "netns/test_outside_changes.py": ("test_all_comes_back_others_lose_nothing",),
    "netns/test_overlay_mtu.py": (
        "test_narrow_link_on_the_way_loses_nothing",
        "test_overlays_too_large_over_ipv6_are_named",
    ),
    "netns/test_peer_health.py": (
        "test_blocked_traffic_is_broken_and_rest_is_idle",
        "test_initiations_of_the_other_end_are_no_answer",
    ),
    "netns/test_revoked_keys.py": ("test_old_link_key_meets_no_new_peer",),
    "netns/test_rogue_nodes.py": ("test_rogue_node_gets_no_session",),
    "netns/test_rules.py": ("test_unlinked_task_reaches_and_is_reached_by_nobody",),
    "netns/test_rules_beside.py": ("test_other_devices_traffic_never_counts_as_mesh",),
    "netns/test_tunnel_examiner.py": ("test_fault_on_one_node_is_named",),
    "netns/test_userspace.py": ("test_silent_peers_cost_no_memory",),
    "store/test_adapter_faults.py": ("test_every_call_fails_once_hangs_or_is_last",),
    "store/test_attacks_node_encryption.py": (
        "test_a_worker_claims_anothers_key_or_address",
        "test_forged_and_old_records_switch_nothing",
    ),
    "store/test_backup.py": ("test_controllers_write_nothing_under_its_lead",),
    "store/test_breakage.py": ("test_a_way_that_goes_silent_is_noticed",),
    "store/test_controller_clocks.py": ("test_wrong_clock_of_a_leader_harms_nothing",),
    "store/test_controller_failover.py": ("test_another_writes_and_the_first_follows",),
    "store/test_etcd_cluster.py": (
        "test_grown_and_shrunk_back_under_writes",
        "test_peers_certificate_is_no_user",
        "test_peers_take_members_certificates_alone",
        "test_three_form_one_cluster",
    ),
    "store/test_etcd_owner.py": (
        "test_data_of_another_installation_is_set_aside",
        "test_data_without_id_belongs_to_its_signer",
        "test_data_without_id_signed_otherwise_is_set_aside",
    ),
    "store/test_etcd_upkeep.py": ("test_linkwire_etcd_starts_on_data_that_is_full",),
    "store/test_etcd_users.py": (
        "test_an_unreadable_access_record_changes_no_users",
        "test_new_swarm_root_replaces_the_old_one",
    ),
    "store/test_failover.py": ("test_endpoint_in_use_fails",),
    "store/test_follow.py": ("test_slow_reader_catches_up_in_whole_revisions",),
    "store/test_leases.py": (
        "test_a_dead_leaders_lease_kept_decides_nothing",
        "test_a_dead_nodes_lease_kept_is_silence",
        "test_a_silent_leader_is_replaced_in_time",
        "test_replayed_vitals_are_no_sign_of_life",
    ),
    "store/test_node_encryption.py": (
        "test_controllers_that_end_anywhere_lose_no_step",
        "test_late_node_holds_all_others",
        "test_older_agent_is_waited_for_and_verifies_all",
    ),
    "store/test_node_quota.py": (
        "test_barred_node_is_no_user_and_others_write",
        "test_node_that_writes_without_pause_is_barred",
    ),
    "store/test_recall.py": (
        "test_node_that_brought_nothing_is_asked_again",
        "test_who_brings_back_something_else_is_passed_over",
    ),
    "store/test_revocation.py": ("test_approved_node_is_user_again", "test_open_watches_of_revoked_node_end"),
    "store/test_signed.py": (
        "test_new_controller_mends_and_gives_no_address_away",
        "test_running_controller_restores_all_and_agents_notice_nothing",
        "test_tampered_records_are_not_acted_on",
    ),
    "store/test_signs_of_life.py": ("test_an_agent_with_slow_devices_is_heard",),
    "store/test_status_growth.py": ("test_what_nodes_tell_does_not_fill_etcd",),
    "store/test_tls.py": ("test_roles_exist_before_clients_after_wipe_and_crash",),
    "unit/agent/test_hosts_file.py": ("test_file_full_of_our_lines_clears_at_once",),
    "unit/agent/test_link_counts.py": ("test_links_are_described_as_by_a_walk",),
    "unit/compose_ext/test_compose_cli.py": (
        "test_bad_usage",
        "test_every_docker_takes_the_override",
        "test_several_files_and_standard_input",
    ),
    "unit/compose_ext/test_compose_differential.py": ("test_random_stacks", "test_small_shapes"),
    "unit/compose_ext/test_logs.py": ("test_docker_is_not_waited_for_forever",),
    "unit/controller/test_plan_histories.py": ("test_incremental_planner_equals_one_that_reads_everything",),
    "unit/controller/test_plan_node_keys.py": ("test_any_events_leave_a_shared_epoch",),
    "unit/mesh/test_bulk_verification.py": ("test_bulk_verification_equals_checking_every_signature",),
    "unit/mesh/test_codec.py": ("test_any_odd_value_anywhere_is_read_as_plainly",),
    "unit/model/test_model.py": ("test_each_seeded_bug_is_found", "test_rules_hold_in_every_state_reached"),
    "unit/test_imports.py": ("test_every_module_can_be_imported_first",),
    "unit/test_mutants.py": ("test_a_sample_of_them_is_noticed", "test_what_no_test_notices_is_said"),
}
"""Names of test functions by file below `tests`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="leave out the tests of tests/support/slow_tests.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption(OPTION):
        return
    slow = [item for item in items if is_slow(item.nodeid)]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not is_slow(item.nodeid)]


def is_slow(nodeid: str) -> bool:
    """Return whether `make test-fast` leaves a test out."""
    file, _, name = nodeid.removeprefix("tests/").partition("::")
    return name.split("[")[0] in SLOW.get(file, ())
