"""Cryptographic primitives: keys, envelopes, HPKE, the multiset hash, preshared keys. Bytes in, bytes out; no I/O."""
