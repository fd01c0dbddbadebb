"""Defences of signatures, sealed boxes, proofs and secrets, in `mesh`."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_UNIT = "tests/unit/mesh"
_ENVELOPE, _HPKE = "mesh/crypto/envelope.py", "mesh/crypto/hpke.py"
_ATTESTATION, _PRESHARED = "mesh/identity/attestation.py", "mesh/crypto/preshared_keys.py"
_SIGNED = "return framed(_DOMAIN, cluster, key, header, body)"

SIGNATURES = (
    Mutant(
        "a record's signature is checked",
        _ENVELOPE,
        "if not ours and not signer.verifies(signature, message):",
        "if not ours and not message:",
        (f"{_UNIT}/test_envelope.py::test_every_single_bit_counts",),
        quick=True,
    ),
    Mutant(
        "a signature covers the key path",
        _ENVELOPE,
        _SIGNED,
        'return framed(_DOMAIN, cluster, "", header, body)',
        (f"{_UNIT}/test_envelope.py::test_under_another_key_it_is_forged",),
        quick=True,
    ),
    Mutant(
        "a signature covers the cluster",
        _ENVELOPE,
        _SIGNED,
        'return framed(_DOMAIN, "", key, header, body)',
        (f"{_UNIT}/test_envelope.py::test_in_another_cluster_it_is_forged",),
    ),
    Mutant(
        "a signature covers the generation",
        _ENVELOPE,
        _SIGNED,
        "return framed(_DOMAIN, cluster, key, header[:20], body)",
        (f"{_UNIT}/test_envelope.py::test_a_generation_of_ones_own_choice_is_forged",),
    ),
    Mutant(
        "a signature has 64 bytes",
        _ENVELOPE,
        "if len(signature) != _SIGNATURE_BYTES:",
        "if not signature:",
        (f"{_UNIT}/test_envelope.py::test_signed_content_starts_after_the_signature",),
    ),
    Mutant(
        "a verify key is a point of the prime-order group",
        _ENVELOPE,
        "or not nacl.bindings.crypto_core_ed25519_is_valid_point(self.raw)",
        "",
        (f"{_UNIT}/test_envelope.py::test_what_verifies_too_much_is_no_verify_key",),
    ),
    Mutant(
        "a secret does not print",
        "mesh/crypto/secret.py",
        'return f"{type(self).__name__}(redacted)"',
        'return f"{type(self).__name__}({self._raw.hex()})"',
        (f"{_UNIT}/test_keys.py::test_a_secret_key_does_not_print",),
    ),
    Mutant(
        "a box opens for its purpose only",
        _HPKE,
        "return framed(_DOMAIN, context)",
        "return framed(_DOMAIN)",
        (f"{_UNIT}/test_hpke.py::test_box_opens_for_its_node_and_purpose_only",),
        quick=True,
    ),
    Mutant(
        "a sealed key is bound to its path, node and epoch",
        "mesh/integrity/sealed_keys.py",
        "return framed(path, node, epoch)",
        'return framed("")',
        (
            "tests/unit/agent/test_link_keys.py::test_box_sealed_for_another_purpose_is_ignored",
            f"{_UNIT}/test_keys.py::test_sealed_key_opens_for_its_node_and_task",
        ),
    ),
    Mutant(
        "a pair's preshared key is its own",
        _PRESHARED,
        "first.raw, second.raw, len(names), *names)",
        "len(names), *names)",
        (f"{_UNIT}/test_preshared_keys.py::test_every_pair_has_its_own",),
    ),
    Mutant(
        "a link key's secret is of one epoch",
        _PRESHARED,
        'framed("linkwire link key 1", cluster, name, epoch)',
        'framed("linkwire link key 1", cluster, name)',
        (f"{_UNIT}/test_preshared_keys.py::test_every_part_of_a_secret_counts",),
    ),
    Mutant(
        "a pair has no preshared key while one of its link keys is missing",
        _PRESHARED,
        "if any(name not in self._secrets for name in names):",
        "names = tuple(name for name in names if name in self._secrets)\n        if not names:",
        (f"{_UNIT}/test_link_graph.py::test_without_every_link_key_a_peer_has_none",),
    ),
    Mutant(
        "an old state is refused",
        "mesh/integrity/verification.py",
        "if generation < least:",
        "if generation < 0:",
        ("tests/unit/agent/test_verified_state.py::test_old_state_is_refused_after_restart_too",),
        quick=True,
    ),
    Mutant(
        "the set of records equals its manifest",
        "mesh/integrity/verification.py",
        "if manifest.count == contents.total.count and manifest == contents.record():",
        "if manifest.count == contents.total.count:",
        (f"{_UNIT}/test_contents.py::test_what_differs_is_named",),
    ),
    Mutant(
        "the manifest vouches for the set that it was made of",
        "mesh/integrity/bulk_verification.py",
        "if total.digest() != record.digest:",
        "if not record.digest:",
        (f"{_UNIT}/test_bulk_verification.py::test_one_forged_among_all_others",),
    ),
    Mutant(
        "the manifest vouches for its own key's records alone",
        "mesh/integrity/bulk_verification.py",
        "(signer == self.signer and key in self.entries)",
        "key in self.entries",
        (
            f"{_UNIT}/test_bulk_verification.py::test_holder_of_the_key_could_sign_anyway",
            f"{_UNIT}/test_bulk_verification.py::test_revoked_signer_counts_for_nothing_despite_manifest",
        ),
    ),
    Mutant(
        "a node's earlier record is refused",
        "mesh/integrity/signature_cache.py",
        "if of == signer and generation < floor:",
        "if of == signer and generation < 0:",
        ("tests/unit/controller/test_members.py::test_restored_earlier_report_is_unknown",),
    ),
    Mutant(
        "a proof's signature is checked",
        _ATTESTATION,
        "if not _holds(leaf, proof.signature, _message(statement)):",
        "if not _message(statement):",
        (f"{_UNIT}/test_attestation.py::test_every_part_of_the_statement_is_signed",),
        quick=True,
    ),
    Mutant(
        "a proof's certificate is Swarm's",
        _ATTESTATION,
        "verifier.verify(leaf, rest)",
        "assert verifier",
        (f"{_UNIT}/test_attestation.py::test_another_ca_with_the_same_name",),
    ),
    Mutant(
        "a proof's certificate is the node's own",
        _ATTESTATION,
        "if node != statement.node:",
        "if not node:",
        (f"{_UNIT}/test_attestation.py::test_statement_of_another_node_signed_by_this_one",),
        quick=True,
    ),
    Mutant(
        "a proof's certificate is of the cluster",
        _ATTESTATION,
        "if cluster != statement.cluster:",
        "if not cluster:",
        (
            f"{_UNIT}/test_attestation.py::test_a_statement_about_another_cluster",
            f"{_UNIT}/test_attestation.py::test_a_certificate_that_swarm_gives_to_no_node",
        ),
    ),
    Mutant(
        "a proof's certificate is a manager's or a worker's",
        _ATTESTATION,
        "if role is None:",
        "if not unit:",
        (f"{_UNIT}/test_attestation.py::test_a_certificate_that_swarm_gives_to_no_node",),
    ),
    Mutant(
        "a proof ends with its certificate",
        _ATTESTATION,
        "if now > ends + tolerance:",
        "if now > ends + 1000 * tolerance:",
        (f"{_UNIT}/test_attestation.py::test_the_time_in_a_certificate",),
    ),
    Mutant(
        "the issuer of a proof's certificate may certify",
        _ATTESTATION,
        "if usage is not None and not usage.key_cert_sign:",
        "if usage is not None and not usage:",
        (
            f"{_UNIT}/test_attestation.py::test_a_root_that_may_not_certify",
            f"{_UNIT}/test_attestation.py::test_an_intermediate_that_may_not_certify",
        ),
    ),
    Mutant(
        "no TLS handshake signs a statement",
        _ATTESTATION,
        "return _DOMAIN + framed(self.cluster, self.node, *keys, self.counter)",
        "return framed(self.cluster, self.node, *keys, self.counter)",
        (f"{_UNIT}/test_attestation.py::test_nothing_signed_in_tls_is_a_statement",),
    ),
    Mutant(
        "other processes may not read our memory",
        "mesh/process/hardening.py",
        "if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:",
        "if libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) != 0:",
        (f"{_UNIT}/test_hardening.py::test_protection_keeps_other_processes_from_reading_memory",),
    ),
    Mutant(
        "there are no core dumps",
        "mesh/process/hardening.py",
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
        "resource.getrlimit(resource.RLIMIT_CORE)",
        (f"{_UNIT}/test_hardening.py::test_it_and_its_children_dump_no_core",),
    ),
    Mutant(
        "nothing leaves the machine in clear text unasked",
        "mesh/identity/tls.py",
        "if not insecure and not _is_here(endpoint):",
        "if not insecure and not endpoint:",
        ("tests/store/test_tls.py::test_nothing_leaves_the_machine_in_clear_unasked",),
    ),
)
