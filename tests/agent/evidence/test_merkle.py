"""RFC 9162 section 2.1: roots, paths, and what no path may prove."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import merkle
from agent.evidence.errors import ProofError
from tests.agent.evidence import independent

HASHES = st.integers(1, 70).map(lambda size: [merkle.leaf_hash(bytes([i])) for i in range(size)])

# The inputs and roots of the reference implementation of Certificate Transparency (RFC 6962, the same tree).
CT_LEAVES = [bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
CT_LEAVES.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
CT_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("size", CT_ROOTS)
def test_roots_of_certificate_transparency(size: int) -> None:
    assert merkle.root([merkle.leaf_hash(leaf) for leaf in CT_LEAVES[:size]]).hex() == CT_ROOTS[size]


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_root_is_the_recursive_definition(leaves: list[bytes]) -> None:
    assert merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]) == independent.root_of(leaves)


@given(HASHES)
def test_every_path_leads_to_the_root(hashes: list[bytes]) -> None:
    tree = merkle.Tree(hashes)
    for index, leaf in enumerate(hashes):
        merkle.verify_inclusion(leaf, index, tree.size, tree.path(index), tree.root)


@given(HASHES, st.data())
def test_a_path_proves_one_index_only_when_the_size_is_known(hashes: list[bytes], data: st.DataObject) -> None:
    tree = merkle.Tree(hashes)
    index = data.draw(st.integers(0, tree.size - 1))
    other = data.draw(st.integers(0, tree.size - 1).filter(lambda i: i != index) if tree.size > 1 else st.just(1))
    with pytest.raises(ProofError):
        merkle.verify_inclusion(hashes[index], other, tree.size, tree.path(index), tree.root)


@given(HASHES, st.data())
def test_a_changed_path_proves_nothing(hashes: list[bytes], data: st.DataObject) -> None:
    tree = merkle.Tree(hashes)
    index = data.draw(st.integers(0, tree.size - 1))
    path = tree.path(index)
    kind = data.draw(st.sampled_from(["longer", "shorter", "flipped"]))
    if kind == "longer":
        path = [*path, bytes(32)]
    elif path and kind == "shorter":
        path = path[:-1]
    elif path:
        place = data.draw(st.integers(0, len(path) - 1))
        path = [*path[:place], bytes([path[place][0] ^ 1]) + path[place][1:], *path[place + 1 :]]
    else:
        return
    with pytest.raises(ProofError):
        merkle.verify_inclusion(hashes[index], index, tree.size, path, tree.root)


def test_a_proof_without_a_signed_size_moves() -> None:
    """The trap that the signed leaf count closes."""
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(5)]
    path = merkle.inclusion_path(hashes, 4)
    merkle.verify_inclusion(hashes[4], 1, 2, path, merkle.root(hashes))
    merkle.verify_inclusion(hashes[4], 2, 3, path, merkle.root(hashes))


@pytest.mark.parametrize("index", [-1, 5])
def test_no_path_outside_the_tree(index: int) -> None:
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(5)]
    with pytest.raises(IndexError):
        merkle.inclusion_path(hashes, index)
    with pytest.raises(ProofError, match="outside"):
        merkle.verify_inclusion(hashes[0], index, 5, [], merkle.root(hashes))
