"""The newest flexibility bid on its way to the platform: an offer that is minutes old is worth nothing."""

from __future__ import annotations

from proto.energysettlement.v1.gateway_pb2 import FlexibilityBid


class Bids:
    """One place; what was not sent gives way to what is newer."""

    def __init__(self) -> None:
        self._newest: FlexibilityBid | None = None

    def put(self, bid: FlexibilityBid) -> None:
        self._newest = bid

    def take(self) -> FlexibilityBid | None:
        """The one to send now; None: there is none."""
        bid, self._newest = self._newest, None
        return bid
