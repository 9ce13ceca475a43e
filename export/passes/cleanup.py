"""Remove what computes nothing or what nobody reads."""

from __future__ import annotations

from ..graph import Graph

__all__ = ["drop_unused", "remove_identities"]


def remove_identities(graph: Graph) -> None:
    """Let the readers of an Identity read its input; one that feeds an output or a subgraph stays."""
    fixed = graph.output_names() | graph.captured()
    alias: dict[str, str] = {}
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = alias.get(name, name)
        if node.op_type == "Identity" and node.domain == "" and node.output[0] not in fixed:
            alias[node.output[0]] = node.input[0]
    graph.remove(set(alias))


def drop_unused(graph: Graph) -> None:
    """Remove nodes and initialisers that no output of the graph depends on."""
    while True:
        needed = graph.users().keys() | graph.output_names()
        dead = {node.output[0] for node in graph.nodes if not needed & set(node.output)}
        if not dead:
            break
        graph.remove(dead)
    graph.initializers = {name: tensor for name, tensor in graph.initializers.items() if name in needed}
