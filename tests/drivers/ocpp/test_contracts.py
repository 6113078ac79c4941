"""Contract certificates: whatever a car shows gets a verdict, and only a chain to a known root is accepted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.contracts import ContractStatus, contract_of, judge_chain, plain_contract
from hil_tests.ocpp_raw import Authority, pem

NOW = datetime.now(UTC)
ROOT = Authority("root")
SUB = Authority("sub", parent=ROOT)
OLD = Authority("old root", days=1)
LEAF = SUB.issue("DEABCC12345678", ec.generate_private_key(ec.SECP256R1()))
NO_CA = SUB.issue("no CA", ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize(
    ("chain", "status"),
    [
        (pem(LEAF, SUB.certificate), ContractStatus.ACCEPTED),
        (pem(LEAF, SUB.certificate, ROOT.certificate), ContractStatus.ACCEPTED),
        (pem(LEAF), ContractStatus.CHAIN_ERROR),
        (pem(LEAF, ROOT.certificate), ContractStatus.CHAIN_ERROR),
        (pem(LEAF, NO_CA), ContractStatus.CHAIN_ERROR),
        (pem(*[SUB.certificate] * 6), ContractStatus.CHAIN_ERROR),
        (pem(ROOT.issue("direct", ec.generate_private_key(ec.SECP256R1()))), ContractStatus.ACCEPTED),
    ],
    ids=["sub", "with root", "without sub", "wrong issuer", "no CA above", "long", "direct"],
)
def test_a_chain_holds_or_it_does_not(chain: str, status: ContractStatus) -> None:
    assert judge_chain(chain, [ROOT.certificate], NOW) is status


def test_a_root_that_has_expired_proves_nothing() -> None:
    chain = pem(OLD.issue("DE1", ec.generate_private_key(ec.SECP256R1()), days=30))
    assert judge_chain(chain, [OLD.certificate], NOW) is ContractStatus.ACCEPTED
    assert judge_chain(chain, [OLD.certificate], NOW + timedelta(days=2)) is ContractStatus.EXPIRED


def test_contracts_compare_without_separators_and_check_digit() -> None:
    assert contract_of(pem(LEAF)) == plain_contract("DE-ABC-C12345678-X") == plain_contract("deabcc12345678")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: pem(LEAF)[:400] + b.hex() + pem(LEAF)[500:]))
def test_whatever_is_shown_gets_a_verdict(shown: str) -> None:
    assert judge_chain(shown, [ROOT.certificate], NOW) is not ContractStatus.ACCEPTED
    assert isinstance(contract_of(shown), str)
