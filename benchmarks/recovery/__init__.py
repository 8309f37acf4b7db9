"""How fast a cluster is back after crashes and damage, and that it lost nothing, beside etcd and PySyncObj.

Usage: ``python -m benchmarks.recovery failover|restart|start|heal|lost|all [--short] [--json FILE] [--plot FILE]``.

A client here asks all nodes at once, each again after a few milliseconds, so that what is measured is how long the
cluster is away and not how a client looks for it.
"""
