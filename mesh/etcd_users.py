"""The users of etcd: common names of certificates. No I/O here, and no etcd."""

ROOT_USER = "root"
"""Everything, users too; its certificate lives while etcd starts (controller.etcd_server)."""
CONTROLLER = "controller"
"""All of our keys."""
AGENT = "agent"
"""Reads all of our keys: what is secret in them is sealed. Writes what agents write."""
