"""redis-py's own readers of replies: what that library makes of what we send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from redis._parsers import helpers

parse_client_list: Final[Callable[[bytes], list[dict[str, str]]]] = helpers.parse_client_list
parse_cluster_info: Final[Callable[[object], dict[str, str]]] = helpers.parse_cluster_info
parse_cluster_nodes: Final[Callable[[object], dict[str, dict[str, Any]]]] = helpers.parse_cluster_nodes
parse_info: Final[Callable[[str], dict[str, Any]]] = helpers.parse_info
