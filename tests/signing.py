"""Keys for tests: a mesh's signing key, a node's, and a seal that writes every kind of record."""

from mesh.envelope import Keyring, Signer, SigningKey
from mesh.seal import Sealer

CLUSTER = "cluster"
SIGNING_KEY = SigningKey.generate()
NODE_KEY = SigningKey.generate()
STRANGER = SigningKey.generate()
KEYRING = Keyring(CLUSTER, (SIGNING_KEY.verify_key,))
SEAL = Sealer(KEYRING, {"controller": Signer(CLUSTER, SIGNING_KEY), "agent": Signer(CLUSTER, NODE_KEY)})
