"""Nodes of the etcd that we bring: chosen, and reached step by step while everything runs."""
