"""Loops over edges and rows of neighbours that numba compiles.

They visit edges, rows and neighbours in order, on one thread, and draw nothing: they give the same on every machine.
All stand in this one file, for numba keeps machine code by the file that a loop stands in. Arrays are flat and
C-contiguous. ``starts [nodes + 1]`` says where the row of each node begins, among the neighbours of all nodes; ``rows``
may hold those of some nodes only, from number ``base`` on. The last two arguments, ``lo`` and ``hi``, are the edges or
the nodes that a call works on.
"""

from __future__ import annotations

from typing import Any

from graphshard.kernels.machine_code import Loop

# ---- rows of neighbours from edges -------------------------------------------------------------------------


@Loop
def count_entries(
    keys: Any, key_offset: int, values: Any, value_offset: int, counts: Any, first: int, lo: int, hi: int
) -> None:
    """How many entries the row of each key will have; a self loop is none. ``counts[0]`` is node ``first``'s."""
    for i in range(lo, hi):
        key = keys[i] + key_offset
        if key != values[i] + value_offset:
            counts[key - first] += 1


@Loop
def put_entries(
    keys: Any,
    key_offset: int,
    values: Any,
    value_offset: int,
    free: Any,
    first: int,
    rows: Any,
    lo: int,
    hi: int,
) -> None:
    """Write each value into the row of its key, at the place that is ``free`` next; ``free[0]`` is node ``first``'s."""
    for i in range(lo, hi):
        key, value = keys[i] + key_offset, values[i] + value_offset
        if key != value:
            rows[free[key - first]] = value
            free[key - first] += 1


@Loop
def sort_rows(starts: Any, rows: Any, kept: Any, lo: int, hi: int) -> None:
    """Sort each row, keep each neighbour once and close the gaps, in place; ``kept[0]`` entries are left.

    ``starts`` is rewritten but for ``starts[hi]``.
    """
    at = kept[0]
    for row in range(lo, hi):
        begin, end, first = starts[row], starts[row + 1], at
        rows[begin:end].sort()
        starts[row] = first
        for place in range(begin, end):
            value = rows[place]
            if at == first or rows[at - 1] != value:
                rows[at] = value
                at += 1
    kept[0] = at


@Loop
def widen(narrow: Any, wide: Any, lo: int, hi: int) -> None:
    """``wide[i] = narrow[i]``, the last first, so that both may begin at the same byte."""
    for back in range(lo, hi):
        i = hi - 1 - (back - lo)
        wide[i] = narrow[i]


# ---- clusters, and the graph of clusters -------------------------------------------------------------------


@Loop
def join_clusters(
    starts: Any,
    rows: Any,
    base: int,
    edge_weights: Any,
    weights: Any,
    labels: Any,
    sizes: Any,
    largest: int,
    tally: Any,
    seen: Any,
    moved: Any,
    lo: int,
    hi: int,
) -> None:
    """Label propagation under a bound: each node joins the cluster that most of its neighbours are in.

    ``edge_weights`` says how much each neighbour counts, 1 where it is None. A cluster of more than ``largest`` takes
    no node. Of clusters with as many neighbours, the node stays in its own, else it joins the smallest. ``tally``
    (zeros) and ``seen`` have room for every label; ``moved[0]`` counts.
    """
    for node in range(lo, hi):
        own, weight, found = labels[node], weights[node], 0
        for place in range(starts[node] - base, starts[node + 1] - base):
            label = labels[rows[place]]
            if tally[label] == 0:
                seen[found] = label
                found += 1
            if edge_weights is None:
                tally[label] += 1
            else:
                tally[label] += edge_weights[place]
        best, most = own, tally[own]
        for i in range(found):
            label = seen[i]
            alike = tally[label] == most and best != own and sizes[label] < sizes[best]
            if (tally[label] > most or alike) and sizes[label] + weight <= largest:
                best, most = label, tally[label]
        for i in range(found):
            tally[seen[i]] = 0
        if best != own:
            sizes[own] -= weight
            sizes[best] += weight
            labels[node] = best
            moved[0] += 1


@Loop
def number_clusters(labels: Any, numbers: Any, count: Any, lo: int, hi: int) -> None:
    """Number clusters 0, 1, ... in the order of their first nodes; ``numbers``: -1 for each label."""
    for node in range(lo, hi):
        label = labels[node]
        if numbers[label] < 0:
            numbers[label] = count[0]
            count[0] += 1
        labels[node] = numbers[label]


@Loop
def count_between(
    starts: Any,
    rows: Any,
    base: int,
    edge_weights: Any,
    labels: Any,
    clusters: int,
    keys: Any,
    counts: Any,
    state: Any,
    lo: int,
    hi: int,
) -> None:
    """Count edges between clusters in a hash table: ``keys[slot] = larger * clusters + smaller``, -1 where it is free.

    Each edge is seen from its node in the larger cluster. ``state``: the node to go on with, and the number of keys.
    The loop stops before a node whose row may fill more than three quarters of the table, whose size is a power of two.
    """
    mask = keys.size - 1
    for node in range(max(lo, state[0]), hi):
        begin, end = starts[node] - base, starts[node + 1] - base
        if 4 * (state[1] + end - begin) > 3 * keys.size:
            return
        first = labels[node] * clusters
        for place in range(begin, end):
            other = labels[rows[place]]
            if other < labels[node]:
                key = first + other
                slot = ((key * 7046029254386353131) >> 24) & mask
                while keys[slot] != key and keys[slot] >= 0:
                    slot = (slot + 1) & mask
                if keys[slot] < 0:
                    keys[slot] = key
                    state[1] += 1
                if edge_weights is None:
                    counts[slot] += 1
                else:
                    counts[slot] += edge_weights[place]
        state[0] = node + 1


@Loop
def count_between_few(
    starts: Any, rows: Any, base: int, edge_weights: Any, labels: Any, counts: Any, lo: int, hi: int
) -> None:
    """As :func:`count_between`, where clusters are so few that each pair has a place: row ``larger`` of a triangle."""
    for node in range(lo, hi):
        own = labels[node]
        first = own * (own - 1) // 2
        for place in range(starts[node] - base, starts[node + 1] - base):
            other = labels[rows[place]]
            if other < own:
                if edge_weights is None:
                    counts[first + other] += 1
                else:
                    counts[first + other] += edge_weights[place]


@Loop
def count_pairs_of_few(counts: Any, ends: Any, lo: int, hi: int) -> None:
    """How many pairs of the triangle each cluster is in."""
    for larger in range(lo, hi):
        for smaller in range(larger):
            if counts[larger * (larger - 1) // 2 + smaller] > 0:
                ends[larger] += 1
                ends[smaller] += 1


@Loop
def put_pairs_of_few(counts: Any, free: Any, rows: Any, weights: Any, lo: int, hi: int) -> None:
    """As :func:`put_pairs`, of the triangle."""
    for larger in range(lo, hi):
        for smaller in range(larger):
            many = counts[larger * (larger - 1) // 2 + smaller]
            if many > 0:
                rows[free[larger]], weights[free[larger]] = smaller, many
                rows[free[smaller]], weights[free[smaller]] = larger, many
                free[larger] += 1
                free[smaller] += 1


@Loop
def insert_counts(old: Any, old_counts: Any, keys: Any, counts: Any, lo: int, hi: int) -> None:
    """Put the entries of one hash table into a larger one."""
    mask = keys.size - 1
    for i in range(lo, hi):
        key = old[i]
        if key >= 0:
            slot = ((key * 7046029254386353131) >> 24) & mask
            while keys[slot] >= 0:
                slot = (slot + 1) & mask
            keys[slot], counts[slot] = key, old_counts[i]


@Loop
def count_pairs(keys: Any, clusters: int, ends: Any, lo: int, hi: int) -> None:
    """How many pairs of the table each cluster is in."""
    for i in range(lo, hi):
        if keys[i] >= 0:
            ends[keys[i] // clusters] += 1
            ends[keys[i] % clusters] += 1


@Loop
def put_pairs(
    keys: Any, counts: Any, clusters: int, free: Any, rows: Any, weights: Any, lo: int, hi: int
) -> None:
    """Write each pair of the table into the rows of both of its clusters, at the place that is ``free`` next."""
    for i in range(lo, hi):
        if keys[i] >= 0:
            larger, smaller = keys[i] // clusters, keys[i] % clusters
            rows[free[larger]], weights[free[larger]] = smaller, counts[i]
            rows[free[smaller]], weights[free[smaller]] = larger, counts[i]
            free[larger] += 1
            free[smaller] += 1


# ---- refinement --------------------------------------------------------------------------------------------


@Loop
def refine_cut(
    starts: Any,
    rows: Any,
    base: int,
    weights: Any,
    parts: Any,
    loads: Any,
    bound: int,
    tally: Any,
    moved: Any,
    lo: int,
    hi: int,
) -> None:
    """Move each node to the part that most of its neighbours are in, where that stays within ``bound``.

    A part above the bound gives nodes to the best part that has room for them, though it cuts more edges.
    ``tally``: a zero for each part.
    """
    for node in range(lo, hi):
        begin, end = starts[node] - base, starts[node + 1] - base
        own, weight = parts[node], weights[node]
        for place in range(begin, end):
            tally[parts[rows[place]]] += 1
        over = loads[own] > bound
        if tally[own] < end - begin:
            best, most = own, 0 if over else tally[own]
            for part in range(tally.size):
                if part != own and loads[part] + weight <= bound:
                    lighter = loads[part] < loads[best] and loads[part] + weight < loads[own]
                    if tally[part] > most or (tally[part] == most and most > 0 and lighter):
                        best, most = part, tally[part]
            if best != own:
                loads[own] -= weight
                loads[best] += weight
                parts[node] = best
                moved[0] += 1
        for place in range(begin, end):
            tally[parts[rows[place]]] = 0
        tally[own] = 0


@Loop
def count_needs(starts: Any, rows: Any, parts: Any, num_parts: int, needs: Any, lo: int, hi: int) -> None:
    """``needs[node, part]``: how many nodes of the part read the node; ``rows`` are of its readers."""
    for node in range(lo, hi):
        for place in range(starts[node], starts[node + 1]):
            needs[node * num_parts + parts[rows[place]]] += 1


@Loop
def refine_volume(  # noqa: C901, PLR0912 (numba compiles one function, not several)
    starts: Any,
    rows: Any,
    weights: Any,
    parts: Any,
    loads: Any,
    bound: int,
    needs: Any,
    gains: Any,
    moved: Any,
    lo: int,
    hi: int,
) -> None:
    """Move each node to the part that leaves the fewest halo rows; ``rows`` are of the nodes that it reads.

    The gain is exact. Of its own row: a part that reads it needs a copy unless it owns it. Of each row that it reads:
    the old part may need it no more, the new one may need it from now on. ``gains``: room for a number of each part.
    A part above the bound takes no node.
    """
    k = gains.size
    for node in range(lo, hi):
        begin, end, own, weight = starts[node], starts[node + 1], parts[node], weights[node]
        outside = False
        for part in range(k):
            outside = outside or (part != own and needs[node * k + part] > 0)
        for place in range(begin, end):
            outside = outside or parts[rows[place]] != own
        if not outside:
            continue
        saved = 0  # wherever it goes
        if needs[node * k + own] > 0:
            saved -= 1
        for part in range(k):
            gains[part] = 1 if needs[node * k + part] > 0 else 0
        for place in range(begin, end):
            read = rows[place]
            if parts[read] != own and needs[read * k + own] == 1:
                saved += 1
            if needs[read * k + parts[read]] == 0:
                gains[parts[read]] += 1  # its owner needs no copy, which the next line would count
            for part in range(k):
                gains[part] -= needs[read * k + part] == 0
        best, most = own, 0
        for part in range(k):
            gain = gains[part] + saved
            if part != own and loads[part] + weight <= bound:
                lighter = gain == most and best == own and loads[part] + weight < loads[own]
                if gain > most or lighter:
                    best, most = part, gain
        if best != own:
            loads[own] -= weight
            loads[best] += weight
            parts[node] = best
            moved[0] += 1
            for place in range(begin, end):
                needs[rows[place] * k + own] -= 1
                needs[rows[place] * k + best] += 1


@Loop
def weigh_edges(
    starts: Any,
    rows: Any,
    read_starts: Any,
    readers: Any,
    reads_starts: Any,
    reads: Any,
    scale: Any,
    weights: Any,
    lo: int,
    hi: int,
) -> None:
    """``weights`` of an undirected edge: ``scale`` of each end that the other reads, rounded, at least 1.

    ``readers`` of each node and what it ``reads`` are rows as ``rows`` is; all ascend.
    """
    for node in range(lo, hi):
        out, into = read_starts[node], reads_starts[node]
        for place in range(starts[node], starts[node + 1]):
            other, total = rows[place], 0.0
            while out < read_starts[node + 1] and readers[out] < other:
                out += 1
            if out < read_starts[node + 1] and readers[out] == other:
                total += scale[node]
            while into < reads_starts[node + 1] and reads[into] < other:
                into += 1
            if into < reads_starts[node + 1] and reads[into] == other:
                total += scale[other]
            weights[place] = max(1, int(total + 0.5))
